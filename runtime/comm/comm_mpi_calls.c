// Channels between processes. A call posts its messages to all peers at once, two chunks of each under way, and
// sleeps in growing steps until they have arrived; nothing is allocated in a call. Counts travel first: where rows
// go depends on the counts of all peers.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_mpi_internal.h"

static const double look_s = 50e-3; // how often a waiting stream looks whom it waits for

// ---- channels --------------------------------------------------------------------------------

static void channel_destroy(Channel *channel)
{
    if (!channel)
        return;
    if (channel->mpi != MPI_COMM_NULL)
        MPI_Comm_free(&channel->mpi);
    free(channel->ranks);
    free(channel->levels);
    free(channel->flows);
    free(channel->requests);
    free(channel->finished);
    free(channel->statuses);
    free(channel->tally.of_peers);
    free(channel->came);
    free(channel);
}

// So small that over links as slow as planned some chunk arrives many times within the time limit, even if all peers
// and all ranks that share the port are served at once.
static uint64_t chunk_bytes(const MpiWorld *world, const Group *group, uint64_t members)
{
    const Cluster *cluster = world->comm.cluster;
    uint32_t level = group->level == NONE ? 0 : (uint32_t)group->level;
    double rate = cluster->levels[level].bandwidth_bytes_per_s;
    for (uint32_t p = 0; level == 0 && p < cluster->port_count; p++)
        rate = fmin(rate, cluster->ports[p].bandwidth_bytes_per_s);
    if (rate <= 0) // not known yet: a calibration finds out
        return world->options.chunk_bytes;
    double at_once = (double)(SLOTS * members * cluster_gpus_below(cluster, level));
    double bytes = fmax(rate * world->options.timeout_s / 16 / at_once, CHUNK_BYTES_MIN);
    return bytes < (double)world->options.chunk_bytes ? (uint64_t)bytes : world->options.chunk_bytes;
}

static Channel *channel_create(const MpiWorld *world, const Group *group, Stream stream)
{
    const Cluster *cluster = world->comm.cluster;
    uint64_t rank = world->comm.rank, members = group_size(cluster, group);
    size_t requests = members * FLOW_KINDS * SLOTS;
    Channel *channel = calloc(1, sizeof(*channel));
    if (!channel)
        return NULL;
    *channel = (Channel){.group = *group, .stream = stream, .mpi = MPI_COMM_NULL, .member_count = (uint32_t)members};
    channel->own = (uint32_t)group_index(cluster, group, rank);
    channel->chunk_bytes = chunk_bytes(world, group, members);
    channel->ranks = calloc(members, sizeof(*channel->ranks));
    channel->levels = calloc(members, sizeof(*channel->levels));
    channel->flows = calloc(members * FLOW_KINDS, sizeof(*channel->flows));
    channel->requests = calloc(requests, sizeof(*channel->requests));
    channel->finished = calloc(requests, sizeof(*channel->finished));
    channel->statuses = calloc(requests, sizeof(*channel->statuses));
    channel->came = calloc(members, sizeof(*channel->came));
    if (!comm_tally_create(&channel->tally, channel->member_count) || !channel->came || !channel->ranks ||
        !channel->levels || !channel->flows || !channel->requests || !channel->finished || !channel->statuses) {
        channel_destroy(channel);
        return NULL;
    }
    for (size_t r = 0; r < requests; r++)
        channel->requests[r] = MPI_REQUEST_NULL;
    for (uint32_t m = 0; m < channel->member_count; m++) {
        channel->ranks[m] = group_member_rank(cluster, group, rank, m);
        channel->levels[m] = comm_level_between(cluster, rank, channel->ranks[m]);
    }
    return channel;
}

// Members make the communicator together; all ranks come here in the same order.
static bool channel_connect(const MpiWorld *world, Channel *channel, Fault *fault)
{
    MPI_Group all, members;
    int *ranks = calloc(channel->member_count, sizeof(*ranks));
    if (!ranks)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
    for (uint32_t m = 0; m < channel->member_count; m++)
        ranks[m] = (int)cluster_process_of_rank(world->comm.cluster, channel->ranks[m]);
    MPI_Comm_group(world->calls, &all);
    MPI_Group_incl(all, (int)channel->member_count, ranks, &members);
    int error = MPI_Comm_create_group(world->calls, members, (int)world->channel_count, &channel->mpi);
    MPI_Group_free(&members);
    MPI_Group_free(&all);
    free(ranks);
    if (!mpi_check(error, "cannot make a communicator of a group", fault))
        return false;
    MPI_Comm_set_errhandler(channel->mpi, MPI_ERRORS_RETURN);
    return true;
}

