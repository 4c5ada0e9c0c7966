// How much scratch a step takes of its stream's queue.
#ifndef HEP_CUDA_WORK_H
#define HEP_CUDA_WORK_H

#include "kernels/host/step.h"

#ifdef __cplusplus
extern "C" {
#endif

// Scratch of one step: its operands (`data` is not looked at), members of the exchange group for routes (unused
// elsewhere). Does not grow with the batch times the vocabulary, nor with the square of the sequence; it holds the
// inner dimension of all rows of a feed-forward step.
uint64_t cuda_work_bytes(const ModelDims *dims, Op op, const StepTensors *operands, uint32_t members);

#ifdef __cplusplus
}
#endif

#endif
