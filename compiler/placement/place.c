// See place.h. The price of a placement is the cost model's, with the cheapest candidate of that domain size.
#include "compiler/placement/place.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OTHERS_MAX = 3, OTHERS_WORKERS_MAX = 64 };

// ---- prices ----------------------------------------------------------------------------------

// Candidates of one domain size at level 0, and a workload whose outermost level can be set.
typedef struct {
    Workload work;
    Spec spec;
    Outer outer;
    OuterDomain *domain; // in `outer`: the one that placements change
    Config *configs;
    size_t config_count;
} Pricing;

static double price_config(Pricing *pricing, const Config *config, const PlacementProfile *profile)
{
    pricing->domain->gather = profile->row;
    pricing->domain->exchange = profile->column;
    pricing->domain->gather_lines.count = pricing->domain->exchange_lines.count = 0;
    IterationCost cost;
    cost_iteration(&pricing->work, config, pricing->spec.plan.dispatch, &cost);
    return cost.iteration_s;
}

static double price_placement(void *context, uint32_t domain, const PlacementProfile *profile)
{
    (void)domain;
    Pricing *pricing = context;
    double least_s = INFINITY;
    for (size_t c = 0; c < pricing->config_count; c++)
        least_s = fmin(least_s, price_config(pricing, &pricing->configs[c], profile));
    return least_s;
}

// Leaves out what costs more at the floor than another does with the worst pairs there are.
static void drop_hopeless(Pricing *pricing, const PlacementProfile *floor, const PlacementProfile *worst)
{
    double least_s = price_placement(pricing, 0, worst);
    size_t kept = 0;
    for (size_t c = 0; c < pricing->config_count; c++)
        if (price_config(pricing, &pricing->configs[c], floor) <= least_s)
            pricing->configs[kept++] = pricing->configs[c];
    pricing->config_count = kept;
}

// NULL if no candidate with this domain size fits.
static Pricing *pricing_create(const Workload *work, const Outer *outer, size_t index, const Candidate *candidates,
                               size_t count, Arena *arena)
{
    Pricing *pricing = arena_alloc(arena, sizeof(*pricing));
    pricing->work = *work;
    pricing->spec = *work->spec;
    pricing->outer = *outer;
    workload_set_spec(&pricing->work, &pricing->spec);
    pricing->spec.outer = &pricing->outer;
    pricing->outer.domains = arena_alloc_array(arena, outer->count, sizeof(*outer->domains));
    memcpy(pricing->outer.domains, outer->domains, outer->count * sizeof(*outer->domains));
    pricing->domain = &pricing->outer.domains[index];
    pricing->configs = arena_alloc_array(arena, count, sizeof(*pricing->configs));
    for (size_t c = 0; c < count; c++)
        if (candidates[c].fits && candidates[c].config.domain[0] == pricing->domain->domain)
            pricing->configs[pricing->config_count++] = candidates[c].config;
    return pricing->config_count ? pricing : NULL;
}

// ---- placements ------------------------------------------------------------------------------

typedef struct {
    Pricing *pricing;
    double floor_s;
} Contender; // a domain size

static int compare_contenders(const void *a, const void *b)
{
    const Contender *x = a, *y = b;
    if (x->floor_s != y->floor_s)
        return x->floor_s < y->floor_s ? -1 : 1;
    return x->pricing->domain->domain < y->pricing->domain->domain ? -1 : 1;
}

static size_t list_contenders(const Workload *work, const Pairs *pairs, const Candidate *candidates, size_t count,
                              Arena *arena, Contender *out)
{
    const Outer *outer = outer_measure(&work->spec->cluster, arena);
    const WorstPair *all = outer_group(outer, GROUP_EXCHANGE, 1);
    const PlacementProfile worst = {*all, *all};
    size_t listed = 0;
    for (size_t index = 0; index < outer->count; index++) {
        Pricing *pricing = pricing_create(work, outer, index, candidates, count, arena);
        if (!pricing)
            continue;
        PlacementProfile floor = placement_floor(pairs, pricing->domain->domain);
        drop_hopeless(pricing, &floor, &worst);
        out[listed++] = (Contender){pricing, price_placement(pricing, 0, &floor)};
    }
    if (listed)
        qsort(out, listed, sizeof(*out), compare_contenders);
    return listed;
}

Placements place_workers(const Workload *work, const Candidate *candidates, size_t count, const PlacementEffort *effort,
                         Arena *arena)
{
    const Pairs *pairs = pairs_of_cluster(&work->spec->cluster, arena);
    Contender *contenders = arena_alloc_array(arena, pairs->count, sizeof(*contenders));
    size_t listed = list_contenders(work, pairs, candidates, count, arena, contenders), best = 0;
    Placement *placements = arena_alloc_array(arena, listed, sizeof(*placements));
    double known_s = INFINITY, bound_s = INFINITY;
    for (size_t i = 0; i < listed; i++) {
        Pricing *pricing = contenders[i].pricing;
        PlacementTask task = {.price = price_placement,
                              .context = pricing,
                              .known_s = known_s,
                              .effort = {effort->local_work / (i + 1), effort->nodes}}; // less for the less promising
        placements[i] = placement_search(pairs, pricing->domain->domain, &task, arena);
        bound_s = fmin(bound_s, placements[i].bound_s);
        if (placements[i].price_s < known_s) {
            known_s = placements[i].price_s;
            best = i;
        }
    }
    if (listed) {
        Placement first = placements[best];
        placements[best] = placements[0];
        placements[0] = first;
    }
    return (Placements){.placements = placements, .count = listed, .bound_s = fmin(bound_s, known_s)};
}

