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

bool cuda_exchange(const CudaStep *step, const Exchange *exchange, Fault *fault)
{
    Comm *comm = step->engine->comm;
    return comm->device->exchange(comm, step->channel, exchange, stream_of(step), fault);
}

// ---- counted ---------------------------------------------------------------------------------

static bool keep_own_count(const CudaStep *step, Tensor send_counts, Tensor next_counts, Fault *fault)
{
    const int32_t *send = send_counts.data;
    int32_t *next = next_counts.data;
    return copied(cudaMemcpyAsync(next + step->own, send + step->own, sizeof(*next), cudaMemcpyDeviceToDevice,
                                  stream_of(step)),
                  fault);
}

// Every member learns how many rows the others send it.
static bool exchange_counts(CudaStep *step, Tensor send_counts, Tensor next_counts, Fault *fault)
{
    CudaEngine *engine = step->engine;
    Exchange counts = {.part_count = 1,
                       .parts = {{.send = send_counts.data, .recv = next_counts.data, .row_bytes = sizeof(int32_t)}},
                       .send_layout = ROWS_ALL,
                       .recv_layout = ROWS_ALL,
                       .send_counts = engine->ones,
                       .recv_counts = engine->ones,
                       .counts_known = true,
                       .recv_capacity = step->members,
                       .carries = CARRIES_COUNTS};
    return cuda_exchange(step, &counts, fault) && keep_own_count(step, send_counts, next_counts, fault);
}

// Brings the counts to the host. While a graph is captured they are those of the iteration before; that they are the
// same is looked at when the graph has run.
static bool learn_counts(CudaStep *step, Tensor send_counts, Tensor next_counts, Fault *fault)
{
    uint64_t bytes = step->members * sizeof(int32_t);
    cudaStream_t stream = stream_of(step);
    if (step->counts_known)
        return true;
    if (!copied(cudaMemcpyAsync(step->send_counts, send_counts.data, bytes, cudaMemcpyDeviceToHost, stream), fault) ||
        !copied(cudaMemcpyAsync(step->recv_counts, next_counts.data, bytes, cudaMemcpyDeviceToHost, stream), fault))
        return false;
    if (step->engine->capturing)
        return true;
    return cuda_check(cudaEventRecord(step->counted, stream), "record an event", fault) &&
           cuda_await(step->engine, step->counted, fault);
}

static bool dispatch_counted(CudaStep *step, Fault *fault)
{
    const struct dispatch_tensors *t = &step->operands.dispatch;
    Tensor send_rows = t->send_rows, send_records = t->send_records, next_rows = t->next_rows;
    if (!exchange_counts(step, t->send_counts, t->next_counts, fault) ||
        !learn_counts(step, t->send_counts, t->next_counts, fault))
        return false;
    int32_t own_rows = step->send_counts[step->own];
    if (own_rows < 0 || (uint64_t)own_rows > next_rows.rows)
        return fault_set(fault, FAULT_RUN,
                         "%" PRId32 " rows of this rank do not fit in a buffer of %" PRIu64
                         ": more tokens chose its experts than the plan reserves for",
                         own_rows, next_rows.rows);
    Exchange rows = {
        .part_count = send_records.data ? 2 : 1,
        .parts = {{.send = send_rows.data,
                   .recv = tensor_row(next_rows, (uint64_t)own_rows),
                   .row_bytes = tensor_row_bytes(send_rows)}},
        .send_counts = step->send_counts,
        .recv_counts = step->recv_counts,
        .counts_known = true,
        .recv_capacity = next_rows.rows - (uint64_t)own_rows,
    };
    if (send_records.data)
        rows.parts[1] = (ExchangePart){.send = send_records.data,
                                       .recv = tensor_row(t->next_records, (uint64_t)own_rows),
                                       .row_bytes = tensor_row_bytes(send_records)};
    return cuda_exchange(step, &rows, fault);
}

// ---- padded ----------------------------------------------------------------------------------

// `from` and `to`: where the rows of others begin.
static ExchangePart padded_part(const CudaStep *step, const void *from, void *to, uint64_t bytes)
{
    return (ExchangePart){.send = from, .recv = to, .row_bytes = bytes, .fixed_rows = step->message_rows};
}

