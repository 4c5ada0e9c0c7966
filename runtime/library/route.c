// What the directions along a route have in common: where they meet, what travels, counts and records of its stages.
#include "runtime/library/route.h"

static Tensor tensor_of(void *data, Dtype dtype, uint64_t rows, uint64_t cols)
{
    return (Tensor){.data = data, .dtype = dtype, .rows = rows, .cols = cols};
}

bool route_packs(const hep_route *route, TokenWay way)
{
    return route->hop_count > 0 && route->context->plan->tokens[way] != TOKENS_FULL;
}

Tensor route_travelling(const hep_route *route, TokenWay way, uint64_t rows)
{
    const ModelDims *model = &route->context->plan->model;
    TokenFormat format = route->context->plan->tokens[way];
    return route_packs(route, way)
               ? tensor_of(NULL, DTYPE_U8, rows, token_row_bytes(format, model->hidden, model->dtype))
               : tensor_of(NULL, model->dtype, rows, model->hidden);
}

bool route_enter(hep_route *route, void *stream, hep_status *status)
{
    Fault fault = {0};
    if (library_given(route, "route", &fault))
        return context_enter_on(route->context, stream, status);
    *status = library_end(&fault);
    return false;
}

Meeting route_meeting(const hep_route *route, uint32_t hop, CallPurpose purpose)
{
    Meeting meeting = route->of->hops[hop].meeting;
    meeting.call = (CommCall){.purpose = purpose, .layer = route->layer, .pass = (int32_t)hop};
    meeting.queue = route->context->caller_lane.queue;
    return meeting;
}

bool route_blame(const hep_route *route, uint32_t hop, const Meeting *meeting, bool ok, Fault *fault)
{
    return context_blame(route->context, &meeting->call, route->of->hops[hop].level, ok, fault);
}

const Record *route_records_seen(hep_route *route, uint32_t stage, MoveQueue *queue, Fault *fault)
{
    Stage *of = &route->stages[stage];
    if (!route->context->device)
        return of->records.data;
    uint64_t bytes = of->record_rows * route->per_row * sizeof(Record);
    if (!of->seen) {
        Record *seen = store_take(route->host_store, bytes, fault);
        if (seen && route->context->moves->bring(queue, seen, of->records.data, bytes, fault))
            of->seen = seen;
        else
            store_give(route->host_store, seen);
    }
    return of->seen;
}

Tensor route_counts(const hep_route *route, uint32_t stage, bool next)
{
    uint32_t members = route->of->hops[stage].table.members;
    return tensor_of(route->stages[stage].moved_counts + (next ? members : 0), DTYPE_I32, members, 1);
}

// One more, as there may be none.
Tensor route_origin(const Stage *stage)
{
    return tensor_of(stage->origin, DTYPE_I32, stage->own + stage->sent + 1, 1);
}

bool route_clear_padding(const hep_route *route, Tensor rows, Fault *fault)
{
    const hep_context *context = route->context;
    const Record *records = route->stages[route->hop_count].records.data;
    return route->hop_count == 0 || !route->of->hops[0].table.place_rows ||
           context->moves->clear_padding(context->caller_lane.queue, records, route->per_row, rows, fault);
}

uint64_t route_rows(const hep_route *route)
{
    return route->expanded ? route->pair_count : route->stages[route->hop_count].record_rows;
}
