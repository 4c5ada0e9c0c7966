// See footprint.h. Deep models are lowered without most of their layers: what those add is counted buffer by buffer.
#include "compiler/solve/footprint.h"

#include <math.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "ir/ops.h"
#include "ir/unroll.h"

enum { STEADY_PERIODS = 5 }; // of layers, that show what all take in turn

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

typedef struct {
    double bytes; // of a rank
    double kept;  // of it what the layers of a period add while others are passed through
} Lowered;

// ---- what layers add ---------------------------------------------------------------------------

// Who touches a buffer.
typedef struct {
    bool forward, backward, stream[STREAM_COUNT];
} Touched;

static Touched *find_touched(const Plan *plan, Arena *arena)
{
    Touched *touched = arena_alloc_array(arena, plan->buffer_count, sizeof(*touched));
    bool backward = false;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        const OpInfo *info = op_info((int)step->op);
        const int32_t *operands = step_operands(plan, step);
        for (uint32_t k = 0; k < info->operand_count; k++) {
            if (operands[k] == NONE)
                continue;
            Touched *of = &touched[operands[k]];
            *(backward ? &of->backward : &of->forward) = true;
            of->stream[info->stream] = true;
        }
        backward = backward || step->op == OP_LOSS;
    }
    return touched;
}

// Layers `first` to before `end`.
typedef struct {
    uint32_t first, end;
} Period;

// Do weights and their gradients run ahead of others without limit?
typedef struct {
    bool gathers, returns;
} Unlimited;

// Do all laps of several use the same value?
static bool is_kept_by_laps(const Plan *plan, const Buffer *buffer)
{
    return plan_laps(plan).count > 1 && (buffer->span == SPAN_ITERATION || buffer->span == SPAN_ALL);
}

// What a period of layers adds to the others' memory: what outlives the iteration, and the largest of what is there
// before the first layer, between the passes, and after the last: experts that are gathered ahead, what the backward
// pass reads of the forward pass, gradients that wait for their way home.
static double kept_bytes(const Plan *plan, const Period *of, Unlimited unlimited)
{
    Arena *arena = arena_create();
    const Touched *touched = find_touched(plan, arena);
    double lasts = 0, before = 0, between = 0, after = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        const Touched *by = &touched[b];
        uint64_t bytes;
        if (buffer->layer < (int32_t)of->first || buffer->layer >= (int32_t)of->end ||
            !plan_buffer_bytes(plan, buffer, &bytes))
            continue;
        if (buffer->kind != BUFFER_TEMPORARY || is_kept_by_laps(plan, buffer))
            lasts += (double)bytes;
        else if (by->forward && by->backward)
            between += (double)bytes;
        else if (unlimited.gathers && by->forward && by->stream[STREAM_MIGRATE] && by->stream[STREAM_COMPUTE])
            before += (double)bytes;
        else if (unlimited.returns && by->backward && by->stream[STREAM_SYNC] && by->stream[STREAM_COMPUTE])
            after += (double)bytes;
    }
    arena_destroy(arena);
    return lasts + fmax(before, fmax(between, after));
}

// A model as deep as it is in `spec`. Where layers repeat twice, the last period but one is looked at, for the loss
// reads what the last layer leaves.
static Lowered lower_prefix(const Spec *spec, const Mixing *mixing, const Repetition *of)
{
    Arena *arena = arena_create();
    Spec prefix = *spec;
    prefix.outer = NULL; // no matter of memory, nor is routing
    prefix.model.popularity = NULL;
    prefix.model.layer_popularity = NULL;
    prefix.cluster.port_count = prefix.cluster.link_count = 0;
    const Workload *work = workload_derive(&prefix, arena);
    Mix mix = mix_uniform(work, mixing->config, mixing->prefetch, arena);
    Lowered lowered = {0};
    // Waits that others imply do no harm, for once.
    Plan *plan = lower_with(work, &mix, mixing->dispatch, PLAN_PASSES_ALL & ~(1u << PLAN_PASS_PRUNE), &lowered.bytes);
    Period period = {.end = of->end - of->begin >= 2 * of->period ? of->end - of->period : of->end};
    period.first = period.end > of->period ? period.end - of->period : 0;
    const Unlimited unlimited = {spec->plan.pass == PASS_FORWARD && mixing->prefetch == PREFETCH_UNLIMITED,
                                 !dense_returns_are_limited(work) && !expert_returns_are_limited(work, mixing->config)};
    if (plan)
        lowered.kept = kept_bytes(plan, &period, unlimited);
    plan_destroy(plan);
    arena_destroy(arena);
    return lowered;
}

// ---- models ------------------------------------------------------------------------------------

