// A step's operands as tensors, for engines and for what they ask of kernels by op.
#ifndef HEP_STEP_TENSORS_H
#define HEP_STEP_TENSORS_H

#include "ir/ops.h"
#include "kernels/host/kernels.h"

// The operands of one step by name: `tensors.route.origin`, of a step whose op is known.
typedef union {
    Tensor all[OPERANDS_MAX];
#define HEP_OP(name, text, code, stream, shape, operands, doc)                                                         \
    struct text##_tensors {                                                                                            \
        Tensor operands;                                                                                               \
    } text;
#include "ir/ops.def"
} StepTensors;

#endif
