// Lowering of gradients on their way home: see lowering.h. Level by level, inner level first; where an iteration has
// several laps, what they bring is added up on the way.
//
// What crosses the outer levels comes after what the next layer gathers over them, in the plan and in time: links share
// their bandwidth fairly, the gather is waited for, and the return has time until the memory of its gradient is needed.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "compiler/lowering/lowering.h"
#include "ir/bundle.h"
#include "ir/codec.h"
#include "ir/unroll.h"

// What the level leaves.
static int32_t add_shares(Lowering *l, const ReturnPath *of, uint32_t level)
{
    const Buffer *own = builder_buffer(l->builder, of->weights);
    BufferShape shape = {
        .dtype = own->dtype, .rows = of->rows, .cols = (double)own->cols, .kind = BUFFER_TEMPORARY, .layer = of->layer};
    return builder_add_buffer(l->builder, shape, "%s.%s%s", of->name, l->spec->cluster.levels[level].name, of->suffix);
}

// For so many shares of a gradient that leaves the last lap.
static int32_t leaving_slot(Lowering *l, const ReturnPath *of)
{
    LeavingSlots *slots = &l->leaving;
    const Buffer *own = builder_buffer(l->builder, of->weights);
    uint32_t alike = 0, oldest = slots->count;
    for (uint32_t i = slots->count; i-- > 0;) {
        const Buffer *slot = builder_buffer(l->builder, slots->buffers[i]);
        if (slot->rows != (uint64_t)of->rows || slot->cols != own->cols)
            continue;
        alike++;
        oldest = i;
    }
    BufferShape shape = {
        .dtype = own->dtype, .rows = of->rows, .cols = (double)own->cols, .kind = BUFFER_TEMPORARY, .layer = NONE};
    int32_t slot = alike < LEAVING_SLOTS ? builder_add_buffer(l->builder, shape, "leaving.%" PRIu32, slots->count)
                                         : slots->buffers[oldest];
    if (alike < LEAVING_SLOTS)
        oldest = slots->count++;
    memmove(slots->buffers + oldest, slots->buffers + oldest + 1,
            (slots->count - 1 - oldest) * sizeof(*slots->buffers));
    return slots->buffers[slots->count - 1] = slot;
}

// Adds what a lap brought to the iteration's sum: the owner's gradient, where no level lies outside.
static void add_lap(Lowering *l, ReturnPath *of)
{
    if (of->sum == NONE) {
        bool home = of->rows == of->owned_rows;
        of->sum = lowering_begin_laps(l, of->layer, of->gradient,
                                      home ? lowering_add_gradient_sum(l, of->weights, of->layer) : NONE);
    }
    lowering_add_lap(l, of->layer, of->gradient, of->sum);
    of->gradient = of->sum;
    of->summed = true;
}

// Before the first level that is crossed once.
static void leave_laps(Lowering *l, ReturnPath *of)
{
    add_lap(l, of);
    if (builder_buffer(l->builder, of->weights)->dtype == DTYPE_F32)
        return;
    int32_t slot = leaving_slot(l, of);
    lowering_round_laps(l, of->layer, of->sum, slot);
    of->gradient = slot;
}

static void add_return_step(Lowering *l, const ReturnPath *of, StepSpec step, int32_t shard)
{
    StepBuffers operands = {.reduce_scatter = {.gathered = of->gradient, .shard = shard}};
    int32_t index = builder_add_step(l->builder, step, operands);
    if (step.each_lap || plan_laps(l->plan).count == 1) // a step of the last lap holds back no other
        l->returned = index;
    if ((uint32_t)step.level < l->plan->outer_levels && l->gathered_first != NONE)
        builder_add_after(l->builder, index, l->gathered_first);
}

static void return_level(Lowering *l, ReturnPath *of, uint32_t level)
{
    of->rows /= of->sizes[level];
    bool home = of->rows == of->owned_rows && (!of->each_lap || of->summed);
    int32_t shard = home         ? lowering_add_gradient(l, of->weights, of->layer)
                    : of->summed ? leaving_slot(l, of)
                                 : add_shares(l, of, level);
    StepSpec step = {.op = OP_REDUCE_SCATTER,
                     .layer = of->layer,
                     .level = (int32_t)level,
                     .group = builder_add_group(l->builder, GROUP_GATHER, (int32_t)level, of->sizes[level]),
                     .cost_s = of->step_s[level],
                     .bytes = of->bytes[level],
                     .each_lap = of->each_lap && level >= of->once,
                     .joins = l->joins,
                     .startup_s = of->startup_s};
    if (level >= of->packed)
        add_return_step(l, of, step, shard);
    else
        lowering_return_packets(l, of->weights, step, of->gradient, shard);
    of->gradient = shard;
}

// Over the levels that are left, from `first` inwards.
static void return_to(Lowering *l, ReturnPath *of, uint32_t first)
{
    for (; of->next > first; of->next--) {
        uint32_t level = of->next - 1;
        if (of->sizes[level] == 1)
            continue;
        if (of->each_lap && level < of->once && !of->summed)
            leave_laps(l, of);
        return_level(l, of, level);
    }
}