int mpi_open(Comm *base, const Group *group, Stream stream, Fault *fault)
{
    MpiWorld *world = (MpiWorld *)base;
    Channel **channels = realloc(world->channels, (world->channel_count + 1) * sizeof(*channels));
    if (channels)
        world->channels = channels;
    Channel *channel = channels ? channel_create(world, group, stream) : NULL;
    if (!channel) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
        return -1;
    }
    if (!channel_connect(world, channel, fault)) {
        channel_destroy(channel);
        return -1;
    }
    world->channels[world->channel_count] = channel;
    return (int)world->channel_count++;
}

void mpi_channels_close(MpiWorld *world)
{
    for (uint32_t c = 0; c < world->channel_count; c++)
        channel_destroy(world->channels[c]);
    world->channel_count = 0;
}

// ---- calls -----------------------------------------------------------------------------------

// One member's side of one collective.
typedef struct {
    MpiWorld *world;
    Channel *channel;
    Fault *fault;
} Call;

static bool is_receive(FlowKind kind)
{
    return kind % 2 == 1;
}

// Posts the next chunk of a flow, if any is left.
static bool flow_post(const Call *call, uint32_t member, FlowKind kind, uint32_t slot)
{
    Channel *channel = call->channel;
    uint32_t index = member * FLOW_KINDS + kind;
    Flow *flow = &channel->flows[index];
    if (flow->left == 0)
        return true;
    uint64_t largest = channel->chunk_bytes;
    if (flow->is_first && flow->left > HEAD_FROM_BYTES && largest > HEAD_BYTES)
        largest = HEAD_BYTES;
    flow->is_first = false;
    int bytes = (int)(flow->left < largest ? flow->left : largest), tag = kind / 2;
    MPI_Request *request = &channel->requests[index * SLOTS + slot];
    int error = is_receive(kind) ? MPI_Irecv(flow->at, bytes, MPI_BYTE, (int)member, tag, channel->mpi, request)
                                 : MPI_Isend(flow->at, bytes, MPI_BYTE, (int)member, tag, channel->mpi, request);
    flow->expected[slot] = bytes;
    flow->at += bytes;
    flow->left -= (uint64_t)bytes;
    channel->open[kind]++;
    return mpi_check(error, "cannot post a message", call->fault);
}

static bool flow_begin(const Call *call, uint32_t member, FlowKind kind, const void *at, uint64_t bytes)
{
    Flow *flow = &call->channel->flows[member * FLOW_KINDS + kind];
    *flow = (Flow){.at = (char *)at, .left = bytes, .is_first = true};
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        if (!flow_post(call, member, kind, slot))
            return false;
    }
    return true;
}

static bool call_receives(const Channel *channel)
{
    return channel->open[RECEIVE_COUNT] + channel->open[RECEIVE_ROWS] + channel->open[RECEIVE_RECORDS] +
               channel->open[RECEIVE_FIXED] >
           0;
}

// Who keeps this member waiting: peers with messages under way, those that should send first.
static uint32_t call_awaited(const Channel *channel, uint32_t *others)
{
    uint32_t missing = 0, first = channel->own;
    bool receives = call_receives(channel);
    for (uint32_t m = 0; m < channel->member_count; m++) {
        bool waits = false;
        for (uint32_t r = 0; r < FLOW_KINDS * SLOTS; r++)
            waits = waits || (channel->requests[m * FLOW_KINDS * SLOTS + r] != MPI_REQUEST_NULL &&
                              is_receive(r / SLOTS) == receives);
        if (waits && missing++ == 0)
            first = m;
    }
    *others = missing > 0 ? missing - 1 : 0;
    return first;
}

