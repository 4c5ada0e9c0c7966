// Channels between processes. A call posts its messages to all peers at once, two chunks of each under way, and
// sleeps in growing steps until they have arrived; nothing is allocated in a call. Counts travel first: where rows
// go depends on the counts of all peers.
//
// A fault goes to rank 0, which reports the first one and ends all processes. In every process a thread listens:
// rank 0's for faults, each one's for signs of life of the rank before it, so that a stopped process is noticed
// wherever the others wait.
#include "runtime/comm_mpi.h"

#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/clock.h"
#include "runtime/comm_common.h"

enum { CHUNK_BYTES = 16 << 20, CHUNK_BYTES_MAX = 1 << 30, SLOTS = 2, REDUCE_COUNT_MAX = 64 };

static const double first_sleep_s = 20e-6, last_sleep_s = 1e-3, listen_s = 20e-3, answer_s = 3, beat_s = 1;

typedef enum { TAG_FAULT, TAG_ALIVE, TAG_LAST } ControlTag;

// What passes between this member and one peer in a call. Receiving follows sending; half the number is the tag.
typedef enum { SEND_COUNT, RECEIVE_COUNT, SEND_ROWS, RECEIVE_ROWS, SEND_RECORDS, RECEIVE_RECORDS, FLOW_KINDS } FlowKind;

typedef struct {
    char *at;      // next chunk
    uint64_t left; // bytes not yet posted
    int expected[SLOTS];
    uint32_t under_way;
} Flow;

typedef struct {
    Group group;
    Stream stream;
    MPI_Comm mpi;
    uint32_t member_count, own;
    uint64_t *ranks;           // [members]
    uint32_t *levels;          // [members]
    Flow *flows;               // [members][FLOW_KINDS]
    MPI_Request *requests;     // [members][FLOW_KINDS][SLOTS]
    int *finished;             // [members * FLOW_KINDS * SLOTS], scratch of MPI_Testsome
    MPI_Status *statuses;      // likewise
    uint32_t open[FLOW_KINDS]; // requests under way
} Channel;

struct MpiWorld {
    Comm comm; // first: a Comm * of this kind is an MpiWorld *
    MpiWorldOptions options;
    MPI_Comm world, control, calls; // barrier and reductions; faults; parent of the channels
    uint64_t process;               // this one's number in them; the plan's rank where the cluster has no ports
    Channel **channels;
    uint32_t channel_count;
    CommCounters counters[LEVELS_MAX];
    double *gathered; // [ranks][REDUCE_COUNT_MAX]
    _Atomic double progress_s;
    MPI_Request alive; // the latest sign of life sent
    pthread_t listener;
    bool listens;
    atomic_bool quit;
    pthread_mutex_t end_mutex; // kept by whoever ends the world
};

// A fault on its way to rank 0: a pointer does not travel.
typedef struct {
    Fault fault;
    char op[32];
} FaultMessage;

static bool mpi_check(int error, const char *what, Fault *fault)
{
    if (error == MPI_SUCCESS)
        return true;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(error, text, &length);
    return fault_set(fault, EXIT_FAULT, "%s: %s", what, text);
}

// ---- waiting ---------------------------------------------------------------------------------

// Sleeps an eighth of what was waited so far: little delay after short waits, little work during long ones.
static void wait_a_while(double since_s)
{
    double now_s = clock_now_s();
    clock_sleep_until(now_s + fmin(fmax((now_s - since_s) / 8, first_sleep_s), last_sleep_s));
}

// No time limit: outside the schedule a rank may prepare for as long as it needs, and one that fails, or is
// stopped, ends the world.
static bool request_wait(MPI_Request *request, Fault *fault)
{
    double since_s = clock_now_s();
    for (;;) {
        int done = 0;
        if (!mpi_check(MPI_Test(request, &done, MPI_STATUS_IGNORE), "waiting for all ranks", fault))
            return false;
        if (done)
            return true;
        wait_a_while(since_s);
    }
}

// ---- ending ----------------------------------------------------------------------------------

static void world_end(MpiWorld *world, const Fault *cause)
{
    pthread_mutex_lock(&world->end_mutex);
    world->options.report(world->options.report_context, cause);
    MPI_Abort(MPI_COMM_WORLD, (int)cause->code);
}

