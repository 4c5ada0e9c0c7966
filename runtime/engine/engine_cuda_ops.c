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

// Where a step counts what it had no place for.
static uint64_t *lost_of(const CudaStep *step)
{
    return step->engine->lost + step->index;
}

static bool launched(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "start a kernel", fault);
}

static bool copied(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "enqueue a copy", fault);
}

static Tensor dense_part(const CudaStep *step, Tensor dense, DensePart part)
{
    return engine_dense_part(dims_of(step), dense, part);
}

static bool clear(const CudaStep *step, Tensor tensor, Fault *fault)
{
    uint64_t bytes = tensor.rows * tensor_row_bytes(tensor);
    return bytes == 0 || cuda_check(cudaMemsetAsync(tensor.data, 0, bytes, stream_of(step)), "enqueue zeros", fault);
}

// ---- forward ---------------------------------------------------------------------------------

bool cuda_run_embed(CudaStep *step, Fault *fault)
{
    const struct embed_tensors *t = &step->operands.embed;
    return launched(cuda_embed(queue_of(step), dims_of(step), t->tokens, t->embedding, t->x), fault);
}

bool cuda_run_pre_expert(CudaStep *step, Fault *fault)
{
    const struct pre_expert_tensors *t = &step->operands.pre_expert;
    return launched(
        cuda_pre_expert(queue_of(step), dims_of(step), t->x, dense_part(step, t->dense, DENSE_ATTENTION), t->y), fault);
}

static bool keep_final(const CudaStep *step, Tensor x, Fault *fault)
{
    if (!step->of.is_final || !step->engine->kept_x)
        return true;
    return copied(cudaMemcpyAsync(step->engine->kept_x, x.data, x.rows * tensor_row_bytes(x), cudaMemcpyDeviceToDevice,
                                  stream_of(step)),
                  fault);
}

bool cuda_run_ffn(CudaStep *step, Fault *fault)
{
    const struct ffn_tensors *t = &step->operands.ffn;
    return launched(cuda_ffn(queue_of(step), dims_of(step), t->x, dense_part(step, t->dense, DENSE_FFN), t->y),
                    fault) &&
           keep_final(step, t->y, fault);
}

bool cuda_run_gate(CudaStep *step, Fault *fault)
{
    const struct gate_tensors *t = &step->operands.gate;
    const CudaEngine *engine = step->engine;
    if (!launched(cuda_gate(queue_of(step), dims_of(step), engine->options.routing, engine->capacity_rows, t->x,
                            dense_part(step, t->dense, DENSE_ROUTER), t->rows, t->records),
                  fault))
        return false;
    uint64_t bytes = model_tokens(dims_of(step)) * dims_of(step)->top_k * sizeof(Record);
    return !step->of.kept_records || copied(cudaMemcpyAsync(step->of.kept_records, t->records.data, bytes,
                                                            cudaMemcpyDeviceToDevice, stream_of(step)),
                                            fault);
}

bool cuda_run_route(CudaStep *step, Fault *fault)
{
    const struct route_tensors *t = &step->operands.route;
    const CudaRoute *of = &step->of.route;
    return launched(cuda_route(queue_of(step), &of->table, of->present, of->fanout, t->rows, t->records, t->next_rows,
                               t->next_records, t->send_rows, t->send_records, t->send_counts, t->origin,
                               of->kept_counts, lost_of(step)),
                    fault);
}

bool cuda_run_encode_rows(CudaStep *step, Fault *fault)
{
    const struct encode_rows_tensors *t = &step->operands.encode_rows;
    const CudaPacked *of = &step->of.packed;
    return launched(cuda_encode_rows(queue_of(step), of->format, of->present, t->rows, t->packed_rows), fault);
}

bool cuda_run_decode_rows(CudaStep *step, Fault *fault)
{
    const struct decode_rows_tensors *t = &step->operands.decode_rows;
    const CudaPacked *of = &step->of.packed;
    return launched(cuda_decode_rows(queue_of(step), of->format, of->present, t->packed_rows, t->rows), fault);
}

bool cuda_run_expert(CudaStep *step, Fault *fault)
{
    const struct expert_tensors *t = &step->operands.expert;
    const CudaExperts *of = &step->of.experts;
    return launched(cuda_expert(queue_of(step), dims_of(step), of->slots, of->present, of->fanout, t->rows, t->records,
                                t->experts, t->results, lost_of(step)),
                    fault);
}

bool cuda_run_unroute(CudaStep *step, Fault *fault)
{
    const struct unroute_tensors *t = &step->operands.unroute;
    const CudaRoute *of = &step->of.route;
    return launched(cuda_unroute(queue_of(step), &of->table, of->present, of->fanout, dims_of(step)->top_k, t->results,
                                 t->returned, t->send_counts, t->origin, t->rows),
                    fault);
}

bool cuda_run_shared_expert(CudaStep *step, Fault *fault)
{
    const struct shared_expert_tensors *t = &step->operands.shared_expert;
    return launched(cuda_shared_expert(queue_of(step), dims_of(step), t->rows, dense_part(step, t->dense, DENSE_SHARED),
                                       t->results),
                    fault);
}

