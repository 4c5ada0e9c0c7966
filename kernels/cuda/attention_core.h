// Causal attention between the projections of the attention block, and its gradient. Heads of up to FUSED_HEAD_MAX
// elements have one kernel that never writes a score to memory (attention_kernel.h), one source per dtype; for larger
// ones, whose rows do not fit in shared memory, cuBLAS makes scores block by block of queries (attention_wide.cu).
#ifndef HEP_CUDA_ATTENTION_CORE_H
#define HEP_CUDA_ATTENTION_CORE_H

#include "kernels/cuda/internal.h"

enum { FUSED_HEAD_MAX = CUDA_FUSED_HEAD_MAX };

// What the gradient needs of a query: p = exp2(score - largest) share, scores scaled for base 2; dot: its context times
// dcontext. Not one logarithm: where scores are large, its rounding would show.
struct alignas(16) QuerySums {
    float largest, share, dot;
};
static_assert(sizeof(QuerySums) == 4 * sizeof(float), "scratch has four floats a query");

// Tokens of a batch one after another; A = heads x head_dim, K = kv_heads x head_dim; heads / kv_heads neighbours share
// a head of keys and values.
struct AttentionCore {
    uint32_t batch, sequence, heads, kv_heads, head_dim;
    const void *q, *k, *v; // [tokens][A], [tokens][K] twice
    void *context;         // [tokens][A]
    // Of the gradient:
    const void *dcontext; // [tokens][A]; NULL: forward only
    void *dq, *dk, *dv;   // as q, k, v
    QuerySums *sums;      // [batch][heads][sequence]
};

// `forward` leaves sums for `backward` where dcontext is given.
struct AttentionLaunches {
    cudaError_t (*forward)(cudaStream_t, const AttentionCore &);
    cudaError_t (*backward)(cudaStream_t, const AttentionCore &);
};

extern const AttentionLaunches attention_f32, attention_f16, attention_bf16;

// ---- wide heads ----------------------------------------------------------------------------------

// The context, and the gradients by q, k and v where dcontext is given. dq may be q.
cudaError_t attention_wide(const CudaQueue *queue, Dtype dtype, const AttentionCore &core,
                           const CudaAttentionWide &work);

#endif
