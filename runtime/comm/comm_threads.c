// The world of threads: channels between its ranks, barriers, reductions, and how one rank's fault ends all. What
// happens inside a collective is in comm_threads_calls.c.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_threads_internal.h"

// ---- channels --------------------------------------------------------------------------------

static void channel_destroy(Channel *channel)
{
    for (uint32_t m = 0; channel->members && m < channel->member_count; m++) {
        free(channel->members[m].flows);
        free(channel->members[m].tally.of_peers);
        pthread_cond_destroy(&channel->members[m].changed);
    }
    pthread_mutex_destroy(&channel->mutex);
    free(channel->members);
    free(channel->ranks);
    free(channel);
}

static Channel *channel_create(const ThreadWorld *world, const Group *group, Stream stream, uint32_t order,
                               uint64_t first_rank)
{
    Channel *channel = calloc(1, sizeof(*channel));
    if (!channel)
        return NULL;
    uint64_t members = group_size(&world->cluster, group);
    *channel = (Channel){.group = *group, .stream = stream, .order = order, .first_rank = first_rank};
    pthread_mutex_init(&channel->mutex, NULL);
    channel->members = calloc(members, sizeof(*channel->members));
    channel->ranks = calloc(members, sizeof(*channel->ranks));
    if (!channel->members || !channel->ranks) {
        channel_destroy(channel);
        return NULL;
    }
    channel->member_count = (uint32_t)members;
    for (uint32_t m = 0; m < channel->member_count; m++) {
        clock_cond_init(&channel->members[m].changed);
        channel->ranks[m] = group_member_rank(&world->cluster, group, first_rank, m);
    }
    return channel;
}

static bool group_equal(const Group *a, const Group *b)
{
    return a->kind == b->kind && a->level == b->level && a->domain == b->domain;
}

static uint32_t channels_opened(const ThreadComm *comm, const Group *group, Stream stream)
{
    uint32_t count = 0;
    for (uint32_t h = 0; h < comm->handle_count; h++) {
        const Channel *channel = comm->handles[h].channel;
        count += group_equal(&channel->group, group) && channel->stream == stream;
    }
    return count;
}

// Finds the channel or makes it; world->mutex is held.
static Channel *world_channel(ThreadWorld *world, const Group *group, Stream stream, uint32_t order,
                              uint64_t first_rank)
{
    for (Channel *channel = world->channels; channel; channel = channel->next) {
        if (group_equal(&channel->group, group) && channel->stream == stream && channel->order == order &&
            channel->first_rank == first_rank)
            return channel;
    }
    Channel *channel = channel_create(world, group, stream, order, first_rank);
    if (channel) {
        channel->next = world->channels;
        world->channels = channel;
    }
    return channel;
}

static Flow *flows_create(const Channel *channel, const Cluster *cluster, uint32_t own)
{
    Flow *flows = calloc(channel->member_count, sizeof(*flows));
    for (uint32_t m = 0; flows && m < channel->member_count; m++)
        flows[m].level = comm_level_between(cluster, channel->ranks[own], channel->ranks[m]);
    return flows;
}

static int threads_open(Comm *base, const Group *group, Stream stream, Fault *fault)
{
    ThreadComm *comm = (ThreadComm *)base;
    ThreadWorld *world = comm->world;
    if (thread_world_aborted(world, fault))
        return -1;
    Handle *handles = realloc(comm->handles, (comm->handle_count + 1) * sizeof(*handles));
    if (!handles) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
        return -1;
    }
    comm->handles = handles;
    uint32_t order = channels_opened(comm, group, stream);
    uint64_t first_rank = group_member_rank(&world->cluster, group, base->rank, 0);
    uint32_t own = (uint32_t)group_index(&world->cluster, group, base->rank);

    pthread_mutex_lock(&world->mutex);
    Channel *channel = world_channel(world, group, stream, order, first_rank);
    Flow *flows = channel ? flows_create(channel, &world->cluster, own) : NULL;
    if (flows && !comm_tally_create(&channel->members[own].tally, channel->member_count)) {
        free(flows);
        flows = NULL;
    }
    if (flows) {
        pthread_mutex_lock(&channel->mutex);
        channel->members[own].flows = flows;
        pthread_mutex_unlock(&channel->mutex);
    }
    pthread_mutex_unlock(&world->mutex);
    if (!flows) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
        return -1;
    }
    comm->handles[comm->handle_count] = (Handle){.channel = channel, .own = own};
    return (int)comm->handle_count++;
}

