// The verifier's property of memory where buffers meet: those that share a byte are never alive together. "Never alive
// together" is transitive in the order of steps, so that of all that ever hold a byte each need only be compared with
// the one before it. Buffers are followed in the order of their first steps, over a tree of who holds what, which
// takes time near-linear in the number of buffers.
#include <stdlib.h>

#include "ir/verify/verify_parts.h"

enum { SEVERAL = -2 };

typedef struct {
    Verifier *verifier;
    const Lifetimes *lifetimes;
    int32_t *holder;   // of all cells below a node of the tree: a buffer, NONE, or SEVERAL
    int64_t *reported; // [buffers] with which one each was found to overlap last
} Space;

// Cells are the stretches between the places where buffers begin and end.
typedef struct {
    uint32_t buffer, begin, end;
} Claim;

static void report_overlap(Space *space, uint32_t a, uint32_t b)
{
    const Buffer *buffers = space->verifier->plan->buffers;
    if (space->reported[b] == (int64_t)a)
        return;
    space->reported[b] = a;
    bool a_first = buffers[a].offset != buffers[b].offset ? buffers[a].offset < buffers[b].offset : a < b;
    verify_fail(space->verifier, PROPERTY_MEMORY, NONE, "'%s' and '%s' overlap and may be alive together",
                buffers[a_first ? a : b].name, buffers[a_first ? b : a].name);
}

// The buffer takes its cells among `first` to `end`, which are those of `node`, from who holds them.
static void take_cells(Space *space, uint32_t node, uint32_t first, uint32_t end, const Claim *claim)
{
    if (claim->end <= first || end <= claim->begin)
        return;
    int32_t *holder = &space->holder[node];
    if (claim->begin <= first && end <= claim->end && *holder != SEVERAL) {
        if (*holder != NONE && !lifetimes_disjoint(space->lifetimes, (uint32_t)*holder, claim->buffer))
            report_overlap(space, (uint32_t)*holder, claim->buffer);
        *holder = (int32_t)claim->buffer;
        return;
    }
    int32_t *halves = &space->holder[2 * (size_t)node];
    if (*holder != SEVERAL)
        halves[0] = halves[1] = *holder;
    uint32_t middle = first + (end - first) / 2;
    take_cells(space, 2 * node, first, middle, claim);
    take_cells(space, 2 * node + 1, middle, end, claim);
    *holder = halves[0] == halves[1] ? halves[0] : SEVERAL;
}

static int compare_places(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint32_t find_place(const uint64_t *places, uint32_t count, uint64_t place)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (places[middle] < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Where buffers begin and end, ascending, each once. Returns how many.
static uint32_t list_places(const Plan *plan, uint64_t *places)
{
    uint32_t count = 0, kept = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        places[count++] = plan->buffers[b].offset;
        places[count++] = plan->buffers[b].offset + buffer_bytes(&plan->buffers[b]);
    }
    if (count)
        qsort(places, count, sizeof(*places), compare_places);
    for (uint32_t i = 0; i < count; i++)
        if (i == 0 || places[i] != places[i - 1])
            places[kept++] = places[i];
    return kept;
}

// The buffers in the order of their first steps: who is never alive together with a later one comes before it.
static uint32_t *order_by_first_step(const Plan *plan, Arena *scratch)
{
    uint32_t *order = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*order)), count = 0;
    bool *known = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*known));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const int32_t *operands = step_operands(plan, &plan->steps[i]);
        for (uint32_t k = 0; k < step_info(&plan->steps[i])->operand_count; k++) {
            if (operands[k] == NONE || known[operands[k]])
                continue;
            known[operands[k]] = true;
            order[count++] = (uint32_t)operands[k];
        }
    }
    for (uint32_t b = 0; b < plan->buffer_count; b++) // lives throughout, like all that no step touches
        if (!known[b])
            order[count++] = b;
    return order;
}

void verify_overlaps(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    Arena *scratch = verifier->scratch;
    uint64_t *places = arena_alloc_array(scratch, 2 * (size_t)plan->buffer_count + 1, sizeof(*places));
    uint32_t place_count = list_places(plan, places);
    if (place_count < 2)
        return;
    Space space = {.verifier = verifier,
                   .lifetimes = lifetimes_create(plan, verifier->order, scratch),
                   .holder = arena_alloc_array(scratch, 4 * (size_t)place_count, sizeof(*space.holder)),
                   .reported = arena_alloc_array(scratch, plan->buffer_count, sizeof(*space.reported))};
    for (size_t i = 0; i < 4 * (size_t)place_count; i++)
        space.holder[i] = NONE;
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        space.reported[b] = NONE;
    const uint32_t *order = order_by_first_step(plan, scratch);
    for (uint32_t i = 0; i < plan->buffer_count; i++) {
        const Buffer *buffer = &plan->buffers[order[i]];
        uint64_t bytes = buffer_bytes(buffer);
        Claim claim = {.buffer = order[i],
                       .begin = find_place(places, place_count, buffer->offset),
                       .end = find_place(places, place_count, buffer->offset + bytes)};
        if (bytes)
            take_cells(&space, 1, 0, place_count - 1, &claim);
    }
}
