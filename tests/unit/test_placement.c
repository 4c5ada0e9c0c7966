// The placement of heterogeneous workers: against brute force over all assignments, its bound against what a longer
// search finds, its gap on three families of networks, and the cost of heterogeneous links against sums by hand.
// builds: dev fast  seconds: 5
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/placement/place.h"
#include "effort.h"
#include "ir/base/sort.h"
#include "specs.h"

static double uniform(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

static void add_workers(Spec *spec, uint32_t count, Arena *arena)
{
    Cluster *cluster = &spec->cluster;
    cluster->levels[0].count = cluster->port_count = count;
    cluster->ports = arena_alloc_array(arena, count, sizeof(*cluster->ports));
    cluster->links = arena_alloc_array(arena, count * (count - 1) / 2, sizeof(*cluster->links));
    cluster->link_count = 0;
    for (uint32_t w = 0; w < count; w++)
        cluster->ports[w] = (WorkerPort){arena_format(arena, "w%u", w), w, cluster->levels[0].bandwidth_bytes_per_s,
                                         cluster->levels[0].latency_s};
}

static void add_link(Spec *spec, uint32_t a, uint32_t b, double bandwidth, double latency_s)
{
    spec->cluster.links[spec->cluster.link_count++] = (WorkerLink){a, b, bandwidth, latency_s};
}

// ---- cost ------------------------------------------------------------------------------------

Test(outer, the_worst_worker_decides)
{
    Arena *arena = arena_create();
    Spec spec = spec_one_tier(4, 1e9, 1e-3, 1e6, 1e6, 0);
    add_workers(&spec, 4, arena);
    spec.cluster.ports[2].bandwidth_bytes_per_s = 5e8;
    spec.cluster.ports[3].latency_s = 7e-3;
    add_link(&spec, 0, 1, 1e8, 2e-3);
    add_link(&spec, 1, 2, 4e8, 5e-2);
    spec.outer = outer_measure(&spec.cluster, arena);
    // Domains {0, 1}, {2, 3}: the link between 0 and 1 is slowest, the port of 3 the farthest, at which the port of 2
    // is.
    cr_assert_float_eq(cost_group_s(&spec, GROUP_GATHER, 0, 1e6, 1), 2e-3 + 1e6 / 1e8, 1e-12);
    cr_assert_float_eq(cost_group_s(&spec, GROUP_GATHER, 0, 1e5, 1), 7e-3 + 1e5 / 5e8, 1e-12);
    // Columns {0, 2}, {1, 3}: no links, and the slow port of 2.
    cr_assert_float_eq(cost_group_s(&spec, GROUP_EXCHANGE, 0, 1e6, 1), 7e-3 + 1e6 / 5e8, 1e-12);
    // All: a third of the bytes over each link. The far link 1-2 has as much as the port of 2 takes for all; with more
    // bytes the slow link 0-1 comes last.
    cr_assert_float_eq(cost_group_s(&spec, GROUP_LEVEL, 0, 3e6, 3), 5e-2 + 3e6 / 5e8, 1e-12);
    cr_assert_float_eq(cost_group_s(&spec, GROUP_LEVEL, 0, 3e8, 3), 2e-3 + 1e8 / 1e8, 1e-12);
    cr_assert_float_eq(cost_group_s(&spec, GROUP_LEVEL, 0, 0, 3), 5e-2, 1e-12);
    cr_assert_eq(cost_group_s(&spec, GROUP_GATHER, 0, 1e6, 0), 0);
    const Outer *twice = outer_scale(spec.outer, 2, arena);
    cr_assert_eq(twice->port_s_per_byte, 1 / 1e9);
    cr_assert_eq(outer_group(twice, GROUP_GATHER, 2)->link_s_per_byte, 1 / 2e8);
    const PairLines *lines = outer_lines(twice, GROUP_GATHER, 2);
    cr_assert_eq(lines->lines[0].s_per_byte, 1 / 2e8);
    cr_assert_eq(lines->lines[0].latency_s, 2e-3);
    spec.cluster.port_count = 0;
    cr_assert_null(outer_measure(&spec.cluster, arena));
    arena_destroy(arena);
}

// Lines that another is above of everywhere are dropped; beyond PAIR_LINES_MAX the two closest become one above both.
Test(placement, lines_of_pairs)
{
    PairLines lines = {0};
    pair_lines_add(&lines, (PairLine){2, 30});
    pair_lines_add(&lines, (PairLine){5, 10});
    pair_lines_add(&lines, (PairLine){2, 20});
    pair_lines_add(&lines, (PairLine){4, 10});
    cr_assert_eq(lines.count, 2);
    cr_assert_eq(pair_lines_s(&lines, 0.1, 0), 6);   // 5 + 1, not 2 + 3
    cr_assert_eq(pair_lines_s(&lines, 1, 0), 32);    // 2 + 30, not 5 + 10
    cr_assert_eq(pair_lines_s(&lines, 0.1, 10), 15); // inner ports: 5 + 10
    pair_lines_add(&lines, (PairLine){5, 40});       // above all
    cr_assert_eq(lines.count, 1);
    cr_assert_eq(pair_lines_s(&lines, 0, 0), 5);
    lines.count = 0;
    for (int i = 0; i < PAIR_LINES_MAX; i++)
        pair_lines_add(&lines, (PairLine){i == 7 ? 6.5 : i, 100 - 10 * i});
    cr_assert_eq(lines.count, PAIR_LINES_MAX);
    pair_lines_add(&lines, (PairLine){20, 1});
    cr_assert_eq(lines.count, PAIR_LINES_MAX);
    cr_assert_eq(lines.lines[7].latency_s, 20);
    cr_assert_eq(lines.lines[6].latency_s, 6.5);
    cr_assert_eq(lines.lines[6].s_per_byte, 40);
    cr_assert_eq(lines.lines[5].latency_s, 5);
}

// ---- brute force -----------------------------------------------------------------------------

typedef struct {
    const Spec *spec;
    Pairs *pairs;
    uint32_t count, domain, order[8];
    double best_s;
} Brute;

// Of the pairs of rows, or of columns, that send `bytes` to so many peers: how long the slowest takes, and the latency
// of the pair with the least bandwidth.
typedef struct {
    double slowest_s, slope, latency_s;
} BruteGroup;

static void brute_include(BruteGroup *group, double bytes, double slope, double latency_s)
{
    group->slowest_s = fmax(group->slowest_s, latency_s + bytes * slope);
    if (slope > group->slope || (slope == group->slope && latency_s > group->latency_s)) {
        group->slope = slope;
        group->latency_s = latency_s;
    }
}

static BruteGroup brute_group(const Brute *brute, bool column, double bytes, double peers)
{
    uint32_t n = brute->count, s = brute->domain;
    BruteGroup group = {0};
    double others_slope = 0, others_latency_s = 0; // of pairs without a link, as if they were one
    for (uint32_t x = 0; x < n && peers > 0; x++)
        for (uint32_t y = 0; y < n; y++) {
            size_t at = brute->order[x] * n + brute->order[y];
            const WorkerPort *a = &brute->spec->cluster.ports[brute->order[x]];
            const WorkerPort *b = &brute->spec->cluster.ports[brute->order[y]];
            double port = fmax(1 / a->bandwidth_bytes_per_s, 1 / b->bandwidth_bytes_per_s);
            double link = brute->pairs->s_per_byte[at], latency_s = brute->pairs->latency_s[at];
            if (x == y || (column ? x % s != y % s : x / s != y / s))
                continue;
            if (link > 0) {
                brute_include(&group, bytes, fmax(port, link / peers), latency_s);
                continue;
            }
            others_slope = fmax(others_slope, port);
            others_latency_s = fmax(others_latency_s, latency_s);
        }
    if (others_slope > 0)
        brute_include(&group, bytes, others_slope, others_latency_s);
    return group;
}

// One layer on one tier of one GPU per worker, forward, naive: docs/cost-model.md by hand, over the pairs.
static double brute_price(const Brute *brute)
{
    uint32_t n = brute->count, s = brute->domain;
    const SpecModel *model = &brute->spec->model;
    double experts = model->expert_bytes * (s - 1), tokens = model->data_bytes * (n - s) / n, port = 0;
    for (uint32_t x = 0; x < n; x++)
        port = fmax(port, 1 / brute->spec->cluster.ports[x].bandwidth_bytes_per_s);
    BruteGroup row = brute_group(brute, false, experts, s - 1.0);
    BruteGroup column = brute_group(brute, true, tokens, (double)n / s - 1);
    double busy_s = (experts + tokens) * port + fmax(row.latency_s, column.latency_s);
    return fmax(model->pre_expert_s + column.slowest_s, fmax(row.slowest_s, busy_s)) + column.slowest_s;
}

// The first worker stays at the origin: rows and columns may be permuted.
static void brute_permute(Brute *brute, uint32_t at)
{
    if (at == brute->count) {
        brute->best_s = fmin(brute->best_s, brute_price(brute));
        return;
    }
    for (uint32_t i = at; i < brute->count; i++) {
        uint32_t kept = brute->order[at];
        brute->order[at] = brute->order[i];
        brute->order[i] = kept;
        brute_permute(brute, at + 1);
        brute->order[i] = brute->order[at];
        brute->order[at] = kept;
    }
}

static double brute_best(const Spec *spec, Arena *arena)
{
    Brute brute = {.spec = spec,
                   .pairs = pairs_of_cluster(&spec->cluster, arena),
                   .count = spec->cluster.port_count,
                   .best_s = INFINITY};
    for (brute.domain = 1; brute.domain <= brute.count; brute.domain++) {
        bool requested = spec->plan.domain_request == DOMAIN_AUTO || spec->plan.domain[0] == brute.domain;
        if (brute.count % brute.domain || !requested)
            continue;
        for (uint32_t w = 0; w < brute.count; w++)
            brute.order[w] = w;
        brute_permute(&brute, 1);
    }
    return brute.best_s;
}

static Spec random_network(uint32_t count, Arena *arena)
{
    double bandwidth = pow(10, uniform(8, 9.5));
    Spec spec = spec_one_tier(count, bandwidth, uniform(0, 1) < 0.5 ? 0 : uniform(0, 1e-2), uniform(1e6, 1e8),
                              pow(10, uniform(4, 7.5)), uniform(0, 0.2));
    add_workers(&spec, count, arena);
    double density = uniform(0.3, 1.2), far = uniform(0, 1) < 0.5 ? 0 : 5e-2;
    for (uint32_t a = 0; a < count; a++) {
        if (uniform(0, 1) < 0.3)
            spec.cluster.ports[a].bandwidth_bytes_per_s *= uniform(0.5, 2);
        for (uint32_t b = a + 1; b < count; b++)
            if (uniform(0, 1) < density)
                add_link(&spec, a, b, bandwidth * pow(10, uniform(-2, 0)),
                         far > 0 ? uniform(0, far) : spec.cluster.levels[0].latency_s);
    }
    return spec;
}

Test(placement, equals_brute_force_over_all_assignments)
{
    srand(11);
    int moved = 0, exact = 0;
    double excess = 0;
    for (int i = 0; i < INSTANCES(200); i++) {
        Arena *arena = arena_create();
        Spec spec = random_network(i % 10 == 0 ? 8 : i % 2 ? 6 : 4, arena);
        if (i % 4 < 2) { // left to choose, gathering from all or from none is often best, and placing no matter
            spec.plan.domain_request = DOMAIN_FORCED;
            spec.plan.domain[0] = spec.cluster.port_count / 2;
        }
        const Workload *placed = workload_derive(&spec, arena);
        Solution solution;
        bool infeasible;
        Diag *diag = diag_create(arena);
        PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED};
        cr_assert(place_and_solve(&placed, &options, arena, diag, &solution, &infeasible));
        double best_s = brute_best(&spec, arena);
        bool alike = true; // else placements are compared by figures that may be of different pairs
        for (uint32_t l = 0; l < spec.cluster.link_count; l++)
            alike = alike && spec.cluster.links[l].latency_s == spec.cluster.levels[0].latency_s;
        exact += alike;
        cr_assert_geq(solution.objective_s, best_s * (1 - 1e-9), "instance %d", i);
        cr_assert_leq(solution.objective_s, best_s * (alike ? 1 + 1e-9 : 1.3), "instance %d: %.12g, not %.12g", i,
                      solution.objective_s, best_s);
        cr_assert_leq(solution.bound_s, best_s * (1 + 1e-9), "instance %d: bound %.12g over %.12g", i, solution.bound_s,
                      best_s);
        excess += solution.objective_s / best_s - 1;
        cr_assert(!alike || solution.status != STATUS_FEASIBLE, "instance %d: gap %g", i, solution.gap);
        for (uint32_t x = 0; x < spec.cluster.port_count; x++)
            moved += placed->spec->cluster.ports[x].worker != x;
        arena_destroy(arena);
    }
    cr_assert_gt(exact, INSTANCES(50));
    cr_assert_lt(excess / INSTANCES(200), 0.01, "%g", excess / INSTANCES(200));
    cr_assert_gt(moved, INSTANCES(200), "placing matters in these instances");
}

