// See host_moves.h. Nothing is allocated here.
#include "runtime/engine/host_moves.h"

#include <inttypes.h>

#include "runtime/comm/comm_sums.h"

bool host_move_route(const RouteTable *table, uint64_t row_count, uint32_t fanout, const struct route_tensors *t,
                     Fault *fault)
{
    uint64_t lost = host_route(table, row_count, fanout, t->rows, t->records, t->next_rows, t->next_records,
                               t->send_rows, t->send_records, t->send_counts, t->origin);
    return lost == 0 || fault_set(fault, FAULT_RUN,
                                  "%" PRIu64 " rows do not fit in buffers of %" PRIu64 " and %" PRIu64
                                  " rows: more tokens chose experts of one domain than the plan reserves for",
                                  lost, t->next_rows.rows, t->send_rows.rows);
}

static bool meet(const Meeting *meeting, Exchange *exchange, Fault *fault)
{
    exchange->call = meeting->call;
    return meeting->comm->ops->exchange(meeting->comm, meeting->channel, exchange, fault);
}

bool host_move_dispatch(const Meeting *meeting, const struct dispatch_tensors *t, bool counts_known, Fault *fault)
{
    const MessagePlace *place = &meeting->place;
    const int32_t *send_counts = t->send_counts.data;
    int32_t *next_counts = t->next_counts.data;
    Exchange exchange;
    if (!engine_dispatch_exchange(place, t, send_counts, next_counts, &exchange, fault))
        return false;
    exchange.counts_known = counts_known;
    next_counts[place->own] = send_counts[place->own];
    return meet(meeting, &exchange, fault) && (!place->message_rows || engine_counts_check(place, next_counts, fault));
}

bool host_move_counts(const Meeting *meeting, Tensor send_counts, Tensor next_counts, int32_t *ones, Fault *fault)
{
    const MessagePlace *place = &meeting->place;
    for (uint32_t m = 0; m < place->members; m++)
        ones[m] = 1;
    ((int32_t *)next_counts.data)[place->own] = ((const int32_t *)send_counts.data)[place->own];
    Exchange exchange = engine_counts_exchange(place, send_counts, next_counts, ones);
    return meet(meeting, &exchange, fault);
}

bool host_move_back(const Meeting *meeting, const ReturnTensors *t, Fault *fault)
{
    Exchange exchange = engine_return_exchange(&meeting->place, t, t->next_counts.data, t->send_counts.data);
    return meet(meeting, &exchange, fault);
}

static SumGroup group_of(const Meeting *meeting, const MovedShards *t, void *scratch)
{
    return (SumGroup){.comm = meeting->comm,
                      .channel = meeting->channel,
                      .members = meeting->place.members,
                      .own = meeting->place.own,
                      .counts = t->counts,
                      .scratch = scratch,
                      .call = meeting->call};
}

bool host_move_gather(const Meeting *meeting, const MovedShards *t, Fault *fault)
{
    SumGroup group = group_of(meeting, t, NULL);
    return comm_all_gather(&group, t->count, t->shard, t->gathered, fault);
}

bool host_move_scatter(const Meeting *meeting, const MovedShards *t, void *scratch, Fault *fault)
{
    SumGroup group = group_of(meeting, t, scratch);
    return comm_reduce_scatter(&group, t->count, t->gathered, t->shard, fault);
}
