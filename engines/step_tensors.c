// See step_tensors.h.
#include "engines/step_tensors.h"

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
    }
    return tensors;
}
