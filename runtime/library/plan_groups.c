// The groups of a plan as lists of ranks, for callers that make communicators of their own.
#include <inttypes.h>

#include "runtime/library/library.h"

static bool check_group(const hep_plan *handle, int index, Fault *fault)
{
    if (!library_given(handle, "plan", fault))
        return false;
    uint32_t groups = handle->plan->group_count;
    return (index >= 0 && (uint32_t)index < groups) ||
           fault_set(fault, FAULT_USAGE, "group %d: the plan has %" PRIu32 ", counted from 0", index, groups);
}

static int32_t uses_of(const Plan *plan, int index)
{
    static const int32_t use_of_stream[STREAM_COUNT] = {
        [STREAM_EXCHANGE] = HEP_USE_EXCHANGE, [STREAM_MIGRATE] = HEP_USE_GATHER, [STREAM_SYNC] = HEP_USE_RETURN};
    int32_t uses = 0;
    for (uint32_t s = 0; s < plan->step_count; s++)
        if (plan->steps[s].group == index)
            uses |= use_of_stream[op_info((int)plan->steps[s].op)->stream];
    return uses;
}

hep_status hep_plan_group(const hep_plan *handle, int index, hep_group *facts)
{
    Fault fault = {0};
    if (!check_group(handle, index, &fault))
        return library_end(&fault);
    const Plan *plan = handle->plan;
    const Group *group = &plan->groups[index];
    static const int32_t kinds[GROUP_KIND_COUNT] = {[GROUP_EXCHANGE] = HEP_GROUP_EXCHANGE,
                                                    [GROUP_GATHER] = HEP_GROUP_GATHER,
                                                    [GROUP_LEVEL] = HEP_GROUP_LEVEL,
                                                    [GROUP_WORLD] = HEP_GROUP_WORLD};
    uint64_t size = group_size(&plan->cluster, group);
    hep_group filled = {.kind = kinds[group->kind],
                        .level = group->level,
                        .domain = (int32_t)group->domain,
                        .count = (int32_t)(cluster_gpus(&plan->cluster) / size),
                        .size = (int32_t)size,
                        .uses = uses_of(plan, index)};
    return library_give(facts, &filled, sizeof(filled), &fault) ? HEP_OK : library_end(&fault);
}

hep_status hep_plan_group_ranks(const hep_plan *handle, int index, int set, int32_t ranks[])
{
    Fault fault = {0};
    if (!check_group(handle, index, &fault) || !library_given(ranks, "ranks", &fault))
        return library_end(&fault);
    const Cluster *cluster = &handle->plan->cluster;
    const Group *group = &handle->plan->groups[index];
    uint64_t size = group_size(cluster, group), all = cluster_gpus(cluster), first = 0;
    if (set < 0 || (uint64_t)set >= all / size) {
        fault_set(&fault, FAULT_USAGE, "set %d: the group has %" PRIu64 ", counted from 0", set, all / size);
        return library_end(&fault);
    }
    for (int before = set;; first++) // sets in the order of their first members
        if (group_index(cluster, group, first) == 0 && before-- == 0)
            break;
    for (uint64_t m = 0; m < size; m++)
        ranks[m] = (int32_t)cluster_process_of_rank(cluster, group_member_rank(cluster, group, first, m));
    return HEP_OK;
}
