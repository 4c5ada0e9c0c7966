// The attention block and its gradient: LayerNorm, causal multi-head attention (grouped key/value heads allowed),
// output projection, residual. Queries go in blocks, all heads of one at a time: scores, a softmax kernel, values, as
// on the host, so that scratch does not grow with the square of the sequence.
#include <math.h>

#include "kernels/cuda/internal.h"

namespace
{

constexpr uint64_t QUERIES = 256; // of a block

// ---- softmax -------------------------------------------------------------------------------------

// Scores of one block of queries: [heads][block][sequence], a block of threads a row.
struct ScoreRows {
    uint64_t first; // query of the block's first row
    uint64_t queries, block, sequence;
};

// p = the softmax of each row over the keys its query may see, 0 behind them; p may be the scores.
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

// d = scale p (dp - sum of p dp), 0 behind the visible keys; d may be dp.
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

// ---- the block -----------------------------------------------------------------------------------

struct AttentionWork {
    void *normed;          // [tokens][hidden]
    void *q, *k, *v;       // [tokens][A], [K], [K]; of the backward pass, the gradient by q replaces q
    void *context;         // [tokens][A]
    float *scores;         // [heads][block][sequence]
    void *p;               // likewise; the scores themselves in f32
    void *dcontext;        // [tokens][A]
    float *dk, *dv;        // [tokens][K]
    void *dk_out, *dv_out; // the same in the weights' dtype
    float *dp;             // as scores
    void *dscores;         // as p
    float *dnormed;        // [tokens][hidden]
    void *norm_sums;
};

struct Attention {
    const CudaQueue *queue;
    const ModelDims *dims;
    Dtype dtype;
    uint64_t tokens, hidden, sequence, queries, keys, head_dim, group; // A, K; group: heads that share keys
    const void *wq, *wk, *wv, *wo;
    AttentionWork work;
};

uint64_t block_of(const ModelDims *dims)
{
    return smaller(dims->sequence, QUERIES);
}

AttentionWork attention_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, bool is_backward)
{
    AttentionWork work = {};
    uint64_t tokens = model_tokens(dims), queries = static_cast<uint64_t>(dims->heads) * dims->head_dim;
    uint64_t keys = static_cast<uint64_t>(dims->kv_heads) * dims->head_dim;
    uint64_t scores = dims->heads * block_of(dims) * dims->sequence;
    bool is_f32 = dtype == DTYPE_F32;
    work.normed = scratch->take_elements(dtype, tokens * dims->hidden);
    work.q = scratch->take_elements(dtype, tokens * queries);
    work.k = scratch->take_elements(dtype, tokens * keys);
    work.v = scratch->take_elements(dtype, tokens * keys);
    work.context = scratch->take_elements(dtype, tokens * queries);
    work.scores = scratch->take<float>(scores);
    work.p = is_f32 ? work.scores : scratch->take_elements(dtype, scores);
    if (!is_backward)
        return work;
    work.dcontext = scratch->take_elements(dtype, tokens * queries);
    work.dk = scratch->take<float>(tokens * keys);
    work.dv = scratch->take<float>(tokens * keys);
    work.dk_out = is_f32 ? work.dk : scratch->take_elements(dtype, tokens * keys);
    work.dv_out = is_f32 ? work.dv : scratch->take_elements(dtype, tokens * keys);
    work.dp = scratch->take<float>(scores);
    work.dscores = is_f32 ? work.dp : scratch->take_elements(dtype, scores);
    work.dnormed = scratch->take<float>(tokens * dims->hidden);
    work.norm_sums = scratch->take<char>(norm_backward_bytes(tokens, dims->hidden));
    return work;
}

Attention attention_of(const CudaQueue *queue, const ModelDims *dims, Tensor weights, bool is_backward)
{
    CudaScratch scratch = scratch_of(queue);
    Attention a = {};
    a.queue = queue;
    a.dims = dims;
    a.dtype = weights.dtype;
    a.tokens = model_tokens(dims);
    a.hidden = dims->hidden;
    a.sequence = dims->sequence;
    a.head_dim = dims->head_dim;
    a.queries = static_cast<uint64_t>(dims->heads) * dims->head_dim;
    a.keys = static_cast<uint64_t>(dims->kv_heads) * dims->head_dim;
    a.group = dims->heads / dims->kv_heads;
    a.wq = element_at(weights.data, a.dtype, 2 * a.hidden);
    a.wk = element_at(a.wq, a.dtype, a.hidden * a.queries);
    a.wv = element_at(a.wk, a.dtype, a.hidden * a.keys);
    a.wo = element_at(a.wv, a.dtype, a.hidden * a.keys);
    a.work = attention_take(&scratch, dims, a.dtype, is_backward);
    return a;
}

