// See loop.h.
#include "compiler/lowering/loop.h"

#include <string.h>

#include "ir/unroll.h"

static StepWhen usual_when(Op op)
{
    switch (op_info((int)op)->stream) {
    case STREAM_MIGRATE:
        return WHEN_FIRST;
    case STREAM_SYNC:
        return WHEN_LAST;
    case STREAM_COMPUTE:
        return op == OP_ROUND || op == OP_SQUARES || op == OP_OPTIMIZER ? WHEN_LAST : WHEN_EVERY;
    case STREAM_EXCHANGE:
    case STREAM_COUNT:
        break;
    }
    return WHEN_EVERY;
}

// ---- spans -------------------------------------------------------------------------------------

// What steps that run once touch holds for the iteration, as what outlives it does. Everything else is a micro-batch's:
// of all of them at once where two segments touch it.
static void set_spans(Plan *plan, Arena *scratch)
{
    bool *shared = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*shared));
    bool *crosses = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*crosses));
    uint32_t *segment = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*segment)); // 0: none yet
    for (uint32_t first = 0, end, number = 1; first < plan->step_count; first = end, number++) {
        end = plan_segment_end(plan, first);
        for (uint32_t i = first; i < end; i++) {
            const int32_t *operands = step_operands(plan, &plan->steps[i]);
            for (uint32_t k = 0; k < op_info((int)plan->steps[i].op)->operand_count; k++) {
                int32_t b = operands[k];
                if (b == NONE)
                    continue;
                shared[b] |= plan->steps[i].when != WHEN_EVERY;
                crosses[b] |= segment[b] && segment[b] != number;
                segment[b] = number;
            }
        }
    }
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        Buffer *buffer = &plan->buffers[b];
        bool own = buffer->kind == BUFFER_TEMPORARY && !shared[b];
        buffer->span = buffer->kind == BUFFER_INPUT ? SPAN_ALL
                       : !own                       ? SPAN_ITERATION
                       : crosses[b]                 ? SPAN_ALL
                                                    : SPAN_MICRO_BATCH;
    }
    for (uint32_t i = 0; i < plan->step_count; i++) // each micro-batch has a loss, and all are read in the end
        if (plan->steps[i].op == OP_LOSS)
            plan->buffers[step_operand(plan, &plan->steps[i], OPERAND_loss)].span = SPAN_ALL;
}

// ---- waits -------------------------------------------------------------------------------------

// Who of a segment touched a buffer last; readers: since that write, the latest of each stream.
typedef struct {
    uint32_t segment, round;
    int64_t writer, readers[STREAM_COUNT];
    uint32_t writer_round, reader_round[STREAM_COUNT];
} Touch;

typedef struct {
    Plan *plan;
    Touch *touches;                 // [buffers]
    int64_t (*waits)[STREAM_COUNT]; // [steps]: for the latest step of each stream of the micro-batch before; NONE
    uint32_t segment, round;        // the second round finds what the first one left
} Loop;

static Stream stream_of(const Plan *plan, int64_t step)
{
    return op_info((int)plan->steps[step].op)->stream;
}

// The step waits for one of the micro-batch before, unless its own execution in this one, which comes first, stands in.
static void wait_for(Loop *loop, uint32_t step, int64_t earlier, uint32_t round)
{
    if (earlier == NONE || round == loop->round || earlier < step ||
        stream_of(loop->plan, earlier) == stream_of(loop->plan, step))
        return;
    int64_t *wait = &loop->waits[step][stream_of(loop->plan, earlier)];
    *wait = *wait > earlier ? *wait : earlier;
}

static void touch(Loop *loop, uint32_t step, int32_t buffer, OperandRole role)
{
    Touch *of = &loop->touches[buffer];
    Stream stream = stream_of(loop->plan, step);
    if (of->segment != loop->segment) {
        *of = (Touch){.segment = loop->segment, .writer = NONE};
        memset(of->readers, 0xff, sizeof(of->readers)); // NONE
    }
    wait_for(loop, step, of->writer, of->writer_round);
    if (role == ROLE_IN) {
        of->readers[stream] = step;
        of->reader_round[stream] = loop->round;
        return;
    }
    for (int s = 0; s < STREAM_COUNT; s++)
        wait_for(loop, step, of->readers[s], of->reader_round[s]);
    memset(of->readers, 0xff, sizeof(of->readers));
    of->writer = step;
    of->writer_round = loop->round;
}

static void find_waits(Loop *loop, uint32_t first, uint32_t end)
{
    const Plan *plan = loop->plan;
    for (uint32_t i = first; i < end; i++) {
        const Step *step = &plan->steps[i];
        const OpInfo *info = op_info((int)step->op);
        const int32_t *operands = step_operands(plan, step);
        for (uint32_t k = 0; k < info->operand_count && step->when == WHEN_EVERY; k++)
            if (operands[k] != NONE && plan->buffers[operands[k]].span != SPAN_ALL)
                touch(loop, i, operands[k], info->operands[k].role);
    }
}

static void add_waits(Loop *loop)
{
    Plan *plan = loop->plan;
    size_t most = plan->after_count + (size_t)plan->step_count * STREAM_COUNT;
    uint32_t *after = arena_alloc_array(plan->arena, most + 1, sizeof(*after)), count = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Step *step = &plan->steps[i];
        uint32_t first = count;
        for (uint32_t k = 0; k < step->after_count; k++)
            after[count++] = plan->after[step->after_first + k];
        for (int s = 0; s < STREAM_COUNT; s++)
            if (loop->waits[i][s] != NONE)
                after[count++] = (uint32_t)loop->waits[i][s];
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
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (plan->steps[i].when == WHEN_EVERY)
            plan->steps[i].when = usual_when(plan->steps[i].op);
    set_spans(plan, scratch);
    Loop loop = {.plan = plan,
                 .touches = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(Touch)),
                 .waits = arena_alloc_array(scratch, (size_t)plan->step_count + 1, sizeof(*loop.waits))};
    memset(loop.waits, 0xff, plan->step_count * sizeof(*loop.waits)); // NONE
    for (uint32_t first = 0, end; first < plan->step_count; first = end) {
        end = plan_segment_end(plan, first);
        loop.segment++;
        for (loop.round = 0; loop.round < 2; loop.round++)
            find_waits(&loop, first, end);
    }
    add_waits(&loop);
}
