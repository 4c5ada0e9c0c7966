// See moves.h: what travels, whatever memory it lies in. Nothing is allocated here.
#include "runtime/engine/moves.h"

static bool meet(const Meeting *meeting, Exchange *exchange, Fault *fault)
{
    exchange->call = meeting->call;
    return meeting->ops->exchange(meeting, exchange, fault);
}

bool move_dispatch(const Meeting *meeting, const struct dispatch_tensors *t, MoveCounts counts, Fault *fault)
{
    const MessagePlace *place = &meeting->place;
    bool is_padded = place->message_rows > 0, on_device = meeting->ops->of_device;
    bool unknown = is_padded && on_device; // those of padded messages lie beside the rows
    Exchange exchange;
    if (!engine_dispatch_exchange(place, t, unknown ? NULL : counts.send, unknown ? NULL : counts.next, &exchange,
                                  fault))
        return false;
    exchange.counts_known = counts.known;
    if (!unknown)
        counts.next[place->own] = counts.send[place->own];
    if (!meet(meeting, &exchange, fault))
        return false;
    return !is_padded || on_device || engine_counts_check(place, counts.next, fault);
}

bool move_counts(const Meeting *meeting, Tensor send_counts, Tensor next_counts, int32_t *ones, Fault *fault)
{
    for (uint32_t m = 0; m < meeting->place.members; m++)
        ones[m] = 1;
    Exchange exchange = engine_counts_exchange(&meeting->place, send_counts, next_counts, ones);
    return meet(meeting, &exchange, fault);
}

bool move_back(const Meeting *meeting, const ReturnTensors *t, MoveCounts counts, Fault *fault)
{
    bool unknown = meeting->place.message_rows > 0 && meeting->ops->of_device;
    Exchange exchange =
        engine_return_exchange(&meeting->place, t, unknown ? NULL : counts.next, unknown ? NULL : counts.send);
    return meet(meeting, &exchange, fault);
}

static SumGroup group_of(const Meeting *meeting, int32_t *counts, void *scratch)
{
    return (SumGroup){.comm = meeting->comm,
                      .channel = meeting->channel,
                      .members = meeting->place.members,
                      .own = meeting->place.own,
                      .counts = counts,
                      .scratch = scratch,
                      .call = meeting->call};
}

bool move_gather(const Meeting *meeting, const MovedShards *t, Fault *fault)
{
    SumGroup group = group_of(meeting, t->counts, NULL);
    Exchange exchange = comm_gather_exchange(&group, t->count, t->shard, t->gathered);
    for (uint32_t p = 0; p < t->count; p++) {
        uint64_t bytes = exchange.parts[p].row_bytes;
        char *own = (char *)t->gathered[p].data + group.own * bytes;
        if (own != t->shard[p].data && !meeting->ops->copy(meeting->queue, own, t->shard[p].data, bytes, fault))
            return false;
    }
    return meet(meeting, &exchange, fault);
}

bool move_scatter(const Meeting *meeting, const MovedShards *t, void *scratch, Fault *fault)
{
    SumGroup parts[MOVE_PARTS_MAX];
    parts[0] = group_of(meeting, t->counts, scratch);
    Exchange exchange = comm_shards_exchange(&parts[0], t->gathered[0], t->shard[0]);
    for (uint32_t p = 1; p < t->count; p++) {
        parts[p] = parts[0];
        parts[p].scratch = comm_add_shards(&exchange, parts[0].members, t->gathered[p], t->shard[p]);
    }
    bool ok = meet(meeting, &exchange, fault);
    for (uint32_t p = 0; p < t->count && ok; p++)
        ok = meeting->ops->sum(meeting->queue, &parts[p],
                               comm_own_shard(t->gathered[p], t->shard[p], meeting->place.own), t->shard[p], fault);
    return ok;
}

bool move_sum(const Meeting *meeting, Tensor tensor, int32_t *counts, void *scratch, Fault *fault)
{
    SumGroup group = group_of(meeting, counts, scratch);
    Exchange parts, sums;
    Tensor own;
    if (!comm_parts_exchange(&group, tensor, &own, &parts, fault) || !meet(meeting, &parts, fault) ||
        !meeting->ops->sum(meeting->queue, &group, own, own, fault))
        return false;
    sums = comm_sums_exchange(&group, tensor, own);
    return meet(meeting, &sums, fault);
}
