// See memory_fit.h. A buffer is compared with those alone that are there in the same segments: with the few that pass
// through, segment by segment, and with all that stay long.
#include "ir/memory_fit.h"

#include <stdlib.h>
#include <string.h>

#include "ir/order.h"
#include "ir/unroll.h"

enum { PASSING_MAX = 4 }; // segments that a buffer meets which passes through
enum { BUFFERS_MAX = 1 << 16 };
static const double PAIRS_MAX = 2e7; // that are looked at, for buffers that stay

typedef struct {
    uint32_t buffer;
    uint64_t begin, end;
    Stay stay;
} Item;

typedef struct {
    uint32_t *items, count, capacity;
} List;

typedef struct {
    const Plan *plan;
    const Lifetimes *lifetimes, *of_values;
    const uint32_t *values; // plan_lap_values
    Item *items;            // in the order of their sizes
    uint32_t count;
    uint32_t *placed, placed_count;   // by offset
    uint32_t *staying, staying_count; // of these those that stay
    List *passing;                    // [segments]: those that pass through
    uint32_t *near;                   // [count]: those that pass through where the present one does
    Arena *arena;
} Fit;

// The gap that is searched for, among buffers by offset.
typedef struct {
    uint64_t bytes, free_from, best, best_gap;
} Search;

static bool passes(const Item *item)
{
    return item->stay.last != UINT32_MAX && item->stay.last - item->stay.since < PASSING_MAX;
}

// Where both are of one micro-batch in one segment, those of the other micro-batches may alternate.
static bool is_disjoint(const Fit *fit, const Item *a, const Item *b)
{
    if (a->stay.last < b->stay.since || b->stay.last < a->stay.since ||
        lifetimes_disjoint(fit->lifetimes, a->buffer, b->buffer))
        return true;
    const uint32_t *of_a = &fit->values[a->buffer], *of_b = &fit->values[b->buffer];
    if (a->stay.last != b->stay.last || of_a[1] - of_a[0] == 1 || of_b[1] - of_b[0] == 1)
        return false;
    bool disjoint = true;
    for (uint32_t i = of_a[0]; i < of_a[1] && disjoint; i++)
        for (uint32_t j = of_b[0]; j < of_b[1] && disjoint; j++)
            disjoint = lifetimes_disjoint(fit->of_values, i, j);
    return disjoint;
}

// ---- who is where ------------------------------------------------------------------------------

static void list_add(Arena *arena, List *list, uint32_t item)
{
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? 2 * list->capacity : 16;
        uint32_t *items = arena_alloc_array(arena, capacity, sizeof(*items));
        if (list->count)
            memcpy(items, list->items, list->count * sizeof(*items));
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
}

static void insert_by_offset(const Fit *fit, uint32_t *list, uint32_t *count, uint32_t index)
{
    uint32_t low = 0, high = *count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (fit->items[list[middle]].begin <= fit->items[index].begin)
            low = middle + 1;
        else
            high = middle;
    }
    memmove(list + low + 1, list + low, (*count - low) * sizeof(*list));
    list[low] = index;
    ++*count;
}

static void place(Fit *fit, uint32_t index, uint64_t begin)
{
    Item *item = &fit->items[index];
    item->end = begin + item->end; // its size, until here
    item->begin = begin;
    insert_by_offset(fit, fit->placed, &fit->placed_count, index);
    if (!passes(item))
        insert_by_offset(fit, fit->staying, &fit->staying_count, index);
    for (uint32_t s = item->stay.since; passes(item) && s <= item->stay.last; s++)
        list_add(fit->arena, &fit->passing[s], index);
}

// ---- gaps --------------------------------------------------------------------------------------

static void skip(Search *search, const Item *item)
{
    if (item->begin > search->free_from) {
        uint64_t gap = item->begin - search->free_from;
        if (gap >= search->bytes && gap < search->best_gap) {
            search->best_gap = gap;
            search->best = search->free_from;
        }
    }
    search->free_from = item->end;
}

static void look_at(const Fit *fit, Search *search, const Item *item, uint32_t other)
{
    const Item *placed = &fit->items[other];
    if (placed->end > search->free_from && !is_disjoint(fit, placed, item))
        skip(search, placed);
}