static void mpi_abort(Comm *base, const Fault *cause)
{
    MpiWorld *world = (MpiWorld *)base;
    if (world->process != 0) {
        FaultMessage message = {.fault = *cause};
        snprintf(message.op, sizeof(message.op), "%s", cause->op ? cause->op : "");
        MPI_Request request;
        MPI_Isend(&message, sizeof(message), MPI_BYTE, 0, TAG_FAULT, world->control, &request);
        for (double until_s = clock_now_s() + answer_s; clock_now_s() < until_s;) {
            int done;
            MPI_Test(&request, &done, MPI_STATUS_IGNORE);
            clock_sleep_until(clock_now_s() + last_sleep_s);
        }
    }
    world_end(world, cause);
}

static int rank_after(const MpiWorld *world)
{
    return (int)((world->process + 1) % world->comm.size);
}

static int rank_before(const MpiWorld *world)
{
    return (int)((world->process + world->comm.size - 1) % world->comm.size);
}

static bool control_receive(const MpiWorld *world, int from, ControlTag tag, FaultMessage *message)
{
    int arrived = 0, bytes = message ? (int)sizeof(*message) : 0;
    return MPI_Iprobe(from, tag, world->control, &arrived, MPI_STATUS_IGNORE) == MPI_SUCCESS && arrived &&
           MPI_Recv(message, bytes, MPI_BYTE, from, tag, world->control, MPI_STATUS_IGNORE) == MPI_SUCCESS;
}

static void listen_for_faults(MpiWorld *world)
{
    FaultMessage message;
    if (!control_receive(world, MPI_ANY_SOURCE, TAG_FAULT, &message))
        return;
    message.fault.op = message.op[0] ? message.op : NULL;
    world_end(world, &message.fault);
}

static void give_sign_of_life(MpiWorld *world)
{
    int done;
    MPI_Test(&world->alive, &done, MPI_STATUS_IGNORE);
    if (done)
        MPI_Isend(NULL, 0, MPI_BYTE, rank_after(world), TAG_ALIVE, world->control, &world->alive);
}

static void *listener_main(void *argument)
{
    MpiWorld *world = argument;
    double timeout_s = world->options.timeout_s, period_s = fmin(beat_s, timeout_s / 8);
    double heard_s = clock_now_s(), beaten_s = 0, last_s = heard_s;
    while (!atomic_load(&world->quit)) {
        double now_s = clock_now_s();
        if (world->process == 0)
            listen_for_faults(world);
        if (now_s >= beaten_s + period_s) {
            give_sign_of_life(world);
            beaten_s = now_s;
        }
        // Who was stopped itself and goes on has no reason to complain.
        if (control_receive(world, rank_before(world), TAG_ALIVE, NULL) || now_s - last_s > timeout_s / 2)
            heard_s = now_s;
        if (now_s > heard_s + timeout_s) {
            Fault fault = {0};
            fault_set(&fault, EXIT_FAULT, "rank %d gave no sign of life for %g s: stopped, or cut off",
                      rank_before(world), timeout_s);
            fault.rank = (int64_t)world->process;
            fault.peer = rank_before(world);
            mpi_abort(&world->comm, &fault);
        }
        last_s = now_s;
        clock_sleep_until(now_s + listen_s);
    }
    return NULL;
}

// Takes what signs of life are still on their way: the last message is behind them.
static void listener_stop(MpiWorld *world)
{
    atomic_store(&world->quit, true);
    if (world->listens)
        pthread_join(world->listener, NULL);
    MPI_Request last;
    MPI_Status status = {.MPI_TAG = TAG_ALIVE};
    MPI_Isend(NULL, 0, MPI_BYTE, rank_after(world), TAG_LAST, world->control, &last);
    while (status.MPI_TAG != TAG_LAST)
        MPI_Recv(NULL, 0, MPI_BYTE, rank_before(world), MPI_ANY_TAG, world->control, &status);
    MPI_Wait(&world->alive, MPI_STATUS_IGNORE);
    MPI_Wait(&last, MPI_STATUS_IGNORE);
}

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
    free(channel);
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
    channel->ranks = calloc(members, sizeof(*channel->ranks));
    channel->levels = calloc(members, sizeof(*channel->levels));
    channel->flows = calloc(members * FLOW_KINDS, sizeof(*channel->flows));
    channel->requests = calloc(requests, sizeof(*channel->requests));
    channel->finished = calloc(requests, sizeof(*channel->finished));
    channel->statuses = calloc(requests, sizeof(*channel->statuses));
    if (!channel->ranks || !channel->levels || !channel->flows || !channel->requests || !channel->finished ||
        !channel->statuses) {
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
        return fault_set(fault, EXIT_FAULT, "out of memory for a channel");
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

static int mpi_open(Comm *base, const Group *group, Stream stream, Fault *fault)
{
    MpiWorld *world = (MpiWorld *)base;
    Channel **channels = realloc(world->channels, (world->channel_count + 1) * sizeof(*channels));
    if (channels)
        world->channels = channels;
    Channel *channel = channels ? channel_create(world, group, stream) : NULL;
    if (!channel) {
        fault_set(fault, EXIT_FAULT, "out of memory for a channel");
        return -1;
    }
    if (!channel_connect(world, channel, fault)) {
        channel_destroy(channel);
        return -1;
    }
    world->channels[world->channel_count] = channel;
    return (int)world->channel_count++;
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
    uint64_t largest = call->world->options.chunk_bytes;
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
    *flow = (Flow){.at = (char *)at, .left = bytes};
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        if (!flow_post(call, member, kind, slot))
            return false;
    }
    return true;
}

