// What the launchers of this folder share: matrix products, LayerNorm, feed-forward layers. Not for use outside of it.
#ifndef HEP_CUDA_INTERNAL_H
#define HEP_CUDA_INTERNAL_H

#include "kernels/cuda/device.h"

static inline uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline const void *element_at(const void *data, Dtype dtype, uint64_t index)
{
    return static_cast<const char *>(data) + index * dtype_bytes(dtype);
}

static inline void *element_in(void *data, Dtype dtype, uint64_t index)
{
    return static_cast<char *>(data) + index * dtype_bytes(dtype);
}

// ---- matrix products by cuBLAS -------------------------------------------------------------------

// A row-major matrix on the device, or a batch of them: `stride` elements from row to row, `batch_stride` from matrix
// to matrix. `transposed`: its columns are the rows of the factor.
struct Matrix {
    void *data;
    Dtype dtype;
    uint64_t stride;
    bool transposed;
    uint64_t batch_stride;
};

static inline Matrix matrix_of(const void *data, Dtype dtype, uint64_t stride, bool transposed = false,
                               uint64_t batch_stride = 0)
{
    return {const_cast<void *>(data), dtype, stride, transposed, batch_stride};
}

// c [m][n] = alpha a [m][k] b [k][n] + beta c, summed in f32. a and b have one dtype; c has it too, or is f32.
cudaError_t matrix_multiply(const CudaQueue *queue, uint64_t m, uint64_t n, uint64_t k, float alpha, Matrix a, Matrix b,
                            float beta, Matrix c, uint64_t batch = 1);

// ---- elements ------------------------------------------------------------------------------------

// `count` elements from one dtype to another.
cudaError_t convert(cudaStream_t stream, const void *from, Dtype from_dtype, void *to, Dtype to_dtype, uint64_t count);

// ---- norm ----------------------------------------------------------------------------------------

// out [rows][hidden] = LayerNorm(x) gain + bias. parameters: gain [hidden], bias [hidden], in x's dtype.
// exact: the same in f32, or NULL.
cudaError_t norm_rows(cudaStream_t stream, const void *x, Dtype dtype, uint64_t rows, uint64_t hidden,
                      const void *parameters, void *out, float *exact = nullptr);

// d: f32 [rows][hidden], the gradient by the output. dx = that by x, plus `add` [rows][hidden] (may be dx) where given.
// dparameters (laid out like parameters) are written whole.
cudaError_t norm_backward(cudaStream_t stream, const void *x, Dtype dtype, uint64_t rows, uint64_t hidden,
                          const void *parameters, const float *d, const void *add, void *dx, void *dparameters,
                          const CudaNormSums &sums);

// ---- feed-forward --------------------------------------------------------------------------------

// act = the activation of up (and gate), `count` elements; act may be up.
cudaError_t activate(cudaStream_t stream, Activation activation, Dtype dtype, const void *up, const void *gate,
                     void *act, uint64_t count);

// Whose rows they are: all NULL where they are those of a dense layer.
struct ActivationRows {
    const uint32_t *count; // how many there are, on the device
    const uint32_t *pairs; // [rows] the record of each
    const Record *records; // by pair: what the output of its row counts
    float *drecords;       // by pair
};

// From what up and gate made, and dact: act, and in up and gate the gradients by them.
cudaError_t activation_backward(cudaStream_t stream, Activation activation, Dtype dtype, const ActivationRows &rows,
                                const CudaInner &inner, uint64_t row_bound, uint64_t cols);

#endif
