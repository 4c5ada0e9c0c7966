// See loop.h.
#include "compiler/lowering/loop.h"

#include <string.h>

#include "ir/unroll.h"

// ---- spans -------------------------------------------------------------------------------------

// Who touches a buffer.
typedef struct {
    bool once, once_per_lap; // steps that run so seldom
    bool crosses;            // several segments
    uint32_t segment;        // the last one, from 1; 0: none yet
} Sharing;

static void note_sharing(const Plan *plan, Sharing *sharing)
{
    for (uint32_t first = 0, end, number = 1; first < plan->step_count; first = end, number++) {
        end = plan_segment_end(plan, first);
        for (uint32_t i = first; i < end; i++) {
            const Step *step = &plan->steps[i];
            const int32_t *operands = step_operands(plan, step);
            for (uint32_t k = 0; k < op_info((int)step->op)->operand_count; k++) {
                Sharing *of = operands[k] == NONE ? NULL : &sharing[operands[k]];
                if (!of)
                    continue;
                of->once |= !step_repeats(step);
                of->once_per_lap |= step_repeats(step) && step->when != WHEN_EVERY;
                of->crosses |= of->segment && of->segment != number;
                of->segment = number;
            }
        }
    }
}

// What steps that run once touch holds for the iteration, as what outlives it does; what steps touch that run once per
// lap, for the lap. Everything else is a micro-batch's: of all of a lap at once where two segments touch it.
static BufferSpan span_of(const Plan *plan, const Buffer *buffer, const Sharing *sharing)
{
    Laps laps = plan_laps(plan);
    if (buffer->kind == BUFFER_INPUT)
        return SPAN_ALL;
    if (buffer->kind != BUFFER_TEMPORARY || sharing->once)
        return SPAN_ITERATION;
    if (sharing->once_per_lap)
        return SPAN_LAP;
    if (!sharing->crosses || laps.each == 1)
        return SPAN_MICRO_BATCH;
    return laps.count == 1 ? SPAN_ALL : SPAN_LAP_ALL;
}

static void set_spans(Plan *plan, Arena *scratch)
{
    Sharing *sharing = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*sharing));
    note_sharing(plan, sharing);
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        plan->buffers[b].span = span_of(plan, &plan->buffers[b], &sharing[b]);
    for (uint32_t i = 0; i < plan->step_count; i++) // each micro-batch has a loss, and all are read in the end
        if (plan->steps[i].op == OP_LOSS)
            plan->buffers[step_operand(plan, &plan->steps[i], OPERAND_loss)].span = SPAN_ALL;
}

// ---- waits -------------------------------------------------------------------------------------

// An execution of a step; `step` NONE: none.
typedef struct {
    int64_t step;
    uint32_t micro_batch;
} Execution;

// Who touched a value last; readers: since that write, the latest of each stream.
typedef struct {
    Execution writer, readers[STREAM_COUNT];
} Touch;

typedef struct {
    uint32_t *items;
    uint32_t count, capacity;
} Waits;

typedef struct {
    Plan *plan;
    Arena *scratch;
    const uint32_t *places; // [buffers + 1]: the first of the places that each buffer's values take
    Touch *touches;         // [places]
    Waits *waits;           // [steps]: for steps of the micro-batch or the lap before
    Laps laps; // one of two micro-batches at most, or twice those that go abreast: they find what others left
    uint32_t abreast;
    uint32_t *phases; // [steps]: of the segment
    Execution now;
} Loop;

static Stream stream_of(const Plan *plan, int64_t step)
{
    return step_stream(plan, &plan->steps[step]);
}

static void add_wait(Loop *loop, uint32_t step, uint32_t earlier)
{
    Waits *of = &loop->waits[step];
    for (uint32_t i = 0; i < of->count; i++)
        if (of->items[i] == earlier)
            return;
    if (of->count == of->capacity) {
        of->capacity = 2 * of->capacity + 4;
        uint32_t *fresh = arena_alloc_array(loop->scratch, of->capacity, sizeof(*fresh));
        if (of->count)
            memcpy(fresh, of->items, of->count * sizeof(*fresh));
        of->items = fresh;
    }
    of->items[of->count++] = earlier;
}

// The step waits for one of the micro-batch before, unless its own execution in this one, which comes first, stands in.
static void wait_for(Loop *loop, const Execution *earlier)
{
    uint32_t step = (uint32_t)loop->now.step;
    if (earlier->step == NONE || earlier->micro_batch == loop->now.micro_batch || earlier->step < loop->now.step ||
        stream_of(loop->plan, earlier->step) == stream_of(loop->plan, step))
        return;
    add_wait(loop, step, (uint32_t)earlier->step);
}

static void touch(Loop *loop, Touch *of, OperandRole role)
{
    wait_for(loop, &of->writer);
    if (role == ROLE_IN) {
        of->readers[stream_of(loop->plan, loop->now.step)] = loop->now;
        return;
    }
    for (int s = 0; s < STREAM_COUNT; s++) {
        wait_for(loop, &of->readers[s]);
        of->readers[s].step = NONE;
    }
    of->writer = loop->now;
}

