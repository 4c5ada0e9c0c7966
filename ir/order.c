// Happens-before by vector clocks, and the lifetimes of buffers in its terms; see order.h.
#include "ir/order.h"

#include <assert.h>
#include <string.h>

#include "ir/unroll.h"

struct Order {
    uint8_t *stream;                 // [steps]
    uint32_t (*clock)[STREAM_COUNT]; // [steps] steps of each stream up to and including this one; a run counts as one
};

Order *order_create(const Plan *plan, Arena *arena)
{
    Order *order = arena_alloc(arena, sizeof(*order));
    order->stream = arena_alloc_array(arena, plan->step_count, sizeof(*order->stream));
    order->clock = arena_alloc_array(arena, plan->step_count, sizeof(*order->clock));
    uint32_t last[STREAM_COUNT][STREAM_COUNT] = {0}; // clock of each stream's latest step
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        Stream stream = step_stream(plan, step);
        uint32_t *clock = last[stream];
        for (uint32_t k = 0; k < step->after_count; k++) {
            uint32_t earlier = plan->after[step->after_first + k];
            assert(earlier < i);
            for (int s = 0; s < STREAM_COUNT; s++)
                clock[s] = clock[s] > order->clock[earlier][s] ? clock[s] : order->clock[earlier][s];
        }
        clock[stream] += !step->joined; // a run is one event
        memcpy(order->clock[i], clock, sizeof(order->clock[i]));
        order->stream[i] = (uint8_t)stream;
    }
    return order;
}

bool order_before(const Order *order, uint32_t a, uint32_t b)
{
    uint8_t stream = order->stream[a];
    return order->clock[b][stream] >= order->clock[a][stream] + (order->stream[b] == stream);
}

// Steps of `stream` that happen before `step`, `step` itself excluded: always the first so many.
static uint32_t count_before(const Order *order, uint32_t step, Stream stream)
{
    return order->clock[step][stream] - (order->stream[step] == stream ? 1 : 0);
}

// How many steps of its own stream come before `step`.
static uint32_t position_of(const Order *order, uint32_t step)
{
    return order->clock[step][order->stream[step]] - 1;
}

// Are they one step, or of one run?
static bool is_same_event(const Order *order, uint32_t a, uint32_t b)
{
    uint8_t stream = order->stream[a];
    return order->stream[b] == stream && order->clock[a][stream] == order->clock[b][stream];
}

// Is edge `k` of the step implied by the stream's previous step or by another edge?
static bool edge_redundant(const Order *order, const Step *step, const uint32_t *after, uint32_t k, int64_t previous)
{
    uint32_t earlier = after[k];
    if (previous >= 0 && ((uint32_t)previous == earlier || order_before(order, earlier, (uint32_t)previous)))
        return true;
    for (uint32_t other = 0; other < step->after_count; other++)
        if (order_before(order, earlier, after[other]) || (other < k && is_same_event(order, after[other], earlier)))
            return true;
    return false;
}

// Which wait of the plan as written the unrolled step's wait `k` is.
static uint32_t written_wait(const Plan *plan, const Plan *unrolled, const Step *step, uint32_t k)
{
    if (plan == unrolled)
        return step->after_first + k;
    const Step *written = &plan->steps[step->written];
    uint32_t earlier = unrolled->steps[unrolled->after[step->after_first + k]].written, wait = written->after_first;
    while (plan->after[wait] != earlier)
        wait++;
    return wait;
}

// Marks the waits of the plan as written that order something in the unrolled one, whose waits come from them in turn.
static void mark_needed(const Plan *plan, const Plan *unrolled, Arena *scratch, bool *needed)
{
    const Order *order = order_create(unrolled, scratch);
    int64_t previous[STREAM_COUNT] = {-1, -1, -1, -1, -1, -1};
    for (uint32_t i = 0; i < unrolled->step_count; i++) {
        const Step *step = &unrolled->steps[i];
        const uint32_t *after = unrolled->after + step->after_first;
        for (uint32_t k = 0; k < step->after_count; k++)
            if (!edge_redundant(order, step, after, k, previous[order->stream[i]]))
                needed[written_wait(plan, unrolled, step, k)] = true;
        previous[order->stream[i]] = i;
    }
}