// ---- applying a placement --------------------------------------------------------------------

static int compare_links(const void *a, const void *b)
{
    const WorkerLink *x = a, *y = b;
    if (x->a != y->a)
        return x->a < y->a ? -1 : 1;
    return (x->b > y->b) - (x->b < y->b);
}

// The workload with its outermost workers as `worker` says, position by position.
static const Workload *place_apply(const Workload *work, const uint32_t worker[], Arena *arena)
{
    const Cluster *from = &work->spec->cluster;
    Workload *placed = arena_alloc(arena, sizeof(*placed));
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *placed = *work;
    *spec = *work->spec;
    workload_set_spec(placed, spec);
    Cluster *cluster = &spec->cluster;
    uint32_t *position = arena_alloc_array(arena, from->port_count, sizeof(*position));
    cluster->ports = arena_alloc_array(arena, from->port_count, sizeof(*cluster->ports));
    cluster->links = arena_alloc_array(arena, from->link_count, sizeof(*cluster->links));
    for (uint32_t x = 0; x < from->port_count; x++) {
        cluster->ports[x] = from->ports[worker[x]];
        position[worker[x]] = x;
    }
    for (uint32_t i = 0; i < from->link_count; i++) {
        WorkerLink link = from->links[i];
        uint32_t a = position[link.a], b = position[link.b];
        link.a = a < b ? a : b;
        link.b = a < b ? b : a;
        cluster->links[i] = link;
    }
    if (from->link_count)
        qsort(cluster->links, from->link_count, sizeof(*cluster->links), compare_links);
    spec->outer = outer_measure(cluster, arena);
    return placed;
}

// The same rows and columns in an order that does not depend on the search: the first worker at the origin, the
// others of its row and of its column ascending.
static void order_placement(Placement *placement, uint32_t count, Arena *arena)
{
    uint32_t columns = placement->domain, rows = count / columns, origin = 0;
    uint32_t *old = arena_alloc_array(arena, count, sizeof(*old));
    memcpy(old, placement->worker, count * sizeof(*old));
    while (old[origin] != 0)
        origin++;
    uint32_t *column_of = arena_alloc_array(arena, count, sizeof(*column_of)), // by the worker it has in that row
        *row_of = arena_alloc_array(arena, count, sizeof(*row_of));            // by the worker it has in that column
    memset(column_of, 0xff, count * sizeof(*column_of));
    memset(row_of, 0xff, count * sizeof(*row_of));
    for (uint32_t c = 0; c < columns; c++)
        column_of[old[origin / columns * columns + c]] = c;
    for (uint32_t r = 0; r < rows; r++)
        row_of[old[r * columns + origin % columns]] = r;
    uint32_t next = 0;
    for (uint32_t w = 0; w < count; w++) {
        for (uint32_t v = 0; v < count && row_of[w] != UINT32_MAX; v++)
            if (column_of[v] != UINT32_MAX)
                placement->worker[next++] = old[row_of[w] * columns + column_of[v]];
    }
}

// ---- planning --------------------------------------------------------------------------------

static bool list_candidates(const Workload *work, Arena *arena, Diag *diag, Candidate **candidates, size_t *count)
{
    const Spec *spec = work->spec;
    if (spec->plan.domain_request == DOMAIN_AUTO)
        return planner_enumerate(work, arena, diag, candidates, count);
    *candidates = arena_alloc_array(arena, 1, sizeof(**candidates));
    *count = 1;
    (*candidates)->fits = true; // planner_solve says what does not
    memcpy((*candidates)->config.domain, spec->plan.domain, sizeof(spec->plan.domain));
    return true;
}

// What no placement stays below of which only the worst figures are known, maybe of different pairs.
static PairLines least_lines(const Cluster *cluster, const Pairs *pairs, const Outer *outer, const WorstPair *floor,
                             double peers)
{
    PairLines lines = {0};
    double fastest = 0, least_s = INFINITY;
    for (uint32_t w = 0; w < cluster->port_count; w++)
        fastest = fmax(fastest, cluster->ports[w].bandwidth_bytes_per_s);
    for (uint32_t a = 0; a < pairs->count; a++)
        for (uint32_t b = 0; b < pairs->count; b++)
            least_s = a == b ? least_s : fmin(least_s, pairs->latency_s[(size_t)a * pairs->count + b]);
    if (peers <= 0)
        return lines;
    pair_lines_add(&lines, (PairLine){floor->latency_s, 1 / fastest});
    pair_lines_add(&lines, (PairLine){least_s, fmax(outer->port_s_per_byte, floor->link_s_per_byte / peers)});
    return lines;
}

