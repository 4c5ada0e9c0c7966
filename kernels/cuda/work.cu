// How much scratch a step takes: what its launcher would take of a queue, summed up without memory.
#include "kernels/cuda/internal.h"

static uint64_t pairs_of(Tensor records)
{
    return records.rows * (records.cols / 2);
}

uint64_t cuda_work_bytes(const ModelDims *dims, Op op, const Tensor operands[], uint32_t members)
{
    const Tensor *t = operands;
    switch (op) {
    case OP_PRE_EXPERT:
    case OP_PRE_EXPERT_BACKWARD:
        return attention_work_bytes(dims, t[1].dtype, op == OP_PRE_EXPERT_BACKWARD);
    case OP_FFN:
    case OP_FFN_BACKWARD:
        return ffn_work_bytes(dims, t[1].dtype, t[0].rows, op == OP_FFN_BACKWARD);
    case OP_GATE:
        return gate_work_bytes(dims, t[1].dtype, t[0].rows, false);
    case OP_GATE_BACKWARD:
        return gate_work_bytes(dims, t[5].dtype, t[0].rows, true);
    case OP_ROUTE:
        return route_work_bytes(t[1].rows, members);
    case OP_UNROUTE:
        return unroute_work_bytes(t[5].rows, dims->top_k);
    case OP_ROUTE_BACKWARD:
        return unroute_work_bytes(t[7].rows, dims->top_k);
    case OP_EXPERT:
    case OP_EXPERT_BACKWARD:
        return expert_work_bytes(dims, t[3].dtype, pairs_of(t[1]), t[3].rows, op == OP_EXPERT_BACKWARD);
    case OP_SHARED_EXPERT:
    case OP_SHARED_EXPERT_BACKWARD:
        return shared_expert_work_bytes(dims, t[1].dtype, t[0].rows, op == OP_SHARED_EXPERT_BACKWARD);
    case OP_LOSS:
    case OP_LOSS_BACKWARD:
        return loss_work_bytes(dims, t[2].dtype, op == OP_LOSS_BACKWARD);
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