// out [tokens][out_cols] = in [tokens][in_cols] weights + beta out.
cudaError_t project(const Attention &a, const void *in, uint64_t in_cols, const void *weights, uint64_t out_cols,
                    float beta, void *out)
{
    return matrix_multiply(a.queue, a.tokens, out_cols, in_cols, 1, matrix_of(in, a.dtype, in_cols),
                           matrix_of(weights, a.dtype, out_cols), beta, matrix_of(out, a.dtype, out_cols));
}

cudaError_t project_in(const Attention &a, Tensor x, Tensor attention)
{
    const AttentionWork &w = a.work;
    TRY(norm_rows(a.queue->stream, x.data, x.dtype, a.tokens, a.hidden, attention.data, w.normed));
    TRY(project(a, w.normed, a.hidden, a.wq, a.queries, 0, w.q));
    TRY(project(a, w.normed, a.hidden, a.wk, a.keys, 0, w.k));
    return project(a, w.normed, a.hidden, a.wv, a.keys, 0, w.v);
}

// A block of queries of one sequence. Products run over all key heads at once, for one head of every group at a time.
struct QueryBlock {
    uint64_t sequence_first; // token
    ScoreRows rows;
};

// The block's part of a [tokens][A] buffer: every group's head `member`.
Matrix query_part(const Attention &a, const QueryBlock &block, const void *data, uint64_t member)
{
    uint64_t place = (block.sequence_first + block.rows.first) * a.queries + member * a.head_dim;
    return matrix_of(element_at(data, a.dtype, place), a.dtype, a.queries, false, a.group * a.head_dim);
}

// The keys the block sees, of a [tokens][K] buffer.
Matrix key_part(const Attention &a, const QueryBlock &block, const void *data, Dtype dtype, bool transposed)
{
    return matrix_of(element_at(data, dtype, block.sequence_first * a.keys), dtype, a.keys, transposed, a.head_dim);
}

Matrix score_part(const Attention &a, const QueryBlock &block, const void *data, Dtype dtype, uint64_t member,
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
cudaError_t attend(const Attention &a, const QueryBlock &block)
{
    const AttentionWork &w = a.work;
    float scale = 1.0f / sqrtf(static_cast<float>(a.head_dim));
    for (uint64_t member = 0; member < a.group; member++)
        TRY(matrix_multiply(a.queue, block.rows.queries, keys_seen(block), a.head_dim, scale,
                            query_part(a, block, w.q, member), key_part(a, block, w.k, a.dtype, true), 0,
                            score_part(a, block, w.scores, DTYPE_F32, member, false), a.dims->kv_heads));
    TRY(BY_DTYPE(a.dtype, softmax, a.queue->stream, a.dims->heads, block.rows, w.scores, w.p));
    for (uint64_t member = 0; member < a.group; member++)
        TRY(matrix_multiply(a.queue, block.rows.queries, a.head_dim, keys_seen(block), 1,
                            score_part(a, block, w.p, a.dtype, member, false), key_part(a, block, w.v, a.dtype, false),
                            0, query_part(a, block, w.context, member), a.dims->kv_heads));
    return cudaSuccess;
}

// What the block adds to dk and dv; the gradient by its queries, which replaces them.
cudaError_t attend_back(const Attention &a, const QueryBlock &block)
{
    const AttentionWork &w = a.work;
    uint64_t queries = block.rows.queries, seen = keys_seen(block), heads = a.dims->kv_heads;
    float scale = 1.0f / sqrtf(static_cast<float>(a.head_dim));
    for (uint64_t member = 0; member < a.group; member++) {
        Matrix dcontext = query_part(a, block, w.dcontext, member);
        TRY(matrix_multiply(a.queue, seen, a.head_dim, queries, 1, score_part(a, block, w.p, a.dtype, member, true),
                            dcontext, 1, key_part(a, block, w.dv, DTYPE_F32, false), heads));
        TRY(matrix_multiply(a.queue, queries, seen, a.head_dim, 1, dcontext, key_part(a, block, w.v, a.dtype, true), 0,
                            score_part(a, block, w.dp, DTYPE_F32, member, false), heads));
    }
    TRY(BY_DTYPE(a.dtype, softmax_backward, a.queue->stream, a.dims->heads, block.rows, scale, w.p, w.dp, w.dscores));
    for (uint64_t member = 0; member < a.group; member++) {
        Matrix q = query_part(a, block, w.q, member);
        TRY(matrix_multiply(a.queue, seen, a.head_dim, queries, 1,
                            score_part(a, block, w.dscores, a.dtype, member, true), q, 1,
                            key_part(a, block, w.dk, DTYPE_F32, false), heads));
        TRY(matrix_multiply(a.queue, queries, a.head_dim, seen, 1,
                            score_part(a, block, w.dscores, a.dtype, member, false),
                            key_part(a, block, w.k, a.dtype, false), 0, q, heads));
    }
    return cudaSuccess;
}

cudaError_t attend_all(const Attention &a, bool is_backward)
{
    QueryBlock block = {};
    block.rows.sequence = a.sequence;
    block.rows.block = block_of(a.dims);
    for (uint64_t b = 0; b < a.dims->batch; b++) {
        block.sequence_first = b * a.sequence;
        for (block.rows.first = 0; block.rows.first < a.sequence; block.rows.first += QUERIES) {
            block.rows.queries = smaller(QUERIES, a.sequence - block.rows.first);
            TRY(attend(a, block));
            if (is_backward)
                TRY(attend_back(a, block));
        }
    }
    return cudaSuccess;
}

// ---- backward ------------------------------------------------------------------------------------

// gradient [in_cols][out_cols] = in transposed dout.
cudaError_t weight_gradient(const Attention &a, const void *in, uint64_t in_cols, const void *dout, uint64_t out_cols,
                            void *gradient)
{
    return matrix_multiply(a.queue, in_cols, out_cols, a.tokens, 1, matrix_of(in, a.dtype, in_cols, true),
                           matrix_of(dout, a.dtype, out_cols), 0, matrix_of(gradient, a.dtype, out_cols));
}

// din [tokens][in_cols] = dout weights transposed + beta din.
cudaError_t project_back(const Attention &a, const void *dout, uint64_t out_cols, const void *weights, uint64_t in_cols,
                         float beta, void *din, Dtype din_dtype)
{
    return matrix_multiply(a.queue, a.tokens, in_cols, out_cols, 1, matrix_of(dout, a.dtype, out_cols),
                           matrix_of(weights, a.dtype, out_cols, true), beta, matrix_of(din, din_dtype, in_cols));
}

cudaError_t project_in_back(const Attention &a, void *dattention)
{
    const AttentionWork &w = a.work;
    void *dwq = element_in(dattention, a.dtype, 2 * a.hidden);
    void *dwk = element_in(dwq, a.dtype, a.hidden * a.queries), *dwv = element_in(dwk, a.dtype, a.hidden * a.keys);
    TRY(weight_gradient(a, w.normed, a.hidden, w.q, a.queries, dwq));
    TRY(weight_gradient(a, w.normed, a.hidden, w.dk_out, a.keys, dwk));
    TRY(weight_gradient(a, w.normed, a.hidden, w.dv_out, a.keys, dwv));
    TRY(project_back(a, w.q, a.queries, a.wq, a.hidden, 0, w.dnormed, DTYPE_F32));
    TRY(project_back(a, w.dk_out, a.keys, a.wk, a.hidden, 1, w.dnormed, DTYPE_F32));
    return project_back(a, w.dv_out, a.keys, a.wv, a.hidden, 1, w.dnormed, DTYPE_F32);
}

} // namespace

