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

void host_add_scaled(Tensor from, float scale, Tensor to)
{
    uint64_t elements = to.rows * to.cols;
    float summands[BLOCK], sums[BLOCK];
    assert(from.rows * from.cols == elements);
    for (uint64_t at = 0; at < elements; at += BLOCK) {
        uint64_t count = smaller(BLOCK, elements - at);
        host_to_f32(element_at(from.data, from.dtype, at), from.dtype, summands, count);
        host_to_f32(element_at(to.data, to.dtype, at), to.dtype, sums, count);
        for (uint64_t i = 0; i < count; i++)
            sums[i] += scale * summands[i];
        host_from_f32(sums, element_in(to.data, to.dtype, at), to.dtype, count);
    }
}
