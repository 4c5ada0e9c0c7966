// The search for one domain size: floor, local search, then questions to the proof that close the gap from
// both sides. See placement.h.
#include "compiler/placement/placement.h"

#include <math.h>
#include <string.h>

#include "compiler/placement/placement_parts.h"

const PlacementEffort placement_effort = {.local_work = 300000000, .nodes = 30000};

enum { QUESTIONS_MAX = 16 };
static const double same = 1e-9;       // relative: prices this near are equal
static const double gap_enough = 1e-3; // relative: bisection ends

static void find_levels(Search *search)
{
    size_t distinct;
    search->slownesses =
        pairs_distinct_values(search->pairs, search->pairs->s_per_byte, search->arena, &search->slowness_count);
    double *latencies = pairs_distinct_values(search->pairs, search->pairs->latency_s, search->arena, &distinct);
    search->latency_count = distinct < LATENCY_LEVELS_MAX ? distinct : LATENCY_LEVELS_MAX;
    search->latencies = latencies;
    for (size_t level = 0; level < search->latency_count; level++) // ascending: never reads what it has overwritten
        latencies[level] = latencies[level * distinct / search->latency_count];
}

// Takes `worker` if it is cheaper than what is known.
static bool accept(Search *search, const uint32_t worker[], Placement *best)
{
    PlacementProfile profile = placement_profile(search->pairs, search->domain, worker);
    double price_s = search_price(search, &profile);
    if (price_s >= best->price_s)
        return false;
    best->profile = profile;
    best->price_s = price_s;
    memcpy(best->worker, worker, search->count * sizeof(*worker));
    return true;
}

static void search_locally(Search *search, uint64_t work, Placement *best)
{
    uint32_t *worker = arena_alloc_array(search->arena, search->count, sizeof(*worker));
    for (int start = 0; start < 3; start++) {
        if (start == 0)
            for (uint32_t x = 0; x < search->count; x++)
                worker[x] = x;
        else
            placement_build(search, start == 2, worker);
        accept(search, worker, best);
        placement_improve(search, work / 3, worker);
        accept(search, worker, best);
    }
}

// Asks first for anything better, then halves what lies between bound and the least price not excluded.
static void close_gap(Search *search, uint32_t nodes, double known_s, Placement *best)
{
    uint32_t *worker = arena_alloc_array(search->arena, search->count, sizeof(*worker));
    double open_s = fmin(best->price_s, known_s); // questions below this are worth asking
    bool halving = false;
    for (int question = 0; question < QUESTIONS_MAX; question++) {
        if (open_s - best->bound_s <= (halving ? gap_enough : same) * open_s)
            return;
        double limit_s = halving ? (best->bound_s + open_s) / 2 : open_s * (1 - same);
        Proof proof = placement_decide(search, limit_s, nodes, worker);
        if (proof == PROOF_NONE) {
            best->bound_s = fmax(best->bound_s, halving ? limit_s : open_s);
        } else if (proof == PROOF_FOUND) {
            accept(search, worker, best);
            open_s = fmin(open_s, best->price_s);
        } else {
            open_s = halving ? limit_s : open_s;
            halving = true;
        }
    }
}

Placement placement_search(const Pairs *pairs, uint32_t domain, const PlacementTask *task, Arena *arena)
{
    uint32_t count = pairs->count;
    Placement best = {
        .domain = domain, .worker = arena_alloc_array(arena, count, sizeof(*best.worker)), .price_s = INFINITY};
    Arena *scratch = arena_create();
    Search search = {.pairs = pairs,
                     .count = count,
                     .domain = domain,
                     .columns = count / domain,
                     .price = task->price,
                     .context = task->context,
                     .floor = placement_floor(pairs, domain),
                     .arena = scratch,
                     .cache = arena_alloc_array(scratch, PRICE_CACHE_SLOTS, sizeof(CachedPrice))};
    for (uint32_t x = 0; x < count; x++)
        best.worker[x] = x;
    best.bound_s = search_price(&search, &search.floor);
    bool matters = domain > 1 && domain < count;
    if (!matters || best.bound_s >= task->known_s) { // one group of all, or hopeless: any order will do
        accept(&search, best.worker, &best);
        if (!matters)
            best.bound_s = best.price_s;
    } else {
        find_levels(&search);
        search_locally(&search, task->effort.local_work / 2, &best); // steered by all that exceeds the low floor
        placement_raise_floor(&search, task->effort.nodes);
        best.bound_s = search_price(&search, &search.floor);
        search_locally(&search, task->effort.local_work / 2, &best); // by what can be avoided
        close_gap(&search, task->effort.nodes, task->known_s, &best);
        best.bound_s = fmin(best.bound_s, best.price_s);
    }
    best.floor = search.floor;
    arena_destroy(scratch);
    return best;
}
