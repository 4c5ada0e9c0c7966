// See footprint.h.
#include "compiler/solve/footprint.h"

#include <math.h>

#include "compiler/lowering/lower.h"

enum { STEADY_PERIODS = 4 }; // from there on every period of layers takes the same memory

static uint32_t count_moe(const Spec *spec)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < spec->model.layers; k++)
        count += spec_layer_is_moe(&spec->model, k);
    return count;
}

// Layers after the first `head` repeat every `period`, of which `moe_count` have experts.
typedef struct {
    uint32_t head, period, moe_count;
} Repetition;

static bool are_alike(const SpecModel *model, uint32_t a, uint32_t b)
{
    bool is_moe = spec_layer_is_moe(model, a);
    return is_moe == spec_layer_is_moe(model, b) && (!model->mixer || model->mixer[a] == model->mixer[b]) &&
           (is_moe || spec_layer_inner(model, a) == spec_layer_inner(model, b));
}

// The period by which fewest layers show it all. All layers are one period where there is none.
static Repetition find_repetition(const SpecModel *model)
{
    enum { PERIOD_MAX = 64 };
    Repetition best = {.period = model->layers};
    for (uint32_t period = 1; period <= PERIOD_MAX && period < model->layers; period++) {
        Repetition next = {.head = model->layers - period, .period = period};
        while (next.head > 0 && are_alike(model, next.head - 1, next.head - 1 + period))
            next.head--;
        for (uint32_t k = 0; k < period; k++)
            next.moe_count += spec_layer_is_moe(model, next.head + k);
        if (next.moe_count > 0 && next.head + STEADY_PERIODS * period < best.head + STEADY_PERIODS * best.period)
            best = next;
    }
    return best;
}

Footprint footprint_measure(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch)
{
    const SpecModel *model = &spec->model;
    if (model->abstract)
        return (Footprint){0};
    Repetition of = {model->first_dense, model->every, 1};
    if (model->is_moe || spec_lists_layers(model))
        of = find_repetition(model);
    uint32_t period = of.period, layers = model->layers, head = of.head;
    uint32_t window = mix_window(spec->plan.pass, config, prefetch), steady = STEADY_PERIODS;
    if (window <= PREFETCH_MAX && window + 2 > steady)
        steady = window + 2;
    uint32_t moe_count = count_moe(spec);
    uint32_t shorter = head + (layers > head ? (layers - head) % period : 0) + steady * period;
    uint32_t longer = shorter + period;
    if (layers <= longer) {
        double whole = lower_memory_bytes(spec, config, prefetch, dispatch, layers), step = 0;
        if (moe_count > of.moe_count && of.moe_count > 0 && layers > period)
            step = (whole - lower_memory_bytes(spec, config, prefetch, dispatch, layers - period)) / of.moe_count;
        step = fmax(step, 0);
        return (Footprint){step, whole - step * moe_count};
    }
    double small = lower_memory_bytes(spec, config, prefetch, dispatch, shorter);
    double large = lower_memory_bytes(spec, config, prefetch, dispatch, longer);
    double all = fmax(large - small, 0), step = all / of.moe_count;
    return (Footprint){step, large + all * ((layers - longer) / period) - step * moe_count};
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
