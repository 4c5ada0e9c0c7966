// Can all workers be divided into groups of a given size within which every pair is allowed? Rows alone, or
// columns alone, must be possible before both together can be: a smaller question with a strong answer.

#include "compiler/placement/placement_parts.h"

typedef struct {
    const uint64_t *peers; // allowed, by worker
    uint32_t count, members, nodes, nodes_max;
} Cover;

static int bits(uint64_t set)
{
    return __builtin_popcountll(set);
}

static uint32_t first_of(uint64_t set)
{
    return (uint32_t)__builtin_ctzll(set);
}

static uint64_t without_first(uint64_t set)
{
    return set & (set - 1);
}

// ---- two groups ------------------------------------------------------------------------------

// Two groups: pairs that are not allowed must be on different sides, so the graph of them must be two-colourable,
// and sides of its components must add up to half the workers. Exact.
static Proof divide_in_two(const Cover *cover, uint64_t all)
{
    uint64_t sums = 1, left = all; // bit s: some choice of sides puts s workers into the first group
    while (left) {
        uint64_t side[2] = {UINT64_C(1) << first_of(left), 0}, fresh = side[0];
        for (int turn = 0; fresh; turn ^= 1) {
            uint64_t opposite = 0;
            for (uint64_t set = fresh; set; set = without_first(set))
                opposite |= all & ~cover->peers[first_of(set)] & ~(UINT64_C(1) << first_of(set));
            fresh = opposite & ~side[!turn];
            side[!turn] |= opposite;
            if (side[0] & side[1])
                return PROOF_NONE;
        }
        left &= ~(side[0] | side[1]);
        sums = sums << bits(side[0]) | sums << bits(side[1]);
    }
    return sums >> cover->members & 1 ? PROOF_FOUND : PROOF_NONE;
}

// ---- any number of groups --------------------------------------------------------------------

static Proof cover_rest(Cover *cover, uint64_t free);

// Completes a group that still needs `needed` of `candidates`, then covers what is left of `free`.
static Proof complete_group(Cover *cover, uint64_t free, uint64_t candidates, uint32_t needed)
{
    if (needed == 0)
        return cover_rest(cover, free);
    for (; bits(candidates) >= (int)needed; candidates = without_first(candidates)) {
        if (cover->nodes++ >= cover->nodes_max)
            return PROOF_OPEN;
        uint32_t w = first_of(candidates);
        Proof proof =
            complete_group(cover, free & ~(UINT64_C(1) << w), without_first(candidates) & cover->peers[w], needed - 1);
        if (proof != PROOF_NONE)
            return proof;
    }
    return PROOF_NONE;
}

// Takes the worker with the fewest peers left: it must be in some group.
static Proof cover_rest(Cover *cover, uint64_t free)
{
    if (!free)
        return PROOF_FOUND;
    uint32_t tightest = 0;
    int fewest = cover->count;
    for (uint64_t set = free; set; set = without_first(set)) {
        int peers = bits(free & cover->peers[first_of(set)]);
        if (peers < fewest) {
            fewest = peers;
            tightest = first_of(set);
        }
    }
    if (fewest < (int)cover->members - 1)
        return PROOF_NONE;
    uint64_t rest = free & ~(UINT64_C(1) << tightest);
    return complete_group(cover, rest, rest & cover->peers[tightest], cover->members - 1);
}

Proof placement_cover(const uint64_t peers[], uint32_t count, uint32_t members, uint32_t nodes)
{
    Cover cover = {.peers = peers, .count = count, .members = members, .nodes_max = nodes};
    uint64_t all = count == TREE_WORKERS_MAX ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1;
    return count / members == 2 ? divide_in_two(&cover, all) : cover_rest(&cover, all);
}

static void allow_up_to(const Search *search, const double *figures, double most, uint64_t peers[])
{
    for (uint32_t a = 0; a < search->count; a++) {
        peers[a] = 0;
        for (uint32_t b = 0; b < search->count; b++)
            peers[a] |= (uint64_t)(a != b && figures[(size_t)a * search->count + b] <= most) << b;
    }
}

// Of all pairs, and the values that they have.
typedef struct {
    const double *figures, *values; // values: ascending
    size_t value_count;
} Figures;

// The largest of the values, above the floor, that is shown to be needed.
static double raise_figure(const Search *search, const Figures *of, uint32_t members, uint32_t nodes, double floor)
{
    uint64_t peers[TREE_WORKERS_MAX];
    const double *values = of->values;
    size_t low = 0, high = of->value_count ? of->value_count - 1 : 0; // values before `low` do not suffice
    while (low < high && values[low] < floor)
        low++;
    while (low < high) {
        size_t middle = (low + high) / 2;
        allow_up_to(search, of->figures, values[middle], peers);
        if (placement_cover(peers, search->count, members, nodes) == PROOF_NONE)
            low = middle + 1;
        else
            high = middle;
    }
    return of->value_count && values[low] > floor ? values[low] : floor;
}

void placement_raise_floor(Search *search, uint32_t nodes)
{
    if (search->count > TREE_WORKERS_MAX)
        return;
    const Pairs *pairs = search->pairs;
    const struct {
        WorstPair *floor;
        uint32_t members;
    } groups[] = {{&search->floor.row, search->domain}, {&search->floor.column, search->columns}};
    const Figures slownesses = {pairs->s_per_byte, search->slownesses, search->slowness_count};
    const Figures latencies = {pairs->latency_s, search->latencies, search->latency_count};
    for (size_t g = 0; g < COUNT_OF(groups); g++) {
        WorstPair *floor = groups[g].floor;
        floor->link_s_per_byte = raise_figure(search, &slownesses, groups[g].members, nodes, floor->link_s_per_byte);
        floor->latency_s = raise_figure(search, &latencies, groups[g].members, nodes, floor->latency_s);
    }
}