uint32_t order_prune_after(Plan *plan)
{
    Arena *scratch = arena_create();
    bool *needed = arena_alloc_array(scratch, (size_t)plan->after_count + 1, sizeof(*needed));
    Laps enough = plan_laps_at_most(plan, UNROLL_ENOUGH);
    mark_needed(plan, plan_unroll_steps(plan, enough, scratch), scratch, needed);
    if (plan->micro_batches > 1) // what flow follows has one: there, less comes before the last execution of a step
        mark_needed(plan, plan_unroll_steps(plan, (Laps){1, 1}, scratch), scratch, needed);
    uint32_t *kept = arena_alloc_array(plan->arena, plan->after_count, sizeof(*kept)), count = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Step *step = &plan->steps[i];
        uint32_t first = count;
        for (uint32_t k = step->after_first; k < step->after_first + step->after_count; k++)
            if (needed[k])
                kept[count++] = plan->after[k];
        step->after_first = first;
        step->after_count = count - first;
    }
    uint32_t dropped = plan->after_count - count;
    plan->after = kept;
    plan->after_count = count;
    arena_destroy(scratch);
    return dropped;
}

// ---- lifetimes ---------------------------------------------------------------------------------

static void lifetime_touch(Lifetime *life, const Order *order, uint32_t step)
{
    Stream stream = (Stream)order->stream[step];
    life->end[stream] = position_of(order, step) + 1;
    for (int s = 0; s < STREAM_COUNT; s++) {
        uint32_t before = count_before(order, step, (Stream)s);
        life->before[s] = life->before[s] < before ? life->before[s] : before;
    }
}

static void lifetime_extend_to_end(Lifetime *life)
{
    memset(life->end, 0xff, sizeof(life->end));
}

// Results of the iteration stay readable after it: all losses, and what the last one was computed from.
static void keep_results(const Plan *plan, const Order *order, Lifetimes *lifetimes)
{
    int64_t last = -1, last_loss = -1;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        last = order->stream[i] == STREAM_COMPUTE ? i : last;
        last_loss = plan->steps[i].op == OP_LOSS ? i : last_loss;
    }
    for (uint32_t i = 0; i < plan->step_count; i++) {
        int32_t loss = plan->steps[i].op == OP_LOSS ? step_buffers(plan, &plan->steps[i]).loss.loss : NONE;
        if (loss != NONE)
            lifetime_extend_to_end(&lifetimes->of[loss]);
        if (i != last_loss && i != last)
            continue;
        const OpInfo *info = op_info((int)plan->steps[i].op);
        const int32_t *operands = step_operands(plan, &plan->steps[i]);
        for (uint32_t k = 0; k < info->operand_count; k++)
            if (operands[k] != NONE)
                lifetime_extend_to_end(&lifetimes->of[operands[k]]);
    }
}

// Does the buffer's life begin and end in the plan? Not what laps before and after this one use, too.
static bool is_temporary(const Plan *plan, uint32_t buffer)
{
    const Buffer *of = &plan->buffers[buffer];
    bool stays = plan->one_lap && (of->span == SPAN_ITERATION || of->span == SPAN_ALL);
    return of->kind == BUFFER_TEMPORARY && !stays;
}

Lifetimes *lifetimes_create(const Plan *plan, const Order *order, Arena *arena)
{
    Lifetimes *lifetimes = arena_alloc(arena, sizeof(*lifetimes));
    lifetimes->of = arena_alloc_array(arena, plan->buffer_count, sizeof(*lifetimes->of));
    bool *touched = arena_alloc_array(arena, plan->buffer_count, sizeof(*touched));
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        memset(lifetimes->of[b].before, 0xff, sizeof(lifetimes->of[b].before));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const int32_t *operands = step_operands(plan, &plan->steps[i]);
        for (uint32_t k = 0; k < op_info((int)plan->steps[i].op)->operand_count; k++) {
            if (operands[k] != NONE) {
                touched[operands[k]] = true;
                lifetime_touch(&lifetimes->of[operands[k]], order, i);
            }
        }
    }
    keep_results(plan, order, lifetimes);
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        if (!is_temporary(plan, b) || !touched[b]) {
            lifetime_extend_to_end(&lifetimes->of[b]);
            memset(lifetimes->of[b].before, 0, sizeof(lifetimes->of[b].before));
        }
    }
    return lifetimes;
}

bool lifetimes_lasts(const Lifetimes *lifetimes, uint32_t buffer)
{
    return lifetimes->of[buffer].end[STREAM_COMPUTE] == UINT32_MAX;
}

Lifetimes *lifetimes_merge(const Lifetimes *lifetimes, const uint32_t *first, uint32_t count, Arena *arena)
{
    Lifetimes *merged = arena_alloc(arena, sizeof(*merged));
    merged->of = arena_alloc_array(arena, count, sizeof(*merged->of));
    for (uint32_t i = 0; i < count; i++) {
        Lifetime *life = &merged->of[i];
        memset(life->before, 0xff, sizeof(life->before));
        for (uint32_t b = first[i]; b < first[i + 1]; b++)
            for (int s = 0; s < STREAM_COUNT; s++) {
                const Lifetime *part = &lifetimes->of[b];
                life->end[s] = life->end[s] > part->end[s] ? life->end[s] : part->end[s];
                life->before[s] = life->before[s] < part->before[s] ? life->before[s] : part->before[s];
            }
    }
    return merged;
}