// The model less `removed` of the layers that repeat.
static Lowered lower_less(const Spec *spec, const Mixing *mixing, const Repetition *of, uint32_t removed)
{
    Arena *arena = arena_create();
    Spec less = *spec;
    SpecModel *model = &less.model;
    const SpecModel *all = &spec->model;
    Repetition left = *of;
    left.end -= removed;
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
    Lowered lowered = lower_prefix(&less, mixing, &left);
    arena_destroy(arena);
    return lowered;
}

static Repetition repetition_of(const Spec *spec)
{
    const SpecModel *model = &spec->model;
    if (count_moe(spec) == 0)
        return (Repetition){model->layers - 1, model->layers, 1, 1};
    if (model->is_moe || spec_lists_layers(model))
        return find_repetition(model);
    return (Repetition){model->first_dense, model->layers, model->every, 1};
}

static Footprint measure(const Spec *spec, const Mixing *mixing)
{
    uint32_t window = mix_window(spec->plan.pass, mixing->config, mixing->prefetch), steady = STEADY_PERIODS;
    if (window <= PREFETCH_MAX && window + 3 > steady)
        steady = window + 3;
    const Repetition of = repetition_of(spec);
    uint32_t small = shown(&spec->model, &of, steady), whole = spec->model.layers;
    uint32_t removed = whole > small ? (whole - small) / of.period : 0;
    Lowered lowered = lower_less(spec, mixing, &of, removed * of.period);
    double step = lowered.kept / of.moe_count;
    return (Footprint){step, lowered.bytes + lowered.kept * removed - step * count_moe(spec)};
}

// ---- what was measured -------------------------------------------------------------------------

enum { SLOTS_FIRST = 256 };

typedef struct {
    bool used;
    Config config;
    uint32_t prefetch;
    Dispatch dispatch;
    Footprint footprint;
    double lowered_bytes; // of the whole plan; 0: not known
} Slot;

// Of specs that are alike in all that memory depends on.
typedef struct Measured {
    struct Measured *next;
    Spec spec;
    Slot *slots;
    uint32_t count, capacity; // a power of two
} Measured;

struct FootprintTable {
    Arena *arena;
    const FootprintTable *outer; // is read, too, and stays as it is; may be NULL
    Measured *first;             // the latest one that was asked for
};

FootprintTable *footprint_table_create(Arena *arena)
{
    FootprintTable *table = arena_alloc(arena, sizeof(*table));
    table->arena = arena;
    return table;
}

FootprintTable *footprint_table_beside(const FootprintTable *outer, Arena *arena)
{
    FootprintTable *table = footprint_table_create(arena);
    table->outer = outer;
    return table;
}

// The spec without what is no matter of memory. Specs are compared byte by byte: where bytes that mean nothing differ,
// one is measured twice.
static Spec memory_part(const Spec *spec)
{
    Spec part = *spec;
    Cluster *cluster = &part.cluster;
    for (uint32_t l = 0; l < cluster->level_count; l++)
        cluster->levels[l].bandwidth_bytes_per_s = cluster->levels[l].latency_s = cluster->levels[l].overhead_s = 0;
    Device *device = &cluster->device;
    device->compute_flops = device->memory_bytes = device->memory_bandwidth = device->half_rate_rows = 0;
    device->encode_bandwidth = device->decode_bandwidth = device->peak_flops = 0;
    device->quantize_bandwidth = device->dequantize_bandwidth = device->backward_flops = 0;
    cluster->ports = NULL;
    cluster->links = NULL;
    cluster->port_count = cluster->link_count = 0;
    part.outer = NULL;
    part.footprints = NULL;
    part.model.popularity = NULL;
    part.model.layer_popularity = NULL;
    part.model.times = NULL;
    return part;
}

static Measured *find_measured(FootprintTable *table, const Spec *spec)
{
    const Spec part = memory_part(spec);
    for (Measured **link = &table->first; *link; link = &(*link)->next)
        if (memcmp(&(*link)->spec, &part, sizeof(part)) == 0) {
            Measured *found = *link;
            *link = found->next;
            found->next = table->first;
            return table->first = found;
        }
    Measured *fresh = arena_alloc(table->arena, sizeof(*fresh));
    memcpy(&fresh->spec, &part, sizeof(part));
    fresh->next = table->first;
    fresh->capacity = SLOTS_FIRST;
    fresh->slots = arena_alloc_array(table->arena, fresh->capacity, sizeof(*fresh->slots));
    return table->first = fresh;
}

