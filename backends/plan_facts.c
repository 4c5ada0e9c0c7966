// See plan_facts.h.
#include "backends/plan_facts.h"

#include <stdio.h>

PlanMessages plan_messages(const Plan *plan)
{
    PlanMessages messages = {0};
    if (plan->choice_count == 0)
        return messages;
    double gpus = (double)cluster_gpus(&plan->cluster);
    const uint32_t *domain = plan->choices[0].domain;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        messages.exchange += gpus * (plan->cluster.levels[l].count / domain[l] - 1);
        if (l >= plan->replica_levels)
            messages.gather += gpus * (domain[l] - 1);
    }
    return messages;
}

double plan_layer_seconds(const Plan *plan, uint32_t layer, OpShape shape)
{
    double total_s = 0;
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (plan->steps[i].layer == (int32_t)layer && op_info((int)plan->steps[i].op)->shape == shape)
            total_s += plan->steps[i].cost_s;
    return total_s;
}

double plan_token_share(const Plan *plan, const Choice *choice, uint32_t level)
{
    double count = plan->cluster.levels[level].count;
    return count > 1 ? (count - choice->domain[level]) / (count - 1) : 0;
}

double traffic_total(const Traffic *traffic)
{
    return traffic->exchange_bytes + traffic->routing_bytes + traffic->gather_bytes + traffic->reduce_bytes;
}

const char *plan_format_domain(const Plan *plan, const uint32_t domain[LEVELS_MAX], char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (uint32_t l = 0; l < plan->cluster.level_count && used < size; l++)
        used +=
            (size_t)snprintf(out + used, size - used, "%s%s=%u", l ? " " : "", plan->cluster.levels[l].name, domain[l]);
    return out;
}
