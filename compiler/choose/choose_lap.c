// Laps of fewer micro-batches take less memory and gather more often: where memory binds, from the largest down until
// a smaller one is no faster.
#include "compiler/choose/choosing.h"
#include "compiler/solve/frugality.h"

static const Spec *with_lap(const Spec *request, uint32_t lap, Arena *arena)
{
    Spec *spec = spec_copy(request, arena);
    spec->plan.lap = lap;
    return spec;
}

// May laps of fewer micro-batches do better?
static bool is_open(const Planned *found, FaultKind code)
{
    return code == FAULT_INFEASIBLE || (code == FAULT_NONE && found->solution.memory_binds);
}

// The way that saves most memory.
static const Spec *most_frugal(const Spec *spec, Arena *arena)
{
    Frugality ways[FRUGALITIES_MAX];
    size_t count = frugality_list(spec, ways);
    return frugality_apply(spec, ways[count - 1], arena);
}

// Does a lap of so many look faster than what was found, in the way that saves memory there, or in the one that saves
// most?
static bool is_promising(const Spec *spec, const Planned *found, FaultKind code, uint32_t lap, Arena *arena)
{
    static const double clear = 0.99;
    if (code != FAULT_NONE)
        return true;
    double enough_s = clear * found->solution.cost.iteration_s;
    return estimate_spec(with_lap(found->spec, lap, arena), false, NULL).best_s < enough_s ||
           estimate_spec(most_frugal(with_lap(spec, lap, arena), arena), false, NULL).best_s < enough_s;
}

// Is there no choice: none to make, or asked for?
static bool is_settled(const Spec *spec)
{
    return spec->plan.lap_request > 0 || spec_encodes(spec) || spec->plan.micro_batches == 1;
}

FaultKind choose_lap(const Attempt *attempt, Diag *diag, Planned *out)
{
    const Spec *spec = out->spec;
    if (spec->plan.pass == PASS_FORWARD || spec->model.abstract)
        return plan_spec(attempt, diag, out);
    if (is_settled(spec))
        return choose_way(attempt, diag, out);
    Attempt tentative = *attempt; // why nothing fits is left unsaid, which takes longer to find out than that
    tentative.options.tentative = true;
    Diag *of_best = diag_create(attempt->arena);
    FaultKind code = choose_way(&tentative, of_best, out);
    for (uint32_t lap = spec->plan.micro_batches - 1; lap > 0 && is_open(out, code); lap--) {
        if (spec->plan.micro_batches % lap != 0)
            continue;
        if (!is_promising(spec, out, code, lap, attempt->arena))
            break;
        Planned tried = {.spec = with_lap(spec, lap, attempt->arena)};
        Diag *of_tried = diag_create(attempt->arena);
        tentative.known_s = code == FAULT_NONE ? out->solution.cost.iteration_s : 0;
        FaultKind now = choose_way(&tentative, of_tried, &tried);
        bool better = now == FAULT_NONE &&
                      (code != FAULT_NONE || tried.solution.cost.iteration_s < out->solution.cost.iteration_s);
        bool misses_less = now == FAULT_INFEASIBLE && code == FAULT_INFEASIBLE &&
                           tried.solution.missing_bytes < out->solution.missing_bytes;
        if (now == FAULT_NONE && !better)
            break;
        if (!better && !misses_less)
            continue;
        *out = tried;
        of_best = of_tried;
        code = now;
    }
    if (code == FAULT_INFEASIBLE)
        return plan_spec(attempt, diag, out);
    diag_append(diag, of_best);
    return code;
}
