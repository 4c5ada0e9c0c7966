// See nonfinite.h. Nothing here runs while losses are finite, but for gradients where the user asks for it.
#include "runtime/engine/nonfinite.h"

enum { CHUNK_ELEMENTS = 4096 };

// What a step writes that has a value in every place, or in as many rows as its operand `counts` says. Not where rows
// are split: what is for others, and what stays, are places for more than there is; nor where they are unpacked, among
// them what came back.
static bool is_output(const OpInfo *info, const OperandInfo *operand)
{
    bool whole = info->shape == SHAPE_LOCAL || info->shape == SHAPE_GATHER;
    bool splits = op_operand_index(info, OPERAND_send_rows) >= 0 || op_operand_index(info, OPERAND_packed_rows) >= 0;
    return whole && !splits && (operand->role == ROLE_OUT || operand->role == ROLE_INOUT) &&
           (operand->contents == CONTENTS_HIDDEN || operand->contents == CONTENTS_SCALAR ||
            operand->contents == CONTENTS_HELD_EXPERTS || operand->contents == CONTENTS_ANYTHING);
}

static bool overlap(const Buffer *a, const Buffer *b)
{
    return a->offset < b->offset + buffer_bytes(b) && b->offset < a->offset + buffer_bytes(a);
}

// Is the buffer as `step` left it, when the compute stream is at `at`? Other streams may be ahead.
static bool is_intact(const Plan *plan, int32_t buffer, uint32_t step, uint32_t at)
{
    for (uint32_t s = step + 1; s < plan->step_count; s++) {
        const OpInfo *op = op_info((int)plan->steps[s].op);
        const int32_t *operands = step_operands(plan, &plan->steps[s]);
        if (s > at && op->stream == STREAM_COMPUTE)
            continue;
        for (uint32_t o = 0; o < op->operand_count; o++)
            if (operands[o] != NONE && op->operands[o].role != ROLE_IN &&
                overlap(&plan->buffers[operands[o]], &plan->buffers[buffer]))
                return false;
    }
    return true;
}

// Exponents of ones alone are infinities and NaN.
bool nonfinite_among(const void *values, Dtype dtype, uint64_t count)
{
    const uint32_t *words = values;
    const uint16_t *halves = values;
    uint16_t exponent = dtype == DTYPE_F16 ? 0x7C00 : 0x7F80;
    bool found = false;
    for (uint64_t i = 0; dtype == DTYPE_F32 && i < count; i++)
        found |= (words[i] & 0x7F800000) == 0x7F800000;
    for (uint64_t i = 0; (dtype == DTYPE_F16 || dtype == DTYPE_BF16) && i < count; i++)
        found |= (halves[i] & exponent) == exponent;
    return found;
}

typedef struct {
    const Plan *plan;
    const EngineOps *ops;
    const Engine *engine;
} Scan;

// Of the first `elements`. What cannot be read counts as finite.
static bool is_finite(const Scan *scan, int32_t buffer, uint64_t elements)
{
    uint32_t raw[CHUNK_ELEMENTS];
    Dtype dtype = scan->plan->buffers[buffer].dtype;
    uint64_t each = dtype_bytes(dtype);
    Fault fault = {0};
    for (uint64_t at = 0; at < elements; at += CHUNK_ELEMENTS) {
        uint64_t count = elements - at < CHUNK_ELEMENTS ? elements - at : CHUNK_ELEMENTS;
        if (!scan->ops->read(scan->engine, (uint32_t)buffer, at * each, count * each, raw, &fault))
            return true;
        if (nonfinite_among(raw, dtype, count))
            return false;
    }
    return true;
}

// Rows of `buffer` that the counts say are in use; all where there are none, or where padding is 0.
static uint64_t used_rows(const Scan *scan, int32_t buffer, int32_t counts)
{
    uint64_t rows = scan->plan->buffers[buffer].rows, used = 0;
    Fault fault = {0};
    if (counts == NONE || scan->plan->exchange == EXCHANGE_PADDED)
        return rows;
    const Buffer *of = &scan->plan->buffers[counts];
    for (uint64_t i = 0; i < of->rows * of->cols; i++) {
        int32_t count = 0;
        if (!scan->ops->read(scan->engine, (uint32_t)counts, i * sizeof(count), sizeof(count), &count, &fault))
            return 0;
        used += count > 0 ? (uint64_t)count : 0;
    }
    return used < rows ? used : rows;
}

static bool step_is_finite(const Scan *scan, uint32_t step, uint32_t at)
{
    const Plan *plan = scan->plan;
    const Step *of = &plan->steps[step];
    const OpInfo *info = op_info((int)of->op);
    int32_t counts = step_operand(plan, of, OPERAND_counts);
    for (uint32_t o = 0; o < info->operand_count; o++) {
        int32_t output = step_operands(plan, of)[o];
        if (!is_output(info, &info->operands[o]) || output == NONE || !is_intact(plan, output, step, at) ||
            (counts != NONE && !is_intact(plan, counts, step, at)))
            continue;
        if (!is_finite(scan, output, used_rows(scan, output, counts) * plan->buffers[output].cols))
            return false;
    }
    return true;
}

int64_t nonfinite_step(const Plan *plan, const EngineOps *ops, const Engine *engine, uint32_t at)
{
    Scan scan = {plan, ops, engine};
    for (uint32_t s = 0; s < plan->step_count && s <= at; s++) {
        if (!step_is_finite(&scan, s, at))
            return s;
        if (plan->steps[s].op == OP_LOSS)
            break;
    }
    return -1;
}

bool nonfinite_free_gradients(const Plan *plan, const EngineOps *ops, const Engine *engine)
{
    Scan scan = {plan, ops, engine};
    for (uint32_t s = 0; s < plan->step_count; s++) {
        if (plan->steps[s].op != OP_OPTIMIZER)
            continue;
        int32_t gradient = step_buffers(plan, &plan->steps[s]).optimizer.gradient;
        const Buffer *buffer = &plan->buffers[gradient];
        if (!is_finite(&scan, gradient, buffer->rows * buffer->cols))
            return false;
    }
    return true;
}
