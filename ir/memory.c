// Buffer planning, best fit, largest first where buffers are not too many: see memory.h. Placed temporaries are kept
// sorted by offset, so that one scan finds the free gaps among those a buffer may not share memory with.
#include "ir/memory.h"

#include <stdlib.h>
#include <string.h>

#include "ir/memory_large.h"
#include "ir/order.h"
#include "ir/unroll.h"

// With more temporaries than this, pairs are too many to look at: a fifth of a second.
enum { PAIRED_MAX = 8192 };

typedef struct {
    uint32_t buffer;
    uint64_t begin, end;
} Placed;

// Of two micro-batches of a lap; what may be alive together in any is so in these (docs/ir.md, "Micro-batches").
typedef struct {
    const Lifetimes *lifetimes;
    const uint32_t *values; // plan_first_values
} Lives;

static bool lives_disjoint(const Lives *lives, uint32_t a, uint32_t b)
{
    bool disjoint = true;
    for (uint32_t i = lives->values[a]; i < lives->values[a + 1] && disjoint; i++)
        for (uint32_t j = lives->values[b]; j < lives->values[b + 1] && disjoint; j++)
            disjoint = lifetimes_disjoint(lives->lifetimes, i, j);
    return disjoint;
}

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

static int compare_sizes(const void *a, const void *b)
{
    const Placed *x = a, *y = b;
    if (x->end != y->end)
        return x->end < y->end ? 1 : -1;
    return (x->buffer > y->buffer) - (x->buffer < y->buffer);
}

// The smallest gap from `base` on that holds `bytes`, between buffers that may not share; after
// them all if there is none. `placed` is sorted by offset.
static uint64_t best_fit(const Lives *lives, const Placed *placed, uint32_t count, uint32_t buffer, uint64_t bytes,
                         uint64_t base)
{
    uint64_t best = UINT64_MAX, best_gap = UINT64_MAX, free_from = base;
    for (uint32_t i = 0; i < count; i++) {
        if (placed[i].end <= free_from || lives_disjoint(lives, placed[i].buffer, buffer))
            continue;
        if (placed[i].begin > free_from) {
            uint64_t gap = placed[i].begin - free_from;
            if (gap >= bytes && gap < best_gap) {
                best_gap = gap;
                best = free_from;
            }
        }
        free_from = placed[i].end;
    }
    return best_gap == UINT64_MAX ? free_from : best;
}

static void insert_by_offset(Placed *placed, uint32_t count, Placed item)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (placed[middle].begin <= item.begin)
            low = middle + 1;
        else
            high = middle;
    }
    memmove(placed + low + 1, placed + low, (count - low) * sizeof(*placed));
    placed[low] = item;
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
    Placed *queue = arena_alloc_array(scratch, plan->buffer_count, sizeof(*queue));
    Placed *placed = arena_alloc_array(scratch, plan->buffer_count, sizeof(*placed));
    uint32_t count = 0;
    uint64_t base = place_apart(plan, false);
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        uint64_t bytes;
        if (plan->buffers[b].kind == BUFFER_TEMPORARY && plan_buffer_bytes(plan, &plan->buffers[b], &bytes))
            queue[count++] = (Placed){.buffer = b, .end = bytes};
    }
    if (count * laps_at_most(plan_laps(plan), 2).each > PAIRED_MAX) {
        plan->arena_bytes = place_large(plan, base, scratch);
        return true;
    }
    const Plan *unrolled = plan_unroll_lap(plan, scratch);
    Lives lives = {lifetimes_create(unrolled, order_create(unrolled, scratch), scratch),
                   plan_lap_values(plan, scratch)};
    qsort(queue, count, sizeof(*queue), compare_sizes);
    plan->arena_bytes = base;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bytes = queue[i].end, begin = best_fit(&lives, placed, i, queue[i].buffer, bytes, base);
        plan->buffers[queue[i].buffer].offset = begin;
        insert_by_offset(placed, i, (Placed){.buffer = queue[i].buffer, .begin = begin, .end = begin + bytes});
        plan->arena_bytes = plan->arena_bytes > begin + bytes ? plan->arena_bytes : begin + bytes;
    }
    return true;
}