// ---- the world -------------------------------------------------------------------------------

// No time limit: outside the schedule a rank may prepare for as long as it needs, and one that
// fails aborts the world.
static bool threads_barrier(Comm *base, Fault *fault)
{
    ThreadWorld *world = ((ThreadComm *)base)->world;
    pthread_mutex_lock(&world->barrier.mutex);
    uint64_t generation = world->barrier.generation;
    if (++world->barrier.arrived == world->size) {
        world->barrier.arrived = 0;
        world->barrier.generation++;
        atomic_store(&world->progress_s, clock_now_s());
        pthread_cond_broadcast(&world->barrier.passed);
    }
    while (world->barrier.generation == generation && !atomic_load(&world->aborted))
        pthread_cond_wait(&world->barrier.passed, &world->barrier.mutex);
    pthread_mutex_unlock(&world->barrier.mutex);
    return !thread_world_aborted(world, fault);
}

enum { REDUCE_COUNT_MAX = 64 };

// Contributions are taken in rank order, so every rank and every run gets the same sum.
static bool reduce_piece(ThreadComm *comm, double *values, uint32_t count, bool sum, Fault *fault)
{
    ThreadWorld *world = comm->world;
    double result[REDUCE_COUNT_MAX];
    pthread_mutex_lock(&world->barrier.mutex);
    world->barrier.values[comm->comm.rank] = values;
    pthread_mutex_unlock(&world->barrier.mutex);
    if (!threads_barrier(&comm->comm, fault))
        return false;
    memcpy(result, world->barrier.values[0], count * sizeof(*result));
    for (uint64_t rank = 1; rank < world->size; rank++) {
        const double *other = world->barrier.values[rank];
        for (uint32_t i = 0; i < count; i++)
            result[i] = sum ? result[i] + other[i] : fmax(result[i], other[i]);
    }
    if (!threads_barrier(&comm->comm, fault))
        return false;
    memcpy(values, result, count * sizeof(*result));
    return true;
}

static bool reduce(Comm *comm, double *values, uint32_t count, bool sum, Fault *fault)
{
    for (uint32_t done = 0; done < count; done += REDUCE_COUNT_MAX) {
        uint32_t piece = count - done < REDUCE_COUNT_MAX ? count - done : REDUCE_COUNT_MAX;
        if (!reduce_piece((ThreadComm *)comm, values + done, piece, sum, fault))
            return false;
    }
    return true;
}

static bool threads_all_reduce_max(Comm *comm, double *values, uint32_t count, Fault *fault)
{
    return reduce(comm, values, count, false, fault);
}

static bool threads_all_reduce_sum(Comm *comm, double *values, uint32_t count, Fault *fault)
{
    return reduce(comm, values, count, true, fault);
}

static void world_wake_all(ThreadWorld *world)
{
    pthread_mutex_lock(&world->mutex);
    for (Channel *channel = world->channels; channel; channel = channel->next) {
        pthread_mutex_lock(&channel->mutex);
        for (uint32_t m = 0; m < channel->member_count; m++)
            pthread_cond_broadcast(&channel->members[m].changed);
        pthread_mutex_unlock(&channel->mutex);
    }
    pthread_mutex_unlock(&world->mutex);
    pthread_mutex_lock(&world->barrier.mutex);
    pthread_cond_broadcast(&world->barrier.passed);
    pthread_mutex_unlock(&world->barrier.mutex);
}

