// What tests of layers on CUDA share: a layer's tensors, its tolerance, a queue with exactly the scratch its op asks
// for.
#ifndef HEP_TEST_CUDA_LAYERS_H
#define HEP_TEST_CUDA_LAYERS_H

#include "cuda_tensors.h"
#include "engines/cuda_step.h"

// The host keeps what lies between products in f32, here it has the weights' dtype: a handful of roundings on the way
// of every result, relative to terms as large as the largest result. `depth`: terms of a sum, in another order in f32.
static inline double layer_tolerance(Dtype dtype, double depth)
{
    return 8 * rounding(dtype) + 16 * sqrt(depth) * rounding(DTYPE_F32);
}

typedef struct {
    ModelDims dims;
    Tensor x, weights, y, dx, dweights;
} Layer;

static inline Layer make_layer(ModelDims dims, uint64_t elements)
{
    uint64_t tokens = model_tokens(&dims);
    return (Layer){.dims = dims,
                   .x = make_random(dims.dtype, tokens, dims.hidden, 1),
                   .weights = make_random(dims.dtype, 1, elements, 1 / sqrt(dims.hidden)),
                   .y = make(dims.dtype, tokens, dims.hidden),
                   .dx = make_random(dims.dtype, tokens, dims.hidden, 1),
                   .dweights = make(dims.dtype, 1, elements)};
}

static inline const CudaQueue *queue_for(const ModelDims *dims, Op op, StepTensors operands)
{
    return device_queue(cuda_op_scratch(dims, op, &operands, 0));
}

#endif
