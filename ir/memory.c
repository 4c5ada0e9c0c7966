// See memory.h.
#include "ir/memory.h"

#include "ir/memory_fit.h"
#include "ir/memory_large.h"
#include "ir/order.h"
#include "ir/unroll.h"

static bool total_bytes(const Plan *plan, uint64_t *total)
{
    *total = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        uint64_t bytes;
        if (!plan_buffer_bytes(plan, &plan->buffers[b], &bytes) || !checked_add(*total, bytes, total) ||
            *total > INT64_MAX)
            return false;
    }
    return true;
}

uint64_t memory_bytes_without_reuse(const Plan *plan)
{
    uint64_t total;
    return total_bytes(plan, &total) ? total : UINT64_MAX;
}

// Buffers that live for the whole iteration, or all of them, one after another in index order. Returns their end.
static uint64_t place_apart(Plan *plan, bool all)
{
    uint64_t end = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        uint64_t bytes;
        if ((all || plan->buffers[b].kind != BUFFER_TEMPORARY) && plan_buffer_bytes(plan, &plan->buffers[b], &bytes)) {
            plan->buffers[b].offset = end;
            end += bytes;
        }
    }
    return end;
}

bool memory_plan_apart(Plan *plan)
{
    uint64_t total;
    if (!total_bytes(plan, &total))
        return false;
    plan->arena_bytes = place_apart(plan, true);
    return true;
}

static uint64_t place_large(Plan *plan, uint64_t base, Arena *scratch)
{
    const Plan *steps = plan_unroll_lap_steps(plan, scratch);
    const Order *order = order_create(steps, scratch);
    return memory_place_in_order(plan, steps, order, lifetimes_create(steps, order, scratch), base, scratch);
}

bool memory_plan(Plan *plan, Arena *scratch)
{
    uint64_t total;
    if (!total_bytes(plan, &total))
        return false;
    uint64_t base = place_apart(plan, false);
    if (!memory_place_best_fit(plan, base, scratch))
        plan->arena_bytes = place_large(plan, base, scratch);
    return true;
}
