// How much scratch a step takes: what its launcher would take of a queue, summed up without memory.
#include "kernels/cuda/internal.h"
#include "kernels/cuda/work.h"

static uint64_t pairs_of(Tensor records)
{
    return records.rows * (records.cols / 2);
}

uint64_t cuda_work_bytes(const ModelDims *dims, Op op, const StepTensors *t, uint32_t members)
{
    switch (op) {
    case OP_PRE_EXPERT:
        return attention_work_bytes(dims, t->pre_expert.attention.dtype, false);
    case OP_PRE_EXPERT_BACKWARD:
        return attention_work_bytes(dims, t->pre_expert_backward.attention.dtype, true);
    case OP_FFN:
        return ffn_work_bytes(dims, t->ffn.ffn.dtype, t->ffn.x.rows, false);
    case OP_FFN_BACKWARD:
        return ffn_work_bytes(dims, t->ffn_backward.ffn.dtype, t->ffn_backward.x.rows, true);
    case OP_GATE:
        return gate_work_bytes(dims, t->gate.router.dtype, t->gate.x.rows, false);
    case OP_GATE_BACKWARD:
        return gate_work_bytes(dims, t->gate_backward.router.dtype, t->gate_backward.x.rows, true);
    case OP_ROUTE:
        return route_work_bytes(t->route.records.rows, members);
    case OP_UNROUTE:
        return unroute_work_bytes(t->unroute.rows.rows, dims->top_k);
    case OP_ROUTE_BACKWARD:
        return unroute_work_bytes(t->route_backward.drows.rows, dims->top_k);
    case OP_EXPERT:
        return expert_work_bytes(dims, t->expert.experts.dtype, pairs_of(t->expert.records), t->expert.experts.rows,
                                 false);
    case OP_EXPERT_BACKWARD:
        return expert_work_bytes(dims, t->expert_backward.experts.dtype, pairs_of(t->expert_backward.records),
                                 t->expert_backward.experts.rows, true);
    case OP_SHARED_EXPERT:
        return shared_expert_work_bytes(dims, t->shared_expert.shared.dtype, t->shared_expert.rows.rows, false);
    case OP_SHARED_EXPERT_BACKWARD:
        return shared_expert_work_bytes(dims, t->shared_expert_backward.shared.dtype,
                                        t->shared_expert_backward.rows.rows, true);
    case OP_LOSS:
        return loss_work_bytes(dims, t->loss.embedding.dtype, false);
    case OP_LOSS_BACKWARD:
        return loss_work_bytes(dims, t->loss_backward.embedding.dtype, true);
    case OP_EMBED:
    case OP_DISPATCH:
    case OP_COMBINE:
    case OP_RESIDUAL:
    case OP_ENCODE:
    case OP_GATHER:
    case OP_DECODE:
    case OP_UNROUTE_BACKWARD:
    case OP_COMBINE_BACKWARD:
    case OP_EMBED_BACKWARD:
    case OP_REDUCE_SCATTER:
    case OP_ALL_REDUCE:
    case OP_OPTIMIZER:
    case OP_MEAN_EXPERT:
    case OP_ENCODE_GRADIENT:
    case OP_RETURN_PACKETS:
    case OP_DECODE_GRADIENT:
        return 0;
    case OP_SQUARES:
        return squares_work_bytes();
    }
    return 0;
}