// ---- families --------------------------------------------------------------------------------

typedef enum { FAMILY_CLUSTERS, FAMILY_UNIFORM, FAMILY_POWER_LAW, FAMILY_COUNT } Family;

// Eight GPUs per site, six layers of tokens and experts that make hybrids win.
static Spec family_network(Family family, uint32_t count, Arena *arena)
{
    Spec spec = spec_one_tier(count, 5e9, 1e-3, uniform(2e6, 8e6), uniform(5e4, 5e5), uniform(0, 5e-2));
    spec.cluster.level_count = 2;
    spec.cluster.levels[1] = (Level){"gpu", 8, 5e10, 1e-5, 0};
    spec.model.layers = 6;
    add_workers(&spec, count, arena);
    double *uplink = arena_alloc_array(arena, count, sizeof(*uplink));
    for (uint32_t w = 0; w < count; w++)
        uplink[w] = 5e7 * pow(uniform(0.01, 1), -1 / 1.2);
    for (uint32_t a = 0; a < count; a++) {
        for (uint32_t b = a + 1; b < count; b++) {
            bool near = (a * 7 % count < count / 2) == (b * 7 % count < count / 2);
            double bandwidth = family == FAMILY_CLUSTERS  ? (near ? uniform(2e9, 3e9) : uniform(1e8, 2e8))
                               : family == FAMILY_UNIFORM ? uniform(1e8, 2e9)
                                                          : fmin(uplink[a], uplink[b]) * uniform(0.5, 1);
            add_link(&spec, a, b, bandwidth, 1e-3);
        }
    }
    return spec;
}

