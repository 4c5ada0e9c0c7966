// Matrix products by cuBLAS on a queue's stream. Row-major matrices are the transposes of what cuBLAS takes, so the
// factors change places.
#include <cublas_v2.h>
#include <limits.h>

#include "kernels/cuda/internal.h"

namespace
{

cudaError_t error_of(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return cudaSuccess;
    case CUBLAS_STATUS_ALLOC_FAILED:
        return cudaErrorMemoryAllocation;
    case CUBLAS_STATUS_INVALID_VALUE:
        return cudaErrorInvalidValue;
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return cudaErrorNoKernelImageForDevice;
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return cudaErrorNotSupported;
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return cudaErrorLaunchFailure;
    default:
        return cudaErrorUnknown;
    }
}

cudaDataType type_of(Dtype dtype)
{
    return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

cublasOperation_t operation_of(Matrix matrix)
{
    return matrix.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
}

bool fits_int(uint64_t value)
{
    return value <= INT_MAX;
}

} // namespace

cudaError_t cuda_queue_create(CudaQueue *queue, cudaStream_t stream, bool multiplies, void *work, uint64_t work_bytes)
{
    *queue = {stream, nullptr, work, work_bytes, false};
    if (!multiplies)
        return cudaSuccess;
    if (work_bytes < CUDA_BLAS_BYTES)
        return cudaErrorInvalidValue;
    TRY(error_of(cublasCreate(&queue->blas)));
    TRY(error_of(cublasSetStream(queue->blas, stream)));
    TRY(error_of(cublasSetWorkspace(queue->blas, work, CUDA_BLAS_BYTES))); // setting the stream forgets an earlier one
    // Sums stay in f32 also where a product is split along k: by default they may take the result's dtype.
    TRY(error_of(cublasSetMathMode(queue->blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
    queue->work = static_cast<char *>(work) + CUDA_BLAS_BYTES;
    queue->work_bytes = work_bytes - CUDA_BLAS_BYTES;
    CudaExpertKernel kernel;
    TRY(cuda_expert_kernel(&kernel));
    queue->warp_groups = kernel.warp_groups;
    return cudaSuccess;
}

void cuda_queue_destroy(CudaQueue *queue)
{
    if (queue->blas)
        cublasDestroy(queue->blas);
    queue->blas = nullptr;
}

cudaError_t matrix_multiply(const CudaQueue *queue, uint64_t m, uint64_t n, uint64_t k, float alpha, Matrix a, Matrix b,
                            float beta, Matrix c, uint64_t batch)
{
    if (m == 0 || n == 0 || batch == 0)
        return cudaSuccess;
    if (!fits_int(m) || !fits_int(n) || !fits_int(k) || !fits_int(a.stride) || !fits_int(b.stride) ||
        !fits_int(c.stride) || !fits_int(batch))
        return cudaErrorInvalidValue;
    int rows = static_cast<int>(m), cols = static_cast<int>(n), depth = static_cast<int>(k);
    int lda = static_cast<int>(a.stride), ldb = static_cast<int>(b.stride), ldc = static_cast<int>(c.stride);
    if (batch == 1)
        return error_of(cublasGemmEx(queue->blas, operation_of(b), operation_of(a), cols, rows, depth, &alpha, b.data,
                                     type_of(b.dtype), ldb, a.data, type_of(a.dtype), lda, &beta, c.data,
                                     type_of(c.dtype), ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    return error_of(cublasGemmStridedBatchedEx(
        queue->blas, operation_of(b), operation_of(a), cols, rows, depth, &alpha, b.data, type_of(b.dtype), ldb,
        static_cast<long long>(b.batch_stride), a.data, type_of(a.dtype), lda, static_cast<long long>(a.batch_stride),
        &beta, c.data, type_of(c.dtype), ldc, static_cast<long long>(c.batch_stride), static_cast<int>(batch),
        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}