static bool dispatch_padded(const CudaStep *step, Fault *fault)
{
    const struct dispatch_tensors *t = &step->operands.dispatch;
    Tensor send_rows = t->send_rows, send_records = t->send_records;
    uint64_t others = step->message_rows; // own rows' place comes first
    Exchange rows = {.part_count = 1, .counts_known = true};
    rows.parts[0] = padded_part(step, send_rows.data, tensor_row(t->next_rows, others), tensor_row_bytes(send_rows));
    if (send_records.data)
        rows.parts[rows.part_count++] =
            padded_part(step, send_records.data, tensor_row(t->next_records, others), tensor_row_bytes(send_records));
    rows.parts[rows.part_count++] = (ExchangePart){.send = t->send_counts.data,
                                                   .recv = t->next_counts.data,
                                                   .row_bytes = sizeof(int32_t),
                                                   .fixed_rows = 1,
                                                   .own_place = true};
    return cuda_exchange(step, &rows, fault) && keep_own_count(step, t->send_counts, t->next_counts, fault);
}

uint64_t cuda_kept_counts(const Plan *plan)
{
    uint64_t total = 0;
    for (uint32_t s = 0; s < plan->step_count && plan->exchange == EXCHANGE_PADDED; s++)
        if (plan->steps[s].op == OP_ROUTE)
            total += step_buffer(plan, &plan->steps[s], OPERAND_send_counts)->rows;
    return total;
}

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
            return engine->counts_seen + engine->steps[s].kept_first;
    return NULL;
}

// Of rows on their way back the padding is counted where they arrive: over all ranks it is the same.
void cuda_count_padding(const CudaEngine *engine)
{
    CommTraffic moved[LEVELS_MAX] = {0};
    for (uint32_t s = 0; s < engine->plan->step_count; s++) {
        const CudaStep *step = &engine->steps[s];
        const int32_t *counts = step->message_rows ? counts_of(engine, s) : NULL;
        if (!counts || atomic_load(&step->enqueued) != engine->iteration)
            continue;
        uint64_t rows = 0;
        for (uint32_t m = 0; m < step->members; m++)
            rows += m == step->own ? 0 : step->message_rows - (uint64_t)counts[m];
        moved[engine->plan->steps[s].level].padding_bytes += rows * tensor_row_bytes(step->operands.all[0]);
    }
    engine->comm->device->count(engine->comm, moved);
}

// ---- the steps -------------------------------------------------------------------------------

bool cuda_run_dispatch(CudaStep *step, Fault *fault)
{
    return step->message_rows ? dispatch_padded(step, fault) : dispatch_counted(step, fault);
}

// What the rows of a dispatch became goes back to where they came from: parts as they lie on this rank, own rows
// first, and as they are to lie there.
static bool send_back(const CudaStep *step, uint32_t part_count, const Tensor from[], const Tensor to[], Fault *fault)
{
    uint64_t others = step->message_rows ? step->message_rows : (uint64_t)step->send_counts[step->own];
    Exchange rows = {.part_count = part_count, .counts_known = true, .recv_capacity = to[0].rows};
    if (!step->message_rows) {
        rows.send_counts = step->send_counts;
        rows.recv_counts = step->recv_counts;
    }
    for (uint32_t p = 0; p < part_count; p++)
        rows.parts[p] = padded_part(step, tensor_row(from[p], others), to[p].data, tensor_row_bytes(from[p]));
    return cuda_exchange(step, &rows, fault);
}

bool cuda_run_combine(CudaStep *step, Fault *fault)
{
    const struct combine_tensors *t = &step->operands.combine;
    return send_back(step, 1, &t->results, &t->returned, fault);
}

bool cuda_run_combine_backward(CudaStep *step, Fault *fault)
{
    const struct combine_backward_tensors *t = &step->operands.combine_backward;
    const Tensor from[] = {t->drows, t->drecords}, to[] = {t->returned, t->returned_records};
    return send_back(step, COUNT_OF(from), from, to, fault);
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
