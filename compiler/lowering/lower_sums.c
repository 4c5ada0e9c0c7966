// Lowering of sums of gradients over the micro-batches of an iteration: see lowering.h. Where weights have 16 bits sums
// have 32, and what goes home is rounded once.
#include "compiler/lowering/lowering.h"

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

static void add_clear(Lowering *l, int32_t layer, int32_t buffer, StepWhen when)
{
    double bytes = elements(l, buffer) * dtype_bytes(builder_buffer(l->builder, buffer)->dtype);
    StepSpec step = {.op = OP_CLEAR,
                     .layer = layer,
                     .level = NONE,
                     .group = NONE,
                     .cost_s = lowering_move_s(l, bytes),
                     .when = when};
    lowering_limited(l, builder_add_step(l->builder, step, (StepBuffers){.clear = {.sum = buffer}}));
}

GradientSum lowering_begin_sum(Lowering *l, int32_t layer, int32_t whole)
{
    GradientSum of = {.layer = layer, .part = whole, .sum = whole, .whole = whole};
    if (!sums(l))
        return of;
    Dtype dtype = builder_buffer(l->builder, whole)->dtype;
    of.part = add_like(l, whole, dtype, "part");
    if (dtype != DTYPE_F32)
        of.sum = add_like(l, whole, DTYPE_F32, "sum");
    add_clear(l, layer, of.sum, WHEN_FIRST);
    return of;
}

int32_t lowering_add_cleared_part(Lowering *l, const GradientSum *of, const char *suffix)
{
    if (!sums(l))
        return of->whole;
    int32_t part = add_like(l, of->whole, builder_buffer(l->builder, of->whole)->dtype, suffix);
    add_clear(l, of->layer, part, WHEN_EVERY);
    return part;
}

void lowering_accumulate(Lowering *l, const GradientSum *of, int32_t part)
{
    if (!sums(l))
        return;
    StepBuffers operands = {.accumulate = {.part = part, .sum = of->sum}};
    lowering_add_local(l, OP_ACCUMULATE, of->layer, workload_sum_cost(l->spec, elements(l, part)).part_s, operands);
}

void lowering_end_sum(Lowering *l, const GradientSum *of)
{
    if (!sums(l) || of->sum == of->whole)
        return;
    StepBuffers operands = {.round = {.sum = of->sum, .gradient = of->whole}};
    double bytes = elements(l, of->sum) * (sizeof(float) + dtype_bytes(l->spec->model.dtype));
    lowering_add_local(l, OP_ROUND, of->layer, lowering_move_s(l, bytes), operands);
}
