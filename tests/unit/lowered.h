// Lowered plans with the claims that the compiler would make of them, for tests.
#ifndef HEP_TEST_LOWERED_H
#define HEP_TEST_LOWERED_H

#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"

static inline void lowered_claim_cost(const Spec *spec, const Config *first, const IterationCost *cost, Plan *plan)
{
    plan->solver = "none";
    plan->iteration_s = cost->iteration_s;
    plan->strategy_count = 1;
    plan->strategies = arena_alloc_array(plan->arena, 1, sizeof(*plan->strategies));
    plan->strategies[0] = (Strategy){.name = "chosen",
                                     .dispatch = spec->plan.dispatch,
                                     .fits = true,
                                     .iteration_s = cost->iteration_s,
                                     .memory_bytes = plan_memory_bytes(plan)};
    memcpy(plan->strategies[0].domain, first->domain, sizeof(first->domain));
    memcpy(plan->strategies[0].traffic, cost->traffic, sizeof(cost->traffic));
}

static inline void lowered_claim(const Spec *spec, const Candidate *candidate, Plan *plan)
{
    lowered_claim_cost(spec, &candidate->config, &candidate->cost, plan);
}

// NULL where buffers exceed what can be addressed.
static inline Plan *lowered_plan(const Spec *spec, const Workload *work, const Candidate *candidate)
{
    double bytes;
    Plan *plan = lower_uniform(work, &candidate->config, spec->plan.dispatch, &bytes);
    if (plan)
        lowered_claim(spec, candidate, plan);
    return plan;
}

// The same for a configuration per MoE layer and a limited prefetch.
static inline Plan *lowered_mix(const Spec *spec, const Workload *work, const Mix *mix)
{
    double bytes;
    IterationCost cost;
    Plan *plan = lower(work, mix, spec->plan.dispatch, &bytes);
    cost_mix(work, mix, spec->plan.dispatch, &cost);
    if (plan)
        lowered_claim_cost(spec, &mix->configs[0], &cost, plan);
    return plan;
}

#endif
