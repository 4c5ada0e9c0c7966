// The ops of the CUDA engine: kernels/cuda for local ones, the communicator for the others. Everything is enqueued on
// the step's stream; nothing is allocated here, and nothing waits for the device. Exchanges are in
// engine_cuda_exchange.c.
#include <inttypes.h>

#include "runtime/comm/comm_common.h"
#include "runtime/comm/comm_sums.h"
#include "runtime/engine/engine_cuda_internal.h"

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
    const struct embed_tensors *t = &step->operands.embed;
    return launched(cuda_embed(queue_of(step), dims_of(step), t->tokens, t->embedding, t->x), fault);
}

static bool run_pre_expert(CudaStep *step, Fault *fault)
{
    const struct pre_expert_tensors *t = &step->operands.pre_expert;
    return launched(cuda_pre_expert(queue_of(step), dims_of(step), t->x, t->attention, t->y), fault);
}

static bool keep_final(const CudaStep *step, Tensor x, Fault *fault)
{
    if (!step->is_final || !step->engine->kept_x)
        return true;
    return copied(cudaMemcpyAsync(step->engine->kept_x, x.data, x.rows * tensor_row_bytes(x), cudaMemcpyDeviceToDevice,
                                  stream_of(step)),
                  fault);
}

static bool run_ffn(CudaStep *step, Fault *fault)
{
    const struct ffn_tensors *t = &step->operands.ffn;
    return launched(cuda_ffn(queue_of(step), dims_of(step), t->x, t->ffn, t->y), fault) &&
           keep_final(step, t->y, fault);
}

static bool run_gate(CudaStep *step, Fault *fault)
{
    const struct gate_tensors *t = &step->operands.gate;
    const CudaEngine *engine = step->engine;
    if (!launched(cuda_gate(queue_of(step), dims_of(step), engine->options.routing, engine->capacity_rows, t->x,
                            t->router, t->rows, t->records),
                  fault))
        return false;
    uint64_t bytes = model_tokens(dims_of(step)) * dims_of(step)->top_k * sizeof(Record);
    return !step->kept_records || copied(cudaMemcpyAsync(step->kept_records, t->records.data, bytes,
                                                         cudaMemcpyDeviceToDevice, stream_of(step)),
                                         fault);
}

static bool run_route(CudaStep *step, Fault *fault)
{
    const struct route_tensors *t = &step->operands.route;
    return launched(cuda_route(queue_of(step), &step->route, step->present, step->fanout, t->rows, t->records,
                               t->next_rows, t->next_records, t->send_rows, t->send_records, t->send_counts, t->origin,
                               step->kept_counts, step->lost),
                    fault);
}

static bool run_expert(CudaStep *step, Fault *fault)
{
    const struct expert_tensors *t = &step->operands.expert;
    return launched(cuda_expert(queue_of(step), dims_of(step), step->slot_of_expert, step->present, step->fanout,
                                t->rows, t->records, t->experts, t->results, step->lost),
                    fault);
}

static bool run_unroute(CudaStep *step, Fault *fault)
{
    const struct unroute_tensors *t = &step->operands.unroute;
    return launched(cuda_unroute(queue_of(step), &step->route, step->present, step->fanout, dims_of(step)->top_k,
                                 t->results, t->returned, t->send_counts, t->origin, t->rows),
                    fault);
}

static bool run_shared_expert(CudaStep *step, Fault *fault)
{
    const struct shared_expert_tensors *t = &step->operands.shared_expert;
    return launched(cuda_shared_expert(queue_of(step), dims_of(step), t->rows, t->shared, t->results), fault);
}

static bool run_residual(CudaStep *step, Fault *fault)
{
    const struct residual_tensors *t = &step->operands.residual;
    return launched(cuda_residual(queue_of(step), t->x, t->results, t->shared_results, t->y), fault) &&
           keep_final(step, t->y, fault);
}

static bool run_loss(CudaStep *step, Fault *fault)
{
    const struct loss_tensors *t = &step->operands.loss;
    return launched(cuda_loss(queue_of(step), dims_of(step), t->x, t->tokens, t->embedding, t->loss), fault);
}

static bool run_gather(CudaStep *step, Fault *fault)
{
    const struct gather_tensors *t = &step->operands.gather;
    Comm *comm = step->engine->comm;
    return comm->device->all_gather(comm, step->channel, t->shard.data, t->gathered.data,
                                    t->shard.rows * tensor_row_bytes(t->shard), stream_of(step), fault);
}

// ---- backward --------------------------------------------------------------------------------

static bool run_loss_backward(CudaStep *step, Fault *fault)
{
    const struct loss_backward_tensors *t = &step->operands.loss_backward;
    return launched(
        cuda_loss_backward(queue_of(step), dims_of(step), t->x, t->tokens, t->embedding, t->dx, t->dembedding), fault);
}

