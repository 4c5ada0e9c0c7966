// The NCCL communicator's channels and collectives. A channel is a communicator of its group's members, split off that
// of all processes; exchanges are grouped sends and receives straight to each peer, so that a far link's latency is
// paid once.
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_nccl_internal.h"

// ---- channels --------------------------------------------------------------------------------

static bool channel_create(NcclWorld *world, NcclChannel *channel, const Group *group, Fault *fault)
{
    const Cluster *cluster = world->comm.cluster;
    uint64_t members = group_size(cluster, group), rank = world->comm.rank;
    channel->group = *group;
    channel->member_count = (uint32_t)members;
    channel->own = (uint32_t)group_index(cluster, group, rank);
    channel->ranks = calloc(members, sizeof(*channel->ranks));
    channel->levels = calloc(members, sizeof(*channel->levels));
    if (!channel->ranks || !channel->levels)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
    for (uint32_t m = 0; m < members; m++) {
        channel->ranks[m] = group_member_rank(cluster, group, rank, m);
        channel->levels[m] = comm_level_between(cluster, rank, channel->ranks[m]);
    }
    return true;
}

// Every process splits, each into the group that it is in: the groups are told apart by their first ranks.
static bool channel_split(NcclWorld *world, NcclChannel *channel, Fault *fault)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (channel->member_count == 1)
        return true;
    int multiprocessors = 0;
    if (!cuda_check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, world->comm.device_index),
                    "ask for the GPU's size", fault))
        return false;
    config.maxCTAs = nccl_block_limit(multiprocessors);
    if (!nccl_enter(world, fault))
        return false;
    ncclResult_t result =
        ncclCommSplit(world->nccl, (int)channel->ranks[0], (int)channel->own, &channel->nccl, &config);
    bool ok = nccl_settle(world, world->nccl, result, "split the communicator", fault) &&
              nccl_settle(world, channel->nccl, ncclSuccess, "split the communicator", fault);
    nccl_leave(world);
    return ok;
}

static bool await_stream(NcclWorld *world, Fault *fault)
{
    double until_s = clock_now_s() + world->comm.timeout_s;
    for (;;) {
        cudaError_t error = cudaStreamQuery(world->stream);
        if (error == cudaSuccess)
            return true;
        if (error != cudaErrorNotReady)
            return cuda_check(error, "connect ranks", fault);
        if (!nccl_poll(&world->comm, fault))
            return false;
        if (clock_now_s() > until_s)
            return fault_set(fault, FAULT_RUN, "cannot connect ranks: not all took part within %g s",
                             world->comm.timeout_s);
        clock_sleep_until(clock_now_s() + 1e-4);
    }
}

// The first message to each peer makes its connection, which takes memory and may wait for the peer's host: better here
// than in a step. All ranks open their channels in one order.
static bool channel_connect(NcclWorld *world, int handle, Fault *fault)
{
    NcclChannel *channel = world->channels[handle];
    uint32_t members = channel->member_count;
    int32_t *ones = malloc(members * sizeof(*ones));
    char *memory = NULL;
    bool ok = ones || fault_set(fault, FAULT_MEMORY, "out of memory");
    for (uint32_t m = 0; ok && m < members; m++)
        ones[m] = 1;
    ok = ok && cuda_check(cudaMalloc((void **)&memory, 3ull * members), "connect ranks", fault);
    Exchange exchange = {.part_count = 1,
                         .parts = {{.send = memory, .recv = memory + members, .row_bytes = 1}},
                         .send_layout = ROWS_ALL,
                         .recv_layout = ROWS_ALL,
                         .send_counts = ones,
                         .recv_counts = ones,
                         .counts_known = true,
                         .recv_capacity = members};
    ok = ok && nccl_exchange(&world->comm, handle, &exchange, world->stream, fault) &&
         nccl_all_gather(&world->comm, handle, memory, memory + 2ull * members, 1, world->stream, fault) &&
         await_stream(world, fault);
    cudaFree(memory);
    free(ones);
    return ok;
}

// A place in the list, which who aborts walks through.
static NcclChannel *channel_add(NcclWorld *world, Fault *fault)
{
    NcclChannel *channel = calloc(1, sizeof(*channel));
    pthread_rwlock_wrlock(&world->lock);
    NcclChannel **channels = realloc(world->channels, (world->channel_count + 1) * sizeof(*channels));
    if (channels)
        world->channels = channels;
    bool ok = channel && channels;
    if (ok) {
        pthread_mutex_init(&channel->lock, NULL);
        channels[world->channel_count++] = channel;
    }
    pthread_rwlock_unlock(&world->lock);
    if (ok)
        return channel;
    free(channel);
    fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
    return NULL;
}