static bool call_timeout(const Call *call, const Wait *wait)
{
    const Channel *channel = call->channel;
    Fault *fault = call->fault;
    uint64_t peer = channel->ranks[wait->member];
    uint32_t more;
    (void)call_awaited(channel, &more);
    char group[128], others[48] = "";
    comm_describe_group(call->world->comm.cluster, &channel->group, group, sizeof(group));
    if (more > 0)
        snprintf(others, sizeof(others), " (nor did %" PRIu32 " more)", more);
    bool silent = clock_now_s() > wait->heard_s + mpi_silence_s(call->world);
    fault_set(fault, FAULT_RUN, "rank %" PRIu64 " did not %s in %s%s, and for %g s %s", peer,
              call_receives(channel) ? "arrive" : "take its rows", group, others, call->world->options.timeout_s,
              silent ? "nothing was heard of it" : "neither it nor any rank it waits for moved or computed anything");
    fault->peer = (int64_t)peer;
    fault->peer_told = !silent;
    fault->peer_stream = channel->stream;
    fault->peer_at = wait->at;
    fault->peer_for_s = wait->for_s + clock_now_s() - wait->heard_s;
    return false;
}

// Has the time limit passed? Who waits for a peer that answers, but makes no progress, leaves it a little longer to
// whoever waits for the cause.
static bool call_is_late(const Call *call, const Wait *wait, double since_s, double now_s)
{
    double timeout_s = call->world->options.timeout_s;
    bool answers = now_s <= wait->heard_s + mpi_silence_s(call->world);
    return now_s >= fmax(since_s, wait->life_s) + timeout_s + (answers ? fmin(2, timeout_s / 2) : 0);
}

// A message that came short was of another call.
static bool call_check_size(const Call *call, uint32_t member, int expected, MPI_Status *status)
{
    int bytes = 0;
    MPI_Get_count(status, MPI_BYTE, &bytes);
    if (bytes == expected)
        return true;
    char group[128];
    comm_describe_group(call->world->comm.cluster, &call->channel->group, group, sizeof(group));
    fault_set(call->fault, FAULT_RUN,
              "the size of a message differs in %s: %d bytes expected, %d came from rank %" PRIu64, group, expected,
              bytes, call->channel->ranks[member]);
    call->fault->peer = (int64_t)call->channel->ranks[member];
    return false;
}

static void call_came(const Call *call, uint32_t member, double now_s)
{
    Channel *channel = call->channel;
    if (!channel->came[member])
        comm_tally_came(&channel->tally, member, now_s);
    channel->came[member] = true;
    comm_tally_delivered(&channel->tally, member, now_s);
}

static void call_begin(const Call *call)
{
    Channel *channel = call->channel;
    memset(channel->came, 0, channel->member_count * sizeof(*channel->came));
    comm_tally_begin(&channel->tally, channel->own, clock_now_s());
}

static bool call_finish(const Call *call, int request, MPI_Status *status, double now_s)
{
    Channel *channel = call->channel;
    uint32_t index = (uint32_t)request / SLOTS, slot = (uint32_t)request % SLOTS, member = index / FLOW_KINDS;
    FlowKind kind = (FlowKind)(index % FLOW_KINDS);
    channel->open[kind]--;
    if (is_receive(kind))
        call_came(call, member, now_s);
    if (is_receive(kind) && !call_check_size(call, member, channel->flows[index].expected[slot], status))
        return false;
    return flow_post(call, member, kind, slot);
}

// Takes what has arrived; `finished` tells whether anything has.
static bool call_advance(const Call *call, bool *finished)
{
    Channel *channel = call->channel;
    int requests = (int)channel->member_count * FLOW_KINDS * SLOTS, count = 0;
    int error = MPI_Testsome(requests, channel->requests, &count, channel->finished, channel->statuses);
    for (int i = 0; error == MPI_ERR_IN_STATUS && i < count; i++) {
        if (!mpi_check(channel->statuses[i].MPI_ERROR, "a message failed", call->fault))
            return false;
    }
    if (!mpi_check(error, "messages failed", call->fault))
        return false;
    *finished = count != MPI_UNDEFINED && count > 0;
    double now_s = clock_now_s(); // they were found together
    for (int i = 0; *finished && i < count; i++) {
        if (!call_finish(call, channel->finished[i], &channel->statuses[i], now_s))
            return false;
    }
    return true;
}

