// See gaps.h. Nodes are numbers, 0 is none; a node that is free again is taken by the next gap.
#include "ir/gaps.h"

#include <string.h>

typedef enum { BY_ADDRESS, BY_SIZE, TREE_COUNT } Tree;

typedef struct {
    Gap gap;
    uint32_t priority;
    uint32_t child[TREE_COUNT][2];
} Node;

struct Gaps {
    Arena *arena;
    Node *nodes;
    uint32_t count, capacity, unused; // `unused`: the first node that is free again; its child is the next
    uint32_t root[TREE_COUNT];
    uint32_t random;
};

Gaps *gaps_create(Arena *arena)
{
    Gaps *gaps = arena_alloc(arena, sizeof(*gaps));
    gaps->arena = arena;
    gaps->random = 1;
    return gaps;
}

static uint64_t gap_bytes(const Node *node)
{
    return node->gap.end - node->gap.begin;
}

static bool comes_before(const Node *a, const Node *b, Tree tree)
{
    if (tree == BY_SIZE && gap_bytes(a) != gap_bytes(b))
        return gap_bytes(a) < gap_bytes(b);
    return a->gap.begin < b->gap.begin;
}

// ---- trees ---------------------------------------------------------------------------------------

static uint32_t join(Gaps *gaps, Tree tree, uint32_t low, uint32_t high)
{
    if (!low || !high)
        return low ? low : high;
    Node *a = &gaps->nodes[low], *b = &gaps->nodes[high];
    if (a->priority > b->priority) {
        a->child[tree][1] = join(gaps, tree, a->child[tree][1], high);
        return low;
    }
    b->child[tree][0] = join(gaps, tree, low, b->child[tree][0]);
    return high;
}

// What comes before `node` in the tree of `root` goes to parts[0], the rest to parts[1].
static void split(Gaps *gaps, Tree tree, uint32_t root, uint32_t node, uint32_t parts[2])
{
    if (!root) {
        parts[0] = parts[1] = 0;
        return;
    }
    int side = comes_before(&gaps->nodes[root], &gaps->nodes[node], tree);
    uint32_t below[2];
    split(gaps, tree, gaps->nodes[root].child[tree][side], node, below);
    gaps->nodes[root].child[tree][side] = below[!side];
    parts[side] = below[side];
    parts[!side] = root;
}

static void insert(Gaps *gaps, Tree tree, uint32_t node)
{
    uint32_t parts[2];
    gaps->nodes[node].child[tree][0] = gaps->nodes[node].child[tree][1] = 0;
    split(gaps, tree, gaps->root[tree], node, parts);
    gaps->root[tree] = join(gaps, tree, join(gaps, tree, parts[0], node), parts[1]);
}

static void unlink_node(Gaps *gaps, Tree tree, uint32_t node)
{
    uint32_t *link = &gaps->root[tree];
    while (*link != node)
        link = &gaps->nodes[*link].child[tree][comes_before(&gaps->nodes[*link], &gaps->nodes[node], tree)];
    *link = join(gaps, tree, gaps->nodes[node].child[tree][0], gaps->nodes[node].child[tree][1]);
}

// ---- gaps ----------------------------------------------------------------------------------------

static uint32_t new_node(Gaps *gaps, Gap gap)
{
    uint32_t node = gaps->unused;
    if (node) {
        gaps->unused = gaps->nodes[node].child[BY_ADDRESS][0];
    } else {
        if (gaps->count + 1 >= gaps->capacity) {
            Node *larger = arena_alloc_array(gaps->arena, 2 * (size_t)gaps->capacity + 64, sizeof(*larger));
            if (gaps->capacity)
                memcpy(larger, gaps->nodes, gaps->capacity * sizeof(*larger));
            gaps->nodes = larger;
            gaps->capacity = 2 * gaps->capacity + 64;
        }
        node = ++gaps->count;
    }
    gaps->random = gaps->random * 1664525 + 1013904223;
    gaps->nodes[node] = (Node){.gap = gap, .priority = gaps->random};
    return node;
}

static void drop(Gaps *gaps, uint32_t node)
{
    unlink_node(gaps, BY_ADDRESS, node);
    unlink_node(gaps, BY_SIZE, node);
    gaps->nodes[node].child[BY_ADDRESS][0] = gaps->unused;
    gaps->unused = node;
}

static void add(Gaps *gaps, Gap gap)
{
    uint32_t node = new_node(gaps, gap);
    insert(gaps, BY_ADDRESS, node);
    insert(gaps, BY_SIZE, node);
}

bool gaps_take(Gaps *gaps, uint64_t bytes, uint64_t *begin)
{
    uint32_t best = 0;
    for (uint32_t node = gaps->root[BY_SIZE]; node;) {
        bool fits = gap_bytes(&gaps->nodes[node]) >= bytes;
        best = fits ? node : best;
        node = gaps->nodes[node].child[BY_SIZE][!fits];
    }
    if (!best)
        return false;
    Gap gap = gaps->nodes[best].gap;
    *begin = gap.begin;
    drop(gaps, best);
    if (gap.begin + bytes < gap.end)
        add(gaps, (Gap){gap.begin + bytes, gap.end});
    return true;
}

void gaps_add(Gaps *gaps, Gap freed)
{
    uint32_t left = 0, right = 0;
    for (uint32_t node = gaps->root[BY_ADDRESS]; node;) {
        bool before = gaps->nodes[node].gap.begin < freed.begin;
        *(before ? &left : &right) = node;
        node = gaps->nodes[node].child[BY_ADDRESS][before];
    }
    if (left && gaps->nodes[left].gap.end == freed.begin) {
        freed.begin = gaps->nodes[left].gap.begin;
        drop(gaps, left);
    }
    if (right && gaps->nodes[right].gap.begin == freed.end) {
        freed.end = gaps->nodes[right].gap.end;
        drop(gaps, right);
    }
    add(gaps, freed);
}

bool gaps_take_last(Gaps *gaps, uint64_t end, uint64_t *begin)
{
    uint32_t last = gaps->root[BY_ADDRESS];
    while (last && gaps->nodes[last].child[BY_ADDRESS][1])
        last = gaps->nodes[last].child[BY_ADDRESS][1];
    if (!last || gaps->nodes[last].gap.end != end)
        return false;
    *begin = gaps->nodes[last].gap.begin;
    drop(gaps, last);
    return true;
}
