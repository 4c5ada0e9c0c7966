// See comm_local.h. A call has two meetings. At the first, members show each other what they send and an event that
// says when it is there; each makes its stream wait for the others' events and enqueues copies from them. At the second
// they show an event that says when those copies are done, so that nobody's memory is written over before.
#include "runtime/comm/comm_local.h"

#include <inttypes.h>
#include <stdlib.h>

#include "runtime/base/cuda_check.h"
#include "runtime/comm/comm_common.h"
#include "runtime/comm/comm_sums.h"

// What a member shows.
typedef struct {
    bool gathers;
    Exchange exchange;
    const void *shard;
    uint64_t bytes;
    cudaEvent_t ready;
} Offer;

typedef struct {
    int threads; // the channel that members meet by
    uint32_t own, members;
    uint64_t *ranks;
    uint32_t *levels; // [members] outermost level at which the member's rank differs
    cudaEvent_t ready, done;
    Offer *offers;            // [members]
    cudaEvent_t *done_events; // [members]
    int32_t *counts;          // [2][members], scratch
} LocalChannel;

typedef struct {
    Comm comm; // first: a Comm * of this kind is a LocalComm *
    ThreadWorld *world;
    Comm *threads;
    LocalChannel *channels;
    uint32_t channel_count;
    CommCounters counters[LEVELS_MAX];
} LocalComm;

// ---- channels --------------------------------------------------------------------------------

static bool channel_create(LocalComm *comm, LocalChannel *channel, const Group *group, Fault *fault)
{
    uint64_t members = group_size(comm->comm.cluster, group);
    channel->members = (uint32_t)members;
    channel->own = (uint32_t)group_index(comm->comm.cluster, group, comm->comm.rank);
    channel->ranks = calloc(members, sizeof(*channel->ranks));
    channel->levels = calloc(members, sizeof(*channel->levels));
    channel->offers = calloc(members, sizeof(*channel->offers));
    channel->done_events = calloc(members, sizeof(*channel->done_events));
    channel->counts = calloc(2 * members, sizeof(*channel->counts));
    if (!channel->ranks || !channel->levels || !channel->offers || !channel->done_events || !channel->counts)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
    for (uint32_t m = 0; m < members; m++) {
        channel->ranks[m] = group_member_rank(comm->comm.cluster, group, comm->comm.rank, m);
        channel->levels[m] = comm_level_between(comm->comm.cluster, comm->comm.rank, channel->ranks[m]);
    }
    return cuda_check(cudaEventCreateWithFlags(&channel->ready, cudaEventDisableTiming), "create an event", fault) &&
           cuda_check(cudaEventCreateWithFlags(&channel->done, cudaEventDisableTiming), "create an event", fault);
}

static int local_open(Comm *base, const Group *group, Stream stream, Fault *fault)
{
    LocalComm *comm = (LocalComm *)base;
    LocalChannel *channels = realloc(comm->channels, (comm->channel_count + 1) * sizeof(*channels));
    if (!channels) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
        return -1;
    }
    comm->channels = channels;
    LocalChannel *channel = &channels[comm->channel_count++];
    *channel = (LocalChannel){.threads = comm->threads->ops->open(comm->threads, group, stream, fault)};
    if (channel->threads < 0 || !channel_create(comm, channel, group, fault))
        return -1;
    return (int)comm->channel_count - 1;
}

static void channel_destroy(LocalChannel *channel)
{
    if (channel->ready)
        cudaEventDestroy(channel->ready);
    if (channel->done)
        cudaEventDestroy(channel->done);
    free(channel->ranks);
    free(channel->levels);
    free(channel->offers);
    free(channel->done_events);
    free(channel->counts);
}

// ---- the two collectives ---------------------------------------------------------------------

// Everybody shows `own`; `all` holds what was shown, in the order of the members.
// Many parameters because they are what is shown, and what for.
static bool meet(const LocalComm *comm, const LocalChannel *channel, const CommCall *call, const void *own, void *all,
                 uint64_t bytes, Fault *fault)
{
    Tensor shown = {.data = (void *)own, .dtype = DTYPE_U8, .rows = 1, .cols = bytes}, // only read
        seen = {.data = all, .dtype = DTYPE_U8, .rows = channel->members, .cols = bytes};
    SumGroup group = {.comm = comm->threads,
                      .channel = channel->threads,
                      .members = channel->members,
                      .own = channel->own,
                      .counts = channel->counts,
                      .call = *call};
    return channel->members == 1 || comm_all_gather(&group, 1, &shown, &seen, fault);
}

static bool first_meeting(const LocalComm *comm, LocalChannel *channel, const Offer *offer, cudaStream_t stream,
                          Fault *fault)
{
    return cuda_check(cudaEventRecord(channel->ready, stream), "record an event", fault) &&
           meet(comm, channel, &offer->exchange.call, offer, channel->offers, sizeof(*offer), fault);
}

