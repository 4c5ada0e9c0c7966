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

// How every layer exchanges and gathers.
typedef struct {
    const Config *config;
    uint32_t prefetch;
    Dispatch dispatch;
} Mixing;

// Layers from `begin` to before `end` repeat every `period`, of which `moe_count` have experts.
typedef struct {
    uint32_t begin, end, period, moe_count;
} Repetition;

static bool are_alike(const SpecModel *model, uint32_t a, uint32_t b)
{
    bool is_moe = spec_layer_is_moe(model, a);
    return is_moe == spec_layer_is_moe(model, b) && (!model->mixer || model->mixer[a] == model->mixer[b]) &&
           (is_moe || spec_layer_inner(model, a) == spec_layer_inner(model, b));
}

// Layers that show it all: those outside, and periods until memory is steady.
static uint32_t shown(const SpecModel *model, const Repetition *of, uint32_t steady)
{
    uint32_t length = of->end - of->begin;
    return model->layers - length + length % of->period + steady * of->period;
}

// By which fewest layers show it all. Where nothing repeats, the last layer with experts alone.
static Repetition find_repetition(const SpecModel *model)
{
    enum { PERIOD_MAX = 64 };
    uint32_t last = model->layers;
    while (last > 0 && !spec_layer_is_moe(model, last - 1))
        last--;
    Repetition best = {last - 1, last, 1, 1};
    for (uint32_t period = 1; period <= PERIOD_MAX && period < model->layers; period++) {
        for (uint32_t begin = 0, end; begin + period < model->layers; begin = end - period + 1) {
            Repetition next = {.begin = begin, .period = period};
            for (end = begin + period; end < model->layers && are_alike(model, end - period, end);)
                end++;
            next.end = end;
            for (uint32_t k = begin; k < begin + period; k++)
                next.moe_count += spec_layer_is_moe(model, k);
            bool pays = end - begin >= 2 * period && next.moe_count > 0;
            if (pays && shown(model, &next, STEADY_PERIODS) < shown(model, &best, STEADY_PERIODS))
                best = next;
        }
    }
    return best;
}

// Memory of the model less `removed` of the layers that repeat.
static double measure_less(const Spec *spec, const Mixing *mixing, const Repetition *of, uint32_t removed)
{
    Arena *arena = arena_create();
    Spec less = *spec;
    SpecModel *model = &less.model;
    const SpecModel *all = &spec->model;
    model->layers -= removed;
    model->is_moe = arena_alloc_array(arena, model->layers, sizeof(*model->is_moe));
    model->mixer = all->mixer ? arena_alloc_array(arena, model->layers, sizeof(*model->mixer)) : NULL;
    model->inner_each = all->inner_each ? arena_alloc_array(arena, model->layers, sizeof(*model->inner_each)) : NULL;
    for (uint32_t k = 0; k < model->layers; k++) {
        uint32_t from = k < of->end - removed ? k : k + removed;
        model->is_moe[k] = spec_layer_is_moe(all, from);
        if (model->mixer)
            model->mixer[k] = all->mixer[from];
        if (model->inner_each)
            model->inner_each[k] = all->inner_each[from];
    }
    double bytes = lower_memory_bytes(&less, mixing->config, mixing->prefetch, mixing->dispatch, model->layers);
    arena_destroy(arena);
    return bytes;
}

static Footprint measure_listed(const Spec *spec, const Mixing *mixing, uint32_t steady)
{
    const Repetition of = find_repetition(&spec->model);
    uint32_t moe_count = count_moe(spec), length = of.end - of.begin, small = shown(&spec->model, &of, steady);
    uint32_t whole = spec->model.layers, removed = whole > small + of.period ? whole - small : 0;
    if (removed) {
        double less = measure_less(spec, mixing, &of, removed);
        double more = measure_less(spec, mixing, &of, removed - of.period), all = fmax(more - less, 0);
        double step = all / of.moe_count;
        return (Footprint){step, more + all * (removed / of.period - 1) - step * moe_count};
    }
    double bytes = measure_less(spec, mixing, &of, 0), step = 0;
    if (moe_count > of.moe_count && length >= of.period && whole > of.period)
        step = fmax(0, bytes - measure_less(spec, mixing, &of, of.period)) / of.moe_count;
    return (Footprint){step, bytes - step * moe_count};
}

Footprint footprint_measure(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch)
{
    if (spec->model.abstract)
        return (Footprint){0};
    uint32_t period = spec->model.every, layers = spec->model.layers, head = spec->model.first_dense;
    uint32_t window = mix_window(spec->plan.pass, config, prefetch), steady = STEADY_PERIODS;
    if (window <= PREFETCH_MAX && window + 2 > steady)
        steady = window + 2;
    if (spec->model.is_moe || spec_lists_layers(&spec->model))
        return measure_listed(spec, &(Mixing){config, prefetch, dispatch}, steady);
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
