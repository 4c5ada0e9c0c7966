// See choosing.h.
#include "compiler/choose/choosing.h"

#include "compiler/placement/place.h"
#include "compiler/solve/rank.h"
#include "ir/base/clock.h"

Spec *spec_copy(const Spec *spec, Arena *arena)
{
    Spec *copy = arena_alloc(arena, sizeof(*copy));
    *copy = *spec;
    return copy;
}

Estimate estimate_spec(const Spec *spec, bool exactly, bool *unfit)
{
    Arena *arena = arena_create();
    Estimate of = planner_estimate(workload_derive(spec, arena), exactly, unfit);
    arena_destroy(arena);
    return of;
}

FaultKind plan_spec(const Attempt *attempt, Diag *diag, Planned *out)
{
    PlannerOptions options = attempt->options;
    out->work = workload_derive(out->spec, attempt->arena);
    if (out->spec->cluster.port_count == 0) // where workers stand is found by plans that nothing is known of
        options.cutoff_s = attempt->known_s;
    if (options.time_limit_s > 0)
        options.limits.deadline_s = clock_now_s() + attempt->share * options.time_limit_s;
    bool infeasible = false;
    if (!place_and_solve(&out->work, &options, attempt->arena, diag, &out->solution, &infeasible))
        return out->solution.broken ? FAULT_INTERNAL : infeasible ? FAULT_INFEASIBLE : FAULT_INPUT;
    if (!planner_is_cut_off(&options, &out->solution))
        rank_by_simulation(out->work, &options, &out->solution, attempt->arena);
    return FAULT_NONE;
}
