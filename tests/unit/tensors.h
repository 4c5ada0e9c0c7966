// Buffers for tests of kernels: guarded, filled with NaN or with random values, freed together.
#ifndef HEP_TEST_TENSORS_H
#define HEP_TEST_TENSORS_H

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "engines/host_scratch.h"
#include "kernels/host/internal.h"
#include "kernels/host/kernels.h"

enum { TENSOR_GUARD = 64, TENSORS_MAX = 4096 };

static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

static struct {
    Tensor tensors[TENSORS_MAX];
    size_t count;
} made;

// Surrounded by guard bytes and filled with NaN, so that neither a stray write nor a read of what
// was never written goes unnoticed.
static inline Tensor make(Dtype dtype, uint64_t rows, uint64_t cols)
{
    uint64_t bytes = rows * cols * dtype_bytes(dtype);
    unsigned char *base = aligned_alloc(64, (bytes + 2 * TENSOR_GUARD + 63) / 64 * 64);
    memset(base, 0xA5, bytes + 2 * TENSOR_GUARD);
    memset(base + TENSOR_GUARD, 0xFF, bytes);
    cr_assert(made.count < TENSORS_MAX);
    return made.tensors[made.count++] = (Tensor){base + TENSOR_GUARD, dtype, rows, cols};
}

// As large as engines/host_scratch.c says, and no larger.
static inline Tensor make_work(const ModelDims *dims, Op op, uint64_t rows, uint32_t records, uint32_t fanout)
{
    return make(DTYPE_F32, 1, host_scratch_elements(dims, op, rows, records, fanout));
}

// Checks all guards and frees everything.
static inline void finish(void)
{
    for (size_t t = 0; t < made.count; t++) {
        Tensor tensor = made.tensors[t];
        unsigned char *base = (unsigned char *)tensor.data - TENSOR_GUARD;
        uint64_t bytes = tensor.rows * tensor.cols * dtype_bytes(tensor.dtype);
        for (uint64_t i = 0; i < TENSOR_GUARD; i++) {
            cr_assert_eq(base[i], 0xA5, "tensor %zu: written before its begin", t);
            cr_assert_eq(base[TENSOR_GUARD + bytes + i], 0xA5, "tensor %zu: written past its end", t);
        }
        free(base);
    }
    made.count = 0;
}

static inline double at(Tensor tensor, uint64_t index)
{
    float value;
    host_to_f32(element_at(tensor.data, tensor.dtype, index), tensor.dtype, &value, 1);
    return (double)value;
}

static uint64_t random_state = 1;

static inline double random_unit(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 40) / (double)(1u << 24);
}

static inline void fill_random(Tensor tensor, double scale)
{
    for (uint64_t i = 0; i < tensor.rows * tensor.cols; i++) {
        float value = (float)(scale * (2 * random_unit() - 1));
        host_from_f32(&value, element_in(tensor.data, tensor.dtype, i), tensor.dtype, 1);
    }
}

static inline Tensor make_random(Dtype dtype, uint64_t rows, uint64_t cols, double scale)
{
    Tensor tensor = make(dtype, rows, cols);
    fill_random(tensor, scale);
    return tensor;
}

static inline Tensor make_tokens(const ModelDims *dims)
{
    Tensor tokens = make(DTYPE_I32, dims->batch, dims->sequence + 1);
    for (uint64_t i = 0; i < tokens.rows * tokens.cols; i++)
        ((int32_t *)tokens.data)[i] = (int32_t)(random_unit() * dims->vocabulary);
    return tokens;
}

static inline double *doubles(uint64_t count)
{
    double *values = calloc(count ? count : 1, sizeof(*values));
    cr_assert(values);
    return values;
}

// Freed with the tensors.
static inline double *numbers(uint64_t count)
{
    Tensor memory = make(DTYPE_F32, 2, count + 1);
    memset(memory.data, 0, 2 * (count + 1) * sizeof(float));
    return memory.data;
}

static inline double *values_of(Tensor tensor)
{
    double *values = numbers(tensor.rows * tensor.cols);
    for (uint64_t i = 0; i < tensor.rows * tensor.cols; i++)
        values[i] = at(tensor, i);
    return values;
}

#endif
