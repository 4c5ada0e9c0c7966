// Explanations against planning again by hand: a flip is one, rivals cost what is said, lifting a limit never hurts.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "compiler/explain/explain.h"
#include "specs.h"

static const PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED, .glpk = false};

typedef struct {
    Spec spec;
    Workload *work;
    Solution solution;
    Explanation explanation;
} Case;

static Case *explain(Spec spec, Arena *arena)
{
    Case *c = arena_alloc(arena, sizeof(*c));
    c->spec = spec;
    c->work = workload_derive(&c->spec, arena);
    bool infeasible;
    cr_assert(planner_solve(c->work, &options, arena, diag_create(arena), &c->solution, &infeasible));
    explain_collect(c->work, &options, &c->solution, arena, &c->explanation);
    return c;
}

// Whether the choice loses by more than the margin when planned again at full effort; by how much.
static double loss_at(const Case *c, const Sensitivity *s, double value, Arena *arena, bool *same)
{
    const Workload *changed = explain_change(c->work, s->quantity, s->level, value, arena);
    Solution again;
    bool infeasible;
    cr_assert(planner_solve(changed, &options, arena, diag_create(arena), &again, &infeasible));
    *same = true;
    for (uint32_t k = 0; k < c->work->moe_count; k++)
        *same = *same && config_equal(&again.mix.configs[k], &c->solution.mix.configs[k]);
    IterationCost kept;
    cost_mix(changed, &c->solution.mix, changed->spec->plan.dispatch, &kept);
    return kept.iteration_s / again.objective_s - 1;
}

static uint32_t check_flip(const Case *c, const Sensitivity *s, const Flip *flip, Arena *arena)
{
    cr_assert_leq(flip->solves, (uint32_t)EXPLAIN_SOLVES_MAX);
    if (flip->outcome != FLIP_CHOICE || !flip->kept_fits)
        return 0;
    bool same;
    cr_assert_gt(loss_at(c, s, flip->value, arena, &same), EXPLAIN_MARGIN);
    cr_assert_not(same, "the choice beyond the flip is another");
    cr_assert_leq(loss_at(c, s, flip->holds, arena, &same), 1.2 * EXPLAIN_MARGIN);
    cr_assert(fabs(log(flip->value / flip->holds)) < 0.05, "the flip is pinned down");
    return 1;
}

Test(explain, a_flip_is_a_flip)
{
    uint32_t flips = 0;
    for (int i = 0; i < 12; i++) {
        Arena *arena = arena_create();
        Spec spec = spec_one_tier(8, 1e9 * (1 + i), 1e-5, 2e6 * (1 + i % 4), 1e6 * (1 + i % 5), 1e-3);
        spec.model.layers = 1 + (uint32_t)(i % 3);
        spec.plan.pass = i % 2 ? PASS_TRAINING : PASS_FORWARD;
        if (i % 3 == 0) {
            spec.cluster.level_count = 2;
            spec.cluster.levels[1] = (Level){"gpu", 4, 5e10, 1e-6, 0};
            spec.cluster.levels[0].name = "dc";
        }
        Case *c = explain(spec, arena);
        for (uint32_t s = 0; s < c->explanation.sensitivity_count; s++) {
            const Sensitivity *sensitivity = &c->explanation.sensitivities[s];
            flips += check_flip(c, sensitivity, &sensitivity->below, arena);
            flips += check_flip(c, sensitivity, &sensitivity->above, arena);
        }
        arena_destroy(arena);
    }
    cr_assert_gt(flips, 10u, "%u flips looked at", flips);
}

// One tier, one layer: between the domains S and S' the two prices cross where the cost model says.
Test(explain, crossing_of_a_small_case)
{
    Arena *arena = arena_create();
    Case *c = explain(spec_one_tier(8, 16e9, 0, 8e6, 4.7e6, 0.49e-3), arena);
    const Sensitivity *s = &c->explanation.sensitivities[0];
    cr_assert_eq(s->quantity, QUANTITY_BANDWIDTH);
    cr_assert_eq(s->above.outcome, FLIP_CHOICE);
    IterationCost chosen, other;
    const Workload *there = explain_change(c->work, s->quantity, 0, s->above.value, arena);
    cost_mix(there, &c->solution.mix, DISPATCH_NAIVE, &chosen);
    cost_iteration(there, &s->above.configs[0], DISPATCH_NAIVE, &other);
    cr_assert_float_eq(chosen.iteration_s, s->above.kept_s, 1e-15);
    cr_assert_float_eq(other.iteration_s, s->above.other_s, 1e-12);
    cr_assert_gt(chosen.iteration_s, other.iteration_s);
    arena_destroy(arena);
}

static double with_run(const Case *c, const ExplainRun *run, const Rival *rival, Arena *arena)
{
    Config *configs = arena_alloc_array(arena, c->work->moe_count, sizeof(*configs));
    memcpy(configs, c->solution.mix.configs, c->work->moe_count * sizeof(*configs));
    uint32_t moe = 0;
    for (uint32_t k = 0; k < c->work->layer_count; k++) {
        bool inside = k >= run->run.first_layer && k <= run->run.last_layer;
        if (c->work->layers[k].is_moe && inside)
            configs[moe] = rival->config;
        moe += c->work->layers[k].is_moe;
    }
    IterationCost cost;
    Mix mix = {.configs = configs, .prefetch = c->solution.mix.prefetch};
    cost_mix(c->work, &mix, c->spec.plan.dispatch, &cost);
    return cost.iteration_s;
}

