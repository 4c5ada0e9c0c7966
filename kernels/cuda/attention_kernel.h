// Attention without scores in memory, for one dtype: which kernel for which size of heads.
#ifndef HEP_CUDA_ATTENTION_KERNEL_H
#define HEP_CUDA_ATTENTION_KERNEL_H

#include <limits.h>

#include "kernels/cuda/attention_backward.h"
#include "kernels/cuda/attention_forward.h"

namespace
{

template <typename T> bool heads_aligned(const AttentionCore &core)
{
    const void *all[] = {core.q, core.k, core.v, core.context, core.dcontext, core.dq, core.dk, core.dv};
    bool aligned = true;
    for (const void *data : all)
        aligned = aligned && is_aligned<T>(data, core.head_dim);
    return aligned;
}

template <typename T>
cudaError_t launch_heads(cudaStream_t stream, const AttentionCore &core, int rows, uint32_t heads, unsigned columns,
                         int threads, size_t bytes, void (*kernel)(Call))
{
    uint64_t blocks = blocks_for(core.sequence, static_cast<uint64_t>(rows));
    uint64_t all = blocks * core.batch * heads;
    if (all > INT_MAX || core.sequence > INT_MAX / 2)
        return cudaErrorInvalidValue;
    float scale = static_cast<float>(M_LOG2E) / sqrtf(static_cast<float>(core.head_dim));
    Call p = {core, static_cast<uint32_t>(blocks), scale, heads_aligned<T>(core)};
    TRY(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)));
    return launch(stream, dim3(static_cast<unsigned>(all), columns), static_cast<unsigned>(threads), bytes, kernel, p);
}

template <typename T, int D> cudaError_t forward_heads(cudaStream_t stream, const AttentionCore &core)
{
    using S = Shape<T, D, false>;
    return launch_heads<T>(stream, core, S::ROWS, core.heads, 1, S::THREADS, S::BYTES, forward_kernel<T, D>);
}

template <typename T, int D> cudaError_t backward_heads(cudaStream_t stream, const AttentionCore &core)
{
    using S = Shape<T, D, true>;
    unsigned columns = static_cast<unsigned>(blocks_for(core.head_dim, Shape<T, D, true>::OUT));
    TRY(launch_heads<T>(stream, core, S::ROWS, core.kv_heads, columns, S::THREADS, S::BYTES, keys_kernel<T, D>));
    return launch_heads<T>(stream, core, S::ROWS, core.heads, 1, S::THREADS, S::BYTES, queries_kernel<T, D>);
}

#define BY_HEAD(core, function, ...)                                                                                   \
    ((core).head_dim <= 32    ? function<T, 32>(__VA_ARGS__)                                                           \
     : (core).head_dim <= 64  ? function<T, 64>(__VA_ARGS__)                                                           \
     : (core).head_dim <= 128 ? function<T, 128>(__VA_ARGS__)                                                          \
                              : function<T, FUSED_HEAD_MAX>(__VA_ARGS__))

template <typename T> cudaError_t forward(cudaStream_t stream, const AttentionCore &core)
{
    return BY_HEAD(core, forward_heads, stream, core);
}

template <typename T> cudaError_t backward(cudaStream_t stream, const AttentionCore &core)
{
    return BY_HEAD(core, backward_heads, stream, core);
}

template <typename T> constexpr AttentionLaunches attention_launches()
{
    return {forward<T>, backward<T>};
}

} // namespace

#endif