// Those that pass through a segment of the item, each once, by offset. Returns how many.
static uint32_t find_near(Fit *fit, const Item *item)
{
    uint32_t count = 0;
    for (uint32_t s = item->stay.since; s <= item->stay.last; s++) {
        const List *list = &fit->passing[s];
        for (uint32_t i = 0; i < list->count; i++) {
            const Item *other = &fit->items[list->items[i]];
            bool is_first = s == item->stay.since || s == other->stay.since;
            if (is_first && !is_disjoint(fit, other, item))
                insert_by_offset(fit, fit->near, &count, list->items[i]);
        }
    }
    return count;
}

// The smallest gap from `base` on that holds the item, between buffers that it may not share memory with; after them
// all if there is none.
static uint64_t best_fit(Fit *fit, const Item *item, uint64_t base)
{
    Search search = {.bytes = item->end, .free_from = base, .best_gap = UINT64_MAX};
    if (passes(item)) {
        uint32_t near = find_near(fit, item);
        for (uint32_t i = 0, k = 0; i < near || k < fit->staying_count;) {
            bool is_near = k == fit->staying_count ||
                           (i < near && fit->items[fit->near[i]].begin <= fit->items[fit->staying[k]].begin);
            look_at(fit, &search, item, is_near ? fit->near[i++] : fit->staying[k++]);
        }
    } else {
        for (uint32_t i = 0; i < fit->placed_count; i++)
            look_at(fit, &search, item, fit->placed[i]);
    }
    return search.best_gap == UINT64_MAX ? search.free_from : search.best;
}

// ---- all of them -------------------------------------------------------------------------------

static int compare_sizes(const void *a, const void *b)
{
    const Item *x = a, *y = b;
    if (x->end != y->end)
        return x->end < y->end ? 1 : -1;
    return (x->buffer > y->buffer) - (x->buffer < y->buffer);
}

// Largest first. Returns the pairs that are looked at for buffers that stay.
static double list_items(Fit *fit, const Stay *stays)
{
    double staying = 0;
    for (uint32_t b = 0; b < fit->plan->buffer_count; b++) {
        uint64_t bytes;
        if (fit->plan->buffers[b].kind == BUFFER_TEMPORARY &&
            plan_buffer_bytes(fit->plan, &fit->plan->buffers[b], &bytes)) {
            Item *item = &fit->items[fit->count++];
            *item = (Item){.buffer = b, .end = bytes, .stay = stays[b]};
            staying += passes(item) ? 0 : 1;
        }
    }
    qsort(fit->items, fit->count, sizeof(*fit->items), compare_sizes);
    return staying * fit->count;
}

static void allocate(Fit *fit, uint32_t segments)
{
    fit->placed = arena_alloc_array(fit->arena, fit->count, sizeof(*fit->placed));
    fit->staying = arena_alloc_array(fit->arena, fit->count, sizeof(*fit->staying));
    fit->near = arena_alloc_array(fit->arena, fit->count, sizeof(*fit->near));
    fit->passing = arena_alloc_array(fit->arena, (size_t)segments + 1, sizeof(*fit->passing));
}

bool memory_place_best_fit(Plan *plan, uint64_t base, Arena *scratch)
{
    if (plan->buffer_count > BUFFERS_MAX)
        return false;
    const Plan *unrolled = plan_unroll_lap(plan, scratch);
    const Order *order = order_create(unrolled, scratch);
    const Lifetimes *of_values = lifetimes_create(unrolled, order, scratch);
    const uint32_t *values = plan_lap_values(plan, scratch);
    const Lifetimes *lifetimes = lifetimes_merge(of_values, values, plan->buffer_count, scratch);
    Fit fit = {.plan = plan, .lifetimes = lifetimes, .of_values = of_values, .values = values, .arena = scratch};
    fit.items = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*fit.items));
    if (list_items(&fit, lifetimes_stays(unrolled, order, lifetimes, plan->buffer_count, scratch)) > PAIRS_MAX)
        return false;
    allocate(&fit, plan->step_count);
    plan->arena_bytes = base;
    for (uint32_t i = 0; i < fit.count; i++) {
        place(&fit, i, best_fit(&fit, &fit.items[i], base));
        plan->buffers[fit.items[i].buffer].offset = fit.items[i].begin;
        plan->arena_bytes = plan->arena_bytes > fit.items[i].end ? plan->arena_bytes : fit.items[i].end;
    }
    return true;
}
