// See unroll.h.
#include "ir/unroll.h"

uint32_t plan_segment_end(const Plan *plan, uint32_t first)
{
    uint32_t end = first;
    while (end < plan->step_count && plan->steps[end].layer == plan->steps[first].layer)
        end++;
    return end;
}

bool step_runs(const Step *step, uint32_t index, uint32_t count)
{
    switch (step->when) {
    case WHEN_EVERY:
        return true;
    case WHEN_FIRST:
        return index == 0;
    case WHEN_LAST:
        return index + 1 == count;
    case STEP_WHEN_COUNT:
        break;
    }
    return false;
}

uint32_t plan_step_runs(const Plan *plan, const Step *step)
{
    return step->when == WHEN_EVERY && !plan->unrolled ? plan->micro_batches : 1;
}

uint64_t plan_executions(const Plan *plan)
{
    uint64_t runs = 0;
    for (uint32_t i = 0; i < plan->step_count; i++)
        runs += plan_step_runs(plan, &plan->steps[i]);
    return runs;
}

uint32_t plan_buffer_values(const Plan *plan, const Buffer *buffer)
{
    return buffer->span == SPAN_ALL && !plan->unrolled ? plan->micro_batches : 1;
}

bool plan_buffer_bytes(const Plan *plan, const Buffer *buffer, uint64_t *out)
{
    return buffer_aligned_bytes(buffer, out) && checked_mul(*out, plan_buffer_values(plan, buffer), out) &&
           *out <= INT64_MAX - BUFFER_ALIGNMENT;
}

typedef struct {
    const Plan *from;
    Plan *to;
    uint32_t count;         // micro-batches
    const uint32_t *values; // plan_first_values; NULL: buffers stay
    int64_t *latest;        // [from->step_count]: its latest execution; NONE
} Unroll;

const uint32_t *plan_first_values(const Plan *plan, uint32_t micro_batches, Arena *arena)
{
    uint32_t *first = arena_alloc_array(arena, (size_t)plan->buffer_count + 1, sizeof(*first));
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        bool one = plan->unrolled || plan->buffers[b].span == SPAN_ITERATION;
        first[b + 1] = first[b] + (one ? 1 : micro_batches);
    }
    return first;
}

static void unroll_buffers(Unroll *u, Arena *arena)
{
    const Plan *from = u->from;
    u->values = plan_first_values(from, u->count, arena);
    u->to->buffer_count = u->values[from->buffer_count];
    u->to->buffers = arena_alloc_array(arena, (size_t)u->to->buffer_count + 1, sizeof(*u->to->buffers));
    for (uint32_t b = 0; b < from->buffer_count; b++) {
        uint64_t stride = 0;
        if (from->buffers[b].span == SPAN_ALL && !buffer_aligned_bytes(&from->buffers[b], &stride))
            stride = 0; // no plan within its limits
        for (uint32_t i = u->values[b]; i < u->values[b + 1]; i++) {
            u->to->buffers[i] = from->buffers[b];
            u->to->buffers[i].offset += (i - u->values[b]) * stride;
        }
    }
}

static int32_t value_in(const Unroll *u, int32_t buffer, uint32_t micro_batch)
{
    if (buffer == NONE || !u->values)
        return buffer;
    const uint32_t *first = &u->values[buffer];
    return (int32_t)(first[0] + (first[1] - first[0] > 1 ? micro_batch : 0));
}

// What the step's execution before waited for, this one does, too.
static void add_waits(Unroll *u, uint32_t index, Step *step)
{
    const Step *written = &u->from->steps[index];
    Plan *to = u->to;
    step->after_first = to->after_count;
    for (uint32_t k = 0; k < written->after_count; k++) {
        int64_t earlier = u->latest[u->from->after[written->after_first + k]];
        if (earlier != NONE && earlier > u->latest[index])
            to->after[to->after_count++] = (uint32_t)earlier;
    }
    step->after_count = to->after_count - step->after_first;
}

static void add_step(Unroll *u, uint32_t index, uint32_t micro_batch)
{
    Plan *to = u->to;
    uint32_t at = to->step_count++;
    Step *step = &to->steps[at];
    *step = u->from->steps[index];
    step->micro_batch = micro_batch;
    step->written = index;
    add_waits(u, index, step);
    u->latest[index] = at;
    if (!u->values)
        return;
    const int32_t *operands = step_operands(u->from, step);
    step->operand_first = to->operand_count;
    for (uint32_t k = 0; k < op_info((int)step->op)->operand_count; k++)
        to->operands[to->operand_count++] = value_in(u, operands[k], micro_batch);
}

static void allocate_steps(Unroll *u, Arena *arena)
{
    uint64_t steps = 0, waits = 0, operands = 0;
    for (uint32_t i = 0; i < u->from->step_count; i++) {
        const Step *step = &u->from->steps[i];
        uint64_t runs = step->when == WHEN_EVERY ? u->count : 1;
        steps += runs;
        waits += runs * step->after_count;
        operands += runs * op_info((int)step->op)->operand_count;
    }
    Plan *to = u->to;
    to->steps = arena_alloc_array(arena, steps + 1, sizeof(*to->steps));
    to->after = arena_alloc_array(arena, waits + 1, sizeof(*to->after));
    to->step_count = to->after_count = 0;
    if (u->values) {
        to->operands = arena_alloc_array(arena, operands + 1, sizeof(*to->operands));
        to->operand_count = 0;
    }
    u->latest = arena_alloc_array(arena, (size_t)u->from->step_count + 1, sizeof(*u->latest));
    for (uint32_t i = 0; i < u->from->step_count; i++)
        u->latest[i] = NONE;
}

static const Plan *unroll(const Plan *plan, uint32_t micro_batches, bool buffers, Arena *arena)
{
    if (plan->unrolled || (plan->micro_batches == 1 && micro_batches == 1))
        return plan;
    Unroll u = {.from = plan, .to = arena_alloc(arena, sizeof(Plan)), .count = micro_batches};
    *u.to = *plan;
    u.to->micro_batches = micro_batches;
    u.to->unrolled = true;
    if (buffers)
        unroll_buffers(&u, arena);
    allocate_steps(&u, arena);
    for (uint32_t first = 0, end; first < plan->step_count; first = end) {
        end = plan_segment_end(plan, first);
        for (uint32_t i = 0; i < micro_batches; i++)
            for (uint32_t s = first; s < end; s++)
                if (step_runs(&plan->steps[s], i, micro_batches))
                    add_step(&u, s, i);
    }
    return u.to;
}

const Plan *plan_unroll(const Plan *plan, uint32_t micro_batches, Arena *arena)
{
    return unroll(plan, micro_batches, true, arena);
}

const Plan *plan_unroll_all(const Plan *plan, Arena *arena)
{
    return plan_unroll(plan, plan->micro_batches, arena);
}

const Plan *plan_unroll_steps(const Plan *plan, uint32_t micro_batches, Arena *arena)
{
    return unroll(plan, micro_batches, false, arena);
}
