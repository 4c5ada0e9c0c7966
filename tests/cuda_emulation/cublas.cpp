// The cuBLAS functions that hep calls, on the processor: plain loops over column-major matrices, summed in f32. Linked
// instead of libcublas.
#include "emulate.h"

#include <cublas_v2.h>

#include <vector>

struct cublasContext {
    cudaStream_t stream;
    bool has_workspace;
};

namespace
{

struct Operand {
    const void *data;
    cudaDataType type;
    int stride;
    long long batch_stride;
    bool transposed;
};

float load(const void *data, cudaDataType type, long long index)
{
    switch (type) {
    case CUDA_R_32F:
        return static_cast<const float *>(data)[index];
    case CUDA_R_16F:
        return __half2float(static_cast<const __half *>(data)[index]);
    default:
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[index]);
    }
}

void store(void *data, cudaDataType type, long long index, float value)
{
    switch (type) {
    case CUDA_R_32F:
        static_cast<float *>(data)[index] = value;
        break;
    case CUDA_R_16F:
        static_cast<__half *>(data)[index] = __float2half_rn(value);
        break;
    default:
        static_cast<__nv_bfloat16 *>(data)[index] = __float2bfloat16_rn(value);
    }
}

// Row-major copy of op(matrix) [rows][cols] in f32.
std::vector<float> copy(const Operand &from, int batch, int rows, int cols)
{
    std::vector<float> out(static_cast<size_t>(rows) * cols);
    for (int c = 0; c < cols; c++) {
        for (int r = 0; r < rows; r++) {
            long long place = from.transposed ? static_cast<long long>(r) * from.stride + c
                                              : static_cast<long long>(c) * from.stride + r;
            out[static_cast<size_t>(r) * cols + c] = load(from.data, from.type, batch * from.batch_stride + place);
        }
    }
    return out;
}

void multiply(int m, int n, int k, float alpha, const Operand &a, const Operand &b, float beta, void *c,
              cudaDataType c_type, int ldc, long long c_stride, int batch)
{
    std::vector<float> left = copy(a, batch, m, k), right = copy(b, batch, k, n), sums(static_cast<size_t>(m) * n);
    for (int i = 0; i < m; i++)
        for (int p = 0; p < k; p++)
            for (int j = 0; j < n; j++)
                sums[static_cast<size_t>(i) * n + j] +=
                    left[static_cast<size_t>(i) * k + p] * right[static_cast<size_t>(p) * n + j];
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            long long place = batch * c_stride + static_cast<long long>(j) * ldc + i;
            float old = beta == 0 ? 0 : beta * load(c, c_type, place);
            store(c, c_type, place, alpha * sums[static_cast<size_t>(i) * n + j] + old);
        }
    }
}

} // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    *handle = new cublasContext{nullptr, false};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream)
{
    *handle = {stream, false};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t)
{
    handle->has_workspace = workspace != nullptr;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                                          int m, int n, int k, const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long a_stride, const void *b, cudaDataType b_type, int ldb,
                                          long long b_stride, const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long c_stride, int batch_count, cublasComputeType_t, cublasGemmAlgo_t)
{
    float factor = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
    Operand left{a, a_type, lda, a_stride, transa != CUBLAS_OP_N};
    Operand right{b, b_type, ldb, b_stride, transb != CUBLAS_OP_N};
    bool strides_fit = lda >= (left.transposed ? k : m) && ldb >= (right.transposed ? n : k) && ldc >= m;
    if (!handle || !handle->has_workspace || m < 0 || n < 0 || k < 0 || batch_count < 0 || !strides_fit)
        return CUBLAS_STATUS_INVALID_VALUE;
    emulation::count_enqueued();
    emulation::count_flops(2 * static_cast<uint64_t>(m) * static_cast<uint64_t>(n) * static_cast<uint64_t>(k) *
                           static_cast<uint64_t>(batch_count));
    emulation::submit(handle->stream, [=] {
        for (int batch = 0; batch < batch_count; batch++)
            multiply(m, n, k, factor, left, right, keep, c, c_type, ldc, c_stride, batch);
    });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                            int k, const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0,
                                      beta, c, c_type, ldc, 0, 1, compute, algorithm);
}

} // extern "C"
