// Routes whose rows are expanded: one for each expert that a row meets here, ordered by expert. Local copies and
// sums; what travels is as without.
#include <stdlib.h>

#include "runtime/library/route.h"

static int32_t slot_of(const hep_route *route, const Record *record)
{
    return record->expert >= 0 ? route->of->map->slot_of_expert[record->expert] : -1;
}

// To where rows lie.
static bool move_pairs(hep_route *route, Fault *fault)
{
    const hep_context *context = route->context;
    int32_t count = (int32_t)route->pair_count;
    route->moved_pair_count = store_take(route->store, sizeof(count), fault);
    route->moved_pairs = route->pairs;
    if (!route->moved_pair_count ||
        !context->moves->put(context->caller_lane.queue, route->moved_pair_count, &count, sizeof(count), fault))
        return false;
    if (!context->device)
        return true;
    uint64_t bytes = route->pair_count * sizeof(*route->pairs);
    route->moved_pairs = store_take(route->store, bytes + sizeof(*route->pairs), fault);
    return route->moved_pairs &&
           context->moves->put(context->caller_lane.queue, route->moved_pairs, route->pairs, bytes, fault);
}

// A counting sort: records in their order, by slot.
bool route_order_pairs(hep_route *route, Fault *fault)
{
    const Stage *end = &route->stages[route->hop_count];
    uint64_t records = end->record_rows * route->per_row, held = route->of->shares.block_experts;
    const Record *all = route_records_seen(route, route->hop_count, route->context->caller_lane.queue, fault);
    if (!all)
        return false;
    uint32_t *places = calloc(held + 1, sizeof(*places));
    if (!places)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a route");
    for (uint64_t i = 0; i < records; i++)
        if (slot_of(route, &all[i]) >= 0)
            places[slot_of(route, &all[i]) + 1]++;
    for (uint64_t e = 0; e < held; e++)
        places[e + 1] += places[e];
    route->pair_count = places[held];
    route->pairs = store_take(route->host_store, (route->pair_count + 1) * sizeof(*route->pairs), fault);
    for (uint64_t i = 0; i < records && route->pairs; i++)
        if (slot_of(route, &all[i]) >= 0)
            route->pairs[places[slot_of(route, &all[i])]++] = (uint32_t)i;
    free(places);
    return route->pairs && move_pairs(route, fault);
}

static MovePairs pairs_of(const hep_route *route)
{
    return (MovePairs){.order = route->moved_pairs,
                       .count_here = route->moved_pair_count,
                       .count = route->pair_count,
                       .rows = route->stages[route->hop_count].record_rows,
                       .per_row = route->per_row};
}

bool route_spread_rows(const hep_route *route, Tensor rows, Tensor expanded, Fault *fault)
{
    const hep_context *context = route->context;
    MovePairs pairs = pairs_of(route);
    return context->moves->spread_pairs(context->caller_lane.queue, &pairs, rows, expanded, fault);
}

static bool fold(const hep_route *route, const struct route_backward_tensors *t, Fault *fault)
{
    const hep_context *context = route->context;
    MovePairs pairs = pairs_of(route);
    Tensor work = {.dtype = DTYPE_F32, .rows = context->device ? 0 : t->drows.rows, .cols = MOVE_FOLD_COLUMNS};
    work.data = store_take(route->host_store, work.rows * work.cols * sizeof(float), fault);
    bool ok = work.data && context->moves->fold_pairs(context->caller_lane.queue, &pairs, t, work, fault);
    store_give(route->host_store, work.data);
    return ok;
}

bool route_fold_rows(const hep_route *route, Tensor expanded, Tensor rows, Fault *fault)
{
    return fold(route, &(struct route_backward_tensors){.drows_next = expanded, .drows = rows}, fault);
}

bool route_fold_gradients(const hep_route *route, Gradients expanded, Gradients folded, Fault *fault)
{
    struct route_backward_tensors t = {.drows_next = expanded.rows,
                                       .drecords_next = expanded.records,
                                       .drows = folded.rows,
                                       .drecords = folded.records};
    return fold(route, &t, fault);
}
