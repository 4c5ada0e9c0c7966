// Who is where and who talks to whom: coordinates, and groups as formulas over them. Pure functions of a cluster whose
// counts are at least 1 and whose product fits 64 bits.
#include "ir/cluster.h"

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

uint32_t cluster_coordinate(const Cluster *cluster, uint64_t rank, uint32_t level)
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
    uint64_t x = cluster_coordinate(cluster, rank, level), y = index;
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
    uint32_t x = cluster_coordinate(cluster, rank, (uint32_t)group->level);
    if (group->kind == GROUP_GATHER)
        return x % group->domain;
    return group->kind == GROUP_EXCHANGE ? x / group->domain : x;
}
