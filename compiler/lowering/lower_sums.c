// Lowering of sums of gradients over the micro-batches of an iteration: see lowering.h. Where weights have 16 bits sums
// have 32; what travels is rounded once, and the owner's sum stays as it is.
#include "compiler/lowering/lowering.h"
#include "ir/unroll.h"

static bool sums(const Lowering *l)
{
    return l->plan->micro_batches > 1;
}

static double elements(const Lowering *l, int32_t buffer)
{
    const Buffer *of = builder_buffer(l->builder, buffer);
    return (double)of->rows * (double)of->cols;
}

static int32_t add_like(Lowering *l, int32_t buffer, Dtype dtype, const char *suffix)
{
    const Buffer *of = builder_buffer(l->builder, buffer);
    BufferShape shape = {.dtype = dtype,
                         .rows = (double)of->rows,
                         .cols = (double)of->cols,
                         .kind = BUFFER_TEMPORARY,
                         .layer = of->layer};
    return builder_add_buffer(l->builder, shape, "%s.%s", of->name, suffix);
}

static void add_clear(Lowering *l, int32_t layer, int32_t buffer, StepWhen when, bool each_lap)
{
    double bytes = elements(l, buffer) * dtype_bytes(builder_buffer(l->builder, buffer)->dtype);
    StepSpec step = {.op = OP_CLEAR,
                     .layer = layer,
                     .level = NONE,
                     .group = NONE,
                     .cost_s = lowering_move_s(l, bytes),
                     .when = when,
                     .each_lap = each_lap};
    int32_t index = builder_add_step(l->builder, step, (StepBuffers){.clear = {.sum = buffer}});
    if (when == WHEN_EVERY || each_lap || plan_laps(l->plan).count == 1) // otherwise it holds back one lap of several
        lowering_limited(l, index);
}

// A lap of one micro-batch has one part, which is its sum.
static bool is_one_part(const Lowering *l, const GradientSum *of)
{
    return of->each_lap && plan_laps(l->plan).each == 1;
}

GradientSum lowering_begin_sum(Lowering *l, int32_t layer, int32_t whole, bool each_lap)
{
    GradientSum of = {.layer = layer, .part = whole, .sum = whole, .whole = whole, .each_lap = each_lap};
    if (!sums(l) || is_one_part(l, &of))
        return of;
    of.part = add_like(l, whole, l->spec->model.dtype, "part");
    if (builder_buffer(l->builder, whole)->dtype != DTYPE_F32)
        of.sum = add_like(l, whole, DTYPE_F32, "sum");
    add_clear(l, layer, of.sum, WHEN_FIRST, each_lap);
    return of;
}

int32_t lowering_add_cleared_part(Lowering *l, const GradientSum *of, const char *suffix)
{
    if (!sums(l))
        return of->whole;
    int32_t part = add_like(l, of->whole, l->spec->model.dtype, suffix);
    add_clear(l, of->layer, part, WHEN_EVERY, false);
    return part;
}

int32_t lowering_clear_part(Lowering *l, const GradientSum *of)
{
    add_clear(l, of->layer, of->part, WHEN_EVERY, false);
    return of->part;
}

void lowering_accumulate(Lowering *l, const GradientSum *of, int32_t part)
{
    if (!sums(l) || is_one_part(l, of))
        return;
    StepBuffers operands = {.accumulate = {.part = part, .sum = of->sum}};
    lowering_add_local(l, OP_ACCUMULATE, of->layer, workload_sum_cost(l->spec, elements(l, part)).part_s, operands);
}

static double round_s(const Lowering *l, int32_t sum)
{
    return lowering_move_s(l, elements(l, sum) * (sizeof(float) + dtype_bytes(l->spec->model.dtype)));
}

void lowering_end_sum(Lowering *l, const GradientSum *of)
{
    if (!sums(l) || of->sum == of->whole)
        return;
    StepBuffers operands = {.round = {.sum = of->sum, .gradient = of->whole}};
    StepSpec step = {.op = OP_ROUND,
                     .layer = of->layer,
                     .level = NONE,
                     .group = NONE,
                     .cost_s = round_s(l, of->sum),
                     .each_lap = of->each_lap};
    lowering_limited(l, builder_add_step(l->builder, step, operands));
}

int32_t lowering_begin_laps(Lowering *l, int32_t layer, int32_t part, int32_t gradient)
{
    int32_t sum = gradient == NONE ? add_like(l, part, DTYPE_F32, "laps") : gradient;
    add_clear(l, layer, sum, WHEN_FIRST, false);
    return sum;
}

// On the way home: computation waits for nothing of it.
void lowering_add_lap(Lowering *l, int32_t layer, int32_t part, int32_t sum)
{
    StepSpec step = {.op = OP_ADD_RETURNED,
                     .layer = layer,
                     .level = NONE,
                     .group = NONE,
                     .cost_s = workload_sum_cost(l->spec, elements(l, part)).part_s,
                     .each_lap = true};
    int32_t added = builder_add_step(l->builder, step, (StepBuffers){.add_returned = {.part = part, .sum = sum}});
    l->returned = added; // from here on the next gradient may overwrite the part
}

void lowering_round_laps(Lowering *l, int32_t layer, int32_t sum, int32_t rounded)
{
    StepSpec step = {.op = OP_ROUND_RETURNED, .layer = layer, .level = NONE, .group = NONE, .cost_s = round_s(l, sum)};
    builder_add_step(l->builder, step, (StepBuffers){.round_returned = {.sum = sum, .gradient = rounded}});
}
