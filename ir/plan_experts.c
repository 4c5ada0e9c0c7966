// Where a plan puts experts: which rank owns them, which domain a layer's sizes put each in, and which slot it has
// among those gathered. Pure functions of a plan whose domains divide its levels.
#include "ir/plan.h"

// Ranks that share one copy of the experts: those of the levels that shard.
static uint64_t sharding_gpus(const Plan *plan)
{
    return plan->replica_levels == 0 ? cluster_gpus(&plan->cluster)
                                     : cluster_gpus_below(&plan->cluster, plan->replica_levels - 1);
}

uint32_t plan_experts_per_rank(const Plan *plan)
{
    return (uint32_t)(plan->model.experts / sharding_gpus(plan));
}

uint32_t plan_first_expert(const Plan *plan, uint64_t rank)
{
    return (uint32_t)(rank % sharding_gpus(plan)) * plan_experts_per_rank(plan);
}

uint32_t plan_expert_domain(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint32_t expert, uint32_t level)
{
    if (level < plan->replica_levels) {
        return 0; // one domain of all workers
    }
    uint64_t owner = expert / plan_experts_per_rank(plan);
    return cluster_coordinate(&plan->cluster, owner, level) / domain[level];
}

int64_t plan_expert_slot(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint64_t rank, uint32_t expert)
{
    uint32_t per_rank = plan_experts_per_rank(plan);
    uint64_t owner = expert / per_rank, shard = 0, stride = 1;
    for (uint32_t l = plan->replica_levels; l < plan->cluster.level_count; l++) {
        uint32_t y = cluster_coordinate(&plan->cluster, owner, l);
        if (y / domain[l] != cluster_coordinate(&plan->cluster, rank, l) / domain[l])
            return -1;
        shard += y % domain[l] * stride;
        stride *= domain[l];
    }
    return (int64_t)(shard * per_rank + expert % per_rank);
}
