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
    uint32_t buffer, first_value, end_value; // plan_lap_values
    Stay stay;
    Lifetime life; // of all values; a copy, for pairs of items are all that is looked at
    uint64_t begin, end;
} Item;

// What most pairs are told apart by, side by side.
typedef struct {
    uint64_t begin, end;
    Stay stay;
    uint32_t item;
} Placed;

// By offset.
typedef struct {
    Placed *items;
    uint32_t count, capacity;
} List;

typedef struct {
    const Plan *plan;
    const Lifetimes *of_values;
    Item *items; // in the order of their sizes
    uint32_t count;
    List placed, staying; // all, and of these those that stay
    List *passing;        // [segments]: those that pass through
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

static bool values_are_disjoint(const Fit *fit, const Item *a, const Item *b)
{
    for (uint32_t i = a->first_value; i < a->end_value; i++)
        for (uint32_t j = b->first_value; j < b->end_value; j++)
            if (!lifetimes_disjoint(fit->of_values, i, j))
                return false;
    return true;
}

static bool stays_disjoint(const Stay *a, const Stay *b)
{
    return a->last < b->since || b->last < a->since;
}

// Where both are of one micro-batch in one segment, those of the other micro-batches may alternate.
static bool lives_are_disjoint(const Fit *fit, const Item *a, const Item *b)
{
    if (lives_disjoint(&a->life, &b->life))
        return true;
    return a->stay.last == b->stay.last && a->end_value - a->first_value > 1 && b->end_value - b->first_value > 1 &&
           values_are_disjoint(fit, a, b);
}

// ---- who is where ------------------------------------------------------------------------------

static void list_insert(Arena *arena, List *list, Placed placed)
{
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? 2 * list->capacity : 16;
        Placed *items = arena_alloc_array(arena, capacity, sizeof(*items));
        if (list->count)
            memcpy(items, list->items, list->count * sizeof(*items));
        list->items = items;
        list->capacity = capacity;
    }
    uint32_t low = 0, high = list->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (list->items[middle].begin <= placed.begin)
            low = middle + 1;
        else
            high = middle;
    }
    memmove(list->items + low + 1, list->items + low, (list->count - low) * sizeof(*list->items));
    list->items[low] = placed;
    list->count++;
}

static void place(Fit *fit, uint32_t index, uint64_t begin)
{
    Item *item = &fit->items[index];
    item->end = begin + item->end; // its size, until here
    item->begin = begin;
    const Placed placed = {begin, item->end, item->stay, index};
    list_insert(fit->arena, &fit->placed, placed);
    if (!passes(item))
        list_insert(fit->arena, &fit->staying, placed);
    for (uint32_t s = item->stay.since; passes(item) && s <= item->stay.last; s++)
        list_insert(fit->arena, &fit->passing[s], placed);
}

// ---- gaps --------------------------------------------------------------------------------------

static void skip(Search *search, const Placed *placed)
{
    if (placed->begin > search->free_from) {
        uint64_t gap = placed->begin - search->free_from;
        if (gap >= search->bytes && gap < search->best_gap) {
            search->best_gap = gap;
            search->best = search->free_from;
        }
    }
    search->free_from = placed->end;
}

static void look_at(const Fit *fit, Search *search, const Item *item, const Placed *placed)
{
    if (placed->end > search->free_from && !stays_disjoint(&placed->stay, &item->stay) &&
        !lives_are_disjoint(fit, &fit->items[placed->item], item))
        skip(search, placed);
}

// What is left of a list.
typedef struct {
    const Placed *next, *end;
} Rest;

static uint32_t add_rest(Rest *rests, uint32_t count, const List *list)
{
    if (list->count > 0)
        rests[count++] = (Rest){list->items, list->items + list->count};
    return count;
}

// Lists that hold whatever the item may meet, some of it more than once.
static uint32_t find_lists(const Fit *fit, const Item *item, Rest rests[PASSING_MAX + 1])
{
    uint32_t count = 0;
    if (!passes(item))
        return add_rest(rests, count, &fit->placed);
    count = add_rest(rests, count, &fit->staying);
    for (uint32_t s = item->stay.since; s <= item->stay.last; s++)
        count = add_rest(rests, count, &fit->passing[s]);
    return count;
}

// The smallest gap from `base` on that holds the item, between buffers that it may not share memory with; after them
// all if there is none.
static uint64_t best_fit(const Fit *fit, const Item *item, uint64_t base)
{
    Search search = {.bytes = item->end, .free_from = base, .best_gap = UINT64_MAX};
    Rest rests[PASSING_MAX + 1];
    for (uint32_t count = find_lists(fit, item, rests); count > 0 && search.best_gap > search.bytes;) {
        uint32_t first = 0;
        for (uint32_t i = 1; i < count; i++)
            first = rests[i].next->begin < rests[first].next->begin ? i : first;
        look_at(fit, &search, item, rests[first].next);
        if (++rests[first].next == rests[first].end)
            rests[first] = rests[--count];
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
static double list_items(Fit *fit, const Stay *stays, const Lifetimes *lifetimes, const uint32_t *values)
{
    double staying = 0;
    for (uint32_t b = 0; b < fit->plan->buffer_count; b++) {
        uint64_t bytes;
        if (fit->plan->buffers[b].kind == BUFFER_TEMPORARY &&
            plan_buffer_bytes(fit->plan, &fit->plan->buffers[b], &bytes)) {
            Item *item = &fit->items[fit->count++];
            *item = (Item){b, values[b], values[b + 1], stays[b], lifetimes->of[b], .end = bytes};
            staying += passes(item) ? 0 : 1;
        }
    }
    qsort(fit->items, fit->count, sizeof(*fit->items), compare_sizes);
    return staying * fit->count;
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
    const Stay *stays = lifetimes_stays(unrolled, order, lifetimes, plan->buffer_count, scratch);
    Fit fit = {.plan = plan, .of_values = of_values, .arena = scratch};
    fit.items = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*fit.items));
    if (list_items(&fit, stays, lifetimes, values) > PAIRS_MAX)
        return false;
    fit.passing = arena_alloc_array(scratch, (size_t)plan->step_count + 1, sizeof(*fit.passing));
    plan->arena_bytes = base;
    for (uint32_t i = 0; i < fit.count; i++) {
        place(&fit, i, best_fit(&fit, &fit.items[i], base));
        plan->buffers[fit.items[i].buffer].offset = fit.items[i].begin;
        plan->arena_bytes = plan->arena_bytes > fit.items[i].end ? plan->arena_bytes : fit.items[i].end;
    }
    return true;
}
