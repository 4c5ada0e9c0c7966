// See unroll.h.
#include "ir/unroll.h"

uint32_t plan_segment_end(const Plan *plan, uint32_t first)
{
    uint32_t end = first;
    while (end < plan->step_count && plan->steps[end].layer == plan->steps[first].layer)
        end++;
    return end;
}

Laps plan_laps(const Plan *plan)
{
    uint32_t each = plan->lap ? plan->lap : plan->micro_batches;
    return (Laps){plan->micro_batches / each, each};
}

uint32_t plan_abreast(const Plan *plan)
{
    return plan->abreast > 1 ? plan->abreast : 1;
}

Laps plan_laps_at_most(const Plan *plan, uint32_t most)
{
    Laps laps = plan_laps(plan);
    uint32_t each = most * plan_abreast(plan);
    return (Laps){laps.count < most ? laps.count : most, laps.each < each ? laps.each : each};
}

uint32_t plan_phases(const Plan *plan, uint32_t first, uint32_t end, uint32_t *phases)
{
    uint32_t phase = 0;
    bool exchanged = false;
    for (uint32_t s = first; s < end; s++) {
        Stream stream = step_stream(plan, &plan->steps[s]);
        if (exchanged && stream == STREAM_COMPUTE) {
            phase++;
            exchanged = false;
        }
        exchanged = exchanged || stream == STREAM_EXCHANGE;
        phases[s - first] = phase;
    }
    return phase + 1;
}

bool plan_has_laps(const Plan *plan)
{
    Laps laps = plan_laps(plan);
    return laps.count > 1 && laps.each > 1;
}

bool step_runs(const Step *step, uint32_t index, Laps laps)
{
    switch (step->when) {
    case WHEN_EVERY:
        return true;
    case WHEN_FIRST:
        return index == 0;
    case WHEN_LAST:
        return index + 1 == laps.count * laps.each;
    case WHEN_LAP_FIRST:
        return index % laps.each == 0;
    case WHEN_LAP_LAST:
        return (index + 1) % laps.each == 0;
    case STEP_WHEN_COUNT:
        break;
    }
    return false;
}

bool step_repeats(const Step *step)
{
    return step->when != WHEN_FIRST && step->when != WHEN_LAST;
}

static uint32_t runs_of(const Step *step, Laps laps)
{
    if (step->when == WHEN_EVERY)
        return laps.count * laps.each;
    return step_repeats(step) ? laps.count : 1;
}

uint32_t plan_step_runs(const Plan *plan, const Step *step)
{
    return plan->unrolled ? 1 : runs_of(step, plan_laps(plan));
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
    if (plan->unrolled)
        return 1;
    switch (buffer->span) {
    case SPAN_MICRO_BATCH:
        return plan_abreast(plan);
    case SPAN_ALL:
        return plan->micro_batches;
    case SPAN_LAP_ALL:
        return plan_laps(plan).each;
    case SPAN_ITERATION:
    case SPAN_LAP:
    case BUFFER_SPAN_COUNT:
        break;
    }
    return 1;
}

bool plan_buffer_bytes(const Plan *plan, const Buffer *buffer, uint64_t *out)
{
    return buffer_aligned_bytes(buffer, out) && checked_mul(*out, plan_buffer_values(plan, buffer), out) &&
           *out <= INT64_MAX - BUFFER_ALIGNMENT;
}

typedef struct {
    const Plan *from;
    Plan *to;
    Laps laps;
    uint32_t abreast;       // micro-batches
    const uint32_t *values; // plan_first_values; NULL: buffers stay
    int64_t *latest;        // [from->step_count]: its latest execution; NONE
    int64_t *in_place;      // [from->step_count][abreast]: the same in each place of those that go abreast
    int64_t *awaited;       // [from->after_count]: the latest execution that was waited for
    uint32_t *phases;       // [from->step_count]: of every segment so far
    uint32_t segment_first, segment_end;
} Unroll;

static uint32_t count_values(BufferSpan span, Laps laps)
{
    switch (span) {
    case SPAN_ITERATION:
        return 1;
    case SPAN_LAP:
        return laps.count;
    case SPAN_MICRO_BATCH:
    case SPAN_ALL:
    case SPAN_LAP_ALL:
    case BUFFER_SPAN_COUNT:
        break;
    }
    return laps.count * laps.each;
}

