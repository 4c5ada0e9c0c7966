// The search for one domain size: floor, local search, then questions to the proof that close the gap from
// both sides. See placement.h.
#include "compiler/placement/placement.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/placement/placement_parts.h"

const PlacementEffort placement_effort = {.local_work = 300000000, .nodes = 30000};

enum { QUESTIONS_MAX = 16 };
static const double same = 1e-9;       // relative: prices this near are equal
static const double gap_enough = 1e-3; // relative: bisection ends

// ---- pairs -----------------------------------------------------------------------------------

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Over all workers, the largest of their k-th least figures.
static double *least_figures(const double *matrix, uint32_t count, Arena *arena)
{
    double *least = arena_alloc_array(arena, count, sizeof *least);
    double *sorted = arena_alloc_array(arena, count, sizeof *sorted);
    for (uint32_t a = 0; a < count && count > 1; a++) {
        const double *row = matrix + (size_t)a * count;
        memcpy(sorted, row, a * sizeof *sorted);
        memcpy(sorted + a, row + a + 1, (count - 1 - a) * sizeof *sorted);
        qsort(sorted, count - 1, sizeof *sorted, compare_doubles);
        for (uint32_t k = 0; k + 1 < count; k++)
            least[k] = fmax(least[k], sorted[k]);
    }
    return least;
}

Pairs *pairs_of_cluster(const Cluster *cluster, Arena *arena)
{
    Pairs *pairs = arena_alloc(arena, sizeof *pairs);
    size_t count = cluster->port_count;
    pairs->count = cluster->port_count;
    pairs->s_per_byte = arena_alloc_array(arena, count * count, sizeof *pairs->s_per_byte);
    pairs->latency_s = arena_alloc_array(arena, count * count, sizeof *pairs->latency_s);
    for (size_t a = 0; a < count; a++)
        for (size_t b = 0; b < count; b++)
            if (a != b)
                pairs->latency_s[a * count + b] = fmax(cluster->ports[a].latency_s, cluster->ports[b].latency_s);
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        const WorkerLink *link = &cluster->links[i];
        size_t there = link->a * count + link->b, back = link->b * count + link->a;
        pairs->s_per_byte[there] = pairs->s_per_byte[back] = 1 / link->bandwidth_bytes_per_s;
        pairs->latency_s[there] = pairs->latency_s[back] = link->latency_s;
    }
    pairs->least_s_per_byte = least_figures(pairs->s_per_byte, pairs->count, arena);
    pairs->least_latency_s = least_figures(pairs->latency_s, pairs->count, arena);
    return pairs;
}

void worst_pair_include(WorstPair *group, const Pairs *pairs, uint32_t a, uint32_t b)
{
    size_t at = (size_t)a * pairs->count + b;
    if (pairs->s_per_byte[at] > group->link_s_per_byte)
        group->link_s_per_byte = pairs->s_per_byte[at];
    if (pairs->latency_s[at] > group->latency_s)
        group->latency_s = pairs->latency_s[at];
}

PlacementProfile placement_profile(const Pairs *pairs, uint32_t domain, const uint32_t worker[])
{
    PlacementProfile profile = {0};
    for (uint32_t x = 0; x < pairs->count; x++) {
        for (uint32_t y = x + 1; y < (x / domain + 1) * domain; y++)
            worst_pair_include(&profile.row, pairs, worker[x], worker[y]);
        for (uint32_t y = x + domain; y < pairs->count; y += domain)
            worst_pair_include(&profile.column, pairs, worker[x], worker[y]);
    }
    return profile;
}

PlacementProfile placement_floor(const Pairs *pairs, uint32_t domain)
{
    PlacementProfile floor = {0};
    uint32_t columns = pairs->count / domain;
    if (domain > 1)
        floor.row = (WorstPair){pairs->least_latency_s[domain - 2], pairs->least_s_per_byte[domain - 2]};
    if (columns > 1)
        floor.column = (WorstPair){pairs->least_latency_s[columns - 2], pairs->least_s_per_byte[columns - 2]};
    return floor;
}

// ---- prices ----------------------------------------------------------------------------------

static size_t hash_profile(const PlacementProfile *profile)
{
    const double figures[] = {profile->row.latency_s, profile->row.link_s_per_byte, profile->column.latency_s,
                              profile->column.link_s_per_byte};
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < COUNT_OF(figures); i++) {
        uint64_t bits;
        memcpy(&bits, &figures[i], sizeof bits);
        hash = (hash ^ bits) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return (size_t)(hash % PRICE_CACHE_SLOTS);
}

static bool profiles_equal(const PlacementProfile *a, const PlacementProfile *b)
{
    return a->row.latency_s == b->row.latency_s && a->row.link_s_per_byte == b->row.link_s_per_byte &&
           a->column.latency_s == b->column.latency_s && a->column.link_s_per_byte == b->column.link_s_per_byte;
}

