// See initial.h. Values are those of weights.h; this file knows which of them a rank's buffer has.
#include "runtime/training/initial.h"

#include <string.h>

#include "runtime/engine/engine_common.h"
#include "runtime/training/weights.h"

// The rank's share of a layer's experts, or all of the block that it holds; padding is 0.
static void fill_experts(const Initial *initial, int32_t layer, bool held, Tensor out)
{
    const Plan *plan = initial->plan;
    const Choice *choice = plan_choice_of_layer(plan, layer);
    memset(out.data, 0, out.rows * out.cols * dtype_bytes(out.dtype));
    if (!choice)
        return;
    ExpertShares shares = plan_expert_shares(plan, choice->domain);
    ElementRange range = held ? share_held(&shares, initial->rank) : share_owned(&shares, initial->rank);
    weights_fill_expert_range(&plan->model, initial->seed, choice->layer, range.first, range.count, out);
}

bool initial_fill_kind(const Initial *initial, WeightKind kind, int32_t layer, Tensor out)
{
    const Plan *plan = initial->plan;
    const ModelDims *dims = &plan->model;
    uint64_t seed = initial->seed;
    uint32_t of = layer == NONE ? 0 : (uint32_t)layer;
    switch (kind) {
    case WEIGHT_EMBEDDING:
        weights_fill_embedding(dims, seed, out);
        return true;
    case WEIGHT_ATTENTION:
        weights_fill_attention(dims, seed, of, out);
        return true;
    case WEIGHT_ROUTER:
        weights_fill_router(dims, seed, of, out);
        return true;
    case WEIGHT_FFN:
        weights_fill_ffn(dims, seed, of, out);
        return true;
    case WEIGHT_SHARED:
        weights_fill_shared(dims, seed, of, out);
        return true;
    case WEIGHT_EXPERTS:
    case WEIGHT_SENT:
        fill_experts(initial, layer, false, out);
        return true;
    case WEIGHT_MEAN:
        weights_fill_mean_expert(dims, seed, of, out);
        return true;
    case WEIGHT_REPLICAS:
        fill_experts(initial, layer, true, out);
        return true;
    case WEIGHT_ERROR:
        memset(out.data, 0, out.rows * out.cols * dtype_bytes(out.dtype));
        return true;
    case WEIGHT_NONE:
    case WEIGHT_KINDS:
        return false;
    }
    return false;
}

// Weights are no memory of codecs, and the other way round: a step may use both as operands of one name.
static bool is_of_kind(WeightKind kind, BufferKind buffer)
{
    bool remembered =
        kind == WEIGHT_MEAN || kind == WEIGHT_SENT || kind == WEIGHT_REPLICAS || kind == WEIGHT_ERROR;
    return kind != WEIGHT_NONE && remembered == (buffer == BUFFER_REPLICA);
}

bool initial_fill(const void *context, uint32_t buffer, Tensor out)
{
    const Initial *initial = context;
    const Plan *plan = initial->plan;
    const Buffer *of = &plan->buffers[buffer];
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const OpInfo *info = op_info((int)plan->steps[s].op);
        const int32_t *operands = step_operands(plan, &plan->steps[s]);
        for (uint32_t o = 0; o < info->operand_count; o++) {
            WeightKind kind = operand_weight(info->operands[o].operand);
            if (operands[o] == (int32_t)buffer && is_of_kind(kind, of->kind))
                return initial_fill_kind(initial, kind, of->layer, out);
        }
    }
    return false;
}