static void threads_abort(Comm *base, const Fault *cause)
{
    ThreadWorld *world = ((ThreadComm *)base)->world;
    pthread_mutex_lock(&world->cause_mutex);
    bool first = world->cause.kind == FAULT_NONE;
    if (first)
        world->cause = *cause;
    atomic_store(&world->aborted, true);
    pthread_mutex_unlock(&world->cause_mutex);
    if (first)
        world_wake_all(world);
}

static void threads_watch(Comm *base, const Watch *watch)
{
    ThreadComm *comm = (ThreadComm *)base;
    pthread_mutex_lock(&comm->world->watch_mutex);
    comm->watch = watch ? *watch : (Watch){0};
    pthread_mutex_unlock(&comm->world->watch_mutex);
}

static void threads_traffic(Comm *base, CommTraffic totals[LEVELS_MAX], bool reset)
{
    comm_counters_add(((ThreadComm *)base)->counters, totals, reset);
}

static void threads_times(Comm *base, CommTimes *totals, bool reset)
{
    ThreadComm *comm = (ThreadComm *)base;
    for (uint32_t h = 0; h < comm->handle_count; h++) {
        Channel *channel = comm->handles[h].channel;
        comm_tally_add(&channel->members[comm->handles[h].own].tally, channel->member_count, channel->ranks, totals,
                       reset);
    }
}

static const CommOps thread_ops = {
    .communicator = COMMUNICATOR_threads,
    .open = threads_open,
    .exchange = threads_exchange,
    .barrier = threads_barrier,
    .all_reduce_max = threads_all_reduce_max,
    .all_reduce_sum = threads_all_reduce_sum,
    .watch = threads_watch,
    .abort = threads_abort,
    .traffic = threads_traffic,
    .times = threads_times,
};

ThreadWorld *thread_world_create(const Cluster *cluster, LinkEmulation *links, double timeout_s)
{
    ThreadWorld *world = calloc(1, sizeof(*world));
    if (!world)
        return NULL;
    world->cluster = *cluster;
    world->size = cluster_gpus(cluster);
    world->links = links;
    world->timeout_s = timeout_s;
    pthread_mutex_init(&world->mutex, NULL);
    pthread_mutex_init(&world->cause_mutex, NULL);
    pthread_mutex_init(&world->watch_mutex, NULL);
    pthread_mutex_init(&world->barrier.mutex, NULL);
    clock_cond_init(&world->barrier.passed);
    atomic_store(&world->progress_s, clock_now_s());
    world->comms = calloc(world->size, sizeof(*world->comms));
    world->barrier.values = calloc(world->size, sizeof(*world->barrier.values));
    if (!world->comms || !world->barrier.values) {
        thread_world_destroy(world);
        return NULL;
    }
    for (uint64_t rank = 0; rank < world->size; rank++) {
        world->comms[rank].world = world;
        world->comms[rank].comm = (Comm){.ops = &thread_ops,
                                         .rank = rank,
                                         .size = world->size,
                                         .machine_size = world->size,
                                         .cluster = &world->cluster};
    }
    return world;
}

void thread_world_destroy(ThreadWorld *world)
{
    if (!world)
        return;
    for (uint64_t rank = 0; world->comms && rank < world->size; rank++)
        free(world->comms[rank].handles);
    while (world->channels) {
        Channel *channel = world->channels;
        world->channels = channel->next;
        channel_destroy(channel);
    }
    pthread_mutex_destroy(&world->mutex);
    pthread_mutex_destroy(&world->cause_mutex);
    pthread_mutex_destroy(&world->watch_mutex);
    pthread_mutex_destroy(&world->barrier.mutex);
    pthread_cond_destroy(&world->barrier.passed);
    free(world->comms);
    free(world->barrier.values);
    free(world);
}

Comm *thread_world_comm(ThreadWorld *world, uint64_t rank)
{
    return &world->comms[rank].comm;
}

Fault thread_world_cause(ThreadWorld *world)
{
    pthread_mutex_lock(&world->cause_mutex);
    Fault cause = world->cause;
    pthread_mutex_unlock(&world->cause_mutex);
    return cause;
}
