// The planner, both bundles and the memory of real lowerings in play, against trying everything: every mix of
// configurations, replicas kept, gathered again, or over levels inside a boundary alone, dense weights the same, every
// prefetch depth; of one micro-batch or several; times by cost_mix, memory by footprint_measure. Where lowering has the
// last word and excludes the best mix of the estimates, the planner may only be slower. Why it
// takes so long: 300 instances, each a few thousand mixes and dozens of lowerings.
//
// builds: fast  seconds: 12
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "effort.h"
#include "specs.h"

enum { COUNT = FEW_OF(300), LAPPED = 120, LAYERS_MAX = 3, CANDIDATES_MAX = 16, MIXES_MAX = 600, DEPTHS = 6, SIDES = 3 };

static const PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED, .glpk = false};
static const uint32_t depths[DEPTHS] = {PREFETCH_UNLIMITED, 8, 4, 2, 1, 0};

static double uniform(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

static uint32_t any_of(const uint32_t *values, int count)
{
    return values[rand() % count];
}

static Spec random_spec(void)
{
    uint32_t counts[3] = {any_of((const uint32_t[]){2, 3, 4}, 3), any_of((const uint32_t[]){1, 2, 3}, 3), 0};
    uint32_t experts = any_of((const uint32_t[]){2, 4, 6, 12, 18, 24}, 6);
    Spec spec = spec_small_gpt(counts, experts, 1 + (uint32_t)(rand() % 2));
    spec.cluster.level_count = 2;
    for (uint32_t l = 0; l < 2; l++) {
        spec.cluster.levels[l].bandwidth_bytes_per_s = pow(10, uniform(6 + l, 9 + l));
        spec.cluster.levels[l].latency_s = pow(10, uniform(-6, -4));
    }
    spec.cluster.device.compute_flops = pow(10, uniform(8, 11));
    spec.model.layers = 1 + (uint32_t)(rand() % LAYERS_MAX);
    spec.model.first_dense = spec.model.layers > 1 ? (uint32_t)(rand() % 2) : 0;
    spec.model.ffn_inner = 64;
    spec.model.batch = 1 + (uint32_t)(rand() % 4);
    spec.model.inner = any_of((const uint32_t[]){16, 64, 256}, 3);
    spec.plan.pass = rand() % 5 ? PASS_TRAINING : PASS_FORWARD;
    spec.plan.capacity = rand() % 2 ? 2 : 0;
    if (spec.plan.pass == PASS_TRAINING) {
        spec.plan.micro_batches = 1 + (uint32_t)(rand() % 4);
        spec.plan.recomputes = rand() % 2;
    }
    spec.replica_levels = spec_replica_levels(&spec);
    return spec;
}

typedef struct {
    const Workload *work;
    Candidate *candidates;
    size_t count;
    Footprint footprints[DEPTHS][CANDIDATES_MAX];
} Side; // dense weights kept, gathered again, or over the level inside alone

typedef struct {
    double iteration_s;
    bool regathers; // anything
    bool once;      // but for what came over the level outside
    bool fits;      // by lowering, whichever of the best is taken
} Best;

// Of several laps the planner lists gradients with a boundary of their own where they may pay: here all are looked at.
static void add_ways(Side *side, const Spec *spec, Arena *arena)
{
    Candidate *all = arena_alloc_array(arena, side->count * (1 + LEVELS_MAX), sizeof(*all));
    size_t count = 0;
    for (size_t c = 0; c < side->count; c++) {
        Config next = side->candidates[c].config;
        if (next.returns_apart)
            continue;
        all[count++] = side->candidates[c];
        while (config_next_way(spec, &next) && next.returns_apart)
            all[count++] = (Candidate){.config = next};
    }
    side->candidates = all;
    side->count = count;
}

static bool prepare(Side *side, const Spec *spec, Arena *arena, double *least, double *most)
{
    side->work = workload_derive(spec, arena);
    cr_assert(planner_enumerate(side->work, arena, diag_create(arena), &side->candidates, &side->count));
    add_ways(side, spec, arena);
    if (side->count > CANDIDATES_MAX || pow((double)side->count, side->work->moe_count) > MIXES_MAX)
        return false;
    for (int d = 0; d < DEPTHS; d++)
        for (size_t c = 0; c < side->count; c++) {
            Footprint *footprint = &side->footprints[d][c];
            *footprint = footprint_measure(spec, &side->candidates[c].config, depths[d], spec->plan.dispatch);
            double total = footprint->shared_bytes + side->work->moe_count * footprint->per_layer_bytes;
            *least = fmin(*least, total);
            *most = fmax(*most, total);
        }
    return true;
}

// Looks at a mix whose estimated memory fits.
typedef void Visit(const Side *side, const Mix *mix, double iteration_s, Best *best);

static void visit_all(const Side *side, double memory, Visit *visit, Best *best)
{
    uint32_t layers = side->work->moe_count;
    for (int d = 0; d < DEPTHS; d++) {
        size_t digits[LAYERS_MAX] = {0};
        uint32_t at = 0;
        while (at < layers) {
            Config configs[LAYERS_MAX];
            double bytes = 0, shared = 0;
            for (uint32_t i = 0; i < layers; i++) {
                configs[i] = side->candidates[digits[i]].config;
                bytes += side->footprints[d][digits[i]].per_layer_bytes;
                shared = fmax(shared, side->footprints[d][digits[i]].shared_bytes);
            }
            Mix mix = {configs, depths[d]};
            IterationCost cost;
            cost_mix(side->work, &mix, side->work->spec->plan.dispatch, &cost);
            if (bytes + shared <= memory)
                visit(side, &mix, cost.iteration_s, best);
            for (at = 0; at < layers && ++digits[at] == side->count; at++)
                digits[at] = 0;
        }
    }
}

static void keep_best(const Side *side, const Mix *mix, double iteration_s, Best *best)
{
    if (iteration_s >= best->iteration_s)
        return;
    best->iteration_s = iteration_s;
    best->regathers = side->work->spec->plan.regather_dense;
    best->once = side->work->spec->plan.dense_levels > 0;
    for (uint32_t i = 0; i < side->work->moe_count; i++) {
        best->regathers = best->regathers || mix->configs[i].regather;
        best->once = best->once || mix->configs[i].once > 0;
    }
}

// Of the best mixes there may be several: the planner finds any of them.
static void lower_best(const Side *side, const Mix *mix, double iteration_s, Best *best)
{
    if (iteration_s <= best->iteration_s * (1 + 1e-9))
        best->fits = best->fits && footprint_lowered(side->work, mix, side->work->spec->plan.dispatch) <=
                                       side->work->spec->cluster.device.memory_bytes;
}

// Of all ways with dense weights; INFINITY where nothing fits.
static double planned(Side sides[SIDES], int side_count, Arena *arena)
{
    double best_s = INFINITY;
    for (int s = 0; s < side_count; s++) {
        Solution solution;
        bool infeasible;
        if (planner_solve(sides[s].work, &options, arena, diag_create(arena), &solution, &infeasible))
            best_s = fmin(best_s, solution.cost.iteration_s);
        else
            cr_assert(infeasible);
    }
    return best_s;
}

// Where weights are gathered again, their gradients wait in two layers only, however slow the network: a layer more
// takes what is kept of it, and no whole gradient.
Test(planner_memory, gradients_of_weights_gathered_again_do_not_pile_up)
{
    Spec spec = spec_small_gpt((const uint32_t[]){4, 2, 0}, 8, 1);
    spec.plan.pass = PASS_TRAINING;
    spec.model.hidden = 64;
    spec.model.inner = 512;
    spec.model.batch = 1;
    spec.model.layers = 12;
    for (int again = 0; again < 2; again++) {
        Config config = {.domain = {4, 2}, .regather = again};
        spec.plan.regather_dense = again;
        double eight = lower_memory_bytes(&spec, &config, PREFETCH_UNLIMITED, DISPATCH_DEDUP, 8);
        double step = (lower_memory_bytes(&spec, &config, PREFETCH_UNLIMITED, DISPATCH_DEDUP, 12) - eight) / 4;
        double whole = 8 * 2 * 64 * 512 * 4.0; // of a layer's experts, f32
        cr_assert(again ? step < 0.8 * whole : step > 1.2 * whole, "%g bytes per layer, %g whole", step, whole);
    }
}

// The same instance with dense weights in every way; returns how many there are.
static int list_specs(Spec spec, Spec specs[SIDES])
{
    for (uint32_t s = 0; s < SIDES; s++) {
        specs[s] = spec;
        specs[s].plan.regather_dense = s > 0;
        specs[s].plan.dense_levels = s > 1;
    }
    return spec.plan.pass == PASS_FORWARD ? 1 : spec.cluster.levels[1].count > 1 ? SIDES : 2;
}

Test(planner_memory, plans_are_the_best_of_all_mixes_that_fit)
{
    srand(16);
    int compared = 0, training = 0, binding = 0, overruled = 0, regathered = 0, once = 0, several = 0;
    while (compared < COUNT) {
        Arena *arena = arena_create();
        Spec specs[SIDES];
        int side_count = list_specs(random_spec(), specs);
        Side sides[SIDES];
        double least = INFINITY, most = 0;
        bool small = true;
        for (int s = 0; s < side_count; s++)
            small = small && prepare(&sides[s], &specs[s], arena, &least, &most);
        bool binds = rand() % 3 > 0;
        if (!small || sides[0].work->moe_count == 0) {
            arena_destroy(arena);
            continue;
        }
        double memory = binds ? least + (most - least) * pow(uniform(0, 1), 2) : 2 * most;
        for (int s = 0; s < SIDES; s++)
            specs[s].cluster.device.memory_bytes = memory;
        Best best = {.iteration_s = INFINITY, .fits = true};
        for (int s = 0; s < side_count; s++)
            visit_all(&sides[s], memory, keep_best, &best);
        for (int s = 0; s < side_count; s++)
            visit_all(&sides[s], memory, lower_best, &best);
        double planned_s = planned(sides, side_count, arena);
        cr_assert_lt(best.iteration_s, INFINITY);
        cr_assert_geq(planned_s, best.iteration_s * (1 - 1e-9), "instance %d: %.12g below %.12g", compared, planned_s,
                      best.iteration_s);
        cr_assert(!best.fits || planned_s <= best.iteration_s * (1 + 1e-9), "instance %d: %.12g, not %.12g", compared,
                  planned_s, best.iteration_s);
        overruled += !best.fits;
        compared++;
        training += side_count > 1;
        several += specs[0].plan.micro_batches > 1;
        once += best.once;
        binding += binds;
        regathered += best.regathers;
        arena_destroy(arena);
    }
    cr_assert_gt(training, COUNT / 2);
    cr_assert_gt(binding, COUNT / 3);
    cr_assert_geq(regathered, FEW_OF(15), "%d", regathered);
    cr_assert_geq(once, FEW_OF(4), "%d", once);
    cr_assert_gt(several, COUNT / 3);
    cr_assert_lt(overruled, COUNT / 10, "lowering excludes the best of %d", overruled);
}

// In several laps the planner takes single choices and pairs: never one that does not fit, none slower than the best
// single choice, and its bound lies below the best of all mixes.
Test(planner_memory, laps_are_planned_within_their_bound)
{
    srand(17);
    int compared = 0, binding = 0, apart = 0;
    while (compared < LAPPED) {
        Arena *arena = arena_create();
        Spec spec = random_spec();
        spec.plan.micro_batches = 4;
        spec.plan.lap = 1 + (uint32_t)(rand() % 2);
        spec.plan.regather_dense = rand() % 2;
        Side side;
        double least = INFINITY, most = 0;
        if (spec.plan.pass == PASS_FORWARD || !prepare(&side, &spec, arena, &least, &most) || !side.work->moe_count) {
            arena_destroy(arena);
            continue;
        }
        spec.cluster.device.memory_bytes = least + (most - least) * uniform(0, 1.2);
        Best best = {.iteration_s = INFINITY, .fits = true};
        visit_all(&side, spec.cluster.device.memory_bytes, keep_best, &best);
        // What is estimated to take up to three per cent too much may fit all the same.
        Best roomy = {.iteration_s = INFINITY, .fits = true};
        visit_all(&side, 1.03 * spec.cluster.device.memory_bytes, keep_best, &roomy);
        Solution solution;
        bool infeasible;
        if (planner_solve(side.work, &options, arena, diag_create(arena), &solution, &infeasible)) {
            cr_expect_leq(solution.memory_bytes, spec.cluster.device.memory_bytes, "instance %d", compared);
            cr_expect_leq(solution.cost.iteration_s,
                          solution.candidates[solution.uniform].cost.iteration_s * (1 + 1e-9), "instance %d", compared);
            cr_expect_leq(solution.bound_s, best.iteration_s * (1 + 1e-9), "instance %d: bound %.9g, best %.9g",
                          compared, solution.bound_s, best.iteration_s);
            cr_expect_geq(solution.cost.iteration_s, roomy.iteration_s * (1 - 1e-9), "instance %d", compared);
            binding += solution.memory_binds;
            for (uint32_t i = 0; i < side.work->moe_count; i++)
                apart += solution.mix.configs[i].returns_apart;
        } else {
            cr_expect(infeasible);
        }
        compared++;
        arena_destroy(arena);
    }
    cr_assert_gt(binding, 1, "%d", binding);
    cr_assert_gt(apart, 1, "%d", apart);
}
