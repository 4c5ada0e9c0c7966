// The CUDA engine: one arena of device memory, one stream of the device per stream of the plan, weights as the host
// engine has them. Nothing is allocated, and nothing waits for the device, while steps are enqueued, but for the counts
// that an exchange sizes its messages by.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engines/sums.h"
#include "ir/base/text.h"
#include "runtime/comm/comm_local.h"
#include "runtime/engine/engine_cuda_internal.h"

static bool cuda_available(Fault *fault)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    return (error == cudaSuccess && count > 0) ||
           fault_set(fault, FAULT_RUN, "no CUDA device%s%s: look at nvidia-smi, the driver and CUDA_VISIBLE_DEVICES",
                     error == cudaSuccess ? "" : ": ", error == cudaSuccess ? "" : cudaGetErrorString(error));
}

// Local steps have no kernels here.
static bool cuda_supports(Op op)
{
    return op != OP_OUTER_GRADIENT && op != OP_OUTER_STEP && cuda_handler(op) != NULL;
}

// ---- memory ----------------------------------------------------------------------------------

static void *place_of(const CudaEngine *engine, MemoryPart part)
{
    return engine->memory + part.offset;
}

// Gives everything on the device its place.
static void memory_hand_out(CudaEngine *engine)
{
    const CudaMemory *layout = &engine->layout;
    uint64_t parts = layout->parts.offset;
    engine->device_maps = place_of(engine, layout->maps);
    engine->lost = place_of(engine, layout->lost);
    engine->factors = place_of(engine, layout->factors);
    engine->kept_counts = place_of(engine, layout->kept_counts);
    for (uint32_t s = 0; s < SUM_STREAMS; s++)
        engine->sum_scratch[s] = place_of(engine, layout->sums[s]);
    for (uint32_t s = 0; s < engine->plan->step_count; s++) {
        Op op = engine->plan->steps[s].op;
        if (op != OP_REDUCE_SCATTER && op != OP_ALL_REDUCE)
            continue;
        engine->steps[s].of.parts = (const void **)(engine->memory + parts);
        parts += layout->parts_stride;
    }
    engine->kept_records = engine->options.record ? place_of(engine, layout->kept_records) : NULL;
    engine->kept_x = engine->options.record ? place_of(engine, layout->kept_x) : NULL;
}
_Static_assert(sizeof(AdamWFactors) <= CUDA_FACTORS_BYTES, "the layout reserves less than factors are large");
_Static_assert(sizeof(Record) == RECORD_BYTES, "the layout counts records of another size");

static uint64_t cuda_bytes(const Plan *plan, const EngineOptions *options)
{
    CudaMemory layout;
    cuda_memory_lay_out(plan, options->record, &layout);
    return layout.total > INT64_MAX ? UINT64_MAX : layout.total;
}

static uint64_t cuda_free_bytes(const Comm *comm)
{
    size_t available, total;
    if (cudaSetDevice(comm ? comm->device_index : 0) != cudaSuccess ||
        cudaMemGetInfo(&available, &total) != cudaSuccess)
        return 0;
    return available;
}

static bool memory_allocate(CudaEngine *engine, uint64_t bytes, Fault *fault)
{
    Comm *comm = engine->comm;
    return comm->device->allocate ? comm->device->allocate(comm, bytes, (void **)&engine->memory, fault)
                                  : cuda_check(cudaMalloc((void **)&engine->memory, bytes), "allocate memory", fault);
}

static void memory_release(CudaEngine *engine)
{
    if (engine->comm->device->release)
        engine->comm->device->release(engine->comm, engine->memory);
    else
        cudaFree(engine->memory);
}

static bool device_memory_create(CudaEngine *engine, Fault *fault)
{
    cuda_memory_lay_out(engine->plan, engine->options.record, &engine->layout);
    uint64_t total = engine->layout.total;
    Fault cause = {0};
    if (!memory_allocate(engine, total, &cause)) {
        char bytes[FORMAT_MAX], available[FORMAT_MAX];
        return fault_set(fault, FAULT_MEMORY, "out of GPU memory for %s: %s; %s are free",
                         format_bytes(bytes, (double)total), cause.message,
                         format_bytes(available, (double)cuda_free_bytes(engine->comm)));
    }
    memory_hand_out(engine);
    // NaN in every floating dtype: what is read unwritten shows.
    return cuda_check_settled(cudaMemset(engine->memory, 0xFF, total), "fill the GPU's memory", fault);
}

static int32_t unplaced; // stands for a place while places are counted

