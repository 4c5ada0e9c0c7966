// The verifier's property of the loop: what runs in every micro-batch, or once in a lap or in the iteration, fits what
// its buffers hold values of. With it, one micro-batch speaks for all: flow follows one, in which a sum holds the
// gradient of all. That steps of
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

// How long a value of the buffer lasts, and from one execution of a step to the next.
typedef enum { PERIOD_MICRO_BATCH, PERIOD_LAP, PERIOD_ITERATION } Period;

static Period period_of_buffer(const Buffer *buffer)
{
    return buffer->span == SPAN_ITERATION ? PERIOD_ITERATION
           : buffer->span == SPAN_LAP     ? PERIOD_LAP
                                          : PERIOD_MICRO_BATCH;
}

static Period period_of_step(const Step *step)
{
    return !step_repeats(step) ? PERIOD_ITERATION : step->when == WHEN_EVERY ? PERIOD_MICRO_BATCH : PERIOD_LAP;
}

// At the beginning of its period, or at the end.
static bool opens(const Step *step)
{
    return step->when == WHEN_FIRST || step->when == WHEN_LAP_FIRST;
}

static bool closes(const Step *step)
{
    return step->when == WHEN_LAST || step->when == WHEN_LAP_LAST;
}

static void verify_span(Verifier *verifier, const Buffer *buffer)
{
    const Plan *plan = verifier->written;
    bool one = plan->micro_batches == 1, of_laps = buffer->span == SPAN_LAP || buffer->span == SPAN_LAP_ALL;
    if ((one || outlives(buffer)) && buffer->span != SPAN_ITERATION)
        verify_fail(verifier, PROPERTY_LOOP, NONE, "'%s' holds a value of '%s': expected 'iteration'", buffer->name,
                    buffer_span_name(buffer->span));
    else if (!one && buffer->kind == BUFFER_INPUT && buffer->span != SPAN_ALL)
        verify_fail(verifier, PROPERTY_LOOP, NONE, "the input '%s' has no value for each micro-batch", buffer->name);
    else if (of_laps && !plan_has_laps(plan))
        verify_fail(verifier, PROPERTY_LOOP, NONE,
                    "'%s' holds a value of '%s': there are not several laps of several micro-batches", buffer->name,
                    buffer_span_name(buffer->span));
}

// What steps of a shorter period do with a buffer, whose value serves all of them.
typedef struct {
    bool read, summed;
    uint32_t segment, last; // where a step at the end of a period touched it, counted from 1, and which
    bool written;           // by such a step
} LoopUse;

static bool adds_up(const Step *step, const OperandInfo *operand)
{
    return (step->op == OP_ACCUMULATE || step->op == OP_ADD_RETURNED) && operand->operand == OPERAND_sum;
}

// A step touches nothing that changes within its period; of what lasts longer it adds to sums, and writes nothing else.
static void verify_repeated(Verifier *verifier, uint32_t index, LoopUse *uses)
{
    const Plan *plan = verifier->written;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    const int32_t *operands = step_operands(plan, step);
    Period period = period_of_step(step);
    bool own = false;
    for (uint32_t k = 0; k < info->operand_count; k++) {
        const Buffer *buffer = operands[k] == NONE ? NULL : &plan->buffers[operands[k]];
        if (!buffer)
            continue;
        own |= period_of_buffer(buffer) == period;
        if (period_of_buffer(buffer) < period) {
            fail_span(verifier, index, buffer, "touches");
        } else if (period_of_buffer(buffer) > period) {
            bool sum = adds_up(step, &info->operands[k]);
            if (info->operands[k].role != ROLE_IN && !sum)
                fail_span(verifier, index, buffer, "writes");
            *(sum ? &uses[operands[k]].summed : &uses[operands[k]].read) = true;
        }
    }
    if (period != PERIOD_ITERATION && !own)
        verify_fail(verifier, PROPERTY_LOOP, index, "runs '%s' and touches nothing that is a %s's",
                    step_when_name(step->when), period == PERIOD_LAP ? "lap" : "micro-batch");
    if (period == PERIOD_LAP && !plan_has_laps(plan))
        verify_fail(verifier, PROPERTY_LOOP, index, "runs '%s': there are not several laps of several micro-batches",
                    step_when_name(step->when));
}

// Sums are complete before they are read; what steps of a shorter period read is there before the first of them, but
// for weights, which are updated after the last.
static void verify_once(Verifier *verifier, uint32_t index, const LoopUse *uses)
{
    const Plan *plan = verifier->written;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    const int32_t *operands = step_operands(plan, step);
    for (uint32_t k = 0; k < info->operand_count; k++) {
        if (operands[k] == NONE || period_of_buffer(&plan->buffers[operands[k]]) != period_of_step(step))
            continue;
        const Buffer *buffer = &plan->buffers[operands[k]];
        const LoopUse *use = &uses[operands[k]];
        bool writes = info->operands[k].role != ROLE_IN, reads = info->operands[k].role != ROLE_OUT;
        if (use->summed && reads && !closes(step))
            fail_span(verifier, index, buffer, "reads the sum");
        if (!writes || (!use->read && !use->summed))
            continue;
        bool updates = buffer->kind == BUFFER_WEIGHT;
        if (!(updates ? closes(step) : opens(step)))
            fail_span(verifier, index, buffer, updates ? "updates" : "provides");
    }
}

// Within a segment what runs at the beginning of a period comes before all that runs at the end of one, wherever it is
// written: where both touch a buffer it must be written there.
static void verify_turns(Verifier *verifier, uint32_t index, uint32_t segment, LoopUse *uses)
{
    const Plan *plan = verifier->written;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    const int32_t *operands = step_operands(plan, step);
    for (uint32_t k = 0; k < info->operand_count; k++) {
        LoopUse *use = operands[k] == NONE ? NULL : &uses[operands[k]];
        bool writes = info->operands[k].role != ROLE_IN;
        if (use && opens(step) && use->segment == segment && (writes || use->written))
            verify_fail(verifier, PROPERTY_LOOP, index,
                        "runs '%s', so before step %" PRIu32 ", which runs '%s', and both touch '%s'",
                        step_when_name(step->when), use->last, step_when_name(plan->steps[use->last].when),
                        plan->buffers[operands[k]].name);
        if (use && closes(step)) {
            use->written = writes || (use->segment == segment && use->written);
            use->segment = segment;
            use->last = index;
        }
    }
}

// Workers that train apart meet after everything else.
static void verify_meeting(Verifier *verifier, uint32_t index)
{
    const Step *step = &verifier->written->steps[index];
    if ((step->op == OP_OUTER_GRADIENT || step->op == OP_OUTER_STEP) && step->when != WHEN_LAST)
        verify_fail(verifier, PROPERTY_LOOP, index, "runs '%s': workers meet after the last micro-batch",
                    step_when_name(step->when));
}

void verify_loop(Verifier *verifier)
{
    const Plan *plan = verifier->written;
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        verify_span(verifier, &plan->buffers[b]);
    LoopUse *uses = arena_alloc_array(verifier->scratch, (size_t)plan->buffer_count + 1, sizeof(*uses));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        if (plan->micro_batches > 1) {
            verify_repeated(verifier, i, uses);
            verify_meeting(verifier, i);
        } else if (plan->steps[i].when != WHEN_EVERY)
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
