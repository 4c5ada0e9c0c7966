// Attention of heads whose rows do not fit in shared memory. Queries go in blocks, all heads of one at a time: scores
// by cuBLAS, a softmax kernel, values, as on the host, so that scratch does not grow with the square of the sequence.
#include <math.h>

#include "kernels/cuda/attention_core.h"

namespace
{

constexpr uint64_t QUERIES = CUDA_WIDE_QUERIES; // of a block

// ---- softmax -------------------------------------------------------------------------------------

// Scores of one block of queries: [heads][block][sequence], a block of threads a row.
struct ScoreRows {
    uint64_t first; // query of the block's first row
    uint64_t queries, block, sequence;
};

// p = the softmax of each row over the keys its query may see, 0 after them; p may be the scores.
template <typename T> __global__ void softmax_kernel(ScoreRows rows, const float *scores, T *p)
{
    __shared__ float scratch[WARP];
    uint64_t query = blockIdx.x, place = (blockIdx.y * rows.block + query) * rows.sequence;
    uint64_t visible = rows.first + query + 1, keys = rows.first + rows.queries;
    const float *from = scores + place;
    T *to = p + place;
    float largest = -INFINITY, sum = 0;
    for (uint64_t k = threadIdx.x; k < visible; k += blockDim.x)
        largest = fmaxf(largest, from[k]);
    largest = block_reduce(largest, Max(), scratch);
    for (uint64_t k = threadIdx.x; k < visible; k += blockDim.x)
        sum += expf(from[k] - largest);
    float scale = 1.0f / block_reduce(sum, Add(), scratch);
    for (uint64_t k = threadIdx.x; k < keys; k += blockDim.x)
        to[k] = from_f32<T>(k < visible ? expf(from[k] - largest) * scale : 0.0f);
}

// d = scale p (dp - sum of p dp), 0 after the visible keys; d may be dp.
template <typename T>
__global__ void softmax_backward_kernel(ScoreRows rows, float scale, const T *__restrict__ p, const float *dp, T *d)
{
    __shared__ float scratch[WARP];
    uint64_t query = blockIdx.x, place = (blockIdx.y * rows.block + query) * rows.sequence;
    uint64_t visible = rows.first + query + 1, keys = rows.first + rows.queries;
    float sum = 0;
    for (uint64_t k = threadIdx.x; k < visible; k += blockDim.x)
        sum += to_f32(p[place + k]) * dp[place + k];
    float mean = block_reduce(sum, Add(), scratch);
    for (uint64_t k = threadIdx.x; k < keys; k += blockDim.x)
        d[place + k] = from_f32<T>(k < visible ? scale * to_f32(p[place + k]) * (dp[place + k] - mean) : 0.0f);
}

template <typename T>
cudaError_t softmax(cudaStream_t stream, unsigned heads, const ScoreRows &rows, const float *scores, void *p)
{
    return launch(stream, dim3(static_cast<unsigned>(rows.queries), heads), 128, 0, softmax_kernel<T>, rows, scores,
                  static_cast<T *>(p));
}

template <typename T>
cudaError_t softmax_backward(cudaStream_t stream, unsigned heads, const ScoreRows &rows, float scale, const void *p,
                             const float *dp, void *d)
{
    return launch(stream, dim3(static_cast<unsigned>(rows.queries), heads), 128, 0, softmax_backward_kernel<T>, rows,
                  scale, static_cast<const T *>(p), dp, static_cast<T *>(d));
}

// ---- products ------------------------------------------------------------------------------------

struct Wide {
    const CudaQueue *queue;
    Dtype dtype;
    AttentionCore core;
    CudaAttentionWide work;
    uint64_t queries, keys, sequence, head_dim, group; // A, K; group: heads that share keys
};

// A block of queries of one sequence. Products run over all key heads at once, for one head of every group at a time.
struct QueryBlock {
    uint64_t sequence_first; // token
    ScoreRows rows;
};

// The block's part of a [tokens][A] buffer: every group's head `member`.
Matrix query_part(const Wide &a, const QueryBlock &block, const void *data, uint64_t member)
{
    uint64_t place = (block.sequence_first + block.rows.first) * a.queries + member * a.head_dim;
    return matrix_of(element_at(data, a.dtype, place), a.dtype, a.queries, false, a.group * a.head_dim);
}

// The keys the block sees, of a [tokens][K] buffer.
Matrix key_part(const Wide &a, const QueryBlock &block, const void *data, Dtype dtype, bool transposed)
{
    return matrix_of(element_at(data, dtype, block.sequence_first * a.keys), dtype, a.keys, transposed, a.head_dim);
}

Matrix score_part(const Wide &a, const QueryBlock &block, const void *data, Dtype dtype, uint64_t member,
                  bool transposed)
{
    uint64_t head = block.rows.block * a.sequence;
    return matrix_of(element_at(data, dtype, member * head), dtype, a.sequence, transposed, a.group * head);
}

uint64_t keys_seen(const QueryBlock &block)
{
    return block.rows.first + block.rows.queries;
}

// scores, p and context of the block.
cudaError_t attend(const Wide &a, const QueryBlock &block)
{
    const AttentionCore &c = a.core;
    float scale = 1.0f / sqrtf(static_cast<float>(a.head_dim));
    for (uint64_t member = 0; member < a.group; member++)
        TRY(matrix_multiply(a.queue, block.rows.queries, keys_seen(block), a.head_dim, scale,
                            query_part(a, block, c.q, member), key_part(a, block, c.k, a.dtype, true), 0,
                            score_part(a, block, a.work.scores, DTYPE_F32, member, false), c.kv_heads));
    TRY(BY_DTYPE(a.dtype, softmax, a.queue->stream, c.heads, block.rows, a.work.scores, a.work.p));
    for (uint64_t member = 0; member < a.group; member++)
        TRY(matrix_multiply(a.queue, block.rows.queries, a.head_dim, keys_seen(block), 1,
                            score_part(a, block, a.work.p, a.dtype, member, false),
                            key_part(a, block, c.v, a.dtype, false), 0, query_part(a, block, c.context, member),
                            c.kv_heads));
    return cudaSuccess;
}

// What the block adds to dk and dv; the gradient by its queries.
cudaError_t attend_back(const Wide &a, const QueryBlock &block)
{
    const AttentionCore &c = a.core;
    const CudaAttentionWide &w = a.work;
    uint64_t queries = block.rows.queries, seen = keys_seen(block), heads = c.kv_heads;
    float scale = 1.0f / sqrtf(static_cast<float>(a.head_dim));
    for (uint64_t member = 0; member < a.group; member++) {
        Matrix dcontext = query_part(a, block, c.dcontext, member);
        TRY(matrix_multiply(a.queue, seen, a.head_dim, queries, 1, score_part(a, block, w.p, a.dtype, member, true),
                            dcontext, 1, key_part(a, block, w.dv, DTYPE_F32, false), heads));
        TRY(matrix_multiply(a.queue, queries, seen, a.head_dim, 1, dcontext, key_part(a, block, c.v, a.dtype, true), 0,
                            score_part(a, block, w.dp, DTYPE_F32, member, false), heads));
    }
    TRY(BY_DTYPE(a.dtype, softmax_backward, a.queue->stream, c.heads, block.rows, scale, w.p, w.dp, w.dscores));
    for (uint64_t member = 0; member < a.group; member++) {
        TRY(matrix_multiply(a.queue, seen, a.head_dim, queries, 1,
                            score_part(a, block, w.dscores, a.dtype, member, true), query_part(a, block, c.q, member),
                            1, key_part(a, block, w.dk, DTYPE_F32, false), heads));
        TRY(matrix_multiply(a.queue, queries, a.head_dim, seen, 1,
                            score_part(a, block, w.dscores, a.dtype, member, false),
                            key_part(a, block, c.k, a.dtype, false), 0, query_part(a, block, c.dq, member), heads));
    }
    return cudaSuccess;
}

uint64_t block_of(uint64_t sequence)
{
    return smaller(sequence, QUERIES);
}

} // namespace