// The slot of the choice, or the free one where it belongs.
static Slot *find_slot(Slot *slots, uint32_t capacity, const Mixing *mixing)
{
    const Config *config = mixing->config;
    uint32_t hash = mixing->prefetch * 31 + (uint32_t)mixing->dispatch * 7 + config->regather + 2 * config->once +
                    64 * config->returns_apart + 128 * config->once_gradient;
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        hash = hash * 2654435761U + config->domain[l];
    for (uint32_t i = hash ^ hash >> 16;; i++) {
        Slot *slot = &slots[i & (capacity - 1)];
        if (!slot->used || (config_equal(&slot->config, config) && slot->prefetch == mixing->prefetch &&
                            slot->dispatch == mixing->dispatch))
            return slot;
    }
}

// What an outer table holds of the choice; NULL if it holds nothing.
static const Slot *find_outside(const FootprintTable *table, const Spec *part, const Mixing *mixing)
{
    for (const FootprintTable *outer = table->outer; outer; outer = outer->outer)
        for (const Measured *of = outer->first; of; of = of->next) {
            if (memcmp(&of->spec, part, sizeof(*part)) != 0)
                continue;
            const Slot *slot = find_slot(of->slots, of->capacity, mixing);
            if (slot->used)
                return slot;
        }
    return NULL;
}

static void grow(FootprintTable *table, Measured *of)
{
    uint32_t capacity = 2 * of->capacity;
    Slot *slots = arena_alloc_array(table->arena, capacity, sizeof(*slots));
    for (uint32_t i = 0; i < of->capacity; i++)
        if (of->slots[i].used) {
            const Mixing mixing = {&of->slots[i].config, of->slots[i].prefetch, of->slots[i].dispatch};
            *find_slot(slots, capacity, &mixing) = of->slots[i];
        }
    of->slots = slots;
    of->capacity = capacity;
}

// The same prefetch for all that make a plan wait for the same.
static uint32_t usual_prefetch(const Spec *spec, const Config *config, uint32_t prefetch)
{
    bool limits = config->regather || spec->plan.regather_dense || spec->plan.pass == PASS_FORWARD;
    if (!limits)
        return PREFETCH_UNLIMITED;
    return spec->plan.pass == PASS_TRAINING && prefetch > PREFETCH_REGATHER ? PREFETCH_UNLIMITED : prefetch;
}

// Where the spec remembers what is measured.
static Slot *measured_slot(const Spec *spec, const Mixing *mixing)
{
    Measured *of = find_measured(spec->footprints, spec);
    if (2 * of->count >= of->capacity)
        grow(spec->footprints, of);
    Slot *slot = find_slot(of->slots, of->capacity, mixing);
    if (!slot->used) {
        const Slot *outside = find_outside(spec->footprints, &of->spec, mixing);
        of->count++;
        if (outside) {
            *slot = *outside;
            return slot;
        }
        *slot = (Slot){.used = true,
                       .config = *mixing->config,
                       .prefetch = mixing->prefetch,
                       .dispatch = mixing->dispatch,
                       .footprint = measure(spec, mixing)};
    }
    return slot;
}

Footprint footprint_measure(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch)
{
    if (spec->model.abstract)
        return (Footprint){0};
    const Mixing mixing = {config, usual_prefetch(spec, config, prefetch), dispatch};
    return spec->footprints ? measured_slot(spec, &mixing)->footprint : measure(spec, &mixing);
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

double footprint_exact(const Workload *work, const Config *config, uint32_t prefetch, Dispatch dispatch)
{
    const Spec *spec = work->spec;
    const Mixing mixing = {config, usual_prefetch(spec, config, prefetch), dispatch};
    Slot *slot = spec->footprints && !spec->model.abstract ? measured_slot(spec, &mixing) : NULL;
    if (slot && slot->lowered_bytes > 0)
        return slot->lowered_bytes;
    Arena *arena = arena_create();
    Mix mix = mix_uniform(work, config, prefetch, arena);
    double bytes = footprint_lowered(work, &mix, dispatch);
    arena_destroy(arena);
    if (slot)
        slot->lowered_bytes = bytes;
    return bytes;
}

bool footprint_mix_fits(const Workload *work, const Mix *mix)
{
    static const double close = 1.005;
    const Spec *spec = work->spec;
    double memory = spec->cluster.device.memory_bytes, added = 0, shared = 0;
    for (uint32_t k = 0; k < work->moe_count; k++) {
        Footprint footprint = footprint_measure(spec, &mix->configs[k], mix->prefetch, spec->plan.dispatch);
        added += footprint.per_layer_bytes;
        shared = fmax(shared, footprint.shared_bytes);
    }
    if (added + shared <= memory || added + shared > close * memory)
        return added + shared <= memory;
    return footprint_lowered(work, mix, spec->plan.dispatch) <= memory;
}
