// Where a plan puts experts: what a rank owns of them, which domain a layer's sizes put each in, and which slot it has
// among those gathered. Pure functions of a plan whose choices are valid; the rules are those of ir/share.h.
#include "ir/plan.h"

Packing plan_packing(const Plan *plan)
{
    return codec_packing(plan->codec, plan->codec_ratio);
}

Packing plan_gradient_packing(const Plan *plan)
{
    return gradient_packing(plan->gradient, plan->gradient_ratio);
}

uint32_t plan_coded_levels(const Plan *plan)
{
    return plan->cluster.level_count - plan->whole_levels;
}

uint64_t plan_coded_members(const Plan *plan, const uint32_t domain[LEVELS_MAX])
{
    uint64_t members = 1;
    for (uint32_t l = plan->replica_levels; l < plan_coded_levels(plan); l++)
        members *= domain[l];
    return members;
}

ShareShape plan_share_shape(const Plan *plan)
{
    ShareShape shape = {.whole = plan->model.experts % share_gpus(&plan->cluster, plan->replica_levels) == 0};
    share_shape(&plan->cluster, plan->replica_levels, plan->model.experts, model_expert_units(&plan->model),
                &shape.rows, &shape.cols);
    return shape;
}

ExpertShares plan_expert_shares(const Plan *plan, const uint32_t domain[LEVELS_MAX])
{
    return expert_shares(&plan->cluster, plan->replica_levels, domain, plan->model.experts,
                         model_expert_units(&plan->model));
}

int64_t plan_expert_slot(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint64_t rank, uint32_t expert)
{
    ExpertShares shares = plan_expert_shares(plan, domain);
    int64_t slot = (int64_t)expert - (int64_t)(share_place(&shares, rank) * shares.block_experts);
    return slot < (int64_t)shares.block_experts ? (slot < 0 ? -1 : slot) : -1;
}
