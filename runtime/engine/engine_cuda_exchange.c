// Exchanges of rows on the CUDA engine. Where they are counted, a dispatch waits for the device, the only step to do
// so: its messages are as long as the counts say that the ranks before it sent. Where they are padded nothing waits:
// messages have one size, counts travel beside the rows, and the host looks at them when the iteration has ended.
#include <inttypes.h>

#include "ir/exchange.h"
#include "runtime/engine/engine_cuda_internal.h"

static cudaStream_t stream_of(const CudaStep *step)
{
    return step->engine->streams[step->stream];
}

static bool copied(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "enqueue a copy", fault);
}

bool cuda_collective_first(const CudaStep *step, Fault *fault)
{
    CudaEngine *engine = step->engine;
    if (!engine->comm->device->ordered || atomic_load(&step->enqueued) > 0)
        return true;
    return cuda_check(cudaEventRecord(step->counted, stream_of(step)), "record an event", fault) &&
           cuda_await(engine, step->counted, false, fault);
}

bool cuda_exchange(const CudaStep *step, const Exchange *exchange, Fault *fault)
{
    Comm *comm = step->engine->comm;
    return comm->device->exchange(comm, step->channel, exchange, stream_of(step), fault) &&
           cuda_collective_first(step, fault);
}

// ---- counted ---------------------------------------------------------------------------------

static bool keep_own_count(const CudaStep *step, Tensor send_counts, Tensor next_counts, Fault *fault)
{
    const int32_t *send = send_counts.data;
    int32_t *next = next_counts.data;
    uint32_t own = step->place.own;
    return copied(cudaMemcpyAsync(next + own, send + own, sizeof(*next), cudaMemcpyDeviceToDevice, stream_of(step)),
                  fault);
}

static bool exchange_counts(CudaStep *step, Tensor send_counts, Tensor next_counts, Fault *fault)
{
    Exchange counts = engine_counts_exchange(&step->place, send_counts, next_counts, step->engine->ones);
    return cuda_exchange(step, &counts, fault) && keep_own_count(step, send_counts, next_counts, fault);
}

// Brings the counts to the host. While a graph is captured they are those of the iteration before; that they are the
// same is looked at when the graph has run.
static bool learn_counts(CudaStep *step, Tensor send_counts, Tensor next_counts, Fault *fault)
{
    uint64_t bytes = step->place.members * sizeof(int32_t);
    cudaStream_t stream = stream_of(step);
    CudaExchange *of = &step->of.exchange;
    if (of->counts_known)
        return true;
    if (!copied(cudaMemcpyAsync(of->send_counts, send_counts.data, bytes, cudaMemcpyDeviceToHost, stream), fault) ||
        !copied(cudaMemcpyAsync(of->recv_counts, next_counts.data, bytes, cudaMemcpyDeviceToHost, stream), fault))
        return false;
    if (step->engine->capturing)
        return true;
    return cuda_check(cudaEventRecord(step->counted, stream), "record an event", fault) &&
           cuda_await(step->engine, step->counted, true, fault);
}

// ---- padded ----------------------------------------------------------------------------------

// The counts of what a step sends, or gets back, as its route saw them.
static const int32_t *counts_of(const CudaEngine *engine, uint32_t step)
{
    const Plan *plan = engine->plan;
    if (op_info((int)plan->steps[step].op)->shape != SHAPE_EXCHANGE)
        return NULL;
    // A dispatch and what comes back name the counts that the route of the way out wrote.
    int32_t buffer = step_operand(plan, &plan->steps[step], OPERAND_send_counts);
    for (uint32_t s = step; s-- > 0;)
        if (plan->steps[s].op == OP_ROUTE && step_buffers(plan, &plan->steps[s]).route.send_counts == buffer)
            return engine->counts_seen + engine->steps[s].of.route.kept_first;
    return NULL;
}

// Of rows on their way back the padding is counted where they arrive: over all ranks it is the same.
bool cuda_count_padding(const CudaEngine *engine, Fault *fault)
{
    CommTraffic moved[LEVELS_MAX] = {0};
    for (uint32_t s = 0; s < engine->plan->step_count; s++) {
        const CudaStep *step = &engine->steps[s];
        const int32_t *counts = step->place.message_rows ? counts_of(engine, s) : NULL;
        if (!counts || atomic_load(&step->enqueued) != engine->iteration)
            continue;
        if (!engine_counts_check(&step->place, counts, fault)) {
            fault->rank = (int64_t)engine->comm->rank;
            fault->step = s;
            return false;
        }
        uint64_t row_bytes = tensor_row_bytes(step->operands.all[0]); // what is sent
        moved[engine->plan->steps[s].level].padding_bytes += engine_padding_rows(&step->place, counts) * row_bytes;
    }
    engine->comm->device->count(engine->comm, moved);
    return true;
}

// ---- the steps -------------------------------------------------------------------------------

// Where exchanges are padded the host knows no counts, and needs none.
bool cuda_run_dispatch(CudaStep *step, Fault *fault)
{
    const struct dispatch_tensors *t = &step->operands.dispatch;
    bool padded = step->place.message_rows > 0;
    if (!padded && (!exchange_counts(step, t->send_counts, t->next_counts, fault) ||
                    !learn_counts(step, t->send_counts, t->next_counts, fault)))
        return false;
    Exchange rows;
    if (!engine_dispatch_exchange(&step->place, t, padded ? NULL : step->of.exchange.send_counts,
                                  padded ? NULL : step->of.exchange.recv_counts, &rows, fault))
        return false;
    rows.counts_known = true;
    return cuda_exchange(step, &rows, fault) &&
           (!padded || keep_own_count(step, t->send_counts, t->next_counts, fault));
}

static bool send_back(const CudaStep *step, Op op, Fault *fault)
{
    ReturnTensors t = engine_return_tensors(op, &step->operands);
    bool padded = step->place.message_rows > 0;
    Exchange rows = engine_return_exchange(&step->place, &t, padded ? NULL : step->of.exchange.send_counts,
                                           padded ? NULL : step->of.exchange.recv_counts);
    return cuda_exchange(step, &rows, fault);
}

bool cuda_run_combine(CudaStep *step, Fault *fault)
{
    return send_back(step, OP_COMBINE, fault);
}

bool cuda_run_combine_backward(CudaStep *step, Fault *fault)
{
    return send_back(step, OP_COMBINE_BACKWARD, fault);
}

bool cuda_counts_of(const Plan *plan, const Step *step, int32_t counts[2])
{
    if (op_info((int)step->op)->shape != SHAPE_EXCHANGE)
        return false;
    bool out = step->op == OP_DISPATCH; // the others go back the way the rows came
    counts[0] = step_operand(plan, step, out ? OPERAND_send_counts : OPERAND_next_counts);
    counts[1] = step_operand(plan, step, out ? OPERAND_next_counts : OPERAND_send_counts);
    return true;
}