static bool second_meeting(const LocalComm *comm, LocalChannel *channel, const CommCall *call, cudaStream_t stream,
                           Fault *fault)
{
    if (!cuda_check(cudaEventRecord(channel->done, stream), "record an event", fault) ||
        !meet(comm, channel, call, &channel->done, channel->done_events, sizeof(channel->done), fault))
        return false;
    for (uint32_t m = 0; m < channel->members; m++)
        if (m != channel->own &&
            !cuda_check(cudaStreamWaitEvent(stream, channel->done_events[m], 0), "order streams", fault))
            return false;
    return true;
}

static bool mismatch(const LocalChannel *channel, uint32_t peer, const char *what, uint64_t own, uint64_t theirs,
                     Fault *fault)
{
    fault_set(fault, FAULT_RUN, "%s differs: %" PRIu64 " here, %" PRIu64 " at rank %" PRIu64, what, own, theirs,
              channel->ranks[peer]);
    fault->peer = (int64_t)channel->ranks[peer];
    return false;
}

// Do both sides speak of the same call?
static bool match(const LocalChannel *channel, const Offer *own, uint32_t peer, Fault *fault)
{
    const Offer *other = &channel->offers[peer];
    if (own->gathers != other->gathers)
        return mismatch(channel, peer, "the kind of collective", own->gathers, other->gathers, fault);
    if (own->gathers)
        return own->bytes == other->bytes ||
               mismatch(channel, peer, "the shard's size", own->bytes, other->bytes, fault);
    if (own->exchange.part_count != other->exchange.part_count)
        return mismatch(channel, peer, "the number of parts", own->exchange.part_count, other->exchange.part_count,
                        fault);
    for (uint32_t p = 0; p < own->exchange.part_count; p++)
        if (own->exchange.parts[p].row_bytes != other->exchange.parts[p].row_bytes)
            return mismatch(channel, peer, "the size of a row", own->exchange.parts[p].row_bytes,
                            other->exchange.parts[p].row_bytes, fault);
    for (uint32_t p = 0; p < own->exchange.part_count; p++)
        if (own->exchange.parts[p].fixed_rows != other->exchange.parts[p].fixed_rows)
            return mismatch(channel, peer, "the number of rows", own->exchange.parts[p].fixed_rows,
                            other->exchange.parts[p].fixed_rows, fault);
    if (comm_is_fixed(&own->exchange))
        return true;
    int32_t here = own->exchange.recv_counts[peer], there = other->exchange.send_counts[channel->own];
    return here == there || mismatch(channel, peer, "the number of rows", (uint64_t)here, (uint64_t)there, fault);
}

static bool copy(void *to, const void *from, uint64_t bytes, cudaStream_t stream, Fault *fault)
{
    return bytes == 0 || cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream),
                                    "enqueue a copy between ranks", fault);
}

static bool take_rows(const LocalChannel *channel, const Exchange *own, uint32_t peer, cudaStream_t stream,
                      Fault *fault)
{
    const Exchange *other = &channel->offers[peer].exchange;
    for (uint32_t p = 0; p < own->part_count; p++) {
        uint64_t bytes = own->parts[p].row_bytes;
        CommRows source = comm_rows_to(other, p, channel->own, peer),
                 target = comm_rows_from(own, p, peer, channel->own);
        if (!copy((char *)own->parts[p].recv + target.first * bytes,
                  (const char *)other->parts[p].send + source.first * bytes, target.count * bytes, stream, fault))
            return false;
    }
    return true;
}

static bool call(LocalComm *comm, LocalChannel *channel, const Offer *offer, void *gathered, cudaStream_t stream,
                 Fault *fault)
{
    if (!first_meeting(comm, channel, offer, stream, fault))
        return false;
    for (uint32_t i = 1; i < channel->members; i++) {
        uint32_t m = (channel->own + i) % channel->members; // so that not all take from one at once
        if (!match(channel, offer, m, fault) ||
            !cuda_check(cudaStreamWaitEvent(stream, channel->offers[m].ready, 0), "order streams", fault))
            return false;
        bool taken = offer->gathers ? copy((char *)gathered + m * offer->bytes, channel->offers[m].shard, offer->bytes,
                                           stream, fault)
                                    : take_rows(channel, &offer->exchange, m, stream, fault);
        if (!taken)
            return false;
    }
    return second_meeting(comm, channel, &offer->exchange.call, stream, fault);
}

