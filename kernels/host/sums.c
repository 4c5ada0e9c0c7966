// Sums of gradients over micro-batches, f32 whatever the weights are.
#include "kernels/host/internal.h"

enum { BLOCK = 1024 };

void host_accumulate(Tensor part, Tensor sum)
{
    uint64_t elements = sum.rows * sum.cols;
    float block[BLOCK];
    assert(part.rows * part.cols == elements && sum.dtype == DTYPE_F32);
    for (uint64_t at = 0; at < elements; at += BLOCK) {
        uint64_t count = smaller(BLOCK, elements - at);
        float *to = (float *)sum.data + at;
        host_to_f32(element_at(part.data, part.dtype, at), part.dtype, block, count);
        for (uint64_t i = 0; i < count; i++)
            to[i] += block[i];
    }
}

void host_round(Tensor sum, Tensor gradient)
{
    assert(sum.dtype == DTYPE_F32 && sum.rows * sum.cols == gradient.rows * gradient.cols);
    host_from_f32(sum.data, gradient.data, gradient.dtype, gradient.rows * gradient.cols);
}
