// CUDA graphs: where the sizes of all messages are the same in every iteration, the second iteration is captured, and
// from then on one call enqueues all steps. Where they are not, the reason is reported.
#include <inttypes.h>
#include <string.h>

#include "runtime/engine/engine_cuda_internal.h"

static bool exchanges_rows(const CudaEngine *engine)
{
    for (uint32_t s = 0; s < engine->plan->step_count; s++)
        if (engine->plan->steps[s].op == OP_DISPATCH && engine->steps[s].place.members > 1)
            return true;
    return false;
}

// Do graphs keep to counts that may change?
static bool fixes_counts(const CudaEngine *engine)
{
    return exchanges_rows(engine) && engine->plan->exchange == EXCHANGE_COUNTED;
}

static bool has_peers(const CudaEngine *engine)
{
    for (uint32_t s = 0; s < engine->plan->step_count; s++)
        if (engine->plan->steps[s].group != NONE && engine->steps[s].place.members > 1)
            return true;
    return false;
}

const char *cuda_replay_refusal(const Engine *base)
{
    const CudaEngine *engine = (const CudaEngine *)base;
    if (!engine->options.graphs)
        return "--no-graph";
    if (has_peers(engine) && !engine->comm->device->captures)
        return "ranks of one process wait for each other while they enqueue";
    if (fixes_counts(engine) && engine->options.routing != ROUTING_BALANCED)
        return "how many rows are exchanged is known at run time only; 'exchange = padded' with a 'capacity' in the "
               "plan block fixes it, and so does '--routing balanced'";
    return NULL;
}

static bool streams_fork(const CudaEngine *engine, cudaStream_t origin, Fault *fault)
{
    if (!cuda_check(cudaEventRecord(engine->forked, origin), "record an event", fault))
        return false;
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        if (engine->streams[s] && engine->streams[s] != origin &&
            !cuda_check(cudaStreamWaitEvent(engine->streams[s], engine->forked, 0), "order streams", fault))
            return false;
    return true;
}

static bool streams_join(const CudaEngine *engine, cudaStream_t origin, Fault *fault)
{
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        if (!engine->streams[s] || engine->streams[s] == origin)
            continue;
        if (!cuda_check(cudaEventRecord(engine->joined[s], engine->streams[s]), "record an event", fault) ||
            !cuda_check(cudaStreamWaitEvent(origin, engine->joined[s], 0), "order streams", fault))
            return false;
    }
    return true;
}

static bool steps_capture(CudaEngine *engine, cudaStream_t origin, cudaGraph_t *graph, Fault *fault)
{
    // Relaxed: the communicator's own threads may allocate meanwhile.
    if (!cuda_check(cudaStreamBeginCapture(origin, cudaStreamCaptureModeRelaxed), "begin a graph", fault))
        return false;
    engine->capturing = true;
    bool ok = streams_fork(engine, origin, fault);
    for (uint32_t s = 0; ok && s < engine->plan->step_count; s++) {
        ok = cuda_execute((Engine *)engine, s, fault);
        if (!ok && fault->rank < 0) {
            fault->rank = (int64_t)engine->comm->rank;
            fault->step = s;
        }
    }
    ok = ok && streams_join(engine, origin, fault);
    engine->capturing = false;
    cudaError_t error = cudaStreamEndCapture(origin, graph);
    return ok && cuda_check(error, "end a graph", fault);
}

static bool was_dropped(Fault *fault)
{
    return fault_set(fault, FAULT_RUN, "the communicators were ended");
}

// Kernels keep the priorities of the streams that they were captured from: exchanges go before products.
static bool graph_instantiate(CudaEngine *engine, cudaGraph_t graph, Fault *fault)
{
    cudaGraphExec_t exec;
    if (!cuda_check(cudaGraphInstantiate(&exec, graph, cudaGraphInstantiateFlagUseNodePriority), "make a graph", fault))
        return false;
    pthread_mutex_lock(&engine->graph_lock);
    bool dropped = engine->graph_dropped;
    if (!dropped)
        engine->graph = exec;
    pthread_mutex_unlock(&engine->graph_lock);
    if (dropped)
        cudaGraphExecDestroy(exec);
    return !dropped || was_dropped(fault);
}

