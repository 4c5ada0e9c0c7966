// The NCCL communicator: every rank of a plan is a process with a GPU of its own, started by torchrun, mpirun or srun.
// Rows go by NCCL (comm_nccl_calls.c); the plan, barriers, reductions and causes of failure by the rendezvous, so that
// no MPI is needed. It is part of the CUDA plug-in (runtime/plugin/plugin.h), which hands over its WorldOps.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/comm/comm_nccl_internal.h"

// ---- CommOps ---------------------------------------------------------------------------------

static bool nccl_barrier(Comm *base, Fault *fault)
{
    NcclWorld *world = (NcclWorld *)base;
    char own = 0;
    return rendezvous_all_gather(world->rendezvous, &own, world->gathered, sizeof(own), fault);
}

static bool reduce_piece(NcclWorld *world, double *values, uint32_t count, bool sum, Fault *fault)
{
    if (!rendezvous_all_gather(world->rendezvous, values, world->gathered, count * sizeof(*values), fault))
        return false;
    comm_fold(&world->comm, world->gathered, values, count, sum);
    return true;
}

static bool reduce(Comm *base, double *values, uint32_t count, bool sum, Fault *fault)
{
    for (uint32_t done = 0; done < count; done += REDUCE_COUNT_MAX) {
        uint32_t piece = count - done < REDUCE_COUNT_MAX ? count - done : REDUCE_COUNT_MAX;
        if (!reduce_piece((NcclWorld *)base, values + done, piece, sum, fault))
            return false;
    }
    return true;
}

static bool nccl_all_reduce_max(Comm *base, double *values, uint32_t count, Fault *fault)
{
    return reduce(base, values, count, false, fault);
}

static bool nccl_all_reduce_sum(Comm *base, double *values, uint32_t count, Fault *fault)
{
    return reduce(base, values, count, true, fault);
}

// Signs of life are the rendezvous' business, and the engine knows where its streams stand.
static void nccl_watch(Comm *base, const Watch *watch)
{
    (void)base, (void)watch;
}

// Together: one that is told alone waits for work that may wait for another's.
static void abort_all(NcclWorld *world)
{
    ncclGroupStart();
    for (uint32_t c = 0; c < world->channel_count; c++)
        if (world->channels[c]->nccl)
            ncclCommAbort(world->channels[c]->nccl);
    if (world->nccl && !world->is_of_plan)
        ncclCommAbort(world->nccl);
    ncclGroupEnd();
}

static void nccl_abort(Comm *base, const Fault *cause)
{
    NcclWorld *world = (NcclWorld *)base;
    rendezvous_abort(world->rendezvous, cause);
    pthread_rwlock_wrlock(&world->lock);
    if (!world->dead && world->use.drop_graphs) // what ends a communicator waits for graphs that hold calls of it
        world->use.drop_graphs(world->use.context);
    if (!world->dead)
        abort_all(world);
    world->dead = true;
    pthread_rwlock_unlock(&world->lock);
}

static void nccl_traffic(Comm *base, CommTraffic totals[LEVELS_MAX], bool reset)
{
    comm_counters_add(((NcclWorld *)base)->counters, totals, reset);
}

static void nccl_count(Comm *base, const CommTraffic moved[LEVELS_MAX])
{
    comm_counters_count(((NcclWorld *)base)->counters, moved);
}

// Of what the device moves nothing is known but the times of its steps.
static void nccl_times(Comm *base, CommTimes *totals, bool reset)
{
    (void)base, (void)totals, (void)reset;
}

static void nccl_stand(Comm *base, const Standing *standing)
{
    rendezvous_stand(((NcclWorld *)base)->rendezvous, standing);
}

static Standing nccl_standing(Comm *base, uint64_t rank)
{
    const NcclWorld *world = (const NcclWorld *)base;
    return rendezvous_standing(world->rendezvous,
                               comm_is_placed(base) ? cluster_process_of_rank(base->cluster, rank) : rank);
}

