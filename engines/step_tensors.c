// See step_tensors.h.
#include "engines/step_tensors.h"

// The block of whole experts, a row each, at the beginning of the shares that were gathered; what is left is padding.
static Tensor held_experts(const Plan *plan, const Step *step, Tensor gathered)
{
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        if ((int32_t)plan->choices[c].layer != step->layer)
            continue;
        ExpertShares shares = plan_expert_shares(plan, plan->choices[c].domain);
        gathered.rows = shares.block_experts;
        gathered.cols = shares.expert_elements;
        break;
    }
    return gathered;
}

StepTensors step_tensors(const Plan *plan, const Step *step, void *memory)
{
    StepTensors tensors = {0};
    const OpInfo *info = op_info((int)step->op);
    for (uint32_t o = 0; o < info->operand_count; o++) {
        int32_t b = step_operands(plan, step)[o];
        if (b == NONE)
            continue;
        const Buffer *buffer = &plan->buffers[b];
        tensors.all[o] = (Tensor){.data = memory ? (char *)memory + buffer->offset : NULL,
                                  .dtype = buffer->dtype,
                                  .rows = buffer->rows,
                                  .cols = buffer->cols};
        if (info->operands[o].contents == CONTENTS_HELD_EXPERTS && info->operands[o].role == ROLE_IN)
            tensors.all[o] = held_experts(plan, step, tensors.all[o]);
    }
    return tensors;
}
