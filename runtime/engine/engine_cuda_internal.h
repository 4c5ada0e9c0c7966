// The CUDA engine's state for one rank. engine_cuda.c makes its memory and streams, engine_cuda_steps.c resolves the
// steps, engine_cuda_ops.c, engine_cuda_exchange.c and engine_cuda_codec.c enqueue them, engine_cuda_run.c runs
// iterations, engine_cuda_graph.c replays them, engine_cuda_finish.c ends them, engine_cuda_wait.c waits. Included by
// engine_cuda*.c alone.
#ifndef HEP_ENGINE_CUDA_INTERNAL_H
#define HEP_ENGINE_CUDA_INTERNAL_H

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engines/engine_memory.h"
#include "kernels/cuda/kernels.h"
#include "runtime/base/cuda_check.h"
#include "runtime/comm/comm_sums.h"
#include "runtime/engine/engine_common.h"

typedef struct CudaEngine CudaEngine;
typedef struct CudaStep CudaStep;
typedef bool (*CudaHandler)(CudaStep *step, Fault *fault); // enqueues

enum { STEP_LABEL_MAX = 48 };

// Of steps that route rows, or undo it.
typedef struct {
    RouteTable table;     // its places of experts are device memory
    uint32_t fanout;      // record rows a row of the stage that the origin leads back to
    CudaRows present;     // rows of the stage that is split
    uint64_t kept_first;  // where exchanges are padded, the first of a route's counts among those kept,
    int32_t *kept_counts; // device; NULL where they are not kept
} CudaRoute;

// Of experts and their gradients.
typedef struct {
    CudaSlots slots;
    CudaRows present;
    uint32_t fanout; // record rows a row
} CudaExperts;

// Of exchanges of rows: pinned copies of their counts.
typedef struct {
    int32_t *send_counts, *recv_counts;
    bool counts_known; // an exchange before it brought them
} CudaExchange;

// Of steps that pack rows or unpack them.
typedef struct {
    TokenFormat format;
    CudaRows present;
} CudaPacked;

struct CudaStep {
    CudaEngine *engine;
    CudaHandler run;
    uint32_t index;
    Stream stream;
    char label[STEP_LABEL_MAX]; // of its range in a profiler
    StepTensors operands;
    uint32_t *awaited; // [awaited_count] steps of other streams that nothing else orders before this one
    uint32_t awaited_count;
    cudaEvent_t begun;         // NULL unless begins are timed
    cudaEvent_t done;          // also the time of its end
    cudaEvent_t counted;       // counts are in the pinned copies; while a graph is captured: the step's end
    _Atomic uint64_t enqueued; // number of the iteration in which it last was
    int channel;               // of steps that meet others
    MessagePlace place;        // among those; of gradients that are packed, among those that the packets travel between
    StepPackets packets;
    union { // of the op; of gates; of others
        CudaRoute route;
        CudaExperts experts;
        CudaExchange exchange;
        CudaPacked packed;
        Record *kept_records;  // device, where the gate's choice is recorded, or NULL
        bool is_final;         // its output is the final hidden state
        const void **parts;    // of sums: device array
        ModelRanges undecayed; // of optimizer steps
    } of;
};

struct CudaEngine {
    const EngineOps *ops;
    const Plan *plan;
    Comm *comm;
    EngineOptions options;
    uint64_t capacity_rows; // of the gate
    bool whole;             // packets hold whole values in this iteration
    ExpertMaps maps;
    WeightKind *kinds; // [buffers]
    CudaStep *steps;
    uint32_t *awaited_memory;
    int *channels; // [group][stream], -1 while not opened

    cudaStream_t streams[STREAM_COUNT]; // NULL where the plan has no steps
    uint32_t first_step[STREAM_COUNT];  // of each
    CudaQueue queues[STREAM_COUNT];
    cudaEvent_t began; // inputs are in place; the time from which those of steps are counted
    double began_s;
    cudaEvent_t ended[STREAM_COUNT];          // the stream's steps are; of compute: results are in pinned memory
    cudaEvent_t forked, joined[STREAM_COUNT]; // of the captured streams

