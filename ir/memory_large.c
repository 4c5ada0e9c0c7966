// See memory_large.h. Every stream has a pool of its own. What a stream writes first takes the smallest gap in it that
// is large enough; it is free again at the stream's first step that happens after all that touch it.
#include "ir/memory_large.h"

#include "ir/gaps.h"
#include "ir/unroll.h"

typedef struct {
    Gaps *gaps;
    uint64_t end;
} Pool;

static uint64_t size_of(const Plan *plan, uint32_t buffer)
{
    uint64_t bytes;
    return plan_buffer_bytes(plan, &plan->buffers[buffer], &bytes) ? bytes : 0;
}

static uint64_t pool_take(Pool *pool, uint64_t bytes)
{
    uint64_t begin;
    if (gaps_take(pool->gaps, bytes, &begin))
        return begin;
    if (!gaps_take_last(pool->gaps, pool->end, &begin)) // too small, but can grow
        begin = pool->end;
    pool->end = begin + bytes;
    return begin;
}

// Lists of buffers by step, as the first of each and the next of every buffer.
typedef struct {
    int64_t *first, *next;
} ByStep;

static ByStep by_step_create(const Plan *plan, Arena *arena)
{
    ByStep lists = {arena_alloc_array(arena, plan->step_count, sizeof(int64_t)),
                    arena_alloc_array(arena, plan->buffer_count, sizeof(int64_t))};
    for (uint32_t i = 0; i < plan->step_count; i++)
        lists.first[i] = NONE;
    return lists;
}

static void by_step_add(ByStep *lists, int64_t step, uint32_t buffer)
{
    if (step == NONE)
        return;
    lists->next[buffer] = lists->first[step];
    lists->first[step] = buffer;
}

uint64_t memory_place_in_order(Plan *plan, const Plan *steps, const Order *order, const Lifetimes *lifetimes,
                               uint64_t base, Arena *scratch)
{
    const StreamLife *lives = lifetimes_by_stream(steps, order, lifetimes, scratch);
    ByStep begin = by_step_create(steps, scratch), free = by_step_create(steps, scratch);
    for (uint32_t b = plan->buffer_count; b-- > 0;) { // so that lists are in the order of buffers
        by_step_add(&begin, lives[b].first, b);
        by_step_add(&free, lives[b].free, b);
    }
    Pool pools[STREAM_COUNT] = {0};
    for (int s = 0; s < STREAM_COUNT; s++)
        pools[s].gaps = gaps_create(scratch);
    for (uint32_t i = 0; i < steps->step_count; i++) {
        Pool *pool = &pools[step_stream(steps, &steps->steps[i])];
        for (int64_t b = free.first[i]; b != NONE; b = free.next[b]) {
            uint64_t offset = plan->buffers[b].offset, bytes = size_of(plan, (uint32_t)b);
            if (bytes)
                gaps_add(pool->gaps, (Gap){offset, offset + bytes});
        }
        for (int64_t b = begin.first[i]; b != NONE; b = begin.next[b])
            plan->buffers[b].offset = pool_take(pool, size_of(plan, (uint32_t)b));
    }
    uint64_t pool_base[STREAM_COUNT], end = base;
    for (int s = 0; s < STREAM_COUNT; s++) {
        pool_base[s] = end;
        end += pools[s].end;
    }
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        if (plan->buffers[b].kind != BUFFER_TEMPORARY)
            continue;
        if (lives[b].first != NONE) {
            plan->buffers[b].offset += pool_base[step_stream(steps, &steps->steps[lives[b].first])];
        } else { // nobody says when it is free
            plan->buffers[b].offset = end;
            end += size_of(plan, b);
        }
    }
    return end;
}
