// Iterations of the CUDA engine: inputs go to the device, steps are enqueued by the interpreter's threads, and when all
// are, the host waits for the last of them, and learns when each of them ended and what went wrong. Waiting polls: a
// peer that has failed leaves work on the device that never ends.
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <nvtx3/nvToolsExt.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_common.h"
#include "runtime/engine/engine_cuda_internal.h"
#include "runtime/engine/nonfinite.h"

static const double spin_s = 100e-6, sleep_s = 50e-6, look_s = 0.1;

// ---- waiting ---------------------------------------------------------------------------------

// The first step of a stream that was enqueued in this iteration and is not done, or NONE.
static int64_t step_under_way(const CudaEngine *engine, Stream stream)
{
    for (uint32_t s = 0; s < engine->plan->step_count; s++) {
        const CudaStep *step = &engine->steps[s];
        if (step->stream == stream && atomic_load(&step->enqueued) == engine->iteration &&
            cudaEventQuery(step->done) == cudaErrorNotReady)
            return s;
    }
    return NONE;
}

static int64_t any_collective(const CudaEngine *engine, const int64_t at[STREAM_COUNT])
{
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        if (at[s] != NONE && engine->plan->steps[at[s]].group != NONE)
            return at[s];
    return NONE;
}

// A step that computes may take as long as it likes, and so may those that wait for it.
static bool anything_computes(const CudaEngine *engine, const int64_t at[STREAM_COUNT])
{
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        bool waits = at[s] == NONE || engine->plan->steps[at[s]].group != NONE;
        for (uint32_t a = 0; !waits && a < engine->steps[at[s]].awaited_count; a++)
            waits = cudaEventQuery(engine->steps[engine->steps[at[s]].awaited[a]].done) == cudaErrorNotReady;
        if (!waits)
            return true;
    }
    return false;
}

typedef struct {
    double moved_s; // when the device was last seen to get on
    int64_t at[STREAM_COUNT];
} Progress;

// Is a rank that stands at `standing` before this step of that iteration?
static bool is_behind(uint64_t iteration, int64_t step, const Standing *standing)
{
    if (standing->iteration != iteration)
        return standing->iteration < iteration;
    bool behind = false;
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        behind = behind || (standing->at[s] >= 0 && standing->at[s] < step);
    return behind;
}

// The first step, of any stream, that is not done there; -1 where none is under way.
static int64_t first_step(const Plan *plan, const Standing *standing)
{
    int64_t first = -1;
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        if (standing->at[s] >= 0 && standing->at[s] < plan->step_count && (first < 0 || standing->at[s] < first))
            first = standing->at[s];
    return first;
}

// The member of the step's group, as `rank` sees it, that is furthest behind, or -1; *found becomes where it stands.
static int64_t furthest_behind(const CudaEngine *engine, uint64_t rank, uint64_t iteration, int64_t step,
                               Standing *found)
{
    const Plan *plan = engine->plan;
    const Group *group = &plan->groups[plan->steps[step].group];
    Comm *comm = engine->comm;
    uint64_t members = group_size(&plan->cluster, group);
    int64_t peer = -1;
    for (uint64_t m = 0; comm->device->standing && m < members; m++) {
        uint64_t member = group_member_rank(&plan->cluster, group, rank, m);
        Standing standing = comm->device->standing(comm, member);
        bool only = members == 2 && rank == comm->rank; // who else
        bool further =
            peer < 0 || standing.iteration < found->iteration ||
            (standing.iteration == found->iteration && first_step(plan, &standing) < first_step(plan, found));
        if (member == rank || member == comm->rank || !further || (!only && !is_behind(iteration, step, &standing)))
            continue;
        peer = (int64_t)member;
        *found = standing;
    }
    return peer;
}

// Who is waited for: a peer that is behind may wait for another one, and so on. Returns how many steps that took.
static uint64_t find_cause(const CudaEngine *engine, int64_t step, Fault *fault)
{
    const Plan *plan = engine->plan;
    uint64_t rank = engine->comm->rank, iteration = engine->iteration, hops = 0;
    fault->peer = -1;
    while (hops < engine->comm->size && step >= 0 && plan->steps[step].group != NONE) {
        Standing standing = {0};
        int64_t peer = furthest_behind(engine, rank, iteration, step, &standing);
        if (peer < 0)
            break;
        rank = (uint64_t)peer;
        iteration = standing.iteration;
        step = first_step(plan, &standing);
        fault->peer = peer;
        fault->peer_told = iteration > 0;
        fault->peer_stream = step < 0 ? STREAM_COMPUTE : op_info(plan->steps[step].op)->stream;
        fault->peer_at = (StreamPoint){.step = step, .awaited = -1};
        fault->peer_for_s = standing.still_s;
        hops++;
    }
    return hops;
}

