// The ops of the CUDA engine: kernels/cuda for local ones, the communicator for the others. Everything is enqueued on
// the step's stream; nothing is allocated here. A dispatch alone waits for the device: its messages are as long as the
// counts say that the ranks before it sent.
#include <inttypes.h>

#include "runtime/comm/comm_common.h"
#include "runtime/comm/comm_sums.h"
#include "runtime/engine/engine_cuda_internal.h"

static uint64_t row_bytes(Tensor tensor)
{
    return tensor.cols * dtype_bytes(tensor.dtype);
}

static void *row_at(Tensor tensor, uint64_t row)
{
    return (char *)tensor.data + row * row_bytes(tensor);
}

static const ModelDims *dims_of(const CudaStep *step)
{
    return &step->engine->plan->model;
}

static const CudaQueue *queue_of(const CudaStep *step)
{
    return &step->engine->queues[step->stream];
}

static cudaStream_t stream_of(const CudaStep *step)
{
    return step->engine->streams[step->stream];
}

static bool launched(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "start a kernel", fault);
}

static bool copied(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "enqueue a copy", fault);
}

// ---- forward ---------------------------------------------------------------------------------

static bool run_embed(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_embed(queue_of(step), dims_of(step), t[0], t[1], t[2]), fault);
}

static bool run_pre_expert(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_pre_expert(queue_of(step), dims_of(step), t[0], t[1], t[2]), fault);
}

static bool keep_final(const CudaStep *step, Tensor x, Fault *fault)
{
    if (!step->is_final || !step->engine->kept_x)
        return true;
    return copied(
        cudaMemcpyAsync(step->engine->kept_x, x.data, x.rows * row_bytes(x), cudaMemcpyDeviceToDevice, stream_of(step)),
        fault);
}

static bool run_ffn(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_ffn(queue_of(step), dims_of(step), t[0], t[1], t[2]), fault) && keep_final(step, t[2], fault);
}

static bool run_gate(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    const CudaEngine *engine = step->engine;
    if (!launched(cuda_gate(queue_of(step), dims_of(step), engine->options.routing, engine->capacity_rows, t[0], t[1],
                            t[2], t[3]),
                  fault))
        return false;
    uint64_t bytes = model_tokens(dims_of(step)) * dims_of(step)->top_k * sizeof(Record);
    return !step->kept_records ||
           copied(cudaMemcpyAsync(step->kept_records, t[3].data, bytes, cudaMemcpyDeviceToDevice, stream_of(step)),
                  fault);
}

static bool run_route(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_route(queue_of(step), &step->route, step->present, step->fanout, t[0], t[1], t[3], t[4], t[5],
                               t[6], t[7], t[8], step->lost),
                    fault);
}

static bool exchange(const CudaStep *step, const Exchange *exchange, Fault *fault)
{
    Comm *comm = step->engine->comm;
    return comm->device->exchange(comm, step->channel, exchange, stream_of(step), fault);
}

// Every member learns how many rows the others send it.
static bool exchange_counts(CudaStep *step, Tensor send_counts, Tensor next_counts, Fault *fault)
{
    CudaEngine *engine = step->engine;
    int32_t *send = send_counts.data, *next = next_counts.data;
    Exchange counts = {.part_count = 1,
                       .parts = {{.send = send, .recv = next, .row_bytes = sizeof(int32_t)}},
                       .send_layout = ROWS_ALL,
                       .recv_layout = ROWS_ALL,
                       .send_counts = engine->ones,
                       .recv_counts = engine->ones,
                       .counts_known = true,
                       .recv_capacity = step->members,
                       .carries = CARRIES_COUNTS};
    return exchange(step, &counts, fault) && copied(cudaMemcpyAsync(next + step->own, send + step->own, sizeof(*next),
                                                                    cudaMemcpyDeviceToDevice, stream_of(step)),
                                                    fault);
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

static bool run_dispatch(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    Tensor send_rows = t[0], send_records = t[1], next_rows = t[3], next_records = t[4];
    if (!exchange_counts(step, t[2], t[5], fault) || !learn_counts(step, t[2], t[5], fault))
        return false;
    int32_t own_rows = step->send_counts[step->own];
    if (own_rows < 0 || (uint64_t)own_rows > next_rows.rows)
        return fault_set(fault, EXIT_FAULT,
                         "%" PRId32 " rows of this rank do not fit in a buffer of %" PRIu64
                         ": more tokens chose its experts than the plan reserves for",
                         own_rows, next_rows.rows);
    Exchange rows = {
        .part_count = send_records.data ? 2 : 1,
        .parts = {{.send = send_rows.data,
                   .recv = row_at(next_rows, (uint64_t)own_rows),
                   .row_bytes = row_bytes(send_rows)}},
        .send_counts = step->send_counts,
        .recv_counts = step->recv_counts,
        .counts_known = true,
        .recv_capacity = next_rows.rows - (uint64_t)own_rows,
    };
    if (send_records.data)
        rows.parts[1] = (ExchangePart){.send = send_records.data,
                                       .recv = row_at(next_records, (uint64_t)own_rows),
                                       .row_bytes = row_bytes(send_records)};
    return exchange(step, &rows, fault);
}

static bool run_expert(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_expert(queue_of(step), dims_of(step), step->slot_of_expert, step->present, step->fanout, t[0],
                                t[1], t[3], t[4], step->lost),
                    fault);
}