// Who keeps this member waiting: peers with messages under way, those that should send first.
static bool call_timeout(const Call *call)
{
    const Channel *channel = call->channel;
    uint32_t missing = 0, first = channel->own;
    bool receives = channel->open[RECEIVE_COUNT] + channel->open[RECEIVE_ROWS] + channel->open[RECEIVE_RECORDS] > 0;
    for (uint32_t m = 0; m < channel->member_count; m++) {
        bool waits = false;
        for (uint32_t r = 0; r < FLOW_KINDS * SLOTS; r++)
            waits = waits || (channel->requests[m * FLOW_KINDS * SLOTS + r] != MPI_REQUEST_NULL &&
                              is_receive(r / SLOTS) == receives);
        if (waits && missing++ == 0)
            first = m;
    }
    char group[128], others[48] = "";
    comm_describe_group(call->world->comm.cluster, &channel->group, group, sizeof(group));
    if (missing > 1)
        snprintf(others, sizeof(others), " (nor did %" PRIu32 " more)", missing - 1);
    fault_set(call->fault, EXIT_FAULT, "rank %" PRIu64 " did not %s in %s%s and nothing moved here for %g s",
              channel->ranks[first], receives ? "arrive" : "take its rows", group, others,
              call->world->options.timeout_s);
    call->fault->peer = (int64_t)channel->ranks[first];
    return false;
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
    fault_set(call->fault, EXIT_FAULT,
              "the size of a message differs in %s: %d bytes expected, %d came from rank %" PRIu64, group, expected,
              bytes, call->channel->ranks[member]);
    call->fault->peer = (int64_t)call->channel->ranks[member];
    return false;
}

static bool call_finish(const Call *call, int request, MPI_Status *status)
{
    Channel *channel = call->channel;
    uint32_t index = (uint32_t)request / SLOTS, slot = (uint32_t)request % SLOTS, member = index / FLOW_KINDS;
    FlowKind kind = (FlowKind)(index % FLOW_KINDS);
    channel->open[kind]--;
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
    for (int i = 0; *finished && i < count; i++) {
        if (!call_finish(call, channel->finished[i], &channel->statuses[i]))
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
    double since_s = clock_now_s();
    atomic_store(&world->progress_s, since_s);
    while (is_open(call->channel, counts_only)) {
        bool finished;
        if (!call_advance(call, &finished))
            return false;
        double now_s = clock_now_s();
        if (finished) {
            since_s = now_s;
            atomic_store(&world->progress_s, now_s);
            continue;
        }
        if (now_s >= atomic_load(&world->progress_s) + world->options.timeout_s)
            return call_timeout(call);
        wait_a_while(since_s);
    }
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
    const int32_t *counts = receives ? exchange->recv_counts : exchange->send_counts;
    for (uint32_t step = 1; step < channel->member_count; step++) {
        uint32_t m = peer_after(channel, step);
        uint64_t before = comm_rows_before(counts, m, channel->own);
        for (uint32_t p = 0; p < exchange->part_count; p++) {
            const ExchangePart *part = &exchange->parts[p];
            const char *rows = receives ? part->recv : part->send;
            FlowKind kind = (FlowKind)(SEND_ROWS + 2 * p + receives);
            if (!flow_begin(call, m, kind, rows + before * part->row_bytes, (uint64_t)counts[m] * part->row_bytes))
                return false;
        }
    }
    return true;
}

static bool mpi_exchange(Comm *base, int handle, const Exchange *exchange, Fault *fault)
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
    if (!exchange->counts_known && !exchange_counts(&call, exchange))
        return false;
    if (!exchange_rows(&call, exchange, false) || !call_complete(&call, true))
        return false;
    return comm_check_receive(exchange, channel->member_count, channel->own, channel->ranks, fault) &&
           exchange_rows(&call, exchange, true) && call_complete(&call, false);
}

