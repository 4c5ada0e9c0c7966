// Weights of several layers cross the slowest level together, and their gradients: what that saves in start-ups, it
// costs in waiting. The model says how large buckets may be, a new plan for these what is planned with them, and the
// simulation which size is best.
#include <math.h>

#include "compiler/choose/choosing.h"
#include "compiler/lowering/lower.h"
#include "ir/simulate/simulate.h"

enum { LAYERS_MAX = 1000 }; // beyond, planning and simulating once more takes as long as everything before

static const double STARTUPS = 5e-3; // of the iteration: with no more to save, buckets are not looked at
static const double BETTER = 1e-3;   // larger buckets must be faster by so much
static const double CLEAR = 0.05;    // what the model alone has to say before what was found is simulated with them

static const Spec *with_bucket(const Spec *request, uint32_t bucket, Arena *arena)
{
    Spec *spec = spec_copy(request, arena);
    spec->plan.bucket = bucket;
    return spec;
}

// The mix in buckets of so many layers, or the best single choice there.
static double modelled_s(const Planned *found, uint32_t bucket, Arena *arena)
{
    const Workload *work = workload_derive(with_bucket(found->work->spec, bucket, arena), arena);
    IterationCost cost;
    cost_mix(work, &found->solution.mix, found->spec->plan.dispatch, &cost);
    if (found->spec->plan.domain_request != DOMAIN_AUTO)
        return cost.iteration_s;
    return fmin(cost.iteration_s, estimate_spec(with_bucket(found->spec, bucket, arena), false, NULL).best_s);
}

// Infinite if it does not fit.
static double simulated_s(const Planned *found, uint32_t bucket, Arena *arena)
{
    const Workload *work = workload_derive(with_bucket(found->work->spec, bucket, arena), arena);
    double bytes = 0;
    Plan *plan = lower(work, &found->solution.mix, found->spec->plan.dispatch, &bytes);
    double time_s = plan && bytes <= found->spec->cluster.device.memory_bytes ? simulated_iteration_s(plan) : INFINITY;
    plan_destroy(plan);
    return time_s;
}

// The size of those of 1, 2, 4 and so on that is fastest, and faster than `least_s` by what is asked for; 0: none.
static uint32_t best_size(const Planned *found, double (*time_of)(const Planned *, uint32_t, Arena *), double *least_s,
                          Arena *arena)
{
    uint32_t best = 0;
    for (uint32_t bucket = 1; bucket <= PLAN_BUCKET_MAX && bucket < 2 * found->spec->model.layers; bucket *= 2) {
        double time_s = time_of(found, bucket, arena);
        if (time_s >= *least_s)
            continue;
        best = bucket;
        *least_s = (1 - BETTER) * time_s;
    }
    return best;
}

// What weights of all layers pay over the slowest level, forward and backward: all that buckets can save.
static double startups_s(const Spec *spec)
{
    enum { BUNDLES = 2 };
    double layers = spec->model.layers;
    return 2 * BUNDLES * layers * spec->cluster.levels[spec_bucket_level(spec)].latency_s;
}

static bool is_of_interest(const Planned *found, Arena *arena)
{
    const Spec *spec = found->spec;
    return spec->plan.bucket_request == BUCKET_AUTO && !found->solution.timed_out && spec->model.layers <= LAYERS_MAX &&
           spec_bucket(with_bucket(spec, 1, arena)) != 0 &&
           startups_s(spec) >= STARTUPS * found->solution.cost.iteration_s;
}

static bool plan_with_bucket(const Attempt *attempt, const Spec *request, uint32_t bucket, Planned *out)
{
    *out = (Planned){.spec = with_bucket(request, bucket, attempt->arena)};
    return plan_spec(attempt, diag_create(attempt->arena), out) == FAULT_NONE;
}

void choose_bucket(const Attempt *attempt, Planned *out)
{
    Arena *arena = attempt->arena;
    double iteration_s = out->solution.cost.iteration_s;
    if (!is_of_interest(out, arena))
        return;
    double least_s = (1 - STARTUPS) * iteration_s;
    uint32_t largest = best_size(out, modelled_s, &least_s, arena);
    if (largest == 0)
        return;
    bool much = least_s < (1 - CLEAR) * iteration_s;
    least_s = (1 - BETTER) * simulated_s(out, 0, arena);
    if (!much && simulated_s(out, largest, arena) >= least_s) // what hides start-ups here will do so in a new plan
        return;
    Planned tried;
    if (!plan_with_bucket(attempt, out->spec, largest, &tried))
        return;
    uint32_t best = best_size(&tried, simulated_s, &least_s, arena);
    if (best == 0 || (best != largest && !plan_with_bucket(attempt, out->spec, best, &tried)))
        return;
    *out = tried;
}