int nccl_open(Comm *base, const Group *group, Stream stream, Fault *fault)
{
    (void)stream; // each has channels of its own
    NcclWorld *world = (NcclWorld *)base;
    NcclChannel *channel = channel_add(world, fault);
    if (!channel)
        return -1;
    int handle = (int)world->channel_count - 1;
    CommTraffic uncounted[LEVELS_MAX] = {0};
    bool ok = channel_create(world, channel, group, fault) && channel_split(world, channel, fault) &&
              channel_connect(world, handle, fault);
    comm_counters_add(world->counters, uncounted, true);
    return ok ? handle : -1;
}

// Destroyed, or false where a peer did not end it, too.
static bool channel_end(NcclWorld *world, const NcclChannel *channel)
{
    Fault ignored = {0};
    if (!nccl_settle(world, channel->nccl, ncclCommFinalize(channel->nccl), "end a communicator", &ignored))
        return false;
    ncclCommDestroy(channel->nccl);
    return true;
}

void nccl_channels_close(NcclWorld *world)
{
    nccl_detach(&world->comm);
    for (uint32_t c = 0; !world->dead && c < world->channel_count; c++)
        if (world->channels[c]->nccl && channel_end(world, world->channels[c]))
            world->channels[c]->nccl = NULL;
    ncclGroupStart();
    for (uint32_t c = 0; !world->dead && c < world->channel_count; c++)
        if (world->channels[c]->nccl)
            ncclCommAbort(world->channels[c]->nccl);
    ncclGroupEnd();
    for (uint32_t c = 0; c < world->channel_count; c++) {
        NcclChannel *channel = world->channels[c];
        pthread_mutex_destroy(&channel->lock);
        free(channel->ranks);
        free(channel->levels);
        free(channel);
    }
    world->channel_count = 0;
}

// ---- memory ----------------------------------------------------------------------------------

bool nccl_allocate(Comm *base, uint64_t bytes, void **memory, Fault *fault)
{
    (void)base;
    ncclResult_t result = ncclMemAlloc(memory, bytes);
    cudaGetLastError(); // that it does not fit is said here, and not by the next kernel
    return result == ncclSuccess || nccl_failed(NULL, result, "allocate memory", fault);
}

void nccl_release(Comm *base, void *memory)
{
    (void)base;
    if (memory)
        ncclMemFree(memory);
}

bool nccl_attach(Comm *base, const DeviceUse *use, Fault *fault)
{
    NcclWorld *world = (NcclWorld *)base;
    pthread_rwlock_wrlock(&world->lock);
    world->use = *use;
    pthread_rwlock_unlock(&world->lock);
    for (uint32_t c = 0; c < world->channel_count; c++) {
        NcclChannel *channel = world->channels[c];
        if (!channel->nccl)
            continue;
        if (!nccl_enter(world, fault))
            return false;
        pthread_mutex_lock(&channel->lock);
        ncclResult_t result = ncclCommRegister(channel->nccl, use->memory, use->bytes, &channel->registered);
        Fault refused = {0}; // then rows are staged in NCCL's own buffers
        if (!nccl_settle(world, channel->nccl, result, "register memory", &refused))
            channel->registered = NULL;
        pthread_mutex_unlock(&channel->lock);
        nccl_leave(world);
        if (rendezvous_aborted(world->rendezvous, fault))
            return false;
    }
    return true;
}

void nccl_detach(Comm *base)
{
    NcclWorld *world = (NcclWorld *)base;
    pthread_rwlock_wrlock(&world->lock);
    for (uint32_t c = 0; c < world->channel_count; c++) {
        NcclChannel *channel = world->channels[c];
        if (!world->dead && channel->nccl && channel->registered)
            ncclCommDeregister(channel->nccl, channel->registered);
        channel->registered = NULL;
    }
    world->use = (DeviceUse){0};
    pthread_rwlock_unlock(&world->lock);
}

// ---- the two collectives ---------------------------------------------------------------------

// A communicator that does not block may still be at it.
static bool went(ncclResult_t result)
{
    return result == ncclSuccess || result == ncclInProgress;
}

