// See engine_exchange.h.
#include "runtime/engine/engine_exchange.h"

#include <assert.h>
#include <inttypes.h>

#include "ir/exchange.h"

MessagePlace engine_group_place(const Plan *plan, const Group *group, uint64_t rank)
{
    return (MessagePlace){.own = (uint32_t)group_index(&plan->cluster, group, rank),
                          .members = (uint32_t)group_size(&plan->cluster, group)};
}

MessagePlace engine_step_place(const Plan *plan, const Step *step, uint64_t rank)
{
    MessagePlace place = engine_group_place(plan, &plan->groups[step->group], rank);
    place.message_rows = plan_message_rows(plan, step);
    return place;
}

static uint64_t row_bytes(Tensor tensor)
{
    return tensor.cols * dtype_bytes(tensor.dtype);
}

static void *row_at(Tensor tensor, uint64_t row)
{
    return (char *)tensor.data + row * row_bytes(tensor);
}

// `from` and `to` lie where the rows of others begin.
static void add_part(const MessagePlace *place, Exchange *exchange, const void *from, void *to, uint64_t bytes)
{
    exchange->parts[exchange->part_count++] =
        (ExchangePart){.send = from, .recv = to, .row_bytes = bytes, .fixed_rows = place->message_rows};
}

// Rows that lie before those of others: the own ones, or their place.
static uint64_t own_rows(const MessagePlace *place, const int32_t *counts)
{
    return place->message_rows ? place->message_rows : (uint64_t)counts[place->own];
}

bool engine_dispatch_exchange(const MessagePlace *place, const struct dispatch_tensors *t, const int32_t *send_counts,
                              int32_t *recv_counts, Exchange *exchange, Fault *fault)
{
    uint64_t own = own_rows(place, send_counts);
    if (own > t->next_rows.rows) // a negative count, too
        return fault_set(fault, FAULT_RUN,
                         "%" PRId64 " rows of this rank do not fit in a buffer of %" PRIu64
                         ": more tokens chose its experts than the plan reserves for",
                         (int64_t)own, t->next_rows.rows);
    *exchange = (Exchange){.send_counts = send_counts,
                           .recv_counts = recv_counts,
                           .recv_capacity = t->next_rows.rows - own,
                           .dispatches = true};
    add_part(place, exchange, t->send_rows.data, row_at(t->next_rows, own), row_bytes(t->send_rows));
    if (t->send_records.data)
        add_part(place, exchange, t->send_records.data, row_at(t->next_records, own), row_bytes(t->send_records));
    if (place->message_rows)
        exchange->parts[exchange->part_count++] = (ExchangePart){.send = t->send_counts.data,
                                                                 .recv = t->next_counts.data,
                                                                 .row_bytes = sizeof(int32_t),
                                                                 .fixed_rows = 1,
                                                                 .own_place = true};
    return true;
}

ReturnTensors engine_return_tensors(Op op, const StepTensors *operands)
{
    if (op == OP_COMBINE) {
        const struct combine_tensors *t = &operands->combine;
        return (ReturnTensors){1, {t->results}, {t->returned}, t->next_counts, t->send_counts};
    }
    assert(op == OP_COMBINE_BACKWARD);
    const struct combine_backward_tensors *t = &operands->combine_backward;
    return (ReturnTensors){
        2, {t->drows, t->drecords}, {t->returned, t->returned_records}, t->next_counts, t->send_counts};
}

Exchange engine_return_exchange(const MessagePlace *place, const ReturnTensors *t, const int32_t *send_counts,
                                int32_t *recv_counts)
{
    Exchange exchange = {
        .send_counts = send_counts, .recv_counts = recv_counts, .counts_known = true, .recv_capacity = t->to[0].rows};
    uint64_t own = own_rows(place, send_counts);
    for (uint32_t p = 0; p < t->part_count; p++)
        add_part(place, &exchange, row_at(t->from[p], own), t->to[p].data, row_bytes(t->from[p]));
    return exchange;
}

Exchange engine_counts_exchange(const MessagePlace *place, Tensor send_counts, Tensor next_counts, int32_t *ones)
{
    return (Exchange){.part_count = 1,
                      .parts = {{.send = send_counts.data, .recv = next_counts.data, .row_bytes = sizeof(int32_t)}},
                      .send_layout = ROWS_ALL,
                      .recv_layout = ROWS_ALL,
                      .send_counts = ones,
                      .recv_counts = ones,
                      .counts_known = true,
                      .recv_capacity = place->members,
                      .carries = CARRIES_COUNTS};
}

bool engine_counts_check(const MessagePlace *place, const int32_t *counts, Fault *fault)
{
    for (uint32_t m = 0; m < place->members; m++)
        if (counts[m] < 0 || (uint64_t)counts[m] > place->message_rows)
            return fault_set(fault, FAULT_RUN, "%" PRId32 " rows came in a message of %" PRIu64, counts[m],
                             place->message_rows);
    return true;
}

uint64_t engine_padding_rows(const MessagePlace *place, const int32_t *counts)
{
    uint64_t rows = 0;
    for (uint32_t m = 0; m < place->members; m++)
        rows += m == place->own ? 0 : place->message_rows - (uint64_t)counts[m];
    return rows;
}

ExchangePart engine_shard_part(Tensor shard, Tensor gathered)
{
    return (ExchangePart){.send = shard.data,
                          .recv = gathered.data,
                          .row_bytes = shard.rows * shard.cols * dtype_bytes(shard.dtype),
                          .fixed_rows = 1,
                          .own_place = true};
}

Exchange engine_packet_exchange(Tensor packets, Tensor received, uint32_t members, int32_t *counts)
{
    for (uint32_t m = 0; m < 2 * members; m++)
        counts[m] = (int32_t)(packets.rows / members);
    return (Exchange){.part_count = 1,
                      .parts = {{.send = packets.data, .recv = received.data, .row_bytes = packets.cols}},
                      .send_layout = ROWS_ALL,
                      .recv_layout = ROWS_ALL,
                      .send_counts = counts,
                      .recv_counts = counts + members,
                      .counts_known = true,
                      .recv_capacity = received.rows,
                      .carries = CARRIES_SUMS};
}