const uint32_t *plan_first_values(const Plan *plan, Laps laps, Arena *arena)
{
    uint32_t *first = arena_alloc_array(arena, (size_t)plan->buffer_count + 1, sizeof(*first));
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        first[b + 1] = first[b] + (plan->unrolled ? 1 : count_values(plan->buffers[b].span, laps));
    return first;
}

// At how many values from the first one the value lies; 0: in the same memory.
static uint32_t place_of_value(const Unroll *u, BufferSpan span, uint32_t value)
{
    switch (span) {
    case SPAN_MICRO_BATCH:
        return value % u->abreast;
    case SPAN_ALL:
        return value;
    case SPAN_LAP_ALL:
        return value % u->laps.each;
    case SPAN_ITERATION:
    case SPAN_LAP:
    case BUFFER_SPAN_COUNT:
        break;
    }
    return 0;
}

static void unroll_buffers(Unroll *u, Arena *arena)
{
    const Plan *from = u->from;
    u->values = plan_first_values(from, u->laps, arena);
    u->to->buffer_count = u->values[from->buffer_count];
    u->to->buffers = arena_alloc_array(arena, (size_t)u->to->buffer_count + 1, sizeof(*u->to->buffers));
    for (uint32_t b = 0; b < from->buffer_count; b++) {
        uint64_t stride = 0;
        if (!buffer_aligned_bytes(&from->buffers[b], &stride))
            stride = 0; // no plan within its limits
        for (uint32_t i = u->values[b]; i < u->values[b + 1]; i++) {
            u->to->buffers[i] = from->buffers[b];
            u->to->buffers[i].offset += place_of_value(u, from->buffers[b].span, i - u->values[b]) * stride;
        }
    }
}

static int32_t value_in(const Unroll *u, int32_t buffer, uint32_t micro_batch)
{
    if (buffer == NONE || !u->values)
        return buffer;
    BufferSpan span = u->from->buffers[buffer].span;
    uint32_t value = span == SPAN_ITERATION ? 0 : span == SPAN_LAP ? micro_batch / u->laps.each : micro_batch;
    return (int32_t)(u->values[buffer] + value);
}

// The execution of step `named` that the one of `index` in the micro-batch waits for; NONE.
static int64_t execution_before(const Unroll *u, uint32_t index, uint32_t named, uint32_t micro_batch)
{
    int64_t latest = u->latest[named], same = u->in_place[(size_t)named * u->abreast + micro_batch % u->abreast];
    if (u->abreast == 1 || named < u->segment_first || named >= u->segment_end)
        return latest;
    bool repeats = u->from->steps[named].when == WHEN_EVERY, begins_lap = micro_batch % u->laps.each == 0;
    if (!repeats || (named >= index && begins_lap))
        return latest;
    // What the first micro-batches of a lap wait for of the lap before, the first one of them does.
    uint32_t expected = named < index ? micro_batch : micro_batch - u->abreast;
    return same != NONE && u->to->steps[same].micro_batch == expected ? same : NONE;
}

