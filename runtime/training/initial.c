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

// The rank's share of a bundle, or all shares next to it that packets bring together: as many as rows.
static void fill_bundle(const Initial *initial, WeightKind kind, int32_t layer, Tensor out)
{
    const Plan *plan = initial->plan;
    BundleShape shape = bundle_shape(plan, kind, layer);
    uint64_t index = shape.owners > 1 ? share_of_rank(&plan->cluster, plan->replica_levels, initial->rank) : 0;
    uint64_t first = index / out.rows * out.rows * shape.share;
    if (kind == WEIGHT_EMBEDDING)
        weights_fill_embedding_share(&plan->model, initial->seed, first, out);
    else
        weights_fill_dense(&plan->model, initial->seed, (uint32_t)layer, plan_layer_is_moe(plan, layer), first, out);
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
    case WEIGHT_DENSE:
    case WEIGHT_DENSE_SENT:
    case WEIGHT_DENSE_REPLICAS:
        fill_bundle(initial, bundle_weights(kind, layer), layer, out);
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
    case WEIGHT_DENSE_ERROR:
        memset(out.data, 0, out.rows * out.cols * dtype_bytes(out.dtype));
        return true;
    case WEIGHT_NONE:
    case WEIGHT_KINDS:
        return false;
    }
    return false;
}