static bool run_embed_backward(CudaStep *step, Fault *fault)
{
    const struct embed_backward_tensors *t = &step->operands.embed_backward;
    return launched(cuda_embed_backward(queue_of(step), dims_of(step), t->tokens, t->dx, t->dembedding), fault);
}

static bool run_pre_expert_backward(CudaStep *step, Fault *fault)
{
    const struct pre_expert_backward_tensors *t = &step->operands.pre_expert_backward;
    return launched(cuda_pre_expert_backward(queue_of(step), dims_of(step), t->x, t->attention, t->dx, t->dattention),
                    fault);
}

static bool run_ffn_backward(CudaStep *step, Fault *fault)
{
    const struct ffn_backward_tensors *t = &step->operands.ffn_backward;
    return launched(cuda_ffn_backward(queue_of(step), dims_of(step), t->x, t->ffn, t->dx, t->dffn), fault);
}

static bool run_shared_expert_backward(CudaStep *step, Fault *fault)
{
    const struct shared_expert_backward_tensors *t = &step->operands.shared_expert_backward;
    return launched(
        cuda_shared_expert_backward(queue_of(step), dims_of(step), t->rows, t->shared, t->dx, t->drows, t->dshared),
        fault);
}

static bool run_unroute_backward(CudaStep *step, Fault *fault)
{
    const struct unroute_backward_tensors *t = &step->operands.unroute_backward;
    return launched(cuda_unroute_backward(queue_of(step), &step->route, step->fanout, t->drows, t->send_counts,
                                          t->origin, t->dresults, t->send_rows),
                    fault);
}

static bool run_expert_backward(CudaStep *step, Fault *fault)
{
    const struct expert_backward_tensors *t = &step->operands.expert_backward;
    return launched(cuda_expert_backward(queue_of(step), dims_of(step), step->slot_of_expert, step->present,
                                         step->fanout, t->rows, t->records, t->experts, t->dresults, t->drows,
                                         t->drecords, t->dexperts, step->lost),
                    fault);
}

static bool run_route_backward(CudaStep *step, Fault *fault)
{
    const struct route_backward_tensors *t = &step->operands.route_backward;
    return launched(cuda_route_backward(queue_of(step), &step->route, step->present, step->fanout, dims_of(step)->top_k,
                                        t->drows_next, t->drecords_next, t->returned, t->returned_records,
                                        t->send_counts, t->origin, t->drows, t->drecords),
                    fault);
}

static bool run_gate_backward(CudaStep *step, Fault *fault)
{
    const struct gate_backward_tensors *t = &step->operands.gate_backward;
    float balance = (float)step->engine->options.training.balance;
    return launched(cuda_gate_backward(queue_of(step), dims_of(step), balance, t->x, t->records, t->drows, t->drecords,
                                       t->dshared_rows, t->router, t->dx, t->drouter),
                    fault);
}

static bool run_squares(CudaStep *step, Fault *fault)
{
    const struct squares_tensors *t = &step->operands.squares;
    return launched(cuda_squares(queue_of(step), t->gradient, t->before, t->squares), fault);
}

static bool run_optimizer(CudaStep *step, Fault *fault)
{
    const struct optimizer_tensors *t = &step->operands.optimizer;
    return launched(
        cuda_optimizer(queue_of(step), step->engine->factors, t->squares, t->weights, t->gradient, t->state), fault);
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
    return cuda_exchange(step, &parts, fault);
}

static bool run_reduce_scatter(CudaStep *step, Fault *fault)
{
    Tensor gathered = step->operands.reduce_scatter.gathered, shard = step->operands.reduce_scatter.shard;
    int32_t *counts = step->engine->sum_counts;
    for (uint32_t m = 0; m < step->members; m++)
        counts[m] = counts[step->members + m] = (int32_t)shard.rows;
    return scatter(step, gathered.data, tensor_row_bytes(shard), fault) &&
           launched(cuda_sum(queue_of(step), step->parts, step->members, shard), fault);
}

static bool run_all_reduce(CudaStep *step, Fault *fault)
{
    Tensor gradient = step->operands.all_reduce.gradient;
    uint64_t elements = gradient.rows * gradient.cols, size = dtype_bytes(gradient.dtype);
    if (elements > INT32_MAX)
        return fault_set(fault, FAULT_RUN,
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
    return cuda_exchange(step, &sums, fault);
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
        return cuda_run_dispatch;
    case OP_EXPERT:
        return run_expert;
    case OP_COMBINE:
        return cuda_run_combine;
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
        return cuda_run_combine_backward;
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
