// See predictions.h. The formula of one collective: docs/cost-model.md.
#include "ir/load/predictions.h"

#include <math.h>
#include <stdlib.h>

#include "ir/base/text.h"
#include "ir/cluster.h"

static const double CLOSE = 1e-6; // relative: the compiler adds up the same terms in another order

// Of level 0, where workers may differ.
static PairLines pairs_of(const Plan *plan, const Group *group, uint32_t level)
{
    PairLines lines = {0};
    const Level *alike = &plan->cluster.levels[level];
    if (level > 0 || plan->cluster.port_count == 0) {
        pair_lines_add(&lines, (PairLine){alike->latency_s, 1 / alike->bandwidth_bytes_per_s});
        return lines;
    }
    uint32_t *linked = calloc(plan->cluster.port_count, sizeof(*linked));
    if (!linked)
        memory_exhausted();
    lines = cluster_pair_lines(&plan->cluster, group, linked);
    free(linked);
    return lines;
}

// Exchanges of the backward pass are taken to last as long as those of the forward pass, whose records differ.
static bool is_approximate(const Plan *plan, const Step *step)
{
    if (step->op == OP_COMBINE_BACKWARD)
        return true;
    const OpInfo *info = op_info((int)step->op);
    for (uint32_t k = 0; k < info->operand_count && step->op == OP_DISPATCH && !plan->model.abstract; k++)
        if (info->operands[k].optional && step_operands(plan, step)[k] == NONE)
            return true;
    return false;
}

double predictions_transfer_s(const Plan *plan, const Step *step)
{
    OpShape shape = op_info((int)step->op)->shape;
    if ((shape != SHAPE_EXCHANGE && shape != SHAPE_GATHER && shape != SHAPE_SCATTER) || step->group == NONE ||
        step->level == NONE || is_approximate(plan, step))
        return NAN;
    const Cluster *cluster = &plan->cluster;
    const Group *group = &plan->groups[step->group];
    uint32_t level = (uint32_t)step->level;
    double peers = (double)group_size(cluster, group) - 1, bytes = step->bytes * fmax(1, step->busiest);
    if (peers <= 0)
        return NAN;
    PairLines lines = pairs_of(plan, group, level);
    double inner_s = 0;
    for (uint32_t j = level + 1; j < cluster->level_count; j++)
        inner_s =
            fmax(inner_s, (double)cluster_gpus_below(cluster, j) * bytes / cluster->levels[j].bandwidth_bytes_per_s);
    uint32_t startups = plan_step_startups(plan, step);
    for (uint32_t i = 0; i < lines.count; i++)
        lines.lines[i].latency_s *= startups;
    double slowest_s = pair_lines_s(&lines, (double)cluster_gpus_below(cluster, level) * bytes, inner_s);
    return startups * cluster->levels[level].overhead_s * peers + slowest_s;
}

void predictions_check(const char *name, const Plan *plan, Diag *diag)
{
    char now[FORMAT_MAX], then[FORMAT_MAX];
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        double transfer_s = predictions_transfer_s(plan, step);
        if (isnan(transfer_s) || fabs(transfer_s - step->cost_s) <= CLOSE * fmax(transfer_s, step->cost_s))
            continue;
        diag_warning_plain(diag,
                           "%s: predictions are stale: '%s' of layer %d takes %s over these links of '%s', the plan "
                           "says %s (step %u)",
                           name, op_info((int)step->op)->name, step->layer, format_time(now, transfer_s),
                           plan->cluster.levels[step->level].name, format_time(then, step->cost_s), i);
        diag_help(diag, "predicted times and choices are the compiler's: change the .hep file and compile it; "
                        "simulated times follow the links as they are");
        return;
    }
}