    CudaMemory layout;
    char *memory; // of the device, one allocation: the plan's arena, then the engine's own
    int32_t *device_maps;
    uint64_t *lost; // [steps]
    AdamWFactors *factors;
    int32_t *kept_counts; // [engine_kept_counts] send counts of routes, where exchanges are padded
    uint64_t kept_used;   // of these, given to routes
    void *sum_scratch[SUM_STREAMS];
    Record *kept_records; // [choices][tokens][top_k]
    void *kept_x;

    // Pinned.
    char *pinned;
    int32_t *counts;            // of all buffers of counts, see counts_of_buffer
    int32_t **counts_of_buffer; // [buffers], NULL where a buffer has none
    int32_t *ones, *sum_counts[SUM_STREAMS];
    int32_t *counts_seen; // of kept_counts
    uint64_t *lost_seen;
    AdamWFactors *factors_set;
    int32_t *tokens_set;
    float *loss_seen;

    Record *records_seen;
    int32_t *decisions;
    void *final_x;
    Tensor loss, tokens, x; // on the device
    uint64_t iteration;     // number of the one under way, from 1
    int64_t nonfinite_step; // see EngineResult
    cudaError_t begin_error;

    bool capturing, is_captured;
    pthread_mutex_t graph_lock;
    cudaGraphExec_t graph;            // of what was captured; guarded by it: who aborts destroys it
    bool graph_dropped;               // likewise: it was, for good
    CommTraffic captured[LEVELS_MAX]; // what one replay moves
    uint64_t replayed;                // number of the iteration that it last was
    int32_t *counts_captured;         // [counts_total] what `counts` were when it was captured
    uint64_t counts_total;
};

// One for every op, in engine_cuda_ops.c, engine_cuda_codec.c and engine_cuda_exchange.c.
#define HEP_OP(name, text, ...) bool cuda_run_##text(CudaStep *step, Fault *fault);
#include "ir/ops.def"
CudaHandler cuda_handler(Op op); // in engine_cuda_steps.c; NULL for an unknown op

bool cuda_exchange(const CudaStep *step, const Exchange *exchange, Fault *fault) MUST_CHECK;
// After a collective: in a step's first run it is awaited, as kernels that the step launches after it are loaded then.
bool cuda_collective_first(const CudaStep *step, Fault *fault) MUST_CHECK;
// What the counts that a padded plan keeps say of padding, for the byte counters.
bool cuda_count_padding(const CudaEngine *engine, Fault *fault) MUST_CHECK;

static inline uint64_t tensor_row_bytes(Tensor tensor)
{
    return tensor.cols * dtype_bytes(tensor.dtype);
}

// The counts of an exchange, sent and received (buffers); false for other steps.
bool cuda_counts_of(const Plan *plan, const Step *step, int32_t counts[2]);

bool cuda_steps_create(CudaEngine *engine, Fault *fault) MUST_CHECK;
SumGroup cuda_sum_group(const CudaStep *step);

static inline MUST_CHECK bool cuda_use_device(const CudaEngine *engine, Fault *fault)
{
    return cuda_check(cudaSetDevice(engine->comm->device_index), "use the GPU", fault);
}

// The stream that inputs and results go by.
static inline cudaStream_t cuda_home_stream(const CudaEngine *engine)
{
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        if (engine->streams[s])
            return engine->streams[s];
    return NULL;
}

// Waits for what was enqueued before the event, but not for ever: a failed or missing peer ends it. `hurries`: nothing
// is enqueued meanwhile, so that what the host is late by is lost.
bool cuda_await(CudaEngine *engine, cudaEvent_t event, bool hurries, Fault *fault) MUST_CHECK;

bool cuda_complete(Engine *base, uint32_t step, Fault *fault);
void cuda_begin(Engine *base, const EngineIteration *iteration);
bool cuda_execute(Engine *base, uint32_t step, Fault *fault);
bool cuda_finish(Engine *base, StepTime times[], Fault *fault);
EngineResult cuda_result(const Engine *base);
bool cuda_replay(Engine *base, const bool *skipped_steps, Fault *fault);
const char *cuda_replay_refusal(const Engine *base);
// Did the graph that was replayed fit?
bool cuda_graph_check(const CudaEngine *engine, Fault *fault) MUST_CHECK;
void cuda_graph_drop(void *engine); // for good; takes one without a graph

#endif
