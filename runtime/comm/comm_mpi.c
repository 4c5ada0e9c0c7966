// The world of processes: starting MPI, giving every process its rank and the plan, barriers and reductions. How
// ranks exchange rows is in comm_mpi_calls.c, how a world ends early in comm_mpi_watch.c.
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_mpi_internal.h"

// ---- waiting ---------------------------------------------------------------------------------

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
        mpi_wait_a_while(since_s);
    }
}

static bool mpi_barrier(Comm *base, Fault *fault)
{
    MPI_Request request;
    return mpi_check(MPI_Ibarrier(((MpiWorld *)base)->world, &request), "cannot begin a barrier", fault) &&
           request_wait(&request, fault);
}

static bool reduce_piece(MpiWorld *world, double *values, uint32_t count, bool sum, Fault *fault)
{
    MPI_Request request;
    int error =
        MPI_Iallgather(values, (int)count, MPI_DOUBLE, world->gathered, (int)count, MPI_DOUBLE, world->world, &request);
    if (!mpi_check(error, "cannot begin a reduction", fault) || !request_wait(&request, fault))
        return false;
    comm_fold(&world->comm, world->gathered, values, count, sum);
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

static void mpi_times(Comm *base, CommTimes *totals, bool reset)
{
    const MpiWorld *world = (MpiWorld *)base;
    for (uint32_t c = 0; c < world->channel_count; c++) {
        Channel *channel = world->channels[c];
        comm_tally_add(&channel->tally, channel->member_count, channel->ranks, totals, reset);
    }
}

static void mpi_watch(Comm *base, const Watch *watch)
{
    MpiWorld *world = (MpiWorld *)base;
    pthread_mutex_lock(&world->wait_mutex);
    world->watch = watch ? *watch : (Watch){0};
    pthread_mutex_unlock(&world->wait_mutex);
}

static const CommOps mpi_ops = {
    .communicator = COMMUNICATOR_mpi,
    .open = mpi_open,
    .exchange = mpi_exchange,
    .barrier = mpi_barrier,
    .all_reduce_max = mpi_all_reduce_max,
    .all_reduce_sum = mpi_all_reduce_sum,
    .watch = mpi_watch,
    .abort = mpi_abort,
    .lost = mpi_lost,
    .traffic = mpi_traffic,
    .times = mpi_times,
};

static bool mpi_start(Fault *fault)
{
    int provided;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS)
        return fault_set(fault, FAULT_RUN, "MPI cannot be initialised");
    if (provided < MPI_THREAD_MULTIPLE) {
        MPI_Finalize();
        return fault_set(fault, FAULT_RUN, "this MPI cannot serve several threads (MPI_THREAD_MULTIPLE)");
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

// The others would wait for this process: MPI ends them.
static _Noreturn void start_fail(const WorldOptions *options, const Fault *fault)
{
    options->report(options->report_context, fault);
    options->end(fault->kind, true);
}

static Comm *mpi_world_create(const WorldOptions *options, Fault *fault)
{
    int rank, size;
    mpi_start_watch(options);
    if (!mpi_start(fault)) {
        mpi_start_seen();
        if (mpi_launcher_rank() != 0)
            fault->message[0] = '\0';
        return NULL;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MpiWorld *world = calloc(1, sizeof(*world));
    double *gathered = calloc((size_t)size * REDUCE_COUNT_MAX, sizeof(*gathered));
    if (!world || !gathered) {
        fault_set(fault, FAULT_MEMORY, "out of memory for %d ranks", size);
        start_fail(options, fault);
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
    pthread_mutex_init(&world->wait_mutex, NULL);
    world_connect(world);
    if (!mpi_places_learn(world, fault) || !mpi_listener_start(world, fault))
        start_fail(options, fault);
    mpi_start_seen();
    return &world->comm;
}

static void mpi_world_destroy(Comm *base)
{
    MpiWorld *world = (MpiWorld *)base;
    mpi_listener_stop(world); // all have come: MPI_Finalize would spin until they do
    mpi_channels_close(world);
    MPI_Comm_free(&world->calls);
    MPI_Comm_free(&world->control);
    MPI_Comm_free(&world->world);
    MPI_Finalize();
    pthread_mutex_destroy(&world->end_mutex);
    pthread_mutex_destroy(&world->wait_mutex);
    free(world->places);
    free(world->channels);
    free(world->gathered);
    free(world);
}

static void mpi_world_place(Comm *base, const Cluster *cluster)
{
    MpiWorld *world = (MpiWorld *)base;
    if (cluster)
        mpi_channels_close(world);
    world->comm.cluster = cluster;
    world->comm.rank = comm_is_placed(&world->comm) ? cluster_rank_of_process(cluster, world->process) : world->process;
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

static bool mpi_world_share(Comm *base, int *code, char **data, size_t *length, Fault *fault)
{
    MpiWorld *world = (MpiWorld *)base;
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
            fault_set(fault, FAULT_MEMORY, "out of memory for a plan of %zu bytes", *length);
            mpi_abort(&world->comm, fault);
            return false;
        }
        (*data)[*length] = '\0';
    }
    return broadcast(world, *data, *length, fault);
}

const WorldOps mpi_world_ops = {
    .communicator = COMMUNICATOR_mpi,
    .create = mpi_world_create,
    .destroy = mpi_world_destroy,
    .place = mpi_world_place,
    .share = mpi_world_share,
};
