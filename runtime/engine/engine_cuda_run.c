// Iterations of the CUDA engine: inputs go to the device, and steps are enqueued by the interpreter's threads. What
// happens when all are is in engine_cuda_finish.c.
#include <string.h>

#include <nvtx3/nvToolsExt.h>

#include "runtime/base/clock.h"
#include "runtime/engine/engine_cuda_internal.h"

static cudaError_t inputs_enqueue(CudaEngine *engine, const EngineIteration *iteration)
{
    cudaStream_t home = cuda_home_stream(engine);
    const Plan *plan = engine->plan;
    cudaError_t error = cudaMemsetAsync(engine->lost, 0, plan->step_count * sizeof(*engine->lost), home);
    if (error == cudaSuccess && engine->tokens.data) {
        uint64_t count = engine->tokens.rows * engine->tokens.cols, bytes = count * sizeof(int32_t);
        memcpy(engine->tokens_set, iteration->tokens, plan->micro_batches * bytes);
        for (uint32_t i = 0; i < plan->micro_batches && error == cudaSuccess; i++)
            error = cudaMemcpyAsync(engine_value(engine->tokens, i).data, engine->tokens_set + i * count, bytes,
                                    cudaMemcpyHostToDevice, home);
    }
    const TrainingSettings *settings = &engine->options.training;
    engine->whole = iteration->whole;
    AdamW adamw = {.learning_rate = iteration->learning_rate,
                   .beta1 = (float)settings->beta1,
                   .beta2 = (float)settings->beta2,
                   .epsilon = (float)settings->epsilon,
                   .weight_decay = (float)settings->weight_decay,
                   .gradient_scale = (float)engine_gradient_scale(settings, engine_summands(plan), 0),
                   .step = iteration->update};
    *engine->factors_set = cuda_adamw_factors(&adamw, settings->clip);
    if (error == cudaSuccess)
        error = cudaMemcpyAsync(engine->factors, engine->factors_set, sizeof(*engine->factors), cudaMemcpyHostToDevice,
                                home);
    return error == cudaSuccess ? cudaEventRecord(engine->began, home) : error;
}

void cuda_begin(Engine *base, const EngineIteration *iteration)
{
    CudaEngine *engine = (CudaEngine *)base;
    engine->iteration++;
    engine->begin_error = cudaSetDevice(engine->comm->device_index);
    if (engine->begin_error == cudaSuccess)
        engine->begin_error = inputs_enqueue(engine, iteration);
    engine->began_s = clock_now_s();
}

// Every stream begins after the inputs.
static bool stream_begin(const CudaEngine *engine, const CudaStep *step, Fault *fault)
{
    return cuda_check(engine->begin_error, "copy the inputs", fault) &&
           cuda_check(cudaStreamWaitEvent(engine->streams[step->stream], engine->began, 0), "order streams", fault);
}

// An event whose time is read after the iteration, also where that is a graph.
static bool time_record(const CudaEngine *engine, cudaEvent_t event, cudaStream_t stream, Fault *fault)
{
    return cuda_check(
        cudaEventRecordWithFlags(event, stream, engine->capturing ? cudaEventRecordExternal : cudaEventRecordDefault),
        "record an event", fault);
}

static bool step_enqueue(CudaEngine *engine, CudaStep *step, Fault *fault)
{
    cudaStream_t stream = engine->streams[step->stream];
    for (uint32_t a = 0; a < step->awaited_count; a++) {
        const CudaStep *awaited = &engine->steps[step->awaited[a]];
        if (!cuda_check(cudaStreamWaitEvent(stream, engine->capturing ? awaited->counted : awaited->done, 0),
                        "order streams", fault))
            return false;
    }
    if ((step->begun && !time_record(engine, step->begun, stream, fault)) || !step->run(step, fault))
        return false;
    return (!engine->capturing || cuda_check(cudaEventRecord(step->counted, stream), "record an event", fault)) &&
           time_record(engine, step->done, stream, fault);
}

bool cuda_complete(Engine *base, uint32_t index, Fault *fault)
{
    CudaEngine *engine = (CudaEngine *)base;
    return cuda_use_device(engine, fault) && cuda_await(engine, engine->steps[index].done, false, fault);
}

bool cuda_execute(Engine *base, uint32_t index, Fault *fault)
{
    CudaEngine *engine = (CudaEngine *)base;
    CudaStep *step = &engine->steps[index];
    if (!cuda_use_device(engine, fault))
        return false;
    nvtxRangePushA(step->label);
    bool ok = (engine->capturing || index != engine->first_step[step->stream] || stream_begin(engine, step, fault)) &&
              step_enqueue(engine, step, fault);
    nvtxRangePop();
    atomic_store(&step->enqueued, engine->iteration);
    return ok;
}