// Copies of the counts that exchanges read or write, one after another from `first` on; returns how many.
static uint64_t counts_give_places(CudaEngine *engine, int32_t *first)
{
    const Plan *plan = engine->plan;
    uint64_t used = 0;
    memset(engine->counts_of_buffer, 0, plan->buffer_count * sizeof(*engine->counts_of_buffer));
    for (uint32_t s = 0; s < plan->step_count; s++) {
        int32_t counts[2];
        if (!cuda_counts_of(plan, &plan->steps[s], counts))
            continue;
        for (int i = 0; i < 2; i++) {
            int32_t b = counts[i];
            if (engine->counts_of_buffer[b])
                continue;
            engine->counts_of_buffer[b] = first ? first + used : &unplaced;
            used += plan->buffers[b].rows * plan->buffers[b].cols;
        }
    }
    return used;
}

// Pinned memory: what is given to the device in every iteration, and what comes back.
static bool pinned_memory_create(CudaEngine *engine, Fault *fault)
{
    const Plan *plan = engine->plan;
    uint32_t members = sums_of_plan(plan).members_most;
    for (uint32_t g = 0; g < plan->group_count; g++) {
        uint64_t size = group_size(&plan->cluster, &plan->groups[g]);
        members = size > members ? (uint32_t)size : members;
    }
    engine->counts_total = counts_give_places(engine, NULL);
    engine->counts_captured = calloc(engine->counts_total + 1, sizeof(*engine->counts_captured));
    if (!engine->counts_captured)
        return fault_set(fault, FAULT_MEMORY, "out of memory");
    uint64_t tokens = (uint64_t)plan->model.batch * (plan->model.sequence + 1);
    uint64_t bytes[] = {engine->counts_total * sizeof(int32_t),
                        members * sizeof(int32_t),
                        2ull * SUM_STREAMS * members * sizeof(int32_t),
                        plan->step_count * sizeof(uint64_t),
                        sizeof(AdamWFactors),
                        plan->micro_batches * tokens * sizeof(int32_t),
                        plan->micro_batches * sizeof(float),
                        engine_kept_counts(plan) * sizeof(int32_t)};
    uint64_t offsets[COUNT_OF(bytes)], total = 0;
    for (size_t i = 0; i < COUNT_OF(bytes); i++) {
        offsets[i] = total;
        total += (bytes[i] + 63) / 64 * 64;
    }
    if (!cuda_check(cudaMallocHost((void **)&engine->pinned, total + 64), "pin memory", fault))
        return false;
    memset(engine->pinned, 0, total);
    engine->counts = (int32_t *)(engine->pinned + offsets[0]);
    engine->ones = (int32_t *)(engine->pinned + offsets[1]);
    for (uint32_t s = 0; s < SUM_STREAMS; s++)
        engine->sum_counts[s] = (int32_t *)(engine->pinned + offsets[2]) + 2ull * s * members;
    engine->lost_seen = (uint64_t *)(engine->pinned + offsets[3]);
    engine->factors_set = (AdamWFactors *)(engine->pinned + offsets[4]);
    engine->tokens_set = (int32_t *)(engine->pinned + offsets[5]);
    engine->loss_seen = (float *)(engine->pinned + offsets[6]);
    engine->counts_seen = (int32_t *)(engine->pinned + offsets[7]);
    for (uint32_t m = 0; m < members; m++)
        engine->ones[m] = 1;
    counts_give_places(engine, engine->counts);
    return true;
}

static bool host_memory_create(CudaEngine *engine, Fault *fault)
{
    const Plan *plan = engine->plan;
    size_t channels = (size_t)(plan->group_count + 1) * STREAM_COUNT;
    engine->steps = calloc(plan->step_count + 1, sizeof(*engine->steps));
    engine->awaited_memory = calloc(plan->after_count + 1, sizeof(*engine->awaited_memory));
    engine->channels = malloc(channels * sizeof(*engine->channels));
    engine->kinds = malloc((plan->buffer_count + 1) * sizeof(*engine->kinds));
    engine->counts_of_buffer = calloc(plan->buffer_count + 1, sizeof(*engine->counts_of_buffer));
    engine->decisions = malloc(engine_decisions_bytes(plan) + 1);
    engine->records_seen = malloc(engine_decisions_bytes(plan) / sizeof(int32_t) * sizeof(Record) + 1);
    engine->final_x = malloc(engine_final_bytes(plan) + 1);
    if (!engine->steps || !engine->awaited_memory || !engine->channels || !engine->kinds || !engine->counts_of_buffer ||
        !engine->decisions || !engine->records_seen || !engine->final_x ||
        !expert_maps_create(&engine->maps, plan, engine->comm->rank))
        return fault_set(fault, FAULT_MEMORY, "out of memory");
    bundle_kinds(plan, engine->kinds);
    for (size_t c = 0; c < channels; c++)
        engine->channels[c] = -1;
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        engine->first_step[s] = UINT32_MAX;
    return true;
}