// What a search of more effort from the same bound finds, and random assignments, must not undercut the bound.
static void check_bound(const Workload *work, const Candidate *candidates, size_t count, double bound_s, Arena *arena)
{
    PlacementEffort more = {.local_work = 3 * placement_effort.local_work, .nodes = 1};
    Placements other = place_workers(work, candidates, count, &more, arena);
    cr_assert(other.count > 0);
    cr_assert_geq(other.placements[0].price_s, bound_s * (1 - 1e-12));
}

Test(placement, gaps_are_small_and_bounds_hold, .timeout = 200)
{
    static const uint32_t counts[] = {12, 16, 24, 32};
    enum { EACH = INSTANCES(3) };
    srand(5);
    for (int family = 0; family < FAMILY_COUNT; family++) {
        double gaps[COUNT_OF(counts) * EACH];
        size_t filled = 0;
        for (size_t i = 0; i < COUNT_OF(gaps); i++) {
            Arena *arena = arena_create();
            Diag *diag = diag_create(arena);
            Spec spec = family_network((Family)family, counts[i % COUNT_OF(counts)], arena);
            const Workload *work = workload_derive(&spec, arena);
            Candidate *candidates;
            size_t count;
            cr_assert(planner_enumerate(work, arena, diag, &candidates, &count));
            for (size_t c = 0; c < count; c++) // with all in one domain, or each alone, there is nothing to place
                candidates[c].fits =
                    candidates[c].config.domain[0] > 1 && candidates[c].config.domain[0] < spec.cluster.port_count;
            Placements found = place_workers(work, candidates, count, &placement_effort, arena);
            cr_assert(found.count > 0);
            cr_assert_leq(found.bound_s, found.placements[0].price_s);
            check_bound(work, candidates, count, found.bound_s, arena);
            gaps[filled++] = 1 - found.bound_s / found.placements[0].price_s;
            arena_destroy(arena);
        }
        sort_doubles(gaps, filled);
        printf("family %d: gap median %.2f %%, worst %.2f %%\n", family, 100 * gaps[filled / 2],
               100 * gaps[filled - 1]);
        cr_expect_lt(gaps[filled / 2], 0.02, "family %d", family);
        cr_expect_lt(gaps[filled - 1], 0.10, "family %d", family);
    }
}