Test(explain, rivals_cost_what_is_said)
{
    Arena *arena = arena_create();
    Spec spec = spec_one_tier(4, 2e9, 1e-5, 8e6, 4e6, 1e-3);
    spec.cluster.level_count = 2;
    spec.cluster.levels[1] = (Level){"gpu", 4, 5e10, 1e-6, 0};
    double data[] = {8e6, 8e6, 1e6, 64e6, 64e6};
    spec.model.layers = 5;
    spec.model.each[VOLUME_DATA] = data;
    Case *c = explain(spec, arena);
    cr_assert_geq(c->explanation.run_count, 3u);
    uint32_t layers = 0;
    for (size_t i = 0; i < c->explanation.run_count; i++) {
        const ExplainRun *run = &c->explanation.runs[i];
        layers += run->run.moe_layers;
        cr_assert(run->runner_up.found);
        cr_assert_float_eq(with_run(c, run, &run->runner_up, arena), run->runner_up.iteration_s, 1e-15);
        cr_assert_geq(run->runner_up.iteration_s, c->solution.cost.iteration_s * (1 - 1e-12), "the mix is the optimum");
        for (uint32_t l = 0; l < 2; l++) {
            cr_assert_neq(run->at_level[l].config.domain[l], run->run.config.domain[l]);
            cr_assert_geq(run->at_level[l].iteration_s, run->runner_up.iteration_s);
        }
        // No other configuration is between the two.
        for (size_t k = 0; k < c->solution.count; k++) {
            Rival any = {.found = true, .config = c->solution.candidates[k].config};
            if (!config_equal(&any.config, &run->run.config))
                cr_assert_geq(with_run(c, run, &any, arena), run->runner_up.iteration_s - 1e-15);
        }
    }
    cr_assert_eq(layers, 5u);
    arena_destroy(arena);
}

Test(explain, limits_and_bandwidth)
{
    Arena *arena = arena_create();
    Spec slow_link = spec_one_tier(8, 1e8, 0, 8e6, 4.7e6, 1e-4), slow_device = spec_one_tier(8, 1e12, 0, 1e3, 1e3, 1);
    Case *link = explain(slow_link, arena), *device = explain(slow_device, arena);
    const Case *cases[] = {link, device};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const Explanation *e = &cases[i]->explanation;
        for (uint32_t k = 0; k < e->limit_count; k++)
            cr_assert_leq(e->limits[k].iteration_s, e->solution->cost.iteration_s * (1 + 1e-12));
        cr_assert_lt(e->binding, e->limit_count);
    }
    cr_assert_eq(link->explanation.limits[link->explanation.binding].kind, LIMIT_LINK);
    cr_assert_eq(device->explanation.limits[device->explanation.binding].kind, LIMIT_COMPUTE);
    const MoreBandwidth *more = &link->explanation.more[0];
    Spec faster = slow_link;
    faster.cluster.levels[0].bandwidth_bytes_per_s += EXPLAIN_STEP;
    IterationCost cost;
    cost_mix(workload_derive(&faster, arena), &link->solution.mix, DISPATCH_NAIVE, &cost);
    cr_assert_float_eq(more->iteration_s, cost.iteration_s, 1e-15);
    cr_assert_leq(more->replanned_s, more->iteration_s);
    arena_destroy(arena);
}

// A memory limit below what the choice takes makes it impossible, one just above does not.
Test(explain, memory)
{
    Arena *arena = arena_create();
    Case *c = explain(spec_small_gpt((uint32_t[]){2, 2, 2}, 16, 2), arena);
    const Explanation *e = &c->explanation;
    const Sensitivity *memory = &e->sensitivities[e->sensitivity_count - 1];
    cr_assert_eq(memory->quantity, QUANTITY_MEMORY);
    const Flip *flip = &memory->below;
    if (c->solution.memory_bytes > memory->now / 64) {
        cr_assert_neq(flip->outcome, FLIP_NONE);
        cr_assert_not(flip->kept_fits);
        cr_assert_lt(flip->value, c->solution.memory_bytes);
        cr_assert_geq(flip->holds, c->solution.memory_bytes);
    } else {
        cr_assert_eq(flip->outcome, FLIP_NONE);
    }
    Spec tight = c->spec;
    tight.cluster.device.memory_bytes = 1.1 * c->solution.memory_bytes;
    Case *close = explain(tight, arena);
    flip = &close->explanation.sensitivities[close->explanation.sensitivity_count - 1].below;
    cr_assert_neq(flip->outcome, FLIP_NONE);
    cr_assert_lt(flip->value, close->solution.memory_bytes);
    cr_assert_geq(flip->holds, close->solution.memory_bytes);
    arena_destroy(arena);
}

Test(explain, forced_choices)
{
    Arena *arena = arena_create();
    Spec spec = spec_one_tier(8, 1e9, 0, 8e6, 1e5, 1e-3);
    spec.plan.domain_request = DOMAIN_EP;
    Case *c = explain(spec, arena);
    const Explanation *e = &c->explanation;
    cr_assert_eq(e->sensitivity_count, 0u);
    cr_assert_gt(e->free_s, 0);
    cr_assert_lt(e->free_s, c->solution.cost.iteration_s);
    cr_assert(e->runs[0].runner_up.found);
    cr_assert_lt(e->runs[0].runner_up.iteration_s, c->solution.cost.iteration_s, "others are faster");
    arena_destroy(arena);
}