// The rows for one peer, and those from it.
static ncclResult_t pair_enqueue(const NcclChannel *channel, const Exchange *exchange, uint32_t peer,
                                 cudaStream_t stream)
{
    ncclResult_t result = ncclSuccess;
    for (uint32_t p = 0; p < exchange->part_count; p++) {
        const ExchangePart *part = &exchange->parts[p];
        CommRows source = comm_rows_to(exchange, p, peer, channel->own);
        CommRows target = comm_rows_from(exchange, p, peer, channel->own);
        if (source.count > 0 && went(result))
            result = ncclSend((const char *)part->send + source.first * part->row_bytes, source.count * part->row_bytes,
                              ncclInt8, (int)peer, channel->nccl, stream);
        if (target.count > 0 && went(result))
            result = ncclRecv((char *)part->recv + target.first * part->row_bytes, target.count * part->row_bytes,
                              ncclInt8, (int)peer, channel->nccl, stream);
    }
    return result;
}

bool nccl_exchange(Comm *base, int handle, const Exchange *exchange, void *stream, Fault *fault)
{
    NcclWorld *world = (NcclWorld *)base;
    NcclChannel *channel = world->channels[handle];
    if (!comm_check_receive(exchange, channel->member_count, channel->own, channel->ranks, fault))
        return false;
    for (uint32_t m = 0; m < channel->member_count; m++) {
        if (m == channel->own)
            continue;
        if (!comm_check_send(exchange, m, channel->ranks[m], fault))
            return false;
        comm_count_exchange(&world->counters[channel->levels[m]], exchange, m);
        comm_count_received(&world->counters[channel->levels[m]], exchange, m);
    }
    if (!channel->nccl)
        return true;
    if (!nccl_enter(world, fault))
        return false;
    pthread_mutex_lock(&channel->lock);
    ncclResult_t result = ncclGroupStart();
    for (uint32_t i = 1; i < channel->member_count && went(result); i++)
        result = pair_enqueue(channel, exchange, (channel->own + i) % channel->member_count, stream);
    ncclResult_t ended = ncclGroupEnd();
    bool ok = nccl_settle(world, channel->nccl, went(result) ? ended : result, "exchange rows", fault);
    pthread_mutex_unlock(&channel->lock);
    nccl_leave(world);
    return ok;
}

// Many parameters because DeviceCommOps.all_gather has them: those of the host, and a stream.
bool nccl_all_gather(Comm *base, int handle, const void *shard, void *gathered, uint64_t bytes, void *stream,
                     Fault *fault)
{
    NcclWorld *world = (NcclWorld *)base;
    NcclChannel *channel = world->channels[handle];
    for (uint32_t m = 0; m < channel->member_count; m++)
        if (m != channel->own)
            atomic_fetch_add(&world->counters[channel->levels[m]].gather_bytes, bytes);
    if (!channel->nccl)
        return shard == gathered ||
               cuda_check(cudaMemcpyAsync(gathered, shard, bytes, cudaMemcpyDeviceToDevice, stream), "enqueue a copy",
                          fault);
    if (!nccl_enter(world, fault))
        return false;
    pthread_mutex_lock(&channel->lock);
    ncclResult_t result = ncclAllGather(shard, gathered, bytes, ncclInt8, channel->nccl, stream);
    bool ok = nccl_settle(world, channel->nccl, result, "gather shards", fault);
    pthread_mutex_unlock(&channel->lock);
    nccl_leave(world);
    return ok;
}

static bool channel_look(NcclWorld *world, const NcclChannel *channel, Fault *fault)
{
    ncclResult_t state = ncclSuccess;
    char group[128];
    if (ncclCommGetAsyncError(channel->nccl, &state) == ncclSuccess &&
        (state == ncclSuccess || state == ncclInProgress))
        return true;
    if (nccl_await_cause(world, state, fault))
        return false;
    comm_describe_group(world->comm.cluster, &channel->group, group, sizeof(group));
    return fault_set(fault, FAULT_RUN, "NCCL failed in %s: '%s': %s", group, ncclGetErrorString(state),
                     ncclGetLastError(channel->nccl));
}

bool nccl_poll(Comm *base, Fault *fault)
{
    NcclWorld *world = (NcclWorld *)base;
    if (rendezvous_aborted(world->rendezvous, fault) || !nccl_enter(world, fault))
        return false;
    bool ok = true;
    for (uint32_t c = 0; ok && c < world->channel_count; c++) {
        NcclChannel *channel = world->channels[c];
        if (!channel->nccl || pthread_mutex_trylock(&channel->lock) != 0) // who has it asks
            continue;
        ok = channel_look(world, channel, fault);
        pthread_mutex_unlock(&channel->lock);
    }
    nccl_leave(world);
    return ok;
}