uint64_t attention_work_bytes(const ModelDims *dims, Dtype dtype, bool is_backward)
{
    CudaScratch sizes = {};
    attention_take(&sizes, dims, dtype, is_backward);
    return sizes.used;
}

cudaError_t cuda_pre_expert(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor attention, Tensor y)
{
    Attention a = attention_of(queue, dims, attention, false);
    TRY(project_in(a, x, attention));
    TRY(attend_all(a, false));
    TRY(cudaMemcpyAsync(y.data, x.data, a.tokens * a.hidden * dtype_bytes(x.dtype), cudaMemcpyDeviceToDevice,
                        queue->stream));
    return project(a, a.work.context, a.queries, a.wo, a.hidden, 1, y.data); // rounded once, with the residual
}

cudaError_t cuda_pre_expert_backward(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor attention,
                                     Tensor dx, Tensor dattention)
{
    Attention a = attention_of(queue, dims, attention, true);
    const AttentionWork &w = a.work;
    cudaStream_t stream = queue->stream;
    uint64_t wo_place = 2 * a.hidden + a.hidden * (a.queries + 2 * a.keys), keys = a.tokens * a.keys;
    TRY(project_in(a, x, attention));
    TRY(project_back(a, dx.data, a.hidden, a.wo, a.queries, 0, w.dcontext, a.dtype));
    TRY(cudaMemsetAsync(w.dk, 0, keys * sizeof(float), stream));
    TRY(cudaMemsetAsync(w.dv, 0, keys * sizeof(float), stream));
    TRY(attend_all(a, true));
    if (a.dtype != DTYPE_F32) {
        TRY(convert(stream, w.dk, DTYPE_F32, w.dk_out, a.dtype, keys));
        TRY(convert(stream, w.dv, DTYPE_F32, w.dv_out, a.dtype, keys));
    }
    TRY(weight_gradient(a, w.context, a.queries, dx.data, a.hidden, element_in(dattention.data, a.dtype, wo_place)));
    TRY(project_in_back(a, dattention.data));
    return norm_backward(stream, x.data, x.dtype, a.tokens, a.hidden, attention.data, w.dnormed, dx.data, dx.data,
                         dattention.data, w.norm_sums);
}
