// The end of an iteration of the CUDA engine: results follow the last steps of all streams, the host waits for them,
// and learns when each step ended, what went wrong and what came of it.
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>

#include "runtime/engine/engine_cuda_internal.h"
#include "runtime/engine/nonfinite.h"

// What messages carried, where all have one size.
static bool counts_enqueue(const CudaEngine *engine, cudaStream_t home, Fault *fault)
{
    uint64_t bytes = engine_kept_counts(engine->plan) * sizeof(int32_t);
    return bytes == 0 ||
           cuda_check(cudaMemcpyAsync(engine->counts_seen, engine->kept_counts, bytes, cudaMemcpyDeviceToHost, home),
                      "enqueue a copy", fault);
}

static bool losses_enqueue(const CudaEngine *engine, cudaStream_t home, Fault *fault)
{
    bool ok = true;
    for (uint32_t i = 0; i < engine->plan->micro_batches && engine->loss.data && ok; i++)
        ok = cuda_check(cudaMemcpyAsync(engine->loss_seen + i, engine_value(engine->loss, i).data, sizeof(float),
                                        cudaMemcpyDeviceToHost, home),
                        "enqueue a copy", fault);
    return ok;
}

static double mean_loss(const CudaEngine *engine)
{
    double sum = 0;
    for (uint32_t i = 0; i < engine->plan->micro_batches; i++)
        sum += (double)engine->loss_seen[i];
    return sum / engine->plan->micro_batches;
}

// What came of the iteration follows the last steps of all streams.
static bool results_enqueue(CudaEngine *engine, Fault *fault)
{
    cudaStream_t home = cuda_home_stream(engine);
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        if (!engine->streams[s] || engine->streams[s] == home)
            continue;
        if (!cuda_check(cudaEventRecord(engine->ended[s], engine->streams[s]), "record an event", fault) ||
            !cuda_check(cudaStreamWaitEvent(home, engine->ended[s], 0), "order streams", fault))
            return false;
    }
    return cuda_check(cudaMemcpyAsync(engine->lost_seen, engine->lost, engine->plan->step_count * sizeof(*engine->lost),
                                      cudaMemcpyDeviceToHost, home),
                      "enqueue a copy", fault) &&
           counts_enqueue(engine, home, fault) && losses_enqueue(engine, home, fault) &&
           cuda_check(cudaEventRecord(engine->ended[STREAM_COMPUTE], home), "record an event", fault);
}

static bool lost_check(const CudaEngine *engine, Fault *fault)
{
    for (uint32_t s = 0; s < engine->plan->step_count; s++) {
        const struct route_tensors *t = &engine->steps[s].operands.route;
        uint64_t lost = engine->lost_seen[s];
        if (lost == 0)
            continue;
        if (engine->plan->steps[s].op == OP_ROUTE)
            fault_set(fault, FAULT_RUN,
                      "%" PRIu64 " rows do not fit in buffers of %" PRIu64 " and %" PRIu64
                      " rows: more tokens chose experts of one domain than the plan reserves for",
                      lost, t->next_rows.rows, t->send_rows.rows);
        else
            fault_set(fault, FAULT_RUN, "%" PRIu64 " records name experts that this rank does not hold", lost);
        fault->rank = (int64_t)engine->comm->rank;
        fault->step = s;
        return false;
    }
    return true;
}

static bool time_of(const CudaEngine *engine, cudaEvent_t event, double *time_s, Fault *fault)
{
    float ms = 0;
    bool ok = cuda_check(cudaEventElapsedTime(&ms, engine->began, event), "read a time", fault);
    *time_s = engine->began_s + 1e-3 * (double)ms;
    return ok;
}

// A step starts when nothing that it waits for holds it back any more, or when it was seen to.
static bool times_read(const CudaEngine *engine, StepTime times[], Fault *fault)
{
    const Plan *plan = engine->plan;
    double free_s[STREAM_COUNT];
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        free_s[s] = engine->began_s;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const CudaStep *step = &engine->steps[s];
        if (atomic_load(&step->enqueued) != engine->iteration)
            continue;
        double start_s = free_s[step->stream], end_s;
        if (!time_of(engine, step->done, &end_s, fault) ||
            (step->begun && !time_of(engine, step->begun, &start_s, fault)))
            return false;
        for (uint32_t a = 0; a < plan->steps[s].after_count && !step->begun; a++) {
            uint32_t after = plan->after[plan->steps[s].after_first + a];
            if (atomic_load(&engine->steps[after].enqueued) == engine->iteration)
                start_s = fmax(start_s, times[after].end_s);
        }
        times[s] = (StepTime){.start_s = fmin(start_s, end_s), .end_s = end_s};
        free_s[step->stream] = end_s;
    }
    return true;
}

static bool kept_read(CudaEngine *engine, Fault *fault)
{
    uint64_t count = engine_decisions_bytes(engine->plan) / sizeof(int32_t);
    if (!engine->options.record)
        return true;
    if (!cuda_check(
            cudaMemcpy(engine->records_seen, engine->kept_records, count * sizeof(Record), cudaMemcpyDeviceToHost),
            "read the gates' choices", fault) ||
        !cuda_check(
            cudaMemcpy(engine->final_x, engine->kept_x, engine_final_bytes(engine->plan), cudaMemcpyDeviceToHost),
            "read the final state", fault))
        return false;
    for (uint64_t i = 0; i < count; i++)
        engine->decisions[i] = engine->records_seen[i].expert;
    return true;
}

static void look_for_nonfinite(CudaEngine *engine)
{
    engine->nonfinite_step = -1;
    if (engine->loss.data && !isfinite(mean_loss(engine)))
        engine->nonfinite_step =
            nonfinite_step(engine->plan, engine->ops, (const Engine *)engine, engine->plan->step_count);
}

bool cuda_finish(Engine *base, StepTime times[], Fault *fault)
{
    CudaEngine *engine = (CudaEngine *)base;
    bool ok = cuda_use_device(engine, fault) && results_enqueue(engine, fault) &&
              cuda_await(engine, engine->ended[STREAM_COMPUTE], false, fault) && lost_check(engine, fault) &&
              cuda_graph_check(engine, fault) && times_read(engine, times, fault) && kept_read(engine, fault) &&
              cuda_count_padding(engine, fault);
    if (ok)
        look_for_nonfinite(engine);
    return ok;
}

EngineResult cuda_result(const Engine *base)
{
    const CudaEngine *engine = (const CudaEngine *)base;
    EngineResult result = {.has_loss = engine->loss.data != NULL, .nonfinite_step = engine->nonfinite_step};
    if (engine->tokens.data)
        result.tokens =
            engine->tokens_set + (engine->plan->micro_batches - 1) * engine->tokens.rows * engine->tokens.cols;
    if (result.has_loss) {
        result.loss = mean_loss(engine);
        result.last_loss = (double)engine->loss_seen[engine->plan->micro_batches - 1];
    }
    if (!engine->options.record)
        return result;
    result.decisions = engine_last_decisions(engine->plan, engine->decisions);
    result.all_decisions = engine->decisions;
    if (engine->x.data) {
        result.x = engine->x;
        result.x.data = engine->final_x;
    }
    return result;
}
