// See footprint.h.
#include "compiler/solve/footprint.h"

#include <math.h>

#include "compiler/lowering/lower.h"

enum { WHOLE_MAX = 16 };     // layers of a model that is lowered whole: in an instant
enum { STEADY_PERIODS = 4 }; // from there on every period of layers takes the same memory

static uint32_t count_moe(const Spec *spec)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < spec->model.layers; k++)
        count += spec_layer_is_moe(&spec->model, k);
    return count;
}

Footprint footprint_measure(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch)
{
    if (spec->model.abstract)
        return (Footprint){0};
    uint32_t period = spec->model.every, layers = spec->model.layers, head = spec->model.first_dense;
    uint32_t window = mix_window(spec->plan.pass, config, prefetch), steady = STEADY_PERIODS;
    if (window <= PREFETCH_MAX && window + 2 > steady)
        steady = window + 2;
    uint32_t moe_count = count_moe(spec);
    uint32_t shorter = head + (layers > head ? (layers - head) % period : 0) + steady * period;
    uint32_t longer = shorter + period;
    if (layers <= longer) {
        double whole = lower_memory_bytes(spec, config, prefetch, dispatch, layers);
        double step = moe_count > 1 ? whole - lower_memory_bytes(spec, config, prefetch, dispatch, layers - period) : 0;
        step = fmax(step, 0);
        return (Footprint){step, whole - step * moe_count};
    }
    double small = lower_memory_bytes(spec, config, prefetch, dispatch, shorter);
    // What few layers use in turn hides what they add: the whole says that, where it is not too deep to be lowered.
    if (spec->plan.pass == PASS_TRAINING && layers <= WHOLE_MAX) {
        double whole = lower_memory_bytes(spec, config, prefetch, dispatch, layers);
        double step = fmax(whole - small, 0) / ((layers - shorter) / period);
        return (Footprint){step, whole - step * moe_count};
    }
    double large = lower_memory_bytes(spec, config, prefetch, dispatch, longer);
    double step = fmax(large - small, 0);
    return (Footprint){step, large + step * ((layers - longer) / period) - step * moe_count};
}

double footprint_total(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch)
{
    Footprint footprint = footprint_measure(spec, config, prefetch, dispatch);
    return footprint.shared_bytes + count_moe(spec) * footprint.per_layer_bytes;
}

double footprint_lowered(const Workload *work, const Mix *mix, Dispatch dispatch)
{
    double bytes = 0;
    plan_destroy(lower(work, mix, dispatch, &bytes));
    return bytes;
}