static const CommOps nccl_ops = {
    .communicator = COMMUNICATOR_nccl,
    .open = nccl_open,
    .barrier = nccl_barrier,
    .all_reduce_max = nccl_all_reduce_max,
    .all_reduce_sum = nccl_all_reduce_sum,
    .watch = nccl_watch,
    .abort = nccl_abort,
    .traffic = nccl_traffic,
    .times = nccl_times,
};

static const DeviceCommOps nccl_device_ops = {
    .captures = true,
    .ordered = true,
    .exchange = nccl_exchange,
    .all_gather = nccl_all_gather,
    .poll = nccl_poll,
    .count = nccl_count,
    .stand = nccl_stand,
    .standing = nccl_standing,
    .allocate = nccl_allocate,
    .release = nccl_release,
    .attach = nccl_attach,
    .detach = nccl_detach,
};

// ---- joining ---------------------------------------------------------------------------------

// device: -1: by the process's place on its machine.
static bool device_choose(NcclWorld *world, int device, Fault *fault)
{
    int count = 0;
    if (!cuda_check(cudaGetDeviceCount(&count), "count GPUs", fault))
        return false;
    if (device >= count)
        return fault_set(fault, FAULT_USAGE, "there is no GPU %d: this process sees %d", device, count);
    world->comm.device_index =
        device >= 0 ? device : (int)(world->launch.local_rank % (uint64_t)(count > 0 ? count : 1));
    return cuda_check(cudaSetDevice(world->comm.device_index), "use the GPU", fault) &&
           cuda_check(cudaStreamCreateWithFlags(&world->stream, cudaStreamNonBlocking), "create a stream", fault);
}

static bool join_all(NcclWorld *world, Fault *fault)
{
    ncclUniqueId id;
    memset(&id, 0, sizeof(id));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclResult_t result = world->launch.rank == 0 ? ncclGetUniqueId(&id) : ncclSuccess;
    if (result != ncclSuccess)
        return nccl_failed(NULL, result, "begin", fault);
    if (!rendezvous_broadcast(world->rendezvous, &id, sizeof(id), fault))
        return false;
    result = ncclCommInitRankConfig(&world->nccl, (int)world->launch.size, id, (int)world->launch.rank, &config);
    return nccl_settle(world, world->nccl, result, "join all ranks", fault);
}

static void nccl_world_destroy(Comm *base)
{
    NcclWorld *world = (NcclWorld *)base;
    nccl_channels_close(world);
    if (!world->dead && world->nccl && !world->is_of_plan) {
        Fault ignored = {0};
        bool settled = nccl_settle(world, world->nccl, ncclCommFinalize(world->nccl), "end the communicator", &ignored);
        if (settled)
            ncclCommDestroy(world->nccl);
        else
            ncclCommAbort(world->nccl);
    }
    if (world->stream)
        cudaStreamDestroy(world->stream);
    if (!world->is_of_plan)
        rendezvous_destroy(world->rendezvous);
    pthread_rwlock_destroy(&world->lock);
    free(world->channels);
    free(world->gathered);
    free(world);
}

// Without communicators yet.
static NcclWorld *world_make(const Launch *launch, double timeout_s, Fault *fault)
{
    NcclWorld *world = calloc(1, sizeof(*world));
    if (!world) {
        fault_set(fault, FAULT_MEMORY, "out of memory");
        return NULL;
    }
    pthread_rwlock_init(&world->lock, NULL);
    world->launch = *launch;
    world->comm = (Comm){.ops = &nccl_ops,
                         .device = &nccl_device_ops,
                         .rank = launch->rank,
                         .size = launch->size,
                         .timeout_s = timeout_s};
    world->gathered = calloc(launch->size * REDUCE_COUNT_MAX, sizeof(*world->gathered));
    if (world->gathered)
        return world;
    fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " ranks", launch->size);
    world->dead = true;
    nccl_world_destroy(&world->comm);
    return NULL;
}