// What the rows of a dispatch became goes back to where they came from: parts as they lie on this rank, own rows
// first, and as they are to lie there.
static bool send_back(const CudaStep *step, uint32_t part_count, const Tensor from[], const Tensor to[], Fault *fault)
{
    Exchange rows = {
        .part_count = part_count,
        .send_counts = step->send_counts,
        .recv_counts = step->recv_counts,
        .counts_known = true,
        .recv_capacity = to[0].rows,
    };
    for (uint32_t p = 0; p < part_count; p++)
        rows.parts[p] = (ExchangePart){.send = row_at(from[p], (uint64_t)step->send_counts[step->own]),
                                       .recv = to[p].data,
                                       .row_bytes = row_bytes(from[p])};
    return exchange(step, &rows, fault);
}

static bool run_combine(CudaStep *step, Fault *fault)
{
    return send_back(step, 1, &step->operands[0], &step->operands[3], fault);
}

static bool run_unroute(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_unroute(queue_of(step), &step->route, step->present, step->fanout, dims_of(step)->top_k, t[0],
                                 t[1], t[2], t[3], t[5]),
                    fault);
}

static bool run_shared_expert(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_shared_expert(queue_of(step), dims_of(step), t[0], t[1], t[2]), fault);
}

static bool run_residual(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_residual(queue_of(step), t[0], t[1], t[2], t[3]), fault) && keep_final(step, t[3], fault);
}

static bool run_loss(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_loss(queue_of(step), dims_of(step), t[0], t[1], t[2], t[3]), fault);
}

static bool run_gather(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    Comm *comm = step->engine->comm;
    return comm->device->all_gather(comm, step->channel, t[0].data, t[1].data, t[0].rows * row_bytes(t[0]),
                                    stream_of(step), fault);
}

// ---- backward --------------------------------------------------------------------------------

static bool run_loss_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_loss_backward(queue_of(step), dims_of(step), t[0], t[1], t[2], t[3], t[4]), fault);
}

static bool run_embed_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_embed_backward(queue_of(step), dims_of(step), t[0], t[1], t[2]), fault);
}

static bool run_pre_expert_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_pre_expert_backward(queue_of(step), dims_of(step), t[0], t[1], t[2], t[3]), fault);
}

static bool run_ffn_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_ffn_backward(queue_of(step), dims_of(step), t[0], t[1], t[2], t[3]), fault);
}

static bool run_shared_expert_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_shared_expert_backward(queue_of(step), dims_of(step), t[0], t[1], t[2], t[3], t[4]), fault);
}

static bool run_unroute_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_unroute_backward(queue_of(step), &step->route, step->fanout, t[0], t[1], t[2], t[3], t[4]),
                    fault);
}

static bool run_expert_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_expert_backward(queue_of(step), dims_of(step), step->slot_of_expert, step->present,
                                         step->fanout, t[0], t[1], t[3], t[4], t[5], t[6], t[7], step->lost),
                    fault);
}

static bool run_combine_backward(CudaStep *step, Fault *fault)
{
    return send_back(step, 2, &step->operands[0], &step->operands[4], fault); // rows and records, here and there
}

static bool run_route_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_route_backward(queue_of(step), &step->route, step->present, step->fanout, dims_of(step)->top_k,
                                        t[0], t[1], t[2], t[3], t[4], t[5], t[7], t[8]),
                    fault);
}

static bool run_gate_backward(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    float balance = (float)step->engine->options.training.balance;
    return launched(
        cuda_gate_backward(queue_of(step), dims_of(step), balance, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]),
        fault);
}

static bool run_squares(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_squares(queue_of(step), t[0], t[1], t[2]), fault);
}

static bool run_optimizer(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_optimizer(queue_of(step), step->engine->factors, t[3], t[0], t[1], t[2]), fault);
}

// ---- sums ------------------------------------------------------------------------------------

// Sends every member its part of `from` and receives the own part from each into the scratch, in units of `unit` bytes.
static bool scatter(const CudaStep *step, const void *from, uint64_t unit, Fault *fault)
{
    const CudaEngine *engine = step->engine;
    const int32_t *send = engine->sum_counts;
    int32_t *recv = engine->sum_counts + step->members;
    Exchange parts = {.part_count = 1,
                      .parts = {{.send = from, .recv = engine->sum_scratch, .row_bytes = unit}},
                      .send_layout = ROWS_ALL,
                      .send_counts = send,
                      .recv_counts = recv,
                      .counts_known = true,
                      .recv_capacity = (uint64_t)recv[step->own] * step->members,
                      .carries = CARRIES_SUMS};
    return exchange(step, &parts, fault);
}

