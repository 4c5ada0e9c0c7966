// What the planner says without a plan: the best single choice by estimated memory, figures for sweeps, the runner-up,
// and the baselines, against the list of all configurations, priced one by one.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/solve/footprint.h"
#include "compiler/solve/frugality.h"
#include "compiler/solve/planner.h"
#include "specs.h"

static double uniform(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

// Small models on up to three levels, of which memory holds what the fastest choices take in one case of three.
static Spec random_spec(void)
{
    static const uint32_t counts[] = {1, 2, 3, 4};
    const uint32_t shape[] = {counts[rand() % 4], counts[rand() % 4], rand() % 2 ? 2 : 0};
    Spec spec = spec_small_gpt(shape, 1 + (uint32_t)(rand() % 24), 1);
    for (uint32_t l = 0; l < spec.cluster.level_count; l++) {
        spec.cluster.levels[l].bandwidth_bytes_per_s = pow(10, uniform(6, 10));
        spec.cluster.levels[l].latency_s = pow(10, uniform(-6, -3));
    }
    spec.cluster.device.compute_flops = pow(10, uniform(8, 11));
    spec.model.layers = 1 + (uint32_t)(rand() % 3);
    spec.model.hidden = 64;
    spec.model.inner = 64u << rand() % 3;
    spec.plan.pass = PASS_TRAINING;
    spec.plan.once_dense = spec.plan.once_embedding =
        ONCE_DENSE_ALL; // the planner looks at one way of saving memory at a time
    spec.plan.recompute = RECOMPUTE_NONE;
    spec.plan.interleave = INTERLEAVE_NONE;
    spec.plan.micro_batches = 1 + (uint32_t)(rand() % 2);
    return spec;
}

typedef struct {
    Candidate *list;
    size_t count;
    double least, most; // bytes
} All;

static All list_all(const Workload *work, Arena *arena)
{
    All all = {.least = INFINITY};
    cr_assert(planner_enumerate(work, arena, diag_create(arena), &all.list, &all.count));
    for (size_t i = 0; i < all.count; i++) {
        all.least = fmin(all.least, all.list[i].memory_bytes);
        all.most = fmax(all.most, all.list[i].memory_bytes);
    }
    return all;
}

// What a list leaves out does not fit, however little runs ahead.
static void check_left_out(const Spec *spec, const All *every, const All *listed)
{
    for (size_t c = 0; c < every->count; c++) {
        const Config *config = &every->list[c].config;
        bool found = false;
        for (size_t i = 0; i < listed->count && !found; i++)
            found = config_equal(config, &listed->list[i].config);
        cr_assert(found || footprint_total(spec, config, 0, spec->plan.dispatch) > spec->cluster.device.memory_bytes);
    }
}

// Domains that are found not to fit have no choice that does; to know them beforehand changes nothing.
static void check_unfit(const Workload *work, const All *all, Estimate of, Arena *arena)
{
    bool *unfit = arena_alloc_array(arena, planner_domain_count(work->spec), sizeof(*unfit));
    for (int known = 0; known < 2; known++)
        cr_assert_eq(planner_estimate(work, false, unfit).best_s, of.best_s);
    for (size_t c = 0; c < all->count; c++)
        cr_assert(!unfit[all->list[c].domain_index] || !all->list[c].fits);
}

Test(estimate, the_best_single_choice_of_all)
{
    srand(31);
    int binding = 0, infeasible = 0, compared = 0;
    for (int i = 0; i < 80; i++) {
        Arena *arena = arena_create();
        Spec spec = random_spec();
        const Workload *work = workload_derive(&spec, arena);
        const All every = list_all(work, arena);
        spec.cluster.device.memory_bytes = every.least + (every.most - every.least) * uniform(-0.1, 1.1);
        const All all = list_all(work, arena);
        check_left_out(&spec, &every, &all);
        double expected_s = INFINITY;
        bool each = all.count == every.count, close = false; // estimates are good to a few per cent
        for (size_t c = 0; c < all.count; c++) {
            const Candidate *candidate = &all.list[c];
            cr_assert_eq(candidate->fits, candidate->memory_bytes <= spec.cluster.device.memory_bytes);
            each = each && candidate->fits;
            close = close || (!candidate->fits && candidate->memory_bytes < 1.05 * spec.cluster.device.memory_bytes);
            expected_s = fmin(expected_s, candidate->fits ? candidate->cost.iteration_s : INFINITY);
        }
        Estimate of = planner_estimate(work, false, NULL);
        check_unfit(work, &all, of, arena);
        cr_assert(close || of.best_s == expected_s || fabs(of.best_s - expected_s) < 1e-12 * expected_s,
                  "case %d: %g, not %g", i, of.best_s, expected_s);
        cr_assert_leq(of.best_s, expected_s);
        cr_assert_leq(of.least_s, of.best_s);
        cr_assert(close || planner_all_fit(work) == each, "case %d", i);
        compared += !close;
        binding += !each;
        infeasible += expected_s == INFINITY;
        double exactly_s = planner_estimate(work, true, NULL).best_s;
        cr_assert(close ? exactly_s >= of.best_s : exactly_s == of.best_s, "case %d: %g, not %g", i, exactly_s,
                  of.best_s);
        // A figure for a sweep: no worse than the best single choice, and none where nothing fits.
        Solution figure;
        bool nothing;
        const PlannerOptions quick = {.prefetch = PREFETCH_UNLIMITED, .quick = true};
        bool found = planner_solve(work, &quick, arena, diag_create(arena), &figure, &nothing);
        cr_assert(close || found == (expected_s < INFINITY), "case %d", i);
        cr_assert(!found || figure.objective_s <= expected_s * (1 + 1e-9), "case %d: %g above %g", i,
                  figure.objective_s, expected_s);
        cr_assert_eq(nothing, !found);
        arena_destroy(arena);
    }
    cr_assert_gt(binding, 30);
    cr_assert_gt(infeasible, 2);
    cr_assert_gt(compared, 40);
}

static bool is_chosen(const Workload *work, const Mix *mix, const Config *config)
{
    bool same = true;
    for (uint32_t k = 0; k < work->moe_count; k++)
        same = same && config_equal(&mix->configs[k], config);
    return same;
}

// With room for everything: the runner-up is the fastest choice that is not the plan, a sweep's figure is the plan's,
// and baselines are what they are called.
Test(estimate, rivals_of_the_plan)
{
    srand(32);
    const PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED},
                         quick = {.prefetch = PREFETCH_UNLIMITED, .quick = true};
    for (int i = 0; i < 40; i++) {
        Arena *arena = arena_create();
        Spec spec = random_spec();
        spec.model.experts = (uint32_t)cluster_gpus(&spec.cluster) * 2;
        const Workload *work = workload_derive(&spec, arena);
        Solution solution, figure;
        bool nothing;
        cr_assert(planner_solve(work, &options, arena, diag_create(arena), &solution, &nothing));
        cr_assert(planner_solve(work, &quick, arena, diag_create(arena), &figure, &nothing));
        cr_assert_float_eq(figure.objective_s, solution.objective_s, 1e-9 * solution.objective_s, "case %d", i);
        double rival_s = INFINITY;
        for (size_t c = 0; c < solution.count; c++)
            if (!is_chosen(work, &solution.mix, &solution.candidates[c].config))
                rival_s = fmin(rival_s, solution.candidates[c].cost.iteration_s);
        double said_s =
            solution.runner_up < solution.count ? solution.candidates[solution.runner_up].cost.iteration_s : INFINITY;
        cr_assert_eq(said_s, rival_s, "case %d: %g, not %g", i, said_s, rival_s);
        uint32_t outer = 0;
        while (outer + 1 < spec.cluster.level_count && spec.cluster.levels[outer].count < 2)
            outer++;
        for (int b = 0; b < BASELINE_COUNT; b++) {
            const Candidate *baseline = &solution.baselines[b];
            bool inside = cluster_gpus_below(&spec.cluster, outer) > 1 && spec.cluster.levels[outer].count > 1;
            cr_assert_eq(planner_has_baseline(b, &spec), b != BASELINE_EP_INSIDE || inside, "case %d: %s", i,
                         baseline_names[b]);
            if (!planner_has_baseline(b, &spec))
                continue;
            cr_assert(baseline->fits);
            for (uint32_t l = 0; l < spec.cluster.level_count; l++) {
                uint32_t count = spec.cluster.levels[l].count;
                bool whole = b == BASELINE_GATHER || (b == BASELINE_EP_INSIDE && l == outer);
                cr_assert_eq(baseline->config.domain[l], whole ? count : 1, "case %d: %s", i, baseline_names[b]);
            }
            cr_assert_eq(baseline_dispatch(b, &spec), b == BASELINE_EP ? DISPATCH_NAIVE : DISPATCH_DEDUP);
            // With room for everything nothing is gathered again.
            IterationCost cost;
            cost_iteration(work, &baseline->config, baseline_dispatch(b, &spec), &cost);
            cr_assert(!baseline->config.regather);
            cr_assert_eq(baseline->cost.iteration_s, cost.iteration_s, "case %d: %s", i, baseline_names[b]);
            cr_assert(b == BASELINE_EP || cost.iteration_s >= solution.objective_s * (1 - 1e-9));
        }
        arena_destroy(arena);
    }
}

