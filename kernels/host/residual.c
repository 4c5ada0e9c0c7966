// Residual connections.
#include "kernels/host/internal.h"

enum { BLOCK = 256 };

static void add_block(Tensor from, uint64_t at, float *sum, uint64_t count)
{
    float block[BLOCK];
    host_to_f32(element_at(from.data, from.dtype, at), from.dtype, block, count);
    for (uint64_t i = 0; i < count; i++)
        sum[i] += block[i];
}

void host_residual(Tensor x, Tensor results, Tensor shared, Tensor y)
{
    uint64_t elements = y.rows * y.cols;
    float sum[BLOCK];
    assert(x.rows * x.cols >= elements && results.rows * results.cols >= elements);
    assert(!shared.data || shared.rows * shared.cols >= elements);
    for (uint64_t at = 0; at < elements; at += BLOCK) {
        uint64_t count = smaller(BLOCK, elements - at);
        host_to_f32(element_at(x.data, x.dtype, at), x.dtype, sum, count);
        add_block(results, at, sum, count);
        if (shared.data)
            add_block(shared, at, sum, count);
        host_from_f32(sum, element_in(y.data, y.dtype, at), y.dtype, count);
    }
}

void residual_store(const void *x, const float *add, void *y, Dtype dtype, uint64_t count)
{
    float sum[BLOCK];
    for (uint64_t at = 0; at < count; at += BLOCK) {
        uint64_t length = smaller(BLOCK, count - at);
        host_to_f32(element_at(x, dtype, at), dtype, sum, length);
        for (uint64_t i = 0; i < length; i++)
            sum[i] += add[at + i];
        host_from_f32(sum, element_in(y, dtype, at), dtype, length);
    }
}