static bool local_exchange(Comm *base, int handle, const Exchange *exchange, void *stream, Fault *fault)
{
    LocalComm *comm = (LocalComm *)base;
    LocalChannel *channel = &comm->channels[handle];
    if (!comm_check_receive(exchange, channel->members, channel->own, channel->ranks, fault))
        return false;
    for (uint32_t m = 0; m < channel->members; m++) {
        if (m == channel->own)
            continue;
        if (!comm_check_send(exchange, m, channel->ranks[m], fault))
            return false;
        comm_count_exchange(&comm->counters[channel->levels[m]], exchange, m);
        comm_count_received(&comm->counters[channel->levels[m]], exchange, m);
    }
    return call(comm, channel, &(Offer){.exchange = *exchange, .ready = channel->ready}, NULL, stream, fault);
}

// Many parameters because DeviceCommOps.all_gather has them: those of the host, and a stream.
static bool local_all_gather(Comm *base, int handle, const void *shard, void *gathered, uint64_t bytes, void *stream,
                             Fault *fault)
{
    LocalComm *comm = (LocalComm *)base;
    LocalChannel *channel = &comm->channels[handle];
    char *own = (char *)gathered + channel->own * bytes;
    for (uint32_t m = 0; m < channel->members; m++)
        if (m != channel->own)
            atomic_fetch_add(&comm->counters[channel->levels[m]].gather_bytes, bytes);
    if (own != shard && !copy(own, shard, bytes, stream, fault))
        return false;
    Offer offer = {.gathers = true, .shard = shard, .bytes = bytes, .ready = channel->ready};
    return call(comm, channel, &offer, gathered, stream, fault);
}

// ---- the rest --------------------------------------------------------------------------------

static bool local_poll(Comm *base, Fault *fault)
{
    Fault cause = thread_world_cause(((LocalComm *)base)->world);
    if (cause.kind != FAULT_NONE && fault->kind == FAULT_NONE)
        *fault = cause;
    return cause.kind == FAULT_NONE;
}

static bool local_attach(Comm *base, const DeviceUse *use, Fault *fault)
{
    (void)base, (void)use, (void)fault; // one GPU: every rank reaches all of its memory
    return true;
}

static void local_detach(Comm *base)
{
    (void)base;
}

static bool local_barrier(Comm *base, Fault *fault)
{
    Comm *threads = ((LocalComm *)base)->threads;
    return threads->ops->barrier(threads, fault);
}

static bool local_all_reduce_max(Comm *base, double *values, uint32_t count, Fault *fault)
{
    Comm *threads = ((LocalComm *)base)->threads;
    return threads->ops->all_reduce_max(threads, values, count, fault);
}

static bool local_all_reduce_sum(Comm *base, double *values, uint32_t count, Fault *fault)
{
    Comm *threads = ((LocalComm *)base)->threads;
    return threads->ops->all_reduce_sum(threads, values, count, fault);
}

static void local_watch(Comm *base, const Watch *watch)
{
    Comm *threads = ((LocalComm *)base)->threads;
    threads->ops->watch(threads, watch);
}

static void local_abort(Comm *base, const Fault *cause)
{
    Comm *threads = ((LocalComm *)base)->threads;
    threads->ops->abort(threads, cause);
}

static void local_traffic(Comm *base, CommTraffic totals[LEVELS_MAX], bool reset)
{
    comm_counters_add(((LocalComm *)base)->counters, totals, reset);
}

static void local_count(Comm *base, const CommTraffic moved[LEVELS_MAX])
{
    comm_counters_count(((LocalComm *)base)->counters, moved);
}

// Of the device's copies nothing is known but the times of their steps.
static void local_times(Comm *base, CommTimes *totals, bool reset)
{
    (void)base, (void)totals, (void)reset;
}

static const CommOps local_ops = {
    .communicator = COMMUNICATOR_local,
    .open = local_open,
    .barrier = local_barrier,
    .all_reduce_max = local_all_reduce_max,
    .all_reduce_sum = local_all_reduce_sum,
    .watch = local_watch,
    .abort = local_abort,
    .traffic = local_traffic,
    .times = local_times,
};

static const DeviceCommOps local_device_ops = {
    .exchange = local_exchange,
    .all_gather = local_all_gather,
    .poll = local_poll,
    .count = local_count,
    .attach = local_attach,
    .detach = local_detach,
};

Comm *local_comm_create(ThreadWorld *world, uint64_t rank, Fault *fault)
{
    LocalComm *comm = calloc(1, sizeof(*comm));
    if (!comm) {
        fault_set(fault, FAULT_MEMORY, "out of memory");
        return NULL;
    }
    comm->world = world;
    comm->threads = thread_world_comm(world, rank);
    comm->comm = *comm->threads;
    comm->comm.ops = &local_ops;
    comm->comm.device = &local_device_ops;
    return &comm->comm;
}

void local_comm_destroy(Comm *base)
{
    LocalComm *comm = (LocalComm *)base;
    if (!comm)
        return;
    for (uint32_t c = 0; c < comm->channel_count; c++)
        channel_destroy(&comm->channels[c]);
    free(comm->channels);
    free(comm);
}
