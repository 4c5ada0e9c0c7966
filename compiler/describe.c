// See describe.h.
#include "compiler/describe.h"

#include <stdio.h>
#include <string.h>

#include "compiler/lowering/lower.h"

static void fill_strategy(Strategy *strategy, const char *name, Dispatch dispatch, const Config *config,
                          const IterationCost *cost)
{
    *strategy = (Strategy){.name = name, .dispatch = dispatch, .iteration_s = cost->iteration_s, .fits = true};
    strategy->exposed_s = cost->exchange_s + cost->gather_wait_s + cost->return_s;
    memcpy(strategy->domain, config->domain, sizeof(strategy->domain));
    memcpy(strategy->traffic, cost->traffic, sizeof(strategy->traffic));
}

static void copy_strategy(Strategy *strategy, const char *name, Dispatch dispatch, const Candidate *candidate)
{
    fill_strategy(strategy, name, dispatch, &candidate->config, &candidate->cost);
    strategy->memory_bytes = candidate->memory_bytes;
    strategy->fits = candidate->fits;
}

// The plan as it would be if its exchanges were counted: what padding costs.
static void add_counted(const Planned *planned, Plan *plan)
{
    const Solution *solution = &planned->solution;
    Dispatch dispatch = planned->spec->plan.dispatch;
    Spec spec;
    Workload work = workload_counted(planned->work, &spec);
    IterationCost cost;
    double bytes = 0;
    cost_mix(&work, &solution->mix, dispatch, &cost);
    plan_destroy(lower(&work, &solution->mix, dispatch, &bytes));
    Strategy *strategy = &plan->strategies[plan->strategy_count++];
    fill_strategy(strategy, "counted", dispatch, &solution->mix.configs[0], &cost);
    strategy->memory_bytes = bytes;
}

void describe_choice(const Chosen *chosen, Plan *plan)
{
    const Spec *spec = chosen->best.spec;
    const Solution *solution = &chosen->best.solution;
    char solver[96];
    snprintf(solver, sizeof(solver), "%s%s%s", solution->solver, solution->timed_out ? ", time limit" : "",
             solution->ranked ? ", ranked by simulation" : "");
    plan->solver = arena_copy_string(plan->arena, solver, strlen(solver));
    plan->status = solution->status;
    plan->gap = solution->gap;
    plan->iteration_s = solution->objective_s;
    plan->strategies = arena_alloc_array(plan->arena, 4 + BASELINE_COUNT + CODEC_COUNT, sizeof(*plan->strategies));
    plan->strategy_count = 1;
    fill_strategy(&plan->strategies[0], "chosen", spec->plan.dispatch, &solution->mix.configs[0], &solution->cost);
    plan->strategies[0].memory_bytes = plan_memory_bytes(plan);
    for (int b = 0; b < BASELINE_COUNT; b++)
        if (planner_has_baseline(b, spec))
            copy_strategy(&plan->strategies[plan->strategy_count++], baseline_names[b], baseline_dispatch(b, spec),
                          &solution->baselines[b]);
    if (solution->uniform < solution->count)
        copy_strategy(&plan->strategies[plan->strategy_count++], "uniform", spec->plan.dispatch,
                      &solution->candidates[solution->uniform]);
    for (int codec = 0; codec < CODEC_COUNT; codec++) {
        const Solution *other = chosen->codecs[codec];
        if (!other)
            continue;
        Strategy *strategy = &plan->strategies[plan->strategy_count++];
        char name[32];
        snprintf(name, sizeof(name), "codec_%s", codec_name((Codec)codec));
        fill_strategy(strategy, arena_copy_string(plan->arena, name, strlen(name)), spec->plan.dispatch,
                      &other->mix.configs[0], &other->cost);
        strategy->memory_bytes = other->memory_bytes;
    }
    if (chosen->exact) {
        Strategy *strategy = &plan->strategies[plan->strategy_count++];
        fill_strategy(strategy, "exact", spec->plan.dispatch, &chosen->exact->mix.configs[0], &chosen->exact->cost);
        strategy->memory_bytes = chosen->exact->memory_bytes;
    }
    if (spec->plan.exchange == EXCHANGE_PADDED)
        add_counted(&chosen->best, plan);
}