static bool is_open(const Channel *channel, bool counts_only)
{
    uint32_t open = channel->open[RECEIVE_COUNT];
    for (int kind = 0; !counts_only && kind < FLOW_KINDS; kind++)
        open += kind == RECEIVE_COUNT ? 0 : channel->open[kind];
    return open > 0;
}

static bool call_complete(const Call *call, bool counts_only)
{
    MpiWorld *world = call->world;
    const Channel *channel = call->channel;
    double since_s = clock_now_s(), looked_s = since_s;
    bool named = false;
    atomic_store(&world->progress_s, since_s);
    while (is_open(channel, counts_only)) {
        bool finished;
        if (!call_advance(call, &finished))
            return false;
        double now_s = clock_now_s();
        if (finished) {
            since_s = looked_s = now_s;
            atomic_store(&world->progress_s, now_s);
            continue;
        }
        if (now_s >= looked_s + look_s) {
            if (now_s - looked_s > world->options.timeout_s / 2) // this process was stopped itself
                since_s = now_s;
            looked_s = now_s;
            uint32_t others;
            mpi_wait_for(world, channel->stream, channel, call_awaited(channel, &others));
            named = true;
            Wait wait = mpi_wait_known(world, channel->stream);
            if (call_is_late(call, &wait, since_s, now_s))
                return call_timeout(call, &wait);
        }
        mpi_wait_a_while(since_s);
    }
    if (named)
        mpi_wait_for(world, channel->stream, NULL, 0);
    return true;
}

// The peer that comes `step` after this member: so that not all begin with the same one.
static uint32_t peer_after(const Channel *channel, uint32_t step)
{
    return (channel->own + step) % channel->member_count;
}

static bool exchange_counts(const Call *call, const Exchange *exchange)
{
    for (uint32_t step = 1; step < call->channel->member_count; step++) {
        uint32_t m = peer_after(call->channel, step);
        if (!flow_begin(call, m, RECEIVE_COUNT, &exchange->recv_counts[m], sizeof(int32_t)) ||
            !flow_begin(call, m, SEND_COUNT, &exchange->send_counts[m], sizeof(int32_t)))
            return false;
    }
    return true;
}

// Begins the rows of every part: those to be sent, or those to be received.
static bool exchange_rows(const Call *call, const Exchange *exchange, bool receives)
{
    const Channel *channel = call->channel;
    for (uint32_t step = 1; step < channel->member_count; step++) {
        uint32_t m = peer_after(channel, step);
        for (uint32_t p = 0; p < exchange->part_count; p++) {
            const ExchangePart *part = &exchange->parts[p];
            const char *rows = receives ? part->recv : part->send;
            CommRows range =
                receives ? comm_rows_from(exchange, p, m, channel->own) : comm_rows_to(exchange, p, m, channel->own);
            FlowKind kind = (FlowKind)(SEND_ROWS + 2 * p + receives);
            if (!flow_begin(call, m, kind, rows + range.first * part->row_bytes, range.count * part->row_bytes))
                return false;
        }
    }
    return true;
}

bool mpi_exchange(Comm *base, int handle, const Exchange *exchange, Fault *fault)
{
    MpiWorld *world = (MpiWorld *)base;
    Channel *channel = world->channels[handle];
    Call call = {.world = world, .channel = channel, .fault = fault};
    for (uint32_t m = 0; m < channel->member_count; m++) {
        if (m == channel->own)
            continue;
        if (!comm_check_send(exchange, m, channel->ranks[m], fault))
            return false;
        comm_count_exchange(&world->counters[channel->levels[m]], exchange, m);
    }
    call_begin(&call);
    if (comm_sends_counts(exchange) && !exchange_counts(&call, exchange))
        return false;
    if (!exchange_rows(&call, exchange, false) || !call_complete(&call, true))
        return false;
    if (!comm_check_receive(exchange, channel->member_count, channel->own, channel->ranks, fault) ||
        !exchange_rows(&call, exchange, true) || !call_complete(&call, false))
        return false;
    comm_tally_end(&channel->tally, comm_tally_of(&channel->tally, exchange), clock_now_s());
    for (uint32_t m = 0; m < channel->member_count; m++)
        if (m != channel->own)
            comm_count_received(&world->counters[channel->levels[m]], exchange, m);
    return true;
}