cudaError_t attention_wide(const CudaQueue *queue, Dtype dtype, const AttentionCore &core,
                           const CudaAttentionWide &work)
{
    uint64_t head_dim = core.head_dim, keys = core.kv_heads * head_dim, group = core.heads / core.kv_heads;
    uint64_t all_keys = static_cast<uint64_t>(core.batch) * core.sequence * keys;
    Wide a = {queue, dtype, core, work, core.heads * head_dim, keys, core.sequence, head_dim, group};
    QueryBlock block = {0, {0, 0, block_of(a.sequence), a.sequence}};
    if (core.dcontext) {
        TRY(cudaMemsetAsync(work.dk, 0, all_keys * sizeof(float), queue->stream));
        TRY(cudaMemsetAsync(work.dv, 0, all_keys * sizeof(float), queue->stream));
    }
    for (uint64_t b = 0; b < core.batch; b++) {
        block.sequence_first = b * a.sequence;
        for (block.rows.first = 0; block.rows.first < a.sequence; block.rows.first += QUERIES) {
            block.rows.queries = smaller(QUERIES, a.sequence - block.rows.first);
            TRY(attend(a, block));
            if (core.dcontext)
                TRY(attend_back(a, block));
        }
    }
    if (!core.dcontext)
        return cudaSuccess;
    TRY(convert(queue->stream, work.dk, DTYPE_F32, core.dk, dtype, all_keys));
    return convert(queue->stream, work.dv, DTYPE_F32, core.dv, dtype, all_keys);
}
