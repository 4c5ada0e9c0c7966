// See initial.h. Values are those of weights.h; this file knows which of them a rank's buffer has.
#include "runtime/training/initial.h"

#include <string.h>

#include "ir/bundle.h"
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
    uint64_t count = out.rows / shares.rows; // of replicas: what packets bring together
    ElementRange range = held ? share_held_part(&shares, initial->rank, count) : share_owned(&shares, initial->rank);
    weights_fill_expert_range(&plan->model, initial->seed, choice->layer, range.first, range.count, out);
}

// The rank's first element of a bundle.
static uint64_t first_of(const Initial *initial, WeightKind kind, int32_t layer)
{
    BundleShape shape = bundle_shape(initial->plan, kind, layer);
    return shape.owners > 1 ? share_of_rank(&initial->plan->cluster, initial->rank) * shape.share : 0;
}

bool initial_fill(const void *context, WeightKind kind, int32_t layer, Tensor out)
{
    const Initial *initial = context;
    const Plan *plan = initial->plan;
    const ModelDims *dims = &plan->model;
    uint64_t seed = initial->seed;
    uint32_t of = layer == NONE ? 0 : (uint32_t)layer;
    switch (kind) {
    case WEIGHT_EMBEDDING:
        weights_fill_embedding_share(dims, seed, first_of(initial, kind, layer), out);
        return true;
    case WEIGHT_DENSE:
        weights_fill_dense(dims, seed, of, plan_layer_is_moe(plan, layer), first_of(initial, kind, layer), out);
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
