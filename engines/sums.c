// See sums.h.
#include "engines/sums.h"

#include "engines/saturating.h"
#include "ir/unroll.h"

uint64_t sums_scatter_scratch(uint32_t members, uint64_t shard, Dtype dtype)
{
    return saturating_mul(members - 1, saturating_mul(shard, dtype_bytes(dtype)));
}

uint64_t sums_reduce_scratch(uint32_t members, uint64_t elements, Dtype dtype)
{
    return saturating_mul(members - 1, saturating_mul(elements / members + 1, dtype_bytes(dtype)));
}

uint32_t sums_stream(const Plan *plan, const Step *step)
{
    return step_stream(plan, step) == STREAM_SYNC_OUTER;
}

// What a sum receives.
static uint64_t step_scratch(const Plan *plan, const Step *step)
{
    uint32_t members = (uint32_t)group_size(&plan->cluster, &plan->groups[step->group]);
    bool scatters = step->op == OP_REDUCE_SCATTER;
    const Buffer *buffer = step_buffer(plan, step, scatters ? OPERAND_shard : OPERAND_gradient);
    uint64_t elements = saturating_mul(buffer->rows, buffer->cols);
    return scatters ? sums_scatter_scratch(members, elements, buffer->dtype)
                    : sums_reduce_scratch(members, elements, buffer->dtype);
}

uint64_t sums_run_offset(const Plan *plan, uint32_t step)
{
    Stream stream = step_stream(plan, &plan->steps[step]);
    uint64_t bytes = 0;
    for (uint32_t s = step; s > 0 && plan->steps[step].joined;) {
        const Step *before = &plan->steps[--s];
        if (step_stream(plan, before) != stream)
            continue;
        bytes = saturating_add(bytes, step_scratch(plan, before));
        if (!before->joined)
            break;
    }
    return bytes;
}

PlanSums sums_of_plan(const Plan *plan)
{
    PlanSums sums = {0};
    uint64_t run[SUM_STREAMS] = {0};
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (op_info((int)step->op)->stream != STREAM_SYNC || step->group == NONE)
            continue;
        uint32_t members = (uint32_t)group_size(&plan->cluster, &plan->groups[step->group]);
        sums.members_most = members > sums.members_most ? members : sums.members_most;
        if (step->op != OP_REDUCE_SCATTER && step->op != OP_ALL_REDUCE)
            continue;
        uint32_t stream = sums_stream(plan, step);
        run[stream] = saturating_add(step->joined ? run[stream] : 0, step_scratch(plan, step));
        sums.scratch[stream] = run[stream] > sums.scratch[stream] ? run[stream] : sums.scratch[stream];
        sums.steps += plan_step_runs(plan, step);
    }
    return sums;
}