// What executions of the step waited for before, this one does, too.
static void add_waits(Unroll *u, uint32_t index, Step *step)
{
    const Step *written = &u->from->steps[index];
    Plan *to = u->to;
    step->after_first = to->after_count;
    for (uint32_t k = written->after_first; k < written->after_first + written->after_count; k++) {
        int64_t earlier = execution_before(u, index, u->from->after[k], step->micro_batch);
        if (earlier <= u->awaited[k])
            continue;
        to->after[to->after_count++] = (uint32_t)earlier;
        u->awaited[k] = earlier;
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
    u->latest[index] = u->in_place[(size_t)index * u->abreast + micro_batch % u->abreast] = at;
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
        uint64_t runs = runs_of(step, u->laps);
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
}

static int64_t *none(size_t count, Arena *arena)
{
    int64_t *items = arena_alloc_array(arena, count + 1, sizeof(*items));
    for (size_t i = 0; i < count; i++)
        items[i] = NONE;
    return items;
}

static void allocate_executions(Unroll *u, Arena *arena)
{
    uint32_t steps = u->from->step_count;
    u->latest = none(steps, arena);
    u->in_place = u->abreast > 1 ? none((size_t)steps * u->abreast, arena) : u->latest;
    u->awaited = none(u->from->after_count, arena);
    u->phases = arena_alloc_array(arena, (size_t)steps + 1, sizeof(*u->phases));
}

// A lap of several: without what runs once.
static bool is_skipped(const Unroll *u, const Step *step)
{
    return u->to->one_lap && !step_repeats(step);
}

// Of the segment's steps from `first` on those of its first phase. Returns one past the last.
static uint32_t phase_end(const Unroll *u, uint32_t first, uint32_t end)
{
    uint32_t s = first;
    while (s < end && u->phases[s] == u->phases[first])
        s++;
    return s;
}

static void add_phase(Unroll *u, uint32_t first, uint32_t end, uint32_t micro_batch)
{
    const Plan *plan = u->from;
    for (uint32_t s = first; s < end; s++)
        if (step_runs(&plan->steps[s], micro_batch, u->laps) && !is_skipped(u, &plan->steps[s]))
            add_step(u, s, micro_batch);
}

static void add_segment(Unroll *u, uint32_t first, uint32_t end, uint32_t first_micro_batch)
{
    u->segment_first = first;
    u->segment_end = end;
    if (u->abreast > 1)
        plan_phases(u->from, first, end, u->phases + first);
    for (uint32_t i = first_micro_batch; i < first_micro_batch + u->laps.each; i += u->abreast)
        for (uint32_t from = first, to; from < end; from = to) {
            to = u->abreast > 1 ? phase_end(u, from, end) : end;
            for (uint32_t k = 0; k < u->abreast; k++)
                add_phase(u, from, to, i + k);
        }
}

static void add_lap(Unroll *u, uint32_t first_micro_batch)
{
    const Plan *plan = u->from;
    for (uint32_t first = 0, end; first < plan->step_count; first = end) {
        end = plan_segment_end(plan, first);
        add_segment(u, first, end, first_micro_batch);
    }
}

static const Plan *unroll(const Plan *plan, Laps laps, bool buffers, bool one_lap, Arena *arena)
{
    uint32_t micro_batches = laps.count * laps.each;
    if (plan->unrolled || (plan->micro_batches == 1 && micro_batches == 1))
        return plan;
    Unroll u = {.from = plan, .to = arena_alloc(arena, sizeof(Plan)), .laps = laps, .abreast = plan_abreast(plan)};
    if (laps.each % u.abreast != 0) // one micro-batch, which shows what flows where
        u.abreast = 1;
    *u.to = *plan;
    u.to->micro_batches = micro_batches;
    u.to->lap = laps.count > 1 ? laps.each : 0;
    u.to->unrolled = true;
    u.to->one_lap = one_lap;
    if (buffers)
        unroll_buffers(&u, arena);
    allocate_steps(&u, arena);
    allocate_executions(&u, arena);
    for (uint32_t lap = 0; lap < laps.count; lap++)
        add_lap(&u, lap * laps.each);
    return u.to;
}

const Plan *plan_unroll(const Plan *plan, Laps laps, Arena *arena)
{
    return unroll(plan, laps, true, false, arena);
}

const Plan *plan_unroll_all(const Plan *plan, Arena *arena)
{
    return plan_unroll(plan, plan_laps(plan), arena);
}

const Plan *plan_unroll_steps(const Plan *plan, Laps laps, Arena *arena)
{
    return unroll(plan, laps, false, false, arena);
}

// Two micro-batches, or twice those that go abreast, if a lap has more.
static Laps shortest(const Plan *plan)
{
    return (Laps){1, plan_laps_at_most(plan, 2).each};
}

const Plan *plan_unroll_lap(const Plan *plan, Arena *arena)
{
    return unroll(plan, shortest(plan), true, plan_laps(plan).count > 1, arena);
}

const Plan *plan_unroll_lap_steps(const Plan *plan, Arena *arena)
{
    return unroll(plan, shortest(plan), false, plan_laps(plan).count > 1, arena);
}

const uint32_t *plan_lap_values(const Plan *plan, Arena *arena)
{
    return plan_first_values(plan, shortest(plan), arena);
}
