// What micro-batches buy: the best plan with other numbers of them, and the time of each. Every number plans again,
// once, or twice where it is open whether activations are recomputed.
#include <math.h>
#include <string.h>

#include "compiler/explain/explain.h"

enum { LARGE_PROBLEM = 1000 }; // MoE layers x configurations: from there on every second number

static bool is_asked_for(const SpecPlan *plan, bool recomputes)
{
    return plan->recompute == RECOMPUTE_AUTO || (plan->recompute == RECOMPUTE_FULL) == recomputes;
}

// With the same treatment of dense weights as the plan that is explained, and laps as long where they divide.
static void plan_with(const ExplainedChoice *choice, bool recomputes, Arena *arena, MicroBatchRow *row)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *choice->work->spec;
    spec->plan.micro_batches = row->micro_batches;
    if (spec->plan.lap > 0 && (row->micro_batches <= spec->plan.lap || row->micro_batches % spec->plan.lap != 0))
        spec->plan.lap = 0;
    spec->plan.recomputes = recomputes;
    PlannerOptions again = explain_options(choice->options);
    Arena *scratch = arena_create();
    Solution other;
    bool infeasible;
    if (planner_solve(workload_derive(spec, scratch), &again, scratch, diag_create(scratch), &other, &infeasible) &&
        (!row->fits || other.objective_s < row->iteration_s)) {
        size_t bytes = choice->work->moe_count * sizeof(*other.mix.configs);
        Config *configs = arena_alloc(arena, bytes + 1);
        memcpy(configs, other.mix.configs, bytes);
        *row = (MicroBatchRow){.micro_batches = row->micro_batches,
                               .fits = true,
                               .recomputes = recomputes,
                               .iteration_s = other.objective_s,
                               .configs = configs,
                               .prefetch = other.mix.prefetch};
    }
    arena_destroy(scratch);
}

MicroBatchRow explain_micro_row(const ExplainedChoice *choice, uint32_t micro_batches, Arena *arena)
{
    const SpecPlan *plan = &choice->work->spec->plan;
    MicroBatchRow row = {.micro_batches = micro_batches};
    if (micro_batches == plan->micro_batches)
        return (MicroBatchRow){.micro_batches = micro_batches,
                               .fits = true,
                               .recomputes = plan->recomputes,
                               .iteration_s = choice->solution->cost.iteration_s,
                               .configs = choice->solution->mix.configs,
                               .prefetch = choice->solution->mix.prefetch};
    for (int recomputes = 0; recomputes < 2; recomputes++)
        if (is_asked_for(plan, recomputes))
            plan_with(choice, recomputes, arena, &row);
    return row;
}

uint32_t explain_micro_batches(const ExplainedChoice *choice, uint32_t numbers[MICRO_BATCH_ROWS_MAX])
{
    const Spec *spec = choice->work->spec;
    if (spec->plan.pass == PASS_FORWARD || spec->model.abstract)
        return 0;
    bool large = (size_t)choice->work->moe_count * choice->solution->count > LARGE_PROBLEM;
    uint32_t now = spec->plan.micro_batches, count = 0;
    for (uint32_t m = 1, last = 0; m <= 64; last = m, m *= large ? 4 : 2) {
        if (last < now && now < m)
            numbers[count++] = now;
        numbers[count++] = m;
    }
    if (now > 64)
        numbers[count++] = now;
    return count;
}