// Two data centres of four GPUs: dense weights kept, gathered again over the inner level, or over both; activations
// kept or computed again; micro-batches in turns or one after another, where there are several.
Test(estimate, ways_to_save_memory)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 8, 2);
    Frugality ways[FRUGALITIES_MAX];
    spec.plan.pass = PASS_TRAINING;
    spec.plan.micro_batches = 4;
    spec.plan.once_embedding = ONCE_DENSE_ALL;
    cr_assert_eq(frugality_list(&spec, ways), 12);
    static const struct {
        bool regather;
        uint32_t levels;
    } dense[] = {{false, 0}, {true, 1}, {true, 0}};
    for (uint32_t i = 0; i < 12; i++) {
        cr_assert_eq(ways[i].interleaves, i < 6);
        cr_assert_eq(ways[i].recomputes, i / 3 % 2);
        cr_assert_eq(ways[i].regather_dense, dense[i % 3].regather, "way %u", i);
        cr_assert_eq(ways[i].dense_levels, dense[i % 3].levels, "way %u", i);
    }
    Arena *arena = arena_create();
    const Spec *frugal = frugality_apply(&spec, ways[4], arena);
    cr_assert(frugal->plan.interleaves && frugal->plan.recomputes && frugal->plan.regather_dense);
    cr_assert_eq(frugal->plan.dense_levels, 1);
    spec.plan.micro_batches = 1; // nothing to take turns
    cr_assert_eq(frugality_list(&spec, ways), 6);
    spec.plan.recompute = RECOMPUTE_FULL;
    cr_assert_eq(frugality_list(&spec, ways), 3);
    cr_assert(ways[0].recomputes && !ways[0].interleaves);
    spec.plan.once_dense = ONCE_DENSE_NONE; // nothing is kept
    cr_assert_eq(frugality_list(&spec, ways), 1);
    cr_assert(ways[0].regather_dense && ways[0].dense_levels == 0);
    spec.plan.once_dense = ONCE_DENSE_ALL;
    spec.plan.recompute = RECOMPUTE_NONE;
    cr_assert_eq(frugality_list(&spec, ways), 1);
    cr_assert(!ways[0].regather_dense && !ways[0].recomputes);
    // One level wide: what is kept of it is all, or nothing.
    spec.plan.once_dense = ONCE_DENSE_AUTO;
    spec.cluster.levels[1].count = 1;
    cr_assert_eq(frugality_list(&spec, ways), 2);
    // Packets over the outer level: that one is kept.
    spec.cluster.levels[1].count = 4;
    spec.plan.dense = (Coding){CODEC_SIGN, 1, GRADIENT_DENSE, 1, 1};
    cr_assert_eq(frugality_list(&spec, ways), 2);
    cr_assert_eq(ways[1].dense_levels, 1);
    spec.plan.dense.codec = CODEC_DENSE;
    spec.plan.dense.whole_levels = 0;
    spec.plan.micro_batches = 4;
    spec.plan.interleave = INTERLEAVE_FULL;
    cr_assert_eq(frugality_list(&spec, ways), 3);
    cr_assert(ways[2].interleaves);
    spec.plan.interleave = INTERLEAVE_NONE;
    cr_assert_eq(frugality_list(&spec, ways), 3);
    cr_assert(!ways[0].interleaves && !ways[2].interleaves);
    arena_destroy(arena);
}

