// Matrix products through OpenBLAS. Weights stored in f16 or bf16 are converted a panel of columns
// at a time, so that the scratch does not grow with the matrix.
#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

#include "kernels/host/internal.h"

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static bool take_turns; // written before there are threads

// So large that OpenBLAS takes its space for it.
static void first_product(void)
{
    enum { SIZE = 256 };
    float *all = calloc(3 * SIZE * SIZE, sizeof(*all));
    if (all)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, SIZE, SIZE, SIZE, 1, all, SIZE, all + SIZE * SIZE, SIZE,
                    0, all + 2 * SIZE * SIZE, SIZE);
    free(all);
}

void host_kernels_init(uint64_t callers, uint64_t space_bytes)
{
    openblas_set_num_threads(1);
    take_turns = space_bytes / HOST_PRODUCT_BYTES < callers;
    if (take_turns)
        first_product();
}

typedef struct {
    const float *data;
    uint64_t stride;
    CBLAS_TRANSPOSE transpose;
} Factor;

static void multiply(uint64_t m, uint64_t n, uint64_t k, float alpha, Factor a, Factor b, float beta, float *c,
                     uint64_t c_stride)
{
    assert(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX);
    assert(a.stride <= INT_MAX && b.stride <= INT_MAX && c_stride <= INT_MAX);
    if (take_turns)
        pthread_mutex_lock(&turn);
    cblas_sgemm(CblasRowMajor, a.transpose, b.transpose, (blasint)m, (blasint)n, (blasint)k, alpha, a.data,
                (blasint)a.stride, b.data, (blasint)b.stride, beta, c, (blasint)c_stride);
    if (take_turns)
        pthread_mutex_unlock(&turn);
}

static void convert_panel(Weights b, uint64_t rows, uint64_t first, uint64_t cols, float *panel)
{
    for (uint64_t row = 0; row < rows; row++)
        host_to_f32(element_at(b.data, b.dtype, row * b.stride + first), b.dtype, panel + row * cols, cols);
}

void matrix_multiply(uint64_t m, uint64_t n, uint64_t k, const float *a, uint64_t a_stride, Weights b, float beta,
                     float *c, uint64_t c_stride, float *panel)
{
    Factor left = {a, a_stride, CblasNoTrans};
    if (b.dtype == DTYPE_F32) {
        multiply(m, n, k, 1, left, (Factor){b.data, b.stride, CblasNoTrans}, beta, c, c_stride);
        return;
    }
    for (uint64_t first = 0; first < n; first += SCRATCH_COLUMNS) {
        uint64_t cols = smaller(SCRATCH_COLUMNS, n - first);
        convert_panel(b, k, first, cols, panel);
        multiply(m, cols, k, 1, left, (Factor){panel, cols, CblasNoTrans}, beta, c + first, c_stride);
    }
}

void matrix_multiply_transposed(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
                                Weights b, float beta, float *c, uint64_t c_stride, float *panel)
{
    if (b.dtype == DTYPE_F32) {
        multiply(m, n, k, alpha, (Factor){a, a_stride, CblasNoTrans}, (Factor){b.data, b.stride, CblasTrans}, beta, c,
                 c_stride);
        return;
    }
    for (uint64_t first = 0; first < k; first += SCRATCH_COLUMNS) {
        uint64_t cols = smaller(SCRATCH_COLUMNS, k - first);
        convert_panel(b, n, first, cols, panel);
        multiply(m, n, cols, alpha, (Factor){a + first, a_stride, CblasNoTrans}, (Factor){panel, cols, CblasTrans},
                 first > 0 ? 1 : beta, c, c_stride);
    }
}

void matrix_add_gradient(uint64_t m, uint64_t n, uint64_t rows, float alpha, const float *a, uint64_t a_stride,
                         const float *b, uint64_t b_stride, float *c, uint64_t c_stride)
{
    multiply(m, n, rows, alpha, (Factor){a, a_stride, CblasTrans}, (Factor){b, b_stride, CblasNoTrans}, 1, c, c_stride);
}
