// Who is where and who talks to whom: coordinates, groups as formulas over them, and where a
// layer's domain sizes put each expert (design section 2, Algorithm 1). Pure functions of a
// cluster whose counts are at least 1 and whose product fits 64 bits.
#include "ir/plan.h"

uint64_t cluster_gpus_below(const Cluster *cluster, uint32_t level)
{
    uint64_t gpus = 1;
    for (uint32_t l = level + 1; l < cluster->level_count; l++)
        gpus *= cluster->levels[l].count;
    return gpus;
}

uint64_t cluster_gpus(const Cluster *cluster)
{
    return cluster_gpus_below(cluster, 0) * cluster->levels[0].count;
}

void cluster_coordinates(const Cluster *cluster, uint64_t rank, uint32_t out[LEVELS_MAX])
{
    for (uint32_t l = cluster->level_count; l-- > 0;) {
        out[l] = (uint32_t)(rank % cluster->levels[l].count);
        rank /= cluster->levels[l].count;
    }
}

uint64_t cluster_rank(const Cluster *cluster, const uint32_t coordinates[LEVELS_MAX])
{
    uint64_t rank = 0;
    for (uint32_t l = 0; l < cluster->level_count; l++)
        rank = rank * cluster->levels[l].count + coordinates[l];
    return rank;
}

static uint32_t coordinate(const Cluster *cluster, uint64_t rank, uint32_t level)
{
    return (uint32_t)(rank / cluster_gpus_below(cluster, level) % cluster->levels[level].count);
}

uint64_t group_size(const Cluster *cluster, const Group *group)
{
    switch (group->kind) {
    case GROUP_GATHER:
        return group->domain;
    case GROUP_EXCHANGE:
        return cluster->levels[group->level].count / group->domain;
    case GROUP_LEVEL:
        return cluster->levels[group->level].count;
    case GROUP_WORLD:
        return cluster_gpus(cluster);
    case GROUP_KIND_COUNT:
        break;
    }
    return 0;
}

uint64_t group_member_rank(const Cluster *cluster, const Group *group, uint64_t rank, uint64_t index)
{
    if (group->kind == GROUP_WORLD)
        return index;
    uint32_t level = (uint32_t)group->level;
    uint64_t x = coordinate(cluster, rank, level), y = index;
    if (group->kind == GROUP_GATHER)
        y = x / group->domain * group->domain + index;
    else if (group->kind == GROUP_EXCHANGE)
        y = index * group->domain + x % group->domain;
    uint64_t below = cluster_gpus_below(cluster, level);
    return rank - x * below + y * below;
}

uint64_t group_index(const Cluster *cluster, const Group *group, uint64_t rank)
{
    if (group->kind == GROUP_WORLD)
        return rank;
    uint32_t x = coordinate(cluster, rank, (uint32_t)group->level);
    if (group->kind == GROUP_GATHER)
        return x % group->domain;
    return group->kind == GROUP_EXCHANGE ? x / group->domain : x;
}

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
    return coordinate(&plan->cluster, owner, level) / domain[level];
}

int64_t plan_expert_slot(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint64_t rank, uint32_t expert)
{
    uint32_t per_rank = plan_experts_per_rank(plan);
    uint64_t owner = expert / per_rank, shard = 0, stride = 1;
    for (uint32_t l = plan->replica_levels; l < plan->cluster.level_count; l++) {
        uint32_t y = coordinate(&plan->cluster, owner, l);
        if (y / domain[l] != coordinate(&plan->cluster, rank, l) / domain[l])
            return -1;
        shard += y % domain[l] * stride;
        stride *= domain[l];
    }
    return (int64_t)(shard * per_rank + expert % per_rank);
}
