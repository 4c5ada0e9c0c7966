// Is any placement cheaper than a limit? Pairs that cost too much in a row or in a column even if all else were
// at the floor are forbidden there; counting arguments on what is left often say no at once. Up to 64 workers
// a tree search over the grid, cell by cell, then decides.
//
// Symmetry: rows may be permuted, and columns; so one worker stands at the origin, and the others of the
// first row and of the first column ascend.
#include <math.h>

#include "compiler/placement/placement_parts.h"

typedef struct {
    Search *search;
    double limit_s;
    double *most_row, *most_column; // slowness allowed, by latency level; negative: none
} Question;

// ---- what is allowed -------------------------------------------------------------------------

// The largest slowness of a pair whose price stays below the limit, per latency level.
static double *largest_allowed(Search *search, bool column, double limit_s)
{
    double *most = arena_alloc_array(search->arena, search->latency_count, sizeof(*most));
    for (size_t level = 0; level < search->latency_count; level++) {
        size_t low = 0, high = search->slowness_count; // the first `low` are allowed
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (search_pair_price(search, column, search->slownesses[middle], search->latencies[level]) < limit_s)
                low = middle + 1;
            else
                high = middle;
        }
        most[level] = low ? search->slownesses[low - 1] : -1;
    }
    return most;
}

static bool is_allowed(const Question *question, bool column, uint32_t a, uint32_t b)
{
    const Pairs *pairs = question->search->pairs;
    size_t at = (size_t)a * pairs->count + b, level = search_latency_level(question->search, pairs->latency_s[at]);
    return pairs->s_per_byte[at] <= (column ? question->most_column : question->most_row)[level];
}

// ---- counting arguments ----------------------------------------------------------------------

// Every worker needs so many peers allowed in its row, in its column, and in either.
static bool has_peers(const Question *question)
{
    const Search *search = question->search;
    for (uint32_t a = 0; a < search->count; a++) {
        uint32_t row = 0, column = 0, either = 0;
        for (uint32_t b = 0; b < search->count; b++) {
            if (a == b)
                continue;
            bool in_row = is_allowed(question, false, a, b), in_column = is_allowed(question, true, a, b);
            row += in_row;
            column += in_column;
            either += in_row || in_column;
        }
        if (row < search->domain - 1 || column < search->columns - 1 || either < search->domain + search->columns - 2)
            return false;
    }
    return true;
}

// Groups lie within components of the graph of allowed pairs, whose sizes must be multiples of the groups'.
static bool components_divide(const Question *question, bool column)
{
    const Search *search = question->search;
    uint32_t members = column ? search->columns : search->domain, count = search->count;
    Arena *scratch = arena_create();
    bool *seen = arena_alloc_array(scratch, count, sizeof(*seen)), divides = true;
    uint32_t *queue = arena_alloc_array(scratch, count, sizeof(*queue));
    for (uint32_t first = 0; first < count && divides; first++) {
        if (seen[first])
            continue;
        uint32_t size = 1;
        queue[0] = first;
        seen[first] = true;
        for (uint32_t at = 0; at < size; at++) {
            for (uint32_t b = 0; b < count; b++) {
                if (!seen[b] && is_allowed(question, column, queue[at], b)) {
                    seen[b] = true;
                    queue[size++] = b;
                }
            }
        }
        divides = size % members == 0;
    }
    arena_destroy(scratch);
    return divides;
}

// ---- the tree --------------------------------------------------------------------------------

typedef struct {
    const Question *question;
    Search *search;
    uint32_t domain, rows;                                              // cells of a row, rows of the grid
    uint64_t in_row[TREE_WORKERS_MAX], in_column[TREE_WORKERS_MAX];     // allowed peers, by worker
    uint64_t row_left[TREE_WORKERS_MAX], column_left[TREE_WORKERS_MAX]; // workers a row or column may still take
    uint32_t *worker;                                                   // by position
    bool filled[TREE_WORKERS_MAX];
    uint64_t free;
    uint32_t rows_begun, columns_begun, placed, nodes, nodes_max;
    PlacementProfile profile;
} Tree;

static uint64_t cell_choices(const Tree *tree, uint32_t row, uint32_t column)
{
    uint64_t choices = tree->free & tree->row_left[row] & tree->column_left[column];
    uint32_t before = row == 0 && column > 1   ? tree->worker[column - 1]
                      : column == 0 && row > 1 ? tree->worker[(row - 1) * tree->domain]
                                               : 0;
    if ((row == 0 && column > 1) || (column == 0 && row > 1))
        choices &= before == TREE_WORKERS_MAX - 1 ? 0 : ~UINT64_C(0) << (before + 1);
    return choices;
}

// The open cell with the fewest choices. New columns begin in the first row, new rows in the first column.
static uint32_t next_cell(const Tree *tree, uint64_t *choices)
{
    uint32_t best = 0;
    int fewest = TREE_WORKERS_MAX + 1;
    for (uint32_t row = 0; row <= tree->rows_begun && row < tree->rows; row++) {
        uint32_t columns = row == tree->rows_begun ? 1 : tree->columns_begun + (row == 0);
        for (uint32_t column = 0; column < columns && column < tree->domain; column++) {
            uint32_t cell = row * tree->domain + column;
            if (tree->filled[cell])
                continue;
            uint64_t here = cell_choices(tree, row, column);
            int count = __builtin_popcountll(here);
            if (count < fewest) {
                fewest = count;
                best = cell;
                *choices = here;
            }
        }
    }
    return best;
}