static bool crosses(const ReturnPath *of, uint32_t first, uint32_t end)
{
    bool any = false;
    for (uint32_t level = first; level < end; level++)
        any |= of->sizes[level] > 1;
    return any;
}

static void finish(Lowering *l, ReturnPath *of)
{
    return_to(l, of, of->meets ? of->once : 0);
    if (of->each_lap && !of->summed)
        add_lap(l, of);
    if (of->meets)
        l->embedding_sum = of->sum;
    else
        lowering_note_update(l, of->layer, of->weights, of->gradient);
}

// Over the inner levels; what is left for the outer ones waits until the next layer has gathered.
static void begin(Lowering *l, ReturnPath of)
{
    bool in_bucket = l->bucket > 0 && of.layer != NONE;
    uint32_t outer = in_bucket ? l->work->bucket_level + 1 : l->plan->outer_levels, end = of.meets ? of.once : 0;
    of.next = l->spec->cluster.level_count;
    if (outer > end && crosses(&of, end, outer)) {
        return_to(l, &of, outer);
        if (of.each_lap && of.once >= outer && !of.summed)
            leave_laps(l, &of);
        l->pending[l->pending_count++] = of;
    } else {
        finish(l, &of);
    }
}

void lowering_go_home(Lowering *l)
{
    l->gathered_first = l->outer_gather;
    for (int dense = 0; dense < 2; dense++) // experts first: alike, they join
        for (uint32_t i = 0; i < l->pending_count; i++) {
            ReturnPath *of = &l->pending[i];
            bool is_dense = of->layer == NONE || of->weights == l->layers[of->layer].dense;
            if (is_dense != dense)
                continue;
            finish(l, of);
            l->joins = l->bucket > 0 && of->layer != NONE;
        }
    l->joins = false;
    l->pending_count = 0;
    l->gathered_first = l->outer_gather = NONE;
    memmove(l->home + 1, l->home, (RETURNS_MAX - 1) * sizeof(*l->home));
    l->home[0] = l->returned;
}

// ---- what returns --------------------------------------------------------------------------------

static ReturnPath bundle_return(const Lowering *l, int32_t layer, int32_t bundle, int32_t gradient)
{
    const Cluster *cluster = &l->spec->cluster;
    const Coding *coding = &l->spec->plan.dense;
    BundleCost cost = lowering_bundle_cost(l, bundle, BUNDLE_RETURN);
    ReturnPath of = {.layer = layer,
                     .weights = bundle,
                     .gradient = gradient,
                     .sum = NONE,
                     .rows = (double)builder_buffer(l->builder, gradient)->rows,
                     .owned_rows = 1,
                     .packed = coding->gradient == GRADIENT_DENSE ? 0 : coding_levels(coding, cluster->level_count),
                     .once = lowering_gradient_levels(l, layer),
                     .suffix = ""};
    snprintf(of.name, sizeof(of.name), "%s.d", builder_buffer(l->builder, bundle)->name);
    for (uint32_t level = 0; level < cluster->level_count; level++)
        of.sizes[level] = level < l->spec->replica_levels ? 1 : cluster->levels[level].count;
    memcpy(of.step_s, cost.step_s, sizeof(of.step_s));
    memcpy(of.bytes, cost.bytes, sizeof(of.bytes));
    of.startup_s = cost.startup_s;
    return of;
}

void lowering_return_bundle(Lowering *l, int32_t layer, int32_t bundle, int32_t gradient)
{
    ReturnPath of = bundle_return(l, layer, bundle, gradient);
    of.each_lap = layer != NONE && lowering_returns_dense_each_lap(l);
    begin(l, of);
}

void lowering_return_loss_half(Lowering *l, int32_t gradient)
{
    ReturnPath of = bundle_return(l, NONE, l->embedding, gradient);
    of.each_lap = of.meets = true;
    begin(l, of);
}

void lowering_return_words_half(Lowering *l, int32_t gradient)
{
    ReturnPath of = bundle_return(l, NONE, l->embedding, gradient);
    of.each_lap = true;
    of.sum = l->embedding_sum;
    of.suffix = ".words";
    begin(l, of);
}

void lowering_return_experts(Lowering *l, uint32_t k, int32_t dheld)
{
    const Coding *coding = &l->spec->plan.experts;
    ReturnPath of = {.layer = (int32_t)k,
                     .weights = l->layers[k].experts,
                     .gradient = dheld,
                     .sum = NONE,
                     .rows = l->held_rows,
                     .owned_rows = l->share_rows,
                     .packed = coding->gradient == GRADIENT_DENSE ? 0 : spec_coded_levels(l->spec),
                     .startup_s = l->cost.startup_s,
                     .each_lap = lowering_returns_each_lap(l),
                     .once = config_gradient_levels(l->spec, l->config),
                     .suffix = ""};
    snprintf(of.name, sizeof(of.name), "L%u.dexperts", k);
    for (uint32_t level = 0; level < l->spec->cluster.level_count; level++)
        of.sizes[level] = level < l->spec->replica_levels ? 1 : l->config->domain[level]; // copies are nobody's
    memcpy(of.step_s, l->cost.reduce_s, sizeof(of.step_s));
    memcpy(of.bytes, l->cost.reduce_bytes, sizeof(of.bytes));
    begin(l, of);
}