static bool mpi_all_gather(Comm *base, int handle, const void *shard, void *gathered, uint64_t bytes, Fault *fault)
{
    MpiWorld *world = (MpiWorld *)base;
    Channel *channel = world->channels[handle];
    Call call = {.world = world, .channel = channel, .fault = fault};
    char *own = (char *)gathered + channel->own * bytes;
    if (own != shard)
        memcpy(own, shard, bytes);
    for (uint32_t step = 1; step < channel->member_count; step++) {
        uint32_t m = peer_after(channel, step);
        atomic_fetch_add(&world->counters[channel->levels[m]].gather_bytes, bytes);
        if (!flow_begin(&call, m, RECEIVE_ROWS, (char *)gathered + m * bytes, bytes) ||
            !flow_begin(&call, m, SEND_ROWS, shard, bytes))
            return false;
    }
    return call_complete(&call, false);
}

// ---- the world -------------------------------------------------------------------------------

// Do ranks of the plan differ from the numbers of processes?
static bool is_placed(const MpiWorld *world)
{
    const Cluster *cluster = world->comm.cluster;
    return cluster && cluster->port_count && cluster_gpus(cluster) == world->comm.size;
}

static bool mpi_barrier(Comm *base, Fault *fault)
{
    MPI_Request request;
    return mpi_check(MPI_Ibarrier(((MpiWorld *)base)->world, &request), "cannot begin a barrier", fault) &&
           request_wait(&request, fault);
}

// A rank's part of what was gathered from all processes.
static const double *contribution(const MpiWorld *world, uint64_t rank, uint32_t count)
{
    return world->gathered + (is_placed(world) ? cluster_process_of_rank(world->comm.cluster, rank) : rank) * count;
}

// Contributions are taken in rank order, so every rank and every run gets the same sum.
static bool reduce_piece(MpiWorld *world, double *values, uint32_t count, bool sum, Fault *fault)
{
    MPI_Request request;
    int error =
        MPI_Iallgather(values, (int)count, MPI_DOUBLE, world->gathered, (int)count, MPI_DOUBLE, world->world, &request);
    if (!mpi_check(error, "cannot begin a reduction", fault) || !request_wait(&request, fault))
        return false;
    memcpy(values, contribution(world, 0, count), count * sizeof(*values));
    for (uint64_t rank = 1; rank < world->comm.size; rank++) {
        const double *other = contribution(world, rank, count);
        for (uint32_t i = 0; i < count; i++)
            values[i] = sum ? values[i] + other[i] : fmax(values[i], other[i]);
    }
    return true;
}

static bool reduce(Comm *base, double *values, uint32_t count, bool sum, Fault *fault)
{
    for (uint32_t done = 0; done < count; done += REDUCE_COUNT_MAX) {
        uint32_t piece = count - done < REDUCE_COUNT_MAX ? count - done : REDUCE_COUNT_MAX;
        if (!reduce_piece((MpiWorld *)base, values + done, piece, sum, fault))
            return false;
    }
    return true;
}

static bool mpi_all_reduce_max(Comm *base, double *values, uint32_t count, Fault *fault)
{
    return reduce(base, values, count, false, fault);
}

static bool mpi_all_reduce_sum(Comm *base, double *values, uint32_t count, Fault *fault)
{
    return reduce(base, values, count, true, fault);
}

static void mpi_traffic(Comm *base, CommTraffic totals[LEVELS_MAX], bool reset)
{
    comm_counters_add(((MpiWorld *)base)->counters, totals, reset);
}

static const CommOps mpi_ops = {
    .name = "mpi",
    .open = mpi_open,
    .exchange = mpi_exchange,
    .all_gather = mpi_all_gather,
    .barrier = mpi_barrier,
    .all_reduce_max = mpi_all_reduce_max,
    .all_reduce_sum = mpi_all_reduce_sum,
    .abort = mpi_abort,
    .traffic = mpi_traffic,
};