static bool run_reduce_scatter(CudaStep *step, Fault *fault)
{
    Tensor gathered = step->operands[0], shard = step->operands[1];
    int32_t *counts = step->engine->sum_counts;
    for (uint32_t m = 0; m < step->members; m++)
        counts[m] = counts[step->members + m] = (int32_t)shard.rows;
    return scatter(step, gathered.data, row_bytes(shard), fault) &&
           launched(cuda_sum(queue_of(step), step->parts, step->members, shard), fault);
}

static bool run_all_reduce(CudaStep *step, Fault *fault)
{
    Tensor gradient = step->operands[0];
    uint64_t elements = gradient.rows * gradient.cols, size = dtype_bytes(gradient.dtype);
    if (elements > INT32_MAX)
        return fault_set(fault, EXIT_FAULT,
                         "a gradient of %" PRIu64 " elements: sums are made of messages of at most %d", elements,
                         INT32_MAX);
    int32_t *send = step->engine->sum_counts, *recv = send + step->members;
    int32_t own_size = (int32_t)comm_part_size(elements, step->members, step->own);
    for (uint32_t m = 0; m < step->members; m++) {
        send[m] = (int32_t)comm_part_size(elements, step->members, m);
        recv[m] = own_size;
    }
    Tensor own = {.data = (char *)gradient.data + comm_part_begin(elements, step->members, step->own) * size,
                  .dtype = gradient.dtype,
                  .rows = 1,
                  .cols = (uint64_t)own_size};
    if (!scatter(step, gradient.data, size, fault) ||
        !launched(cuda_sum(queue_of(step), step->parts, step->members, own), fault))
        return false;
    // The way back: every member sends its sum to all, and finds theirs in place.
    for (uint32_t m = 0; m < step->members; m++) {
        recv[m] = send[m];
        send[m] = own_size;
    }
    Exchange sums = {.part_count = 1,
                     .parts = {{.send = own.data, .recv = gradient.data, .row_bytes = size}},
                     .send_layout = ROWS_SAME,
                     .recv_layout = ROWS_ALL,
                     .send_counts = send,
                     .recv_counts = recv,
                     .counts_known = true,
                     .recv_capacity = elements,
                     .carries = CARRIES_SUMS};
    return exchange(step, &sums, fault);
}

CudaHandler cuda_handler(Op op)
{
    switch (op) {
    case OP_EMBED:
        return run_embed;
    case OP_PRE_EXPERT:
        return run_pre_expert;
    case OP_FFN:
        return run_ffn;
    case OP_GATE:
        return run_gate;
    case OP_ROUTE:
        return run_route;
    case OP_DISPATCH:
        return run_dispatch;
    case OP_EXPERT:
        return run_expert;
    case OP_COMBINE:
        return run_combine;
    case OP_UNROUTE:
        return run_unroute;
    case OP_SHARED_EXPERT:
        return run_shared_expert;
    case OP_RESIDUAL:
        return run_residual;
    case OP_LOSS:
        return run_loss;
    case OP_GATHER:
        return run_gather;
    case OP_REDUCE_SCATTER:
        return run_reduce_scatter;
    case OP_ALL_REDUCE:
        return run_all_reduce;
    case OP_LOSS_BACKWARD:
        return run_loss_backward;
    case OP_COMBINE_BACKWARD:
        return run_combine_backward;
    case OP_UNROUTE_BACKWARD:
        return run_unroute_backward;
    case OP_EXPERT_BACKWARD:
        return run_expert_backward;
    case OP_ROUTE_BACKWARD:
        return run_route_backward;
    case OP_GATE_BACKWARD:
        return run_gate_backward;
    case OP_SHARED_EXPERT_BACKWARD:
        return run_shared_expert_backward;
    case OP_FFN_BACKWARD:
        return run_ffn_backward;
    case OP_PRE_EXPERT_BACKWARD:
        return run_pre_expert_backward;
    case OP_EMBED_BACKWARD:
        return run_embed_backward;
    case OP_OPTIMIZER:
        return run_optimizer;
    case OP_SQUARES:
        return run_squares;
    case OP_ENCODE:
        return cuda_run_encode;
    case OP_DECODE:
        return cuda_run_decode;
    case OP_MEAN_EXPERT:
        return cuda_run_mean_expert;
    case OP_ENCODE_GRADIENT:
        return cuda_run_encode_gradient;
    case OP_RETURN_PACKETS:
        return cuda_run_return_packets;
    case OP_DECODE_GRADIENT:
        return cuda_run_decode_gradient;
    }
    return NULL;
}
