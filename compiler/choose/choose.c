// See choose.h.
#include "compiler/choose/choosing.h"

static bool codec_is_open(const Spec *spec)
{
    return (int)spec->plan.experts.codec == CODEC_AUTO;
}

const Workload *choose_begin(const Spec *spec, Arena *arena)
{
    return workload_derive(codec_is_open(spec) ? with_codec(spec, CODEC_DENSE, arena) : spec, arena);
}

static const Spec *without_turns(const Spec *request, Arena *arena)
{
    Spec *spec = spec_copy(request, arena);
    spec->plan.interleaves = false;
    return spec;
}

// Micro-batches take no turns where that gains nothing: what would travel meanwhile is gathered.
static void drop_idle_turns(Planned *out, Arena *arena)
{
    static const double equal = 1e-9;
    if (spec_abreast(out->spec) == 1 || out->spec->plan.interleave != INTERLEAVE_AUTO)
        return;
    const Workload *work = workload_derive(without_turns(out->work->spec, arena), arena); // workers stay where they are
    IterationCost cost;
    cost_mix(work, &out->solution.mix, out->spec->plan.dispatch, &cost);
    if (cost.iteration_s > (1 + equal) * out->solution.cost.iteration_s)
        return;
    out->spec = without_turns(out->spec, arena);
    out->work = work;
    out->solution.cost = cost;
}

FaultKind choose(const Spec *spec, const PlannerOptions *options, Arena *arena, Diag *diag, Chosen *out)
{
    Attempt attempt = {.options = *options, .share = 1, .arena = arena};
    *out = (Chosen){.best.spec = spec};
    FaultKind code = priced_is_open(spec)  ? choose_priced(&attempt, diag, out)
                     : codec_is_open(spec) ? choose_codec(&attempt, diag, out)
                                           : choose_lap(&attempt, diag, &out->best);
    if (code != FAULT_NONE)
        return code;
    choose_bucket(&attempt, &out->best);
    drop_idle_turns(&out->best, arena);
    return FAULT_NONE;
}