static bool maps_upload(CudaEngine *engine, Fault *fault)
{
    uint64_t entries = engine_map_entries(engine->plan) * engine->maps.map_count;
    return cuda_check_settled(
        cudaMemcpy(engine->device_maps, engine->maps.memory, entries * sizeof(int32_t), cudaMemcpyHostToDevice),
        "copy the places of experts", fault);
}

// ---- streams ---------------------------------------------------------------------------------

static bool streams_create(CudaEngine *engine, Fault *fault)
{
    int least = 0, greatest = 0;
    if (!cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "ask for priorities", fault) ||
        !cuda_check(cudaEventCreate(&engine->began), "create an event", fault) ||
        !cuda_check(cudaEventCreateWithFlags(&engine->forked, cudaEventDisableTiming), "create an event", fault))
        return false;
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        if (!cuda_check(cudaEventCreateWithFlags(&engine->ended[s], cudaEventDisableTiming), "create an event",
                        fault) ||
            !cuda_check(cudaEventCreateWithFlags(&engine->joined[s], cudaEventDisableTiming), "create an event", fault))
            return false;
        if (!engine_has_stream(engine->plan, (Stream)s))
            continue;
        MemoryPart work = engine->layout.queues[s];
        bool is_awaited = s == STREAM_EXCHANGE || s == STREAM_MIGRATE || s == STREAM_MIGRATE_OUTER;
        if (!cuda_check(
                cudaStreamCreateWithPriority(&engine->streams[s], cudaStreamNonBlocking, is_awaited ? greatest : least),
                "create a stream", fault) ||
            !cuda_check(cuda_queue_create(&engine->queues[s], engine->streams[s], s == STREAM_COMPUTE,
                                          place_of(engine, work), work.bytes),
                        "prepare matrix products", fault))
            return false;
    }
    return true;
}

// ---- weights ---------------------------------------------------------------------------------

static bool is_stopped(const CudaEngine *engine)
{
    return engine->options.stopped && atomic_load(engine->options.stopped);
}

// What the buffer holds before the first iteration, where that is known.
static bool buffer_upload(const CudaEngine *engine, uint32_t buffer, char *staging, Fault *fault)
{
    const Buffer *of = &engine->plan->buffers[buffer];
    const EngineOptions *options = &engine->options;
    Tensor out = {.data = staging, .dtype = of->dtype, .rows = of->rows, .cols = of->cols};
    memset(staging, 0xFF, buffer_bytes(of)); // what is no weight shows, as in the rest of the arena
    return !options->fill(options->fill_context, engine->kinds[buffer], of->layer, out) ||
           cuda_check_settled(
               cudaMemcpy(engine->memory + of->offset, staging, buffer_bytes(of), cudaMemcpyHostToDevice),
               "copy weights", fault);
}

static bool is_persistent(const Buffer *buffer)
{
    return buffer->kind == BUFFER_WEIGHT || buffer->kind == BUFFER_REPLICA;
}

static bool weights_create(const CudaEngine *engine, Fault *fault)
{
    const Plan *plan = engine->plan;
    uint64_t largest = 0;
    if (!engine->options.fill)
        return true;
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        if (is_persistent(&plan->buffers[b]) && buffer_bytes(&plan->buffers[b]) > largest)
            largest = buffer_bytes(&plan->buffers[b]);
    char *staging = malloc(largest + 1);
    bool ok = staging || fault_set(fault, FAULT_MEMORY, "out of memory for weights");
    for (uint32_t b = 0; ok && b < plan->buffer_count && !is_stopped(engine); b++)
        ok = !is_persistent(&plan->buffers[b]) || buffer_upload(engine, b, staging, fault);
    free(staging);
    return ok && (!is_stopped(engine) || fault_set(fault, FAULT_INTERRUPTED, "interrupted while weights were made"));
}

static bool optimizers_begin(CudaEngine *engine, Fault *fault)
{
    for (uint32_t s = 0; s < engine->plan->step_count; s++) {
        const CudaStep *step = &engine->steps[s];
        if (engine->plan->steps[s].op == OP_OPTIMIZER &&
            !cuda_check(cuda_optimizer_begin(&engine->queues[step->stream], step->operands.optimizer.weights,
                                             step->operands.optimizer.state),
                        "prepare the optimizer", fault))
            return false;
    }
    return cuda_check(cudaDeviceSynchronize(), "prepare the GPU", fault);
}

// ---- the engine ------------------------------------------------------------------------------

static void event_destroy(cudaEvent_t event)
{
    if (event)
        cudaEventDestroy(event);
}