// As late as possible, with replicas gathered again or kept, whatever takes less.
static double least_bytes(const Spec *spec, const Config *of)
{
    Config config = *of;
    double bytes = footprint_total(spec, &config, 0, spec->plan.dispatch);
    config.regather = config_held_shards(spec, &config) > 1;
    return fmin(bytes, footprint_total(spec, &config, 0, spec->plan.dispatch));
}

// The planner looks at a domain in no way that is covered by one where it takes more than 1.1 times what there is.
// Where it takes 1.03 times that, it is not planned with.
Test(estimate, ways_that_cover_others_take_less)
{
    srand(33);
    int pairs = 0;
    for (int i = 0; i < 12; i++) {
        Arena *arena = arena_create();
        Spec spec = random_spec();
        spec.model.layers = 4 + (uint32_t)(rand() % 6);
        spec.model.vocabulary = 64u << rand() % 6;
        spec.plan.once_dense = spec.plan.once_embedding = ONCE_DENSE_AUTO;
        spec.plan.recompute = RECOMPUTE_AUTO;
        spec.plan.interleave = INTERLEAVE_AUTO;
        spec.plan.micro_batches = 1u << rand() % 3;
        spec.footprints = footprint_table_create(arena);
        All all = list_all(workload_derive(&spec, arena), arena);
        Frugality ways[FRUGALITIES_MAX];
        size_t count = frugality_list(&spec, ways);
        const Spec *specs[FRUGALITIES_MAX];
        for (size_t w = 0; w < count; w++)
            specs[w] = frugality_apply(&spec, ways[w], arena);
        for (size_t c = 0; c < all.count; c++)
            for (size_t a = 0; a < count && !all.list[c].config.regather; a++)
                for (size_t b = 0; b < count; b++) {
                    if (a == b || !frugality_covers(ways[a], ways[b]))
                        continue;
                    double less = least_bytes(specs[a], &all.list[c].config);
                    double more = least_bytes(specs[b], &all.list[c].config);
                    cr_assert_leq(less, 1.1 / 1.03 * more, "case %d: way %zu takes %g, way %zu %g", i, a, less, b,
                                  more);
                    pairs++;
                }
        arena_destroy(arena);
    }
    cr_assert_gt(pairs, 500);
}

Test(estimate, ways_cover_those_that_save_no_more)
{
    const Frugality nothing = {.interleaves = true}, dense = {.regather_dense = true, .dense_levels = 1},
                    all = {.regather_dense = true, .regather_embedding = true, .recomputes = true};
    cr_assert(frugality_covers(nothing, nothing) && frugality_covers(all, nothing) && frugality_covers(all, dense));
    cr_assert(!frugality_covers(nothing, all) && !frugality_covers(dense, all));
    Frugality other = dense;
    other.dense_levels = 2; // keeps what came over two levels
    cr_assert(frugality_covers(dense, other) && !frugality_covers(other, dense));
    other = (Frugality){.recomputes = true};
    cr_assert(!frugality_covers(other, dense) && !frugality_covers(dense, other));
}