static bool time_out(const CudaEngine *engine, int64_t step, Fault *fault)
{
    const Plan *plan = engine->plan;
    Fault cause = {0};
    uint64_t hops = find_cause(engine, step, &cause);
    char group[128], who[192] = "a rank of ";
    comm_describe_group(&plan->cluster, &plan->groups[plan->steps[step].group], group, sizeof(group));
    if (hops > 0)
        snprintf(who, sizeof(who), hops == 1 ? "rank %" PRId64 " of " : "rank %" PRId64 ", awaited by the ranks of ",
                 cause.peer);
    fault_set(fault, EXIT_FAULT,
              "%s%s%s did not arrive, or does not take its rows: for %g s nothing moved here; look at %s", who, group,
              hops > 1 ? "," : "", engine->comm->timeout_s,
              hops > 0 ? "its process, its machine and the link to it"
                       : "the processes of that group, their machines and the links to them");
    cause.code = fault->code;
    cause.rank = (int64_t)engine->comm->rank;
    cause.step = step;
    memcpy(cause.message, fault->message, sizeof(cause.message));
    *fault = cause;
    return false;
}

// The step of a stream that is under way, else the one behind the last that was enqueued; -1 behind them all.
static int64_t step_due(const CudaEngine *engine, Stream stream)
{
    int64_t due = -1;
    for (uint32_t s = engine->plan->step_count; s-- > 0;) {
        const CudaStep *step = &engine->steps[s];
        if (step->stream != stream)
            continue;
        if (atomic_load(&step->enqueued) == engine->iteration)
            break;
        due = s;
    }
    int64_t under_way = step_under_way(engine, stream);
    return under_way == NONE ? due : under_way;
}

static void tell_standing(const CudaEngine *engine, const Progress *progress, double now_s)
{
    if (!engine->comm->device->stand)
        return;
    Standing standing = {.iteration = engine->iteration, .still_s = now_s - progress->moved_s};
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        standing.at[s] = step_due(engine, (Stream)s);
    engine->comm->device->stand(engine->comm, &standing);
}

static bool look_for_progress(const CudaEngine *engine, Progress *progress, Fault *fault)
{
    int64_t at[STREAM_COUNT];
    double now_s = clock_now_s();
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        at[s] = step_under_way(engine, (Stream)s);
    if (memcmp(at, progress->at, sizeof(at)) != 0 || anything_computes(engine, at)) {
        memcpy(progress->at, at, sizeof(at));
        progress->moved_s = now_s;
    }
    tell_standing(engine, progress, now_s);
    int64_t step = any_collective(engine, at);
    if (engine->comm->timeout_s <= 0 || step == NONE || now_s - progress->moved_s < engine->comm->timeout_s)
        return true;
    return time_out(engine, step, fault);
}

bool cuda_await(CudaEngine *engine, cudaEvent_t event, Fault *fault)
{
    Progress progress = {.moved_s = clock_now_s()};
    double began_s = progress.moved_s, looked_s = began_s;
    for (;;) {
        cudaError_t error = cudaEventQuery(event);
        if (error == cudaSuccess)
            return true;
        if (error != cudaErrorNotReady)
            return fault_set(fault, EXIT_FAULT, "the GPU failed: %s", cudaGetErrorString(error));
        if (!engine->comm->device->poll(engine->comm, fault))
            return false;
        double now_s = clock_now_s();
        if (now_s - looked_s > look_s) {
            looked_s = now_s;
            if (!look_for_progress(engine, &progress, fault))
                return false;
        }
        if (now_s - began_s < spin_s)
            sched_yield();
        else
            clock_sleep_until(now_s + sleep_s);
    }
}

// ---- one iteration ---------------------------------------------------------------------------

// The stream that inputs and results go by.
static cudaStream_t home_stream(const CudaEngine *engine)
{
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        if (engine->streams[s])
            return engine->streams[s];
    return NULL;
}