bool cuda_run_residual(CudaStep *step, Fault *fault)
{
    const struct residual_tensors *t = &step->operands.residual;
    return launched(cuda_residual(queue_of(step), t->x, t->results, t->shared_results, t->y), fault) &&
           keep_final(step, t->y, fault);
}

bool cuda_run_loss(CudaStep *step, Fault *fault)
{
    const struct loss_tensors *t = &step->operands.loss;
    return launched(cuda_loss(queue_of(step), dims_of(step), t->x, t->tokens, t->embedding, t->loss), fault);
}

// The shards of a run, each a part of one exchange, whose rows are whole shards.
static bool gather_run(CudaStep *first, Fault *fault)
{
    Exchange exchange = {.send_layout = ROWS_SAME, .recv_layout = ROWS_ALL, .carries = CARRIES_WEIGHTS};
    for (const CudaStep *step = first; step; step = step->next) {
        const struct gather_tensors *t = &step->operands.gather;
        const ExchangePart part = engine_shard_part(t->shard, t->gathered);
        exchange.parts[exchange.part_count++] = part;
        if (!cuda_check(cudaMemcpyAsync((char *)part.recv + step->place.own * part.row_bytes, part.send, part.row_bytes,
                                        cudaMemcpyDeviceToDevice, stream_of(first)),
                        "enqueue a copy", fault))
            return false;
    }
    return cuda_exchange(first, &exchange, fault);
}

bool cuda_run_gather(CudaStep *step, Fault *fault)
{
    const struct gather_tensors *t = &step->operands.gather;
    if (step->joined || step->next)
        return step->joined || gather_run(step, fault);
    Tensor shard = engine_packets(&step->packets, step->engine->whole, t->shard);
    Comm *comm = step->engine->comm;
    return comm->device->all_gather(comm, step->channel, shard.data, t->gathered.data,
                                    shard.rows * tensor_row_bytes(shard), stream_of(step), fault) &&
           cuda_collective_first(step, fault);
}

// ---- backward --------------------------------------------------------------------------------

bool cuda_run_loss_backward(CudaStep *step, Fault *fault)
{
    const struct loss_backward_tensors *t = &step->operands.loss_backward;
    return launched(
               cuda_loss_backward(queue_of(step), dims_of(step), t->x, t->tokens, t->embedding, t->dx, t->dembedding),
               fault) &&
           clear(step, engine_embedding_padding(step->engine->plan, t->dembedding), fault);
}

bool cuda_run_embed_backward(CudaStep *step, Fault *fault)
{
    const struct embed_backward_tensors *t = &step->operands.embed_backward;
    return launched(cuda_embed_backward(queue_of(step), dims_of(step), t->tokens, t->dx, t->dembedding), fault);
}

bool cuda_run_pre_expert_backward(CudaStep *step, Fault *fault)
{
    const struct pre_expert_backward_tensors *t = &step->operands.pre_expert_backward;
    const Plan *plan = step->engine->plan;
    return launched(cuda_pre_expert_backward(queue_of(step), dims_of(step), t->x,
                                             dense_part(step, t->dense, DENSE_ATTENTION), t->dx,
                                             dense_part(step, t->ddense, DENSE_ATTENTION)),
                    fault) &&
           clear(step, engine_dense_padding(plan, &plan->steps[step->index], t->ddense), fault);
}

bool cuda_run_ffn_backward(CudaStep *step, Fault *fault)
{
    const struct ffn_backward_tensors *t = &step->operands.ffn_backward;
    return launched(cuda_ffn_backward(queue_of(step), dims_of(step), t->x, dense_part(step, t->dense, DENSE_FFN), t->dx,
                                      dense_part(step, t->ddense, DENSE_FFN)),
                    fault);
}

bool cuda_run_shared_expert_backward(CudaStep *step, Fault *fault)
{
    const struct shared_expert_backward_tensors *t = &step->operands.shared_expert_backward;
    return launched(cuda_shared_expert_backward(queue_of(step), dims_of(step), t->rows,
                                                dense_part(step, t->dense, DENSE_SHARED), t->dx, t->drows,
                                                dense_part(step, t->ddense, DENSE_SHARED)),
                    fault);
}

bool cuda_run_unroute_backward(CudaStep *step, Fault *fault)
{
    const struct unroute_backward_tensors *t = &step->operands.unroute_backward;
    return launched(cuda_unroute_backward(queue_of(step), &step->of.route.table, step->of.route.fanout, t->drows,
                                          t->send_counts, t->origin, t->dresults, t->send_rows),
                    fault);
}

bool cuda_run_expert_backward(CudaStep *step, Fault *fault)
{
    const struct expert_backward_tensors *t = &step->operands.expert_backward;
    const CudaExperts *of = &step->of.experts;
    return launched(cuda_expert_backward(queue_of(step), dims_of(step), of->slots, of->present, of->fanout, t->rows,
                                         t->records, t->experts, t->dresults, t->drows, t->drecords, t->dexperts,
                                         lost_of(step)),
                    fault);
}