static bool graph_launch(CudaEngine *engine, cudaStream_t origin, Fault *fault)
{
    pthread_mutex_lock(&engine->graph_lock);
    bool ok = engine->graph ? cuda_check(cudaGraphLaunch(engine->graph, origin), "launch a graph", fault)
                            : was_dropped(fault);
    pthread_mutex_unlock(&engine->graph_lock);
    return ok;
}

static bool graph_create(CudaEngine *engine, cudaStream_t origin, Fault *fault)
{
    cudaGraph_t graph = NULL;
    CommTraffic before[LEVELS_MAX] = {0};
    Comm *comm = engine->comm;
    comm->ops->traffic(comm, before, false);
    bool ok = steps_capture(engine, origin, &graph, fault) && graph_instantiate(engine, graph, fault);
    if (graph)
        cudaGraphDestroy(graph);
    memset(engine->captured, 0, sizeof(engine->captured));
    comm->ops->traffic(comm, engine->captured, false);
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        engine->captured[l].exchange_bytes -= before[l].exchange_bytes;
        engine->captured[l].routing_bytes -= before[l].routing_bytes;
        engine->captured[l].gather_bytes -= before[l].gather_bytes;
        engine->captured[l].reduce_bytes -= before[l].reduce_bytes;
        engine->captured[l].padding_bytes = 0; // is looked at after every iteration
    }
    engine->is_captured = ok;
    if (ok)
        memcpy(engine->counts_captured, engine->counts, engine->counts_total * sizeof(int32_t));
    return ok;
}

static bool leaves_out(const CudaEngine *engine, const bool *left_out)
{
    bool any = false;
    for (uint32_t s = 0; left_out && s < engine->plan->step_count; s++)
        any = any || left_out[s];
    return any;
}

static bool all_ran(const CudaEngine *engine)
{
    for (uint32_t s = 0; s < engine->plan->step_count; s++)
        if (atomic_load(&engine->steps[s].enqueued) == 0)
            return false;
    return true;
}

bool cuda_replay(Engine *base, const bool *left_out, Fault *fault)
{
    CudaEngine *engine = (CudaEngine *)base;
    cudaStream_t origin = engine->streams[STREAM_COMPUTE];
    // An iteration before learns the counts that the graph is made with, and loads the kernels.
    // One is made of iterations with packets as they will be from then on.
    if (engine->whole || leaves_out(engine, left_out) || !all_ran(engine) || !origin || cuda_replay_refusal(base))
        return false;
    if (!cuda_use_device(engine, fault) || !cuda_check(engine->begin_error, "copy the inputs", fault))
        return false;
    bool is_new = !engine->is_captured;
    if (is_new && !graph_create(engine, origin, fault))
        return false;
    if (!is_new)
        engine->comm->device->count(engine->comm, engine->captured);
    if (!graph_launch(engine, origin, fault))
        return false;
    for (uint32_t s = 0; s < engine->plan->step_count; s++)
        atomic_store(&engine->steps[s].enqueued, engine->iteration);
    engine->replayed = engine->iteration;
    return true;
}

bool cuda_graph_check(const CudaEngine *engine, Fault *fault)
{
    if (engine->replayed != engine->iteration || !fixes_counts(engine))
        return true;
    for (uint64_t c = 0; c < engine->counts_total; c++)
        if (engine->counts[c] != engine->counts_captured[c])
            return fault_set(fault, FAULT_RUN,
                             "a captured graph moved %" PRId32 " rows where there were %" PRId32
                             ": the gate chose otherwise than before; run with --no-graph",
                             engine->counts_captured[c], engine->counts[c]);
    return true;
}

void cuda_graph_drop(void *context)
{
    CudaEngine *engine = context;
    pthread_mutex_lock(&engine->graph_lock);
    if (engine->graph)
        cudaGraphExecDestroy(engine->graph); // of one under way: when that has ended
    engine->graph = NULL;
    engine->graph_dropped = true;
    pthread_mutex_unlock(&engine->graph_lock);
}
