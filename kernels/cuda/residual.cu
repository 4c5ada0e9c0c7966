// Elementwise sums and conversions: residual connections, sums of what ranks sent. Bound by memory: 16 bytes an access.
#include "kernels/cuda/internal.h"

namespace
{

// Blocks that together hold `count` elements, a vector a thread.
template <typename T> unsigned element_blocks(uint64_t count)
{
    return static_cast<unsigned>(blocks_for(count, BLOCK_THREADS * Piece<T>::LENGTH));
}

template <typename T> __device__ uint64_t own_element()
{
    return (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * Piece<T>::LENGTH;
}

// A vector lies inside `count`, and all buffers are aligned: the last piece of an odd count goes one by one.
template <typename T> __device__ bool is_whole(uint64_t at, uint64_t count, bool aligned)
{
    return aligned && at + Piece<T>::LENGTH <= count;
}

template <typename T>
__global__ void residual_kernel(const T *x, const T *__restrict__ results, const T *__restrict__ shared, T *y,
                                uint64_t count, bool aligned)
{
    uint64_t at = own_element<T>();
    bool whole = is_whole<T>(at, count, aligned);
    Piece<T> sum, part;
    if (at >= count)
        return;
    sum.load(x, at, count, whole);
    part.load(results, at, count, whole);
    sum.add(part);
    if (shared) {
        part.load(shared, at, count, whole);
        sum.add(part);
    }
    sum.store(y, at, count, whole);
}

template <typename T> cudaError_t residual(const CudaQueue *queue, Tensor x, Tensor results, Tensor shared, Tensor y)
{
    uint64_t count = y.rows * y.cols;
    bool aligned = is_aligned<T>(x.data, 0) && is_aligned<T>(results.data, 0) && is_aligned<T>(shared.data, 0) &&
                   is_aligned<T>(y.data, 0);
    if (count == 0)
        return cudaSuccess;
    return launch(queue->stream, element_blocks<T>(count), BLOCK_THREADS, 0, residual_kernel<T>,
                  static_cast<const T *>(x.data), static_cast<const T *>(results.data),
                  static_cast<const T *>(shared.data), static_cast<T *>(y.data), count, aligned);
}

struct ListedParts {
    const void *const *parts;

    __device__ const void *at(uint32_t index, uint64_t) const
    {
        return parts[index];
    }
};

struct PartsWithOwn {
    const void *own;
    uint32_t own_index;
    const void *others;

    __device__ const void *at(uint32_t index, uint64_t bytes) const
    {
        return index == own_index ? own : static_cast<const char *>(others) + (index - (index > own_index)) * bytes;
    }
};

template <typename T, typename Parts>
__global__ void sum_kernel(Parts parts, uint32_t part_count, T *out, uint64_t count)
{
    uint64_t at = own_element<T>();
    Piece<T> sum, part;
    if (at >= count)
        return;
    for (uint32_t p = 0; p < part_count; p++) {
        const T *from = static_cast<const T *>(parts.at(p, count * sizeof(T)));
        part.load(from, at, count, is_whole<T>(at, count, reinterpret_cast<uintptr_t>(from) % 16 == 0));
        if (p == 0)
            sum = part;
        else
            sum.add(part);
    }
    sum.store(out, at, count, is_whole<T>(at, count, reinterpret_cast<uintptr_t>(out) % 16 == 0));
}

template <typename T, typename Parts>
cudaError_t sum_parts(const CudaQueue *queue, const Parts &parts, uint32_t part_count, Tensor out)
{
    uint64_t count = out.rows * out.cols;
    if (count == 0 || part_count == 0)
        return cudaSuccess;
    return launch(queue->stream, element_blocks<T>(count), BLOCK_THREADS, 0, sum_kernel<T, Parts>, parts, part_count,
                  static_cast<T *>(out.data), count);
}

constexpr int CONVERTED = 8; // a thread

template <typename From, typename To>
__global__ void add_scaled_kernel(const From *__restrict__ from, float scale, To *__restrict__ to, uint64_t count,
                                  bool aligned)
{
    uint64_t at = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * CONVERTED;
    Run<From, CONVERTED> in;
    Run<To, CONVERTED> out;
    if (at >= count)
        return;
    in.load(from, at, count, aligned);
    out.load(to, at, count, aligned);
#pragma unroll
    for (int i = 0; i < CONVERTED; i++)
        out.values[i] += scale * in.values[i];
    out.store(to, at, count, aligned);
}

template <typename From, typename To>
cudaError_t add_scaled_to(const CudaQueue *queue, Tensor from, float scale, Tensor to)
{
    uint64_t count = to.rows * to.cols;
    bool aligned = is_aligned<From>(from.data, 0) && is_aligned<To>(to.data, 0);
    if (count == 0)
        return cudaSuccess;
    return launch(queue->stream, static_cast<unsigned>(blocks_for(count, BLOCK_THREADS * CONVERTED)), BLOCK_THREADS, 0,
                  add_scaled_kernel<From, To>, static_cast<const From *>(from.data), scale, static_cast<To *>(to.data),
                  count, aligned);
}

template <typename From> cudaError_t accumulate(const CudaQueue *queue, Tensor part, Tensor sum)
{
    return add_scaled_to<From, float>(queue, part, 1, sum);
}

template <typename From> cudaError_t add_scaled(const CudaQueue *queue, Tensor from, float scale, Tensor to)
{
    return to.dtype == DTYPE_F32   ? add_scaled_to<From, float>(queue, from, scale, to)
           : to.dtype == DTYPE_F16 ? add_scaled_to<From, __half>(queue, from, scale, to)
                                   : add_scaled_to<From, __nv_bfloat16>(queue, from, scale, to);
}

template <typename From, typename To>
__global__ void convert_kernel(const From *__restrict__ from, To *__restrict__ to, uint64_t count, bool aligned)
{
    uint64_t at = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * CONVERTED;
    Run<From, CONVERTED> in;
    Run<To, CONVERTED> out;
    if (at >= count)
        return;
    in.load(from, at, count, aligned);
#pragma unroll
    for (int i = 0; i < CONVERTED; i++)
        out.values[i] = in.values[i];
    out.store(to, at, count, aligned);
}

template <typename From, typename To>
cudaError_t convert_to(cudaStream_t stream, const From *from, void *to, uint64_t count)
{
    bool aligned = is_aligned<From>(from, 0) && is_aligned<To>(to, 0);
    if (count == 0)
        return cudaSuccess;
    return launch(stream, static_cast<unsigned>(blocks_for(count, BLOCK_THREADS * CONVERTED)), BLOCK_THREADS, 0,
                  convert_kernel<From, To>, from, static_cast<To *>(to), count, aligned);
}

template <typename From>
cudaError_t convert_from(cudaStream_t stream, const void *from, void *to, Dtype to_dtype, uint64_t count)
{
    const From *source = static_cast<const From *>(from);
    return to_dtype == DTYPE_F32   ? convert_to<From, float>(stream, source, to, count)
           : to_dtype == DTYPE_F16 ? convert_to<From, __half>(stream, source, to, count)
                                   : convert_to<From, __nv_bfloat16>(stream, source, to, count);
}

} // namespace

cudaError_t convert(cudaStream_t stream, const void *from, Dtype from_dtype, void *to, Dtype to_dtype, uint64_t count)
{
    return BY_DTYPE(from_dtype, convert_from, stream, from, to, to_dtype, count);
}

cudaError_t cuda_residual(const CudaQueue *queue, Tensor x, Tensor results, Tensor shared, Tensor y)
{
    return BY_DTYPE(y.dtype, residual, queue, x, results, shared, y);
}

cudaError_t cuda_sum(const CudaQueue *queue, const void *const *parts, uint32_t part_count, Tensor out)
{
    ListedParts listed = {parts};
    return BY_DTYPE(out.dtype, sum_parts, queue, listed, part_count, out);
}

cudaError_t cuda_sum_with_own(const CudaQueue *queue, const void *own, uint32_t own_index, const void *others,
                              uint32_t part_count, Tensor out)
{
    PartsWithOwn parts = {own, own_index, others};
    return BY_DTYPE(out.dtype, sum_parts, queue, parts, part_count, out);
}

cudaError_t cuda_add_scaled(const CudaQueue *queue, Tensor from, float scale, Tensor to)
{
    return BY_DTYPE(from.dtype, add_scaled, queue, from, scale, to);
}

cudaError_t cuda_accumulate(const CudaQueue *queue, Tensor part, Tensor sum)
{
    return BY_DTYPE(part.dtype, accumulate, queue, part, sum);
}

cudaError_t cuda_round(const CudaQueue *queue, Tensor sum, Tensor gradient)
{
    return convert(queue->stream, sum.data, DTYPE_F32, gradient.data, gradient.dtype, sum.rows * sum.cols);
}