static cudaError_t inputs_enqueue(CudaEngine *engine, const EngineIteration *iteration)
{
    cudaStream_t home = home_stream(engine);
    const Plan *plan = engine->plan;
    cudaError_t error = cudaMemsetAsync(engine->lost, 0, plan->step_count * sizeof(*engine->lost), home);
    if (error == cudaSuccess && engine->tokens.data) {
        uint64_t bytes = engine->tokens.rows * engine->tokens.cols * sizeof(int32_t);
        memcpy(engine->tokens_set, iteration->tokens, bytes);
        error = cudaMemcpyAsync(engine->tokens.data, engine->tokens_set, bytes, cudaMemcpyHostToDevice, home);
    }
    const TrainingSettings *settings = &engine->options.training;
    AdamW adamw = {.learning_rate = iteration->learning_rate,
                   .beta1 = (float)settings->beta1,
                   .beta2 = (float)settings->beta2,
                   .epsilon = (float)settings->epsilon,
                   .weight_decay = (float)settings->weight_decay,
                   .gradient_scale = (float)engine_gradient_scale(settings, engine->comm->size, 0),
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

// Every stream begins behind the inputs.
static bool stream_begin(const CudaEngine *engine, const CudaStep *step, Fault *fault)
{
    return cuda_check(engine->begin_error, "copy the inputs", fault) &&
           cuda_check(cudaStreamWaitEvent(engine->streams[step->stream], engine->began, 0), "order streams", fault);
}

// An event whose time is read behind the iteration, also where that is a graph.
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

// ---- the end of an iteration -----------------------------------------------------------------

// What messages carried, where all have one size.
static bool counts_enqueue(const CudaEngine *engine, cudaStream_t home, Fault *fault)
{
    uint64_t bytes = cuda_kept_counts(engine->plan) * sizeof(int32_t);
    return bytes == 0 ||
           cuda_check(cudaMemcpyAsync(engine->counts_seen, engine->kept_counts, bytes, cudaMemcpyDeviceToHost, home),
                      "enqueue a copy", fault);
}

// What came of the iteration follows the last steps of all streams.
static bool results_enqueue(CudaEngine *engine, Fault *fault)
{
    cudaStream_t home = home_stream(engine);
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
           counts_enqueue(engine, home, fault) &&
           (!engine->loss.data || cuda_check(cudaMemcpyAsync(engine->loss_seen, engine->loss.data, sizeof(float),
                                                             cudaMemcpyDeviceToHost, home),
                                             "enqueue a copy", fault)) &&
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
            fault_set(fault, EXIT_FAULT,
                      "%" PRIu64 " rows do not fit in buffers of %" PRIu64 " and %" PRIu64
                      " rows: more tokens chose experts of one domain than the plan reserves for",
                      lost, t->next_rows.rows, t->send_rows.rows);
        else
            fault_set(fault, EXIT_FAULT, "%" PRIu64 " records name experts that this rank does not hold", lost);
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
    if (engine->loss.data && !isfinite(*engine->loss_seen))
        engine->nonfinite_step =
            nonfinite_step(engine->plan, &cuda_engine, (const Engine *)engine, engine->plan->step_count);
}

bool cuda_finish(Engine *base, StepTime times[], Fault *fault)
{
    CudaEngine *engine = (CudaEngine *)base;
    bool ok = cuda_use_device(engine, fault) && results_enqueue(engine, fault) &&
              cuda_await(engine, engine->ended[STREAM_COMPUTE], fault) && lost_check(engine, fault) &&
              cuda_graph_check(engine, fault) && times_read(engine, times, fault) && kept_read(engine, fault);
    if (ok) {
        cuda_count_padding(engine);
        look_for_nonfinite(engine);
    }
    return ok;
}

EngineResult cuda_result(const Engine *base)
{
    const CudaEngine *engine = (const CudaEngine *)base;
    EngineResult result = {.has_loss = engine->loss.data != NULL, .nonfinite_step = engine->nonfinite_step};
    result.tokens = engine->tokens.data ? engine->tokens_set : NULL;
    if (result.has_loss)
        result.loss = (double)*engine->loss_seen;
    if (!engine->options.record)
        return result;
    result.decisions = engine->decisions;
    if (engine->x.data) {
        result.x = engine->x;
        result.x.data = engine->final_x;
    }
    return result;
}
