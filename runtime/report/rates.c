// See rates.h. Owns nothing; the limits are the plan's.
#include "runtime/report/rates.h"

#include <math.h>

// Of one token in the causal attention of a whole sequence: projections, scores, weighted sum.
static double attention_flops(const ModelDims *dims)
{
    double heads = (double)dims->heads * dims->head_dim, keys = (double)dims->kv_heads * dims->head_dim;
    return 2.0 * dims->hidden * (2 * heads + 2 * keys) + 2.0 * dims->sequence * heads;
}

static double feed_forward_flops(const ModelDims *dims, double inner)
{
    return 2.0 * activation_matrices(dims->activation) * dims->hidden * inner;
}

// FLOPs of a step's matrix products on one rank: 2 per multiplication and addition, experts at the balanced load.
// Backward forms multiply twice as often. 0 for steps without.
static double step_flops(const Plan *plan, const Step *step)
{
    const ModelDims *dims = &plan->model;
    double tokens = (double)model_tokens(dims);
    switch ((int)step->op) {
    case OP_PRE_EXPERT:
        return tokens * attention_flops(dims);
    case OP_PRE_EXPERT_BACKWARD:
        return 2 * tokens * attention_flops(dims);
    case OP_FFN:
        return tokens * feed_forward_flops(dims, dims->ffn_inner);
    case OP_FFN_BACKWARD:
        return 2 * tokens * feed_forward_flops(dims, dims->ffn_inner);
    case OP_GATE:
        return 2 * tokens * dims->hidden * dims->experts;
    case OP_GATE_BACKWARD:
        return 4 * tokens * dims->hidden * dims->experts;
    case OP_EXPERT:
        return tokens * dims->top_k * feed_forward_flops(dims, dims->inner);
    case OP_EXPERT_BACKWARD:
        return 2 * tokens * dims->top_k * feed_forward_flops(dims, dims->inner);
    case OP_SHARED_EXPERT:
        return tokens * feed_forward_flops(dims, (double)model_shared_inner(dims));
    case OP_SHARED_EXPERT_BACKWARD:
        return 2 * tokens * feed_forward_flops(dims, (double)model_shared_inner(dims));
    case OP_LOSS:
        return 2 * tokens * dims->hidden * dims->vocabulary;
    case OP_LOSS_BACKWARD:
        return 4 * tokens * dims->hidden * dims->vocabulary;
    }
    return 0;
}

// A rank's share of the narrowest port on the way out from `level` (docs/cost-model.md, "One collective").
static double port_rate(const Cluster *cluster, uint32_t level)
{
    double rate = INFINITY;
    for (uint32_t l = level; l < cluster->level_count; l++)
        rate = fmin(rate, cluster->levels[l].bandwidth_bytes_per_s / (double)cluster_gpus_below(cluster, l));
    return rate;
}

StepRate step_rate(const Plan *plan, const Step *step, double time_s)
{
    double flops = step_flops(plan, step);
    if (time_s <= 0)
        return (StepRate){0};
    if (flops > 0)
        return (StepRate){RATE_FLOPS, flops / time_s, plan->cluster.device.compute_flops};
    if (step->bytes > 0)
        return (StepRate){RATE_BYTES, step->bytes / time_s,
                          port_rate(&plan->cluster, step->level == NONE ? 0 : (uint32_t)step->level)};
    return (StepRate){0};
}