// Do pairs differ in their latency? Else the worst pair is a line.
static bool latencies_differ(const Pairs *pairs)
{
    for (uint32_t a = 0; a < pairs->count; a++)
        for (uint32_t b = a + 1; b < pairs->count; b++)
            if (pairs->latency_s[(size_t)a * pairs->count + b] != pairs->latency_s[1])
                return true;
    return false;
}

// What no placement with any mix stays below: the mix solved as if every domain size had its own placement,
// each as good as any can be.
static double bound_all(const Workload *work, const PlannerOptions *options, const Placement *placements, size_t count,
                        Arena *arena)
{
    const Pairs *pairs = pairs_of_cluster(&work->spec->cluster, arena);
    Workload relaxed = *work;
    Spec spec = *work->spec;
    Outer outer = *outer_measure(&spec.cluster, arena);
    for (size_t i = 0; i < outer.count; i++) {
        PlacementProfile floor = placement_floor(pairs, outer.domains[i].domain);
        for (size_t p = 0; p < count; p++)
            if (placements[p].domain == outer.domains[i].domain)
                floor = placements[p].floor;
        OuterDomain *domain = &outer.domains[i];
        double rows = domain->domain - 1.0, columns = (double)pairs->count / domain->domain - 1;
        domain->gather = floor.row;
        domain->exchange = floor.column;
        domain->gather_lines = least_lines(&spec.cluster, pairs, &outer, &floor.row, rows);
        domain->exchange_lines = least_lines(&spec.cluster, pairs, &outer, &floor.column, columns);
    }
    spec.outer = &outer;
    workload_set_spec(&relaxed, &spec);
    Solution solution;
    bool infeasible;
    bool solved = planner_solve(&relaxed, options, arena, diag_create(arena), &solution, &infeasible);
    return solved ? solution.bound_s : 0;
}

// Plans on the placements found for other domain sizes too: layers that choose differently may want another one than
// the best for all layers alike. Keeps the best plan in *placed and *solution.
static void try_others(const Workload *work, const PlannerOptions *options, const Placements *found, Arena *arena,
                       const Workload **placed, Solution *solution)
{
    uint32_t workers = work->spec->cluster.port_count;
    uint32_t tried = 0;
    for (size_t i = 1; i < found->count && tried < OTHERS_MAX && workers <= OTHERS_WORKERS_MAX; i++) {
        Placement *placement = &found->placements[i];
        if (placement->domain == 1 || placement->domain == workers)
            continue;
        tried++;
        order_placement(placement, workers, arena);
        const Workload *here = place_apply(work, placement->worker, arena);
        Solution other;
        bool infeasible;
        if (!planner_solve(here, options, arena, diag_create(arena), &other, &infeasible) ||
            other.objective_s >= solution->objective_s)
            continue;
        *solution = other;
        *placed = here;
    }
}

bool place_and_solve(const Workload **work, const PlannerOptions *options, Arena *arena, Diag *diag, Solution *solution,
                     bool *infeasible)
{
    const Workload *given = *work;
    const Spec *spec = given->spec;
    uint32_t count = spec->cluster.port_count;
    *infeasible = false;
    if (!count)
        return planner_solve(given, options, arena, diag, solution, infeasible);
    uint32_t *input_order = arena_alloc_array(arena, count, sizeof(*input_order));
    for (uint32_t x = 0; x < count; x++)
        input_order[x] = x;
    *work = place_apply(given, input_order, arena);
    // With ports alone the slowest decides, whoever stands where.
    if (!spec->cluster.link_count || spec->plan.placement == PLACEMENT_INPUT)
        return planner_solve(*work, options, arena, diag, solution, infeasible);
    Candidate *candidates;
    size_t candidate_count;
    if (!list_candidates(*work, arena, diag, &candidates, &candidate_count))
        return false;
    Placements found = place_workers(given, candidates, candidate_count, &placement_effort, arena);
    if (found.count) {
        order_placement(&found.placements[0], count, arena);
        *work = place_apply(given, found.placements[0].worker, arena);
    }
    if (!planner_solve(*work, options, arena, diag, solution, infeasible))
        return false;
    // The search's bound is on one configuration for all layers; mixes have a weaker one.
    bool single = given->moe_count <= 1 || spec->plan.domain_request != DOMAIN_AUTO;
    double bound_s = found.bound_s;
    if (!single)
        try_others(given, options, &found, arena, work, solution);
    // The search takes the worst latency and the worst bandwidth of a group for one pair's.
    if (!single || latencies_differ(pairs_of_cluster(&spec->cluster, arena)))
        bound_s = bound_all(given, options, found.placements, found.count, arena);
    // No placement has a plan below it, whatever the search on this one could show of its own plans.
    solution->bound_s = fmin(solution->objective_s, bound_s);
    planner_settle(solution, solution->objective_s);
    return true;
}