// Every row and column, begun or not, needs enough workers that it may still take.
static bool can_be_filled(const Tree *tree)
{
    for (uint32_t row = 0; row < tree->rows_begun; row++) {
        int open = 0;
        for (uint32_t column = 0; column < tree->domain; column++)
            open += !tree->filled[row * tree->domain + column];
        if (__builtin_popcountll(tree->free & tree->row_left[row]) < open)
            return false;
    }
    for (uint32_t column = 0; column < tree->columns_begun; column++) {
        int open = 0;
        for (uint32_t row = 0; row < tree->rows; row++)
            open += !tree->filled[row * tree->domain + column];
        if (__builtin_popcountll(tree->free & tree->column_left[column]) < open)
            return false;
    }
    return true;
}

// The profile with worker `w` in the cell as well.
static PlacementProfile profile_with(const Tree *tree, uint32_t cell, uint32_t w)
{
    PlacementProfile profile = tree->profile;
    uint32_t first = cell / tree->domain * tree->domain;
    for (uint32_t c = first; c < first + tree->domain; c++)
        if (tree->filled[c])
            worst_pair_include(&profile.row, tree->search->pairs, w, tree->worker[c]);
    for (uint32_t c = cell % tree->domain; c < tree->search->count; c += tree->domain)
        if (tree->filled[c])
            worst_pair_include(&profile.column, tree->search->pairs, w, tree->worker[c]);
    return profile;
}

static Proof descend(Tree *tree);

// Puts `w` into the cell, continues, and takes it out again unless all are placed.
static Proof try_worker(Tree *tree, uint32_t cell, uint32_t w)
{
    PlacementProfile before = tree->profile, with = profile_with(tree, cell, w);
    if (search_price(tree->search, &with) >= tree->question->limit_s)
        return PROOF_NONE;
    uint32_t row = cell / tree->domain, column = cell % tree->domain;
    uint32_t rows_begun = tree->rows_begun, columns_begun = tree->columns_begun;
    uint64_t row_left = tree->row_left[row], column_left = tree->column_left[column];
    tree->profile = with;
    tree->worker[cell] = w;
    tree->filled[cell] = true;
    tree->free &= ~(UINT64_C(1) << w);
    tree->row_left[row] &= tree->in_row[w];
    tree->column_left[column] &= tree->in_column[w];
    tree->rows_begun += row == rows_begun;
    tree->columns_begun += column == columns_begun;
    tree->placed++;
    Proof proof = can_be_filled(tree) ? descend(tree) : PROOF_NONE;
    if (proof == PROOF_FOUND)
        return proof;
    tree->placed--;
    tree->rows_begun = rows_begun;
    tree->columns_begun = columns_begun;
    tree->row_left[row] = row_left;
    tree->column_left[column] = column_left;
    tree->free |= UINT64_C(1) << w;
    tree->filled[cell] = false;
    tree->profile = before;
    return proof;
}

static Proof descend(Tree *tree)
{
    if (tree->placed == tree->search->count)
        return PROOF_FOUND;
    if (tree->nodes++ >= tree->nodes_max)
        return PROOF_OPEN;
    uint64_t choices = 0;
    uint32_t cell = next_cell(tree, &choices);
    for (; choices; choices &= choices - 1) {
        Proof proof = try_worker(tree, cell, (uint32_t)__builtin_ctzll(choices));
        if (proof != PROOF_NONE)
            return proof;
    }
    return PROOF_NONE;
}

// The worker with the fewest allowed peers stands at the origin: it decides most.
static uint32_t pick_origin(const Tree *tree)
{
    uint32_t best = 0;
    int fewest = 2 * TREE_WORKERS_MAX;
    for (uint32_t w = 0; w < tree->search->count; w++) {
        int peers = __builtin_popcountll(tree->in_row[w]) + __builtin_popcountll(tree->in_column[w]);
        if (peers < fewest) {
            fewest = peers;
            best = w;
        }
    }
    return best;
}

static Proof search_tree(const Question *question, uint32_t nodes, uint32_t worker[])
{
    Search *search = question->search;
    uint32_t count = search->count;
    uint64_t all = count == TREE_WORKERS_MAX ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1;
    Tree tree = {.question = question,
                 .search = search,
                 .domain = search->domain,
                 .rows = search->columns,
                 .worker = worker,
                 .free = all,
                 .nodes_max = nodes,
                 .profile = search->floor};
    for (uint32_t a = 0; a < count; a++) {
        tree.row_left[a] = tree.column_left[a] = all;
        for (uint32_t b = 0; b < count; b++) {
            if (a == b)
                continue;
            tree.in_row[a] |= (uint64_t)is_allowed(question, false, a, b) << b;
            tree.in_column[a] |= (uint64_t)is_allowed(question, true, a, b) << b;
        }
    }
    if (placement_cover(tree.in_row, count, search->domain, nodes) == PROOF_NONE ||
        placement_cover(tree.in_column, count, search->columns, nodes) == PROOF_NONE)
        return PROOF_NONE;
    return try_worker(&tree, 0, pick_origin(&tree));
}

Proof placement_decide(Search *search, double limit_s, uint32_t nodes, uint32_t worker[])
{
    if (search_price(search, &search->floor) >= limit_s)
        return PROOF_NONE;
    Question question = {.search = search,
                         .limit_s = limit_s,
                         .most_row = largest_allowed(search, false, limit_s),
                         .most_column = largest_allowed(search, true, limit_s)};
    if (!has_peers(&question) || !components_divide(&question, false) || !components_divide(&question, true))
        return PROOF_NONE;
    return search->count <= TREE_WORKERS_MAX ? search_tree(&question, nodes, worker) : PROOF_OPEN;
}