static void cuda_destroy(Engine *base)
{
    CudaEngine *engine = (CudaEngine *)base;
    if (!engine)
        return;
    cudaSetDevice(engine->comm->device_index);
    cuda_graph_drop(engine);
    engine->comm->device->detach(engine->comm);
    for (uint32_t s = 0; engine->steps && s < engine->plan->step_count; s++) {
        event_destroy(engine->steps[s].begun);
        event_destroy(engine->steps[s].done);
        event_destroy(engine->steps[s].counted);
    }
    event_destroy(engine->began);
    event_destroy(engine->forked);
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        event_destroy(engine->ended[s]);
        event_destroy(engine->joined[s]);
        cuda_queue_destroy(&engine->queues[s]);
        if (engine->streams[s])
            cudaStreamDestroy(engine->streams[s]);
    }
    memory_release(engine);
    cudaFreeHost(engine->pinned);
    pthread_mutex_destroy(&engine->graph_lock);
    expert_maps_destroy(&engine->maps);
    free(engine->steps);
    free(engine->awaited_memory);
    free(engine->channels);
    free(engine->kinds);
    free(engine->counts_of_buffer);
    free(engine->decisions);
    free(engine->records_seen);
    free(engine->counts_captured);
    free(engine->final_x);
    free(engine);
}

static Engine *cuda_create(const Plan *plan, Comm *comm, const EngineOptions *options, Fault *fault)
{
    CudaEngine *engine = calloc(1, sizeof(*engine));
    if (!engine) {
        fault_set(fault, FAULT_MEMORY, "out of memory");
        return NULL;
    }
    assert(comm->device);
    *engine = (CudaEngine){.ops = &cuda_engine, .plan = plan, .comm = comm, .options = *options};
    engine->capacity_rows = engine_capacity_rows(plan);
    pthread_mutex_init(&engine->graph_lock, NULL);
    if (cuda_use_device(engine, fault) && host_memory_create(engine, fault) && device_memory_create(engine, fault) &&
        pinned_memory_create(engine, fault) && maps_upload(engine, fault) && streams_create(engine, fault) &&
        cuda_steps_create(engine, fault) && weights_create(engine, fault) && optimizers_begin(engine, fault) &&
        comm->device->attach(comm,
                             &(DeviceUse){.memory = engine->memory,
                                          .bytes = engine->layout.total,
                                          .drop_graphs = cuda_graph_drop,
                                          .context = engine},
                             fault))
        return (Engine *)engine;
    cuda_destroy((Engine *)engine);
    return NULL;
}

static bool cuda_read(const Engine *base, uint32_t buffer, uint64_t offset, uint64_t bytes, void *out, Fault *fault)
{
    const CudaEngine *engine = (const CudaEngine *)base;
    assert(offset + bytes <= buffer_bytes(&engine->plan->buffers[buffer]));
    return cuda_use_device(engine, fault) &&
           cuda_check(cudaMemcpy(out, engine->memory + engine->plan->buffers[buffer].offset + offset, bytes,
                                 cudaMemcpyDeviceToHost),
                      "read the GPU's memory", fault);
}

static bool cuda_write(Engine *base, uint32_t buffer, uint64_t offset, uint64_t bytes, const void *from, Fault *fault)
{
    const CudaEngine *engine = (const CudaEngine *)base;
    assert(offset + bytes <= buffer_bytes(&engine->plan->buffers[buffer]));
    return cuda_use_device(engine, fault) &&
           cuda_check_settled(cudaMemcpy(engine->memory + engine->plan->buffers[buffer].offset + offset, from, bytes,
                                         cudaMemcpyHostToDevice),
                              "write the GPU's memory", fault);
}

static const char *cuda_expert_refusal(const Engine *base)
{
    const ModelDims *model = &((const CudaEngine *)base)->plan->model;
    CudaExpertKernel kernel;
    if (model->dtype == DTYPE_F32 || cuda_expert_kernel(&kernel) != cudaSuccess)
        return NULL;
    if (model->hidden % 8 != 0 || model->inner % 8 != 0)
        return "hidden or inner is no multiple of 8";
    return kernel.refusal;
}

static const EngineDevice cuda_device = {
    .free_bytes = cuda_free_bytes,
    .join = local_comm_create,
    .leave = local_comm_destroy,
};

static const EngineQueue cuda_queue = {
    .complete = cuda_complete,
    .replay = cuda_replay,
    .finish = cuda_finish,
    .replay_refusal = cuda_replay_refusal,
    .expert_refusal = cuda_expert_refusal,
};

const EngineOps cuda_engine = {
    .name = "cuda",
    .kind = ENGINE_CUDA,
    .device = &cuda_device,
    .queue = &cuda_queue,
    .available = cuda_available,
    .supports = cuda_supports,
    .bytes = cuda_bytes,
    .create = cuda_create,
    .destroy = cuda_destroy,
    .begin = cuda_begin,
    .execute = cuda_execute,
    .result = cuda_result,
    .read = cuda_read,
    .write = cuda_write,
};
