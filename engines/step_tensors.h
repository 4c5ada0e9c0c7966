// A step's operands as tensors: what engines execute it with, and what their formulas read sizes from.
#ifndef HEP_STEP_TENSORS_H
#define HEP_STEP_TENSORS_H

#include "engines/tensor.h"
#include "ir/plan.h"

// Of held experts that are read, whole ones are rows, whatever shares they were gathered in.
//
// The operands of one step by name: `tensors.route.origin`, of a step whose op is known.
typedef union {
    Tensor all[OPERANDS_MAX];
#define HEP_OP(name, text, code, stream, shape, operands, doc)                                                         \
    struct text##_tensors {                                                                                            \
        Tensor operands;                                                                                               \
    } text;
#include "ir/ops.def"
} StepTensors;

// Where `memory`, the plan's arena, begins. NULL: sizes alone, every `data` is NULL.
StepTensors step_tensors(const Plan *plan, const Step *step, void *memory);

#endif
