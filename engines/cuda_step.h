// How much scratch a step takes of its stream's queue: what its launcher would take, summed up without memory.
#ifndef HEP_CUDA_STEP_H
#define HEP_CUDA_STEP_H

#include "engines/step_tensors.h"

// Bytes, of operands whose `data` is not looked at. `most`: members of the exchange group for routes; for experts, most
// records that name one which is held (more than there are: all may); unused elsewhere. Does
// not grow with the batch times the vocabulary, nor with the square of the sequence; it holds the inner dimension of
// all rows of a feed-forward step. Saturates (saturating.h).
uint64_t cuda_op_scratch(const ModelDims *dims, Op op, const StepTensors *operands, uint64_t most);
uint64_t cuda_step_scratch(const Plan *plan, const Step *step);

#endif