double search_price(Search *search, const PlacementProfile *profile)
{
    CachedPrice *slot = &search->cache[hash_profile(profile)];
    if (!slot->used || !profiles_equal(&slot->profile, profile))
        *slot = (CachedPrice){true, *profile, search->price(search->context, search->domain, profile)};
    return slot->price_s;
}

double search_pair_price(Search *search, bool column, double s_per_byte, double latency_s)
{
    PlacementProfile profile = search->floor;
    WorstPair *group = column ? &profile.column : &profile.row;
    group->link_s_per_byte = fmax(group->link_s_per_byte, s_per_byte);
    group->latency_s = fmax(group->latency_s, latency_s);
    return search_price(search, &profile);
}

size_t search_latency_level(const Search *search, double latency_s)
{
    size_t level = search->latency_count - 1;
    while (level > 0 && search->latencies[level] > latency_s)
        level--;
    return level;
}

// The distinct values above the diagonal, ascending.
static double *distinct_values(const Pairs *pairs, const double *matrix, Arena *arena, size_t *out)
{
    size_t count = pairs->count, pair_count = count * (count - 1) / 2, filled = 0;
    double *values = arena_alloc_array(arena, pair_count + 1, sizeof *values);
    for (size_t a = 0; a < count; a++)
        for (size_t b = a + 1; b < count; b++)
            values[filled++] = matrix[a * count + b];
    if (filled)
        qsort(values, filled, sizeof *values, compare_doubles);
    *out = 0;
    for (size_t i = 0; i < filled; i++)
        if (!i || values[i] != values[i - 1])
            values[(*out)++] = values[i];
    return values;
}

static void find_levels(Search *search)
{
    size_t distinct;
    search->slownesses =
        distinct_values(search->pairs, search->pairs->s_per_byte, search->arena, &search->slowness_count);
    double *latencies = distinct_values(search->pairs, search->pairs->latency_s, search->arena, &distinct);
    search->latency_count = distinct < LATENCY_LEVELS_MAX ? distinct : LATENCY_LEVELS_MAX;
    search->latencies = latencies;
    for (size_t level = 0; level < search->latency_count; level++) // ascending: never reads what it has overwritten
        latencies[level] = latencies[level * distinct / search->latency_count];
}

// ---- the search ------------------------------------------------------------------------------

// Takes `worker` if it is cheaper than what is known.
static bool accept(Search *search, const uint32_t worker[], Placement *best)
{
    PlacementProfile profile = placement_profile(search->pairs, search->domain, worker);
    double price_s = search_price(search, &profile);
    if (price_s >= best->price_s)
        return false;
    best->profile = profile;
    best->price_s = price_s;
    memcpy(best->worker, worker, search->count * sizeof *worker);
    return true;
}

static void search_locally(Search *search, uint64_t work, Placement *best)
{
    uint32_t *worker = arena_alloc_array(search->arena, search->count, sizeof *worker);
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
    uint32_t *worker = arena_alloc_array(search->arena, search->count, sizeof *worker);
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

Placement placement_search(const Pairs *pairs, uint32_t domain, PlacementPrice price, void *context, double known_s,
                           const PlacementEffort *effort, Arena *arena)
{
    uint32_t count = pairs->count;
    Placement best = {.domain = domain, .worker = arena_alloc_array(arena, count, sizeof *best.worker),
                      .price_s = INFINITY};
    Arena *scratch = arena_create();
    Search search = {.pairs = pairs, .count = count, .domain = domain, .columns = count / domain, .price = price,
                     .context = context, .floor = placement_floor(pairs, domain), .arena = scratch,
                     .cache = arena_alloc_array(scratch, PRICE_CACHE_SLOTS, sizeof(CachedPrice))};
    for (uint32_t x = 0; x < count; x++)
        best.worker[x] = x;
    best.bound_s = search_price(&search, &search.floor);
    bool matters = domain > 1 && domain < count;
    if (!matters || best.bound_s >= known_s) { // one group of all, or hopeless: any order will do
        accept(&search, best.worker, &best);
        if (!matters)
            best.bound_s = best.price_s;
    } else {
        find_levels(&search);
        search_locally(&search, effort->local_work / 2, &best); // steered by all that exceeds the low floor
        placement_raise_floor(&search, effort->nodes);
        best.bound_s = search_price(&search, &search.floor);
        search_locally(&search, effort->local_work / 2, &best); // by what can be avoided
        close_gap(&search, effort->nodes, known_s, &best);
        best.bound_s = fmin(best.bound_s, best.price_s);
    }
    best.floor = search.floor;
    arena_destroy(scratch);
    return best;
}
