// The verifier's property of the loop: what runs in every micro-batch, or once, fits what its buffers hold values of.
// With it, one micro-batch speaks for all: flow follows one, in which a sum holds the gradient of all. That steps of
// different micro-batches do not meet, reads, races and memory prove of unrolled plans (docs/ir.md, "Micro-batches").
#include <inttypes.h>

#include "ir/unroll.h"
#include "ir/verify/verify_parts.h"

static void fail_span(Verifier *verifier, uint32_t index, const Buffer *buffer, const char *what)
{
    verify_fail(verifier, PROPERTY_LOOP, index, "runs '%s' and %s '%s', which holds a value of '%s'",
                step_when_name(verifier->written->steps[index].when), what, buffer->name,
                buffer_span_name(buffer->span));
}

static bool outlives(const Buffer *buffer)
{
    return buffer->kind != BUFFER_TEMPORARY && buffer->kind != BUFFER_INPUT;
}

static void verify_span(Verifier *verifier, const Buffer *buffer)
{
    bool one = verifier->written->micro_batches == 1;
    if ((one || outlives(buffer)) && buffer->span != SPAN_ITERATION)
        verify_fail(verifier, PROPERTY_LOOP, NONE, "'%s' holds a value of '%s': expected 'iteration'", buffer->name,
                    buffer_span_name(buffer->span));
    else if (!one && buffer->kind == BUFFER_INPUT && buffer->span != SPAN_ALL)
        verify_fail(verifier, PROPERTY_LOOP, NONE, "the input '%s' has no value for each micro-batch", buffer->name);
}

// What steps of every micro-batch do with a buffer that holds one value for all of them.
typedef struct {
    bool read, summed;
    uint32_t segment, last; // where a step that runs in the last micro-batch touched it, counted from 1, and which
    bool written;           // by such a step
} LoopUse;

// A step that runs once talks of the iteration alone; a step that runs in every micro-batch adds to the iteration's
// sums and writes nothing else of it.
static void verify_repeated(Verifier *verifier, uint32_t index, LoopUse *uses)
{
    const Plan *plan = verifier->written;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    const int32_t *operands = step_operands(plan, step);
    bool own = false;
    for (uint32_t k = 0; k < info->operand_count; k++) {
        const Buffer *buffer = operands[k] == NONE ? NULL : &plan->buffers[operands[k]];
        if (!buffer)
            continue;
        own |= buffer->span != SPAN_ITERATION;
        if (step->when != WHEN_EVERY) {
            if (buffer->span != SPAN_ITERATION)
                fail_span(verifier, index, buffer, "touches");
        } else if (buffer->span == SPAN_ITERATION) {
            bool sum = step->op == OP_ACCUMULATE && info->operands[k].operand == OPERAND_sum;
            if (info->operands[k].role != ROLE_IN && !sum)
                fail_span(verifier, index, buffer, "writes");
            *(sum ? &uses[operands[k]].summed : &uses[operands[k]].read) = true;
        }
    }
    if (step->when == WHEN_EVERY && !own)
        verify_fail(verifier, PROPERTY_LOOP, index, "runs 'every' and touches nothing that is a micro-batch's");
}

// Sums are complete before they are read; what all micro-batches read is there before the first, but for weights, which
// are updated after the last.
static void verify_once(Verifier *verifier, uint32_t index, const LoopUse *uses)
{
    const Plan *plan = verifier->written;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    const int32_t *operands = step_operands(plan, step);
    for (uint32_t k = 0; k < info->operand_count && step->when != WHEN_EVERY; k++) {
        if (operands[k] == NONE)
            continue;
        const Buffer *buffer = &plan->buffers[operands[k]];
        const LoopUse *use = &uses[operands[k]];
        bool writes = info->operands[k].role != ROLE_IN, reads = info->operands[k].role != ROLE_OUT;
        if (use->summed && reads && step->when != WHEN_LAST)
            fail_span(verifier, index, buffer, "reads the sum");
        if (!writes || (!use->read && !use->summed))
            continue;
        bool updates = buffer->kind == BUFFER_WEIGHT;
        if (step->when != (updates ? WHEN_LAST : WHEN_FIRST))
            fail_span(verifier, index, buffer, updates ? "updates" : "provides");
    }
}

// Within a segment what runs in the first micro-batch comes before all that runs in the last, wherever it is written:
// where both touch a buffer it must be written there.
static void verify_turns(Verifier *verifier, uint32_t index, uint32_t segment, LoopUse *uses)
{
    const Plan *plan = verifier->written;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    const int32_t *operands = step_operands(plan, step);
    for (uint32_t k = 0; k < info->operand_count && step->when != WHEN_EVERY; k++) {
        LoopUse *use = operands[k] == NONE ? NULL : &uses[operands[k]];
        bool writes = info->operands[k].role != ROLE_IN;
        if (use && step->when == WHEN_FIRST && use->segment == segment && (writes || use->written))
            verify_fail(verifier, PROPERTY_LOOP, index,
                        "runs 'first', so before step %" PRIu32 ", which runs 'last', and both touch '%s'", use->last,
                        plan->buffers[operands[k]].name);
        if (use && step->when == WHEN_LAST) {
            use->written = writes || (use->segment == segment && use->written);
            use->segment = segment;
            use->last = index;
        }
    }
}

void verify_loop(Verifier *verifier)
{
    const Plan *plan = verifier->written;
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        verify_span(verifier, &plan->buffers[b]);
    LoopUse *uses = arena_alloc_array(verifier->scratch, (size_t)plan->buffer_count + 1, sizeof(*uses));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        if (plan->micro_batches > 1)
            verify_repeated(verifier, i, uses);
        else if (plan->steps[i].when != WHEN_EVERY)
            verify_fail(verifier, PROPERTY_LOOP, i, "runs '%s': an iteration is one micro-batch",
                        step_when_name(plan->steps[i].when));
    }
    for (uint32_t i = 0, end = 0, segment = 0; i < plan->step_count && plan->micro_batches > 1; i++) {
        if (i == end) {
            end = plan_segment_end(plan, i);
            segment++;
        }
        verify_once(verifier, i, uses);
        verify_turns(verifier, i, segment, uses);
    }
    if (plan->micro_batches > 1 && (plan->pass == PASS_FORWARD || plan->model.abstract))
        verify_fail(verifier, PROPERTY_LOOP, NONE, "%" PRIu32 " micro-batches in a plan that %s", plan->micro_batches,
                    plan->pass == PASS_FORWARD ? "updates nothing" : "has no buffers");
}