// ---- in segments -------------------------------------------------------------------------------

typedef uint32_t StreamCounts[STREAM_COUNT];

// [segments]: steps of each stream up to the end of the segment.
static StreamCounts *count_steps(const Plan *plan, const Order *order, uint32_t *segments, Arena *arena)
{
    StreamCounts *counts = arena_alloc_array(arena, (size_t)plan->step_count + 1, sizeof(*counts));
    StreamCounts total = {0};
    *segments = 0;
    for (uint32_t first = 0, end; first < plan->step_count; first = end) {
        end = plan_segment_end(plan, first);
        for (uint32_t i = first; i < end; i++)
            total[order->stream[i]] += !plan->steps[i].joined;
        memcpy(counts[(*segments)++], total, sizeof(total));
    }
    return counts;
}

static bool all_at_most(const StreamCounts a, const StreamCounts b)
{
    bool all = true;
    for (int s = 0; s < STREAM_COUNT; s++)
        all &= a[s] <= b[s];
    return all;
}

static Stay find_stay(const StreamCounts *counts, uint32_t segments, const Lifetime *life)
{
    Stay stay = {0, UINT32_MAX};
    for (uint32_t high = segments; stay.since < high;) {
        uint32_t middle = stay.since + (high - stay.since) / 2;
        if (all_at_most(counts[middle], life->before))
            stay.since = middle + 1;
        else
            high = middle;
    }
    for (uint32_t low = 0, high = segments; low < high;) {
        uint32_t middle = low + (high - low) / 2;
        if (all_at_most(life->end, counts[middle]))
            stay.last = high = middle;
        else
            low = middle + 1;
    }
    return stay;
}

const Stay *lifetimes_stays(const Plan *plan, const Order *order, const Lifetimes *lifetimes, uint32_t buffer_count,
                            Arena *arena)
{
    uint32_t segments;
    const StreamCounts *counts = count_steps(plan, order, &segments, arena);
    Stay *stays = arena_alloc_array(arena, buffer_count, sizeof(*stays));
    for (uint32_t b = 0; b < buffer_count; b++)
        stays[b] = find_stay(counts, segments, &lifetimes->of[b]);
    return stays;
}

// ---- as streams see them -----------------------------------------------------------------------

// First steps, which happen before all others that touch the buffer.
static StreamLife *find_first_steps(const Plan *plan, const Order *order, Arena *arena)
{
    enum { UNKNOWN = -2 };
    StreamLife *lives = arena_alloc_array(arena, plan->buffer_count, sizeof(*lives));
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        lives[b] = (StreamLife){UNKNOWN, NONE};
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const int32_t *operands = step_operands(plan, &plan->steps[i]);
        for (uint32_t k = 0; k < op_info((int)plan->steps[i].op)->operand_count; k++) {
            int64_t *first = operands[k] != NONE ? &lives[operands[k]].first : NULL;
            if (first && *first == UNKNOWN)
                *first = i;
            else if (first && *first >= 0 && *first != i && !order_before(order, (uint32_t)*first, i))
                *first = NONE;
        }
    }
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        lives[b].first = lives[b].first < 0 || !is_temporary(plan, b) ? NONE : lives[b].first;
    return lives;
}

// Does the step happen after all that touch the buffer?
static bool is_after(const Order *order, const Lifetime *life, uint32_t step)
{
    bool after = true;
    for (int s = 0; s < STREAM_COUNT; s++)
        after &= life->end[s] <= count_before(order, step, (Stream)s);
    return after;
}

const StreamLife *lifetimes_by_stream(const Plan *plan, const Order *order, const Lifetimes *lifetimes, Arena *arena)
{
    StreamLife *lives = find_first_steps(plan, order, arena);
    uint32_t *steps[STREAM_COUNT], count[STREAM_COUNT] = {0};
    for (int s = 0; s < STREAM_COUNT; s++)
        steps[s] = arena_alloc_array(arena, plan->step_count, sizeof(**steps));
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (!plan->steps[i].joined)
            steps[order->stream[i]][count[order->stream[i]]++] = i;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        if (lives[b].first == NONE)
            continue;
        Stream stream = (Stream)order->stream[lives[b].first];
        uint32_t low = position_of(order, (uint32_t)lives[b].first), high = count[stream];
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (is_after(order, &lifetimes->of[b], steps[stream][middle]))
                high = middle;
            else
                low = middle + 1;
        }
        if (low < count[stream])
            lives[b].free = steps[stream][low];
    }
    return lives;
}
