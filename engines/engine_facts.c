// See engine_facts.h.
#include "engines/engine_facts.h"

#include <math.h>

#include "engines/saturating.h"
#include "engines/step_tensors.h"
#include "ir/unroll.h"

bool engine_has_stream(const Plan *plan, Stream stream)
{
    for (uint32_t s = 0; s < plan->step_count; s++)
        if (step_stream(plan, &plan->steps[s]) == stream)
            return true;
    return false;
}

const Step *engine_route_dispatch(const Plan *plan, const Step *step)
{
    int32_t send_counts = step_operand(plan, step, OPERAND_send_counts);
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *other = &plan->steps[s];
        if (other->op == OP_DISPATCH && step_buffers(plan, other).dispatch.send_counts == send_counts)
            return other;
    }
    return NULL;
}

uint64_t engine_capacity_rows(const Plan *plan)
{
    const ModelDims *dims = &plan->model;
    if (plan->capacity <= 0)
        return 0;
    return (uint64_t)ceil(plan->capacity * (double)model_tokens(dims) * dims->top_k / dims->experts);
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

// Ranks that send to this one are as many as there are places, and each place holds as large a part of the experts:
// with a limit for every expert and source all experts' limits together are that of what a rank holds.
uint64_t engine_held_records(const Plan *plan, const Step *step)
{
    StepTensors tensors = step_tensors(plan, step, NULL);
    bool backward = step->op == OP_EXPERT_BACKWARD;
    Tensor records = backward ? tensors.expert_backward.records : tensors.expert.records;
    Tensor experts = backward ? tensors.expert_backward.experts : tensors.expert.experts;
    uint64_t most = saturating_mul(records.rows, smaller(records.cols / 2, experts.rows));
    uint64_t limit = engine_capacity_rows(plan);
    return limit ? smaller(most, saturating_mul(limit, plan->model.experts)) : most;
}

uint64_t engine_map_entries(const Plan *plan)
{
    return (uint64_t)plan->model.experts * (plan->cluster.level_count + 1);
}

uint64_t engine_kept_counts(const Plan *plan)
{
    uint64_t total = 0;
    for (uint32_t s = 0; s < plan->step_count && plan->exchange == EXCHANGE_PADDED; s++)
        if (plan->steps[s].op == OP_ROUTE)
            total +=
                plan_step_runs(plan, &plan->steps[s]) * step_buffer(plan, &plan->steps[s], OPERAND_send_counts)->rows;
    return total;
}

uint64_t engine_decisions_bytes(const Plan *plan)
{
    uint64_t choices = (uint64_t)plan->micro_batches * plan->choice_count;
    return choices * model_tokens(&plan->model) * plan->model.top_k * sizeof(int32_t);
}

uint64_t engine_final_bytes(const Plan *plan)
{
    return model_tokens(&plan->model) * plan->model.hidden * dtype_bytes(plan->model.dtype);
}