// Where the value of the buffer lies that the execution touches.
static uint32_t place_of(const Loop *loop, int32_t buffer)
{
    BufferSpan span = loop->plan->buffers[buffer].span;
    if (span == SPAN_MICRO_BATCH)
        return loop->places[buffer] + loop->now.micro_batch % loop->abreast;
    bool has_places = span == SPAN_ALL || span == SPAN_LAP_ALL;
    return loop->places[buffer] + (has_places ? loop->now.micro_batch : 0);
}

// Of a segment's steps those of the phase.
static void find_waits(Loop *loop, uint32_t first, uint32_t end, uint32_t phase)
{
    const Plan *plan = loop->plan;
    for (uint32_t i = first; i < end; i++) {
        if (loop->phases[i - first] != phase)
            continue;
        const Step *step = &plan->steps[i];
        const OpInfo *info = op_info((int)step->op);
        const int32_t *operands = step_operands(plan, step);
        loop->now.step = i;
        for (uint32_t k = 0; k < info->operand_count && step_runs(step, loop->now.micro_batch, loop->laps); k++)
            if (operands[k] != NONE)
                touch(loop, &loop->touches[place_of(loop, operands[k])], info->operands[k].role);
    }
}

static void find_all_waits(Loop *loop)
{
    const Plan *plan = loop->plan;
    for (uint32_t first = 0, end; first < plan->step_count; first = end) {
        end = plan_segment_end(plan, first);
        uint32_t phases = plan_phases(plan, first, end, loop->phases);
        for (uint32_t i = 0; i < loop->laps.each; i += loop->abreast)
            for (uint32_t phase = 0; phase < phases; phase++)
                for (uint32_t k = 0; k < loop->abreast; k++) {
                    loop->now = (Execution){.micro_batch = i + k};
                    find_waits(loop, first, end, phase);
                }
    }
}

// A lap begins when every stream has finished the one before: the first step of each stream that laps repeat waits for
// the last ones of all others.
static void separate_laps(Loop *loop, Arena *scratch)
{
    const Plan *unrolled = plan_unroll_steps(loop->plan, (Laps){2, loop->laps.each}, scratch);
    int64_t last[STREAM_COUNT];
    bool begun[STREAM_COUNT] = {false};
    memset(last, 0xff, sizeof(last)); // NONE
    for (uint32_t i = 0; i < unrolled->step_count; i++) {
        const Step *step = &unrolled->steps[i];
        Stream stream = step_stream(unrolled, step);
        if (!step_repeats(step))
            continue;
        if (step->micro_batch < loop->laps.each) {
            last[stream] = step->written;
            continue;
        }
        for (int s = 0; s < STREAM_COUNT && !begun[stream]; s++)
            if (s != (int)stream && last[s] != NONE)
                add_wait(loop, step->written, (uint32_t)last[s]);
        begun[stream] = true;
    }
}

static void add_waits(Loop *loop)
{
    Plan *plan = loop->plan;
    size_t most = plan->after_count;
    for (uint32_t i = 0; i < plan->step_count; i++)
        most += loop->waits[i].count;
    uint32_t *after = arena_alloc_array(plan->arena, most + 1, sizeof(*after)), count = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Step *step = &plan->steps[i];
        uint32_t first = count;
        for (uint32_t k = 0; k < step->after_count; k++)
            after[count++] = plan->after[step->after_first + k];
        for (uint32_t k = 0; k < loop->waits[i].count; k++)
            after[count++] = loop->waits[i].items[k];
        step->after_first = first;
        step->after_count = count - first;
    }
    plan->after = after;
    plan->after_count = count;
}

void loop_complete(Plan *plan, Arena *scratch)
{
    if (plan->micro_batches == 1 || plan->model.abstract)
        return;
    set_spans(plan, scratch);
    Loop loop = {.plan = plan,
                 .scratch = scratch,
                 .laps = {1, plan_laps_at_most(plan, 2).each},
                 .abreast = plan_abreast(plan),
                 .phases = arena_alloc_array(scratch, (size_t)plan->step_count + 1, sizeof(*loop.phases))};
    uint32_t *places = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*places));
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        places[b + 1] = places[b] + loop.laps.each;
    loop.places = places;
    loop.touches = arena_alloc_array(scratch, (size_t)places[plan->buffer_count] + 1, sizeof(Touch));
    memset(loop.touches, 0xff, ((size_t)places[plan->buffer_count] + 1) * sizeof(Touch)); // NONE
    loop.waits = arena_alloc_array(scratch, (size_t)plan->step_count + 1, sizeof(*loop.waits));
    find_all_waits(&loop);
    if (plan_laps(plan).count > 1)
        separate_laps(&loop, scratch);
    add_waits(&loop);
}
