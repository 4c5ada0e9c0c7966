// Where a plan puts experts: what a rank owns of them, which domain a layer's sizes put each in, and which slot it has
// among those gathered. Pure functions of a plan whose choices are valid; the rules are those of ir/share.h.
#include "ir/plan.h"

const Coding *plan_coding(const Plan *plan, WeightKind kind)
{
    bool dense = kind == WEIGHT_DENSE || kind == WEIGHT_EMBEDDING || kind == WEIGHT_DENSE_SENT ||
                 kind == WEIGHT_DENSE_REPLICAS || kind == WEIGHT_DENSE_ERROR;
    return dense ? &plan->dense : &plan->experts;
}

uint64_t plan_packet_bytes(const Plan *plan, Packing packing, uint64_t elements)
{
    uint64_t bytes = packing_bytes(packing, elements, plan->model.dtype);
    uint64_t whole = packing_bytes((Packing){PACKET_WHOLE, 1}, elements, plan->model.dtype);
    return plan->whole_iterations > 0 && whole > bytes ? whole : bytes;
}

uint32_t plan_coded_levels(const Plan *plan)
{
    return coding_levels(&plan->experts, plan->cluster.level_count);
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