static Comm *world_join_by(const Launch *launch, int device, double timeout_s, bool settles, Fault *fault)
{
    NcclWorld *world = world_make(launch, timeout_s, fault);
    if (!world)
        return NULL;
    world->rendezvous = rendezvous_create(launch, timeout_s, fault);
    if (!world->rendezvous) {
        world->dead = true;
        nccl_world_destroy(&world->comm);
        return NULL;
    }
    world->comm.machine_size = rendezvous_machine_size(world->rendezvous);
    if (device_choose(world, device, fault) && join_all(world, fault))
        return &world->comm;
    if (fault->rank < 0)
        fault->rank = (int64_t)launch->rank;
    nccl_abort(&world->comm, fault);
    if (settles)
        rendezvous_settle(world->rendezvous, fault);
    nccl_world_destroy(&world->comm);
    return NULL;
}

static Comm *nccl_world_create(const WorldOptions *options, Fault *fault)
{
    Launch launch = {0};
    if (!launch_find(&launch, fault))
        return NULL;
    setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
    return world_join_by(&launch, -1, options->timeout_s, true, fault);
}

static void nccl_world_place(Comm *base, const Cluster *cluster)
{
    NcclWorld *world = (NcclWorld *)base;
    if (cluster)
        nccl_channels_close(world);
    world->comm.cluster = cluster;
    world->comm.rank =
        comm_is_placed(&world->comm) ? cluster_rank_of_process(cluster, world->launch.rank) : world->launch.rank;
}

static bool nccl_world_share(Comm *base, int *code, char **data, size_t *length, Fault *fault)
{
    NcclWorld *world = (NcclWorld *)base;
    uint64_t header[] = {(uint64_t)*code, *data ? 1 : 0, *length};
    if (!rendezvous_broadcast(world->rendezvous, header, sizeof(header), fault))
        return false;
    *code = (int)header[0];
    *length = header[2];
    if (header[1] == 0)
        return true;
    if (world->launch.rank != 0) {
        *data = malloc(*length + 1);
        if (!*data) {
            fault_set(fault, FAULT_MEMORY, "out of memory for a plan of %zu bytes", *length);
            rendezvous_abort(world->rendezvous, fault);
            return false;
        }
        (*data)[*length] = '\0';
    }
    return rendezvous_broadcast(world->rendezvous, *data, *length, fault);
}

static void nccl_world_settle(Comm *base, Fault *fault)
{
    rendezvous_settle(((NcclWorld *)base)->rendezvous, fault);
}

const WorldOps nccl_world_ops = {
    .communicator = COMMUNICATOR_nccl,
    .create = nccl_world_create,
    .destroy = nccl_world_destroy,
    .place = nccl_world_place,
    .share = nccl_world_share,
    .settle = nccl_world_settle,
};

// ---- of somebody else's program --------------------------------------------------------------

Comm *nccl_join(const Launch *launch, int device, double timeout_s, Fault *fault)
{
    return world_join_by(launch, device, timeout_s, false, fault);
}

void nccl_part(Comm *all)
{
    if (all)
        nccl_world_destroy(all);
}

Comm *nccl_open_plan(Comm *base, const Cluster *cluster, Fault *fault)
{
    const NcclWorld *all = (const NcclWorld *)base;
    NcclWorld *world = world_make(&all->launch, base->timeout_s, fault);
    if (!world)
        return NULL;
    world->is_of_plan = true;
    world->rendezvous = all->rendezvous;
    world->nccl = all->nccl;
    world->comm.device_index = base->device_index;
    world->comm.machine_size = base->machine_size;
    nccl_world_place(&world->comm, cluster);
    if (!rendezvous_aborted(world->rendezvous, fault) &&
        cuda_check(cudaSetDevice(base->device_index), "use the GPU", fault) &&
        cuda_check(cudaStreamCreateWithFlags(&world->stream, cudaStreamNonBlocking), "create a stream", fault))
        return &world->comm;
    nccl_world_destroy(&world->comm);
    return NULL;
}

void nccl_close_plan(Comm *of_plan)
{
    if (of_plan)
        nccl_world_destroy(of_plan);
}