static bool mpi_start(Fault *fault)
{
    int provided;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS)
        return fault_set(fault, EXIT_FAULT, "MPI cannot be initialised");
    if (provided < MPI_THREAD_MULTIPLE) {
        MPI_Finalize();
        return fault_set(fault, EXIT_FAULT, "this MPI cannot serve several threads (MPI_THREAD_MULTIPLE)");
    }
    return true;
}

static uint64_t machine_ranks(void)
{
    MPI_Comm machine;
    int ranks;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    MPI_Comm_size(machine, &ranks);
    MPI_Comm_free(&machine);
    return (uint64_t)ranks;
}

static void world_connect(MpiWorld *world)
{
    MPI_Comm *comms[] = {&world->world, &world->control, &world->calls};
    for (size_t c = 0; c < COUNT_OF(comms); c++) {
        MPI_Comm_dup(MPI_COMM_WORLD, comms[c]);
        MPI_Comm_set_errhandler(*comms[c], MPI_ERRORS_RETURN);
    }
}

bool mpi_available(void)
{
    return true;
}

MpiWorld *mpi_world_create(const MpiWorldOptions *options, Fault *fault)
{
    int rank, size;
    if (!mpi_start(fault))
        return NULL;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MpiWorld *world = calloc(1, sizeof(*world));
    double *gathered = calloc((size_t)size * REDUCE_COUNT_MAX, sizeof(*gathered));
    if (!world || !gathered) { // the others would wait for this rank: MPI ends them
        fault_set(fault, EXIT_FAULT, "out of memory for %d ranks", size);
        options->report(options->report_context, fault);
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAULT);
    }
    world->options = *options;
    if (world->options.chunk_bytes == 0 || world->options.chunk_bytes > CHUNK_BYTES_MAX)
        world->options.chunk_bytes = CHUNK_BYTES;
    world->gathered = gathered;
    world->process = (uint64_t)rank;
    world->comm = (Comm){.ops = &mpi_ops, .rank = (uint64_t)rank, .size = (uint64_t)size};
    world->comm.machine_size = machine_ranks();
    atomic_store(&world->progress_s, clock_now_s());
    pthread_mutex_init(&world->end_mutex, NULL);
    world_connect(world);
    world->alive = MPI_REQUEST_NULL;
    world->listens = pthread_create(&world->listener, NULL, listener_main, world) == 0;
    return world;
}

void mpi_world_destroy(MpiWorld *world)
{
    if (!world)
        return;
    Fault ignored = {0};
    (void)mpi_barrier(&world->comm, &ignored); // sleeping, where MPI_Finalize would spin
    listener_stop(world);
    for (uint32_t c = 0; c < world->channel_count; c++)
        channel_destroy(world->channels[c]);
    MPI_Comm_free(&world->calls);
    MPI_Comm_free(&world->control);
    MPI_Comm_free(&world->world);
    MPI_Finalize();
    pthread_mutex_destroy(&world->end_mutex);
    free(world->channels);
    free(world->gathered);
    free(world);
}

Comm *mpi_world_comm(MpiWorld *world, const Cluster *cluster)
{
    world->comm.cluster = cluster;
    world->comm.rank = is_placed(world) ? cluster_rank_of_process(cluster, world->process) : world->process;
    return &world->comm;
}

static bool broadcast(const MpiWorld *world, void *data, uint64_t bytes, Fault *fault)
{
    for (uint64_t done = 0; done < bytes;) {
        uint64_t piece = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
        MPI_Request request;
        int error = MPI_Ibcast((char *)data + done, (int)piece, MPI_BYTE, 0, world->world, &request);
        if (!mpi_check(error, "cannot begin a broadcast", fault) || !request_wait(&request, fault))
            return false;
        done += piece;
    }
    return true;
}

bool mpi_world_share(MpiWorld *world, int *code, char **data, size_t *length, Fault *fault)
{
    uint64_t header[] = {(uint64_t)*code, *data ? 1 : 0, *length};
    if (!broadcast(world, header, sizeof(header), fault))
        return false;
    *code = (int)header[0];
    *length = header[2];
    if (header[1] == 0)
        return true;
    if (world->process != 0) {
        *data = malloc(*length + 1);
        if (!*data) {
            fault_set(fault, EXIT_FAULT, "out of memory for a plan of %zu bytes", *length);
            mpi_abort(&world->comm, fault);
            return false;
        }
        (*data)[*length] = '\0';
    }
    return broadcast(world, *data, *length, fault);
}