bool cuda_run_route_backward(CudaStep *step, Fault *fault)
{
    const struct route_backward_tensors *t = &step->operands.route_backward;
    const CudaRoute *of = &step->of.route;
    return launched(cuda_route_backward(queue_of(step), &of->table, of->present, of->fanout, dims_of(step)->top_k,
                                        t->drows_next, t->drecords_next, t->returned, t->returned_records,
                                        t->send_counts, t->origin, t->drows, t->drecords),
                    fault);
}

bool cuda_run_gate_backward(CudaStep *step, Fault *fault)
{
    const struct gate_backward_tensors *t = &step->operands.gate_backward;
    float balance = (float)step->engine->options.training.balance;
    return launched(cuda_gate_backward(queue_of(step), dims_of(step), balance, t->x, t->records, t->drows, t->drecords,
                                       t->dshared_rows, dense_part(step, t->dense, DENSE_ROUTER), t->dx,
                                       dense_part(step, t->ddense, DENSE_ROUTER)),
                    fault);
}

bool cuda_run_clear(CudaStep *step, Fault *fault)
{
    return clear(step, step->operands.clear.sum, fault);
}

bool cuda_run_accumulate(CudaStep *step, Fault *fault)
{
    const struct accumulate_tensors *t = &step->operands.accumulate;
    return launched(cuda_accumulate(queue_of(step), t->part, t->sum), fault);
}

bool cuda_run_round(CudaStep *step, Fault *fault)
{
    const struct round_tensors *t = &step->operands.round;
    return launched(cuda_round(queue_of(step), t->sum, t->gradient), fault);
}

bool cuda_run_add_returned(CudaStep *step, Fault *fault)
{
    const struct add_returned_tensors *t = &step->operands.add_returned;
    return launched(cuda_accumulate(queue_of(step), t->part, t->sum), fault);
}

bool cuda_run_round_returned(CudaStep *step, Fault *fault)
{
    const struct round_returned_tensors *t = &step->operands.round_returned;
    return launched(cuda_round(queue_of(step), t->sum, t->gradient), fault);
}

bool cuda_run_squares(CudaStep *step, Fault *fault)
{
    const struct squares_tensors *t = &step->operands.squares;
    return launched(cuda_squares(queue_of(step), t->gradient, t->before, t->squares), fault);
}

bool cuda_run_optimizer(CudaStep *step, Fault *fault)
{
    const struct optimizer_tensors *t = &step->operands.optimizer;
    return launched(cuda_optimizer(queue_of(step), step->engine->factors, &step->of.undecayed, t->squares, t->weights,
                                   t->gradient, t->state),
                    fault);
}

// Not supported, so that no plan which has them comes so far.
static bool has_no_local_steps(Fault *fault)
{
    return fault_set(fault, FAULT_INTERNAL, "engine 'cuda' has no local steps");
}

bool cuda_run_outer_gradient(CudaStep *step, Fault *fault)
{
    (void)step;
    return has_no_local_steps(fault);
}

bool cuda_run_outer_step(CudaStep *step, Fault *fault)
{
    (void)step;
    return has_no_local_steps(fault);
}

// ---- sums ------------------------------------------------------------------------------------

SumGroup cuda_sum_group(const CudaStep *step)
{
    const CudaEngine *engine = step->engine;
    uint32_t stream = sums_stream(engine->plan, &engine->plan->steps[step->index]);
    return (SumGroup){.comm = engine->comm,
                      .channel = step->channel,
                      .members = step->place.members,
                      .own = step->place.own,
                      .counts = engine->sum_counts[stream],
                      .scratch = engine->sum_scratch[stream]};
}

static bool add_up(const CudaStep *step, Tensor out, Fault *fault)
{
    return launched(cuda_sum(queue_of(step), step->of.parts, step->place.members, out), fault);
}

bool cuda_run_reduce_scatter(CudaStep *step, Fault *fault)
{
    const struct reduce_scatter_tensors *t = &step->operands.reduce_scatter;
    if (step->joined)
        return true;
    SumGroup group = cuda_sum_group(step);
    Exchange shards = comm_shards_exchange(&group, t->gathered, t->shard);
    for (const CudaStep *of = step->next; of; of = of->next)
        comm_add_shards(&shards, group.members, of->operands.reduce_scatter.gathered,
                        of->operands.reduce_scatter.shard);
    bool ok = cuda_exchange(step, &shards, fault);
    for (const CudaStep *of = step; of && ok; of = of->next)
        ok = add_up(of, of->operands.reduce_scatter.shard, fault);
    return ok;
}

bool cuda_run_all_reduce(CudaStep *step, Fault *fault)
{
    const struct all_reduce_tensors *t = &step->operands.all_reduce;
    SumGroup group = cuda_sum_group(step);
    Exchange parts;
    Tensor own;
    if (!comm_parts_exchange(&group, t->gradient, &own, &parts, fault) || !cuda_exchange(step, &parts, fault) ||
        !add_up(step, own, fault))
        return false;
    Exchange sums = comm_sums_exchange(&group, t->gradient, own);
    return cuda_exchange(step, &sums, fault);
}
