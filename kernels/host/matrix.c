// Matrix products through OpenBLAS. Weights stored in f16 or bf16 are converted a panel of columns
// at a time, so that the scratch does not grow with the matrix.
#include <cblas.h>
#include <limits.h>

#include "kernels/host/internal.h"

void host_kernels_init(void)
{
    openblas_set_num_threads(1);
}

static void multiply(CBLAS_TRANSPOSE transpose_b, uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a,
                     uint64_t a_stride, const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride)
{
    assert(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX);
    assert(a_stride <= INT_MAX && b_stride <= INT_MAX && c_stride <= INT_MAX);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, transpose_b, (blasint)m, (blasint)n, (blasint)k, alpha, a,
                (blasint)a_stride, b, (blasint)b_stride, beta, c, (blasint)c_stride);
}

static void convert_panel(Weights b, uint64_t rows, uint64_t first, uint64_t cols, float *panel)
{
    for (uint64_t row = 0; row < rows; row++)
        host_to_f32(element_at(b.data, b.dtype, row * b.stride + first), b.dtype, panel + row * cols, cols);
}

void matrix_multiply(uint64_t m, uint64_t n, uint64_t k, const float *a, uint64_t a_stride, Weights b, float beta,
                     float *c, uint64_t c_stride, float *panel)
{
    if (b.dtype == DTYPE_F32) {
        multiply(CblasNoTrans, m, n, k, 1, a, a_stride, b.data, b.stride, beta, c, c_stride);
        return;
    }
    for (uint64_t first = 0; first < n; first += WORKSPACE_COLUMNS) {
        uint64_t cols = smaller(WORKSPACE_COLUMNS, n - first);
        convert_panel(b, k, first, cols, panel);
        multiply(CblasNoTrans, m, cols, k, 1, a, a_stride, panel, cols, beta, c + first, c_stride);
    }
}

void matrix_multiply_transposed(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
                                const float *b, uint64_t b_stride, float *c, uint64_t c_stride)
{
    multiply(CblasTrans, m, n, k, alpha, a, a_stride, b, b_stride, 0, c, c_stride);
}
