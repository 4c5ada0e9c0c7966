// The attention block and its gradient: LayerNorm, causal multi-head attention (grouped key/value heads allowed),
// output projection, residual. CudaProjections here, by cuBLAS; what lies between them in attention_core.h.
#include "kernels/cuda/attention_core.h"

namespace
{

struct Attention {
    const CudaQueue *queue;
    const ModelDims *dims;
    Dtype dtype;
    uint64_t tokens, hidden, queries, keys; // A, K
    const void *wq, *wk, *wv, *wo;
    CudaAttention work;
};

bool is_wide(const ModelDims *dims)
{
    return dims->head_dim > FUSED_HEAD_MAX;
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
    a.queries = static_cast<uint64_t>(dims->heads) * dims->head_dim;
    a.keys = static_cast<uint64_t>(dims->kv_heads) * dims->head_dim;
    a.wq = element_at(weights.data, a.dtype, 2 * a.hidden);
    a.wk = element_at(a.wq, a.dtype, a.hidden * a.queries);
    a.wv = element_at(a.wk, a.dtype, a.hidden * a.keys);
    a.wo = element_at(a.wv, a.dtype, a.hidden * a.keys);
    a.work = cuda_attention_take(&scratch, dims, a.dtype, is_backward);
    return a;
}

// ---- projections ---------------------------------------------------------------------------------

// `count` products, of what lies one after another: out [tokens][cols] = in [tokens][in_cols] weights + beta out.
cudaError_t project(const Attention &a, const void *in, uint64_t in_cols, const void *weights, uint64_t cols,
                    uint64_t count, float beta, void *out)
{
    return matrix_multiply(a.queue, a.tokens, cols, in_cols, 1, matrix_of(in, a.dtype, in_cols),
                           matrix_of(weights, a.dtype, cols, false, in_cols * cols), beta,
                           matrix_of(out, a.dtype, cols, false, a.tokens * cols), count);
}

// Queries, keys and values: one product where they have as many heads.
cudaError_t project_in(const Attention &a, Tensor x, Tensor attention)
{
    const CudaAttention &w = a.work;
    TRY(norm_rows(a.queue->stream, x.data, x.dtype, a.tokens, a.hidden, attention.data, w.normed));
    if (a.keys == a.queries)
        return project(a, w.normed, a.hidden, a.wq, a.queries, 3, 0, w.in.q);
    TRY(project(a, w.normed, a.hidden, a.wq, a.queries, 1, 0, w.in.q));
    return project(a, w.normed, a.hidden, a.wk, a.keys, 2, 0, w.in.k);
}

// `count` products: gradient [in_cols][cols] = in transposed dout.
cudaError_t weight_gradient(const Attention &a, const void *in, uint64_t in_cols, const void *dout, uint64_t cols,
                            uint64_t count, void *gradient)
{
    return matrix_multiply(a.queue, in_cols, cols, a.tokens, 1, matrix_of(in, a.dtype, in_cols, true),
                           matrix_of(dout, a.dtype, cols, false, a.tokens * cols), 0,
                           matrix_of(gradient, a.dtype, cols, false, in_cols * cols), count);
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
    const CudaAttention &w = a.work;
    void *dwq = element_in(dattention, a.dtype, 2 * a.hidden);
    void *dwk = element_in(dwq, a.dtype, a.hidden * a.queries);
    if (a.keys == a.queries) {
        TRY(weight_gradient(a, w.normed, a.hidden, w.d.q, a.queries, 3, dwq));
    } else {
        TRY(weight_gradient(a, w.normed, a.hidden, w.d.q, a.queries, 1, dwq));
        TRY(weight_gradient(a, w.normed, a.hidden, w.d.k, a.keys, 2, dwk));
    }
    TRY(project_back(a, w.d.q, a.queries, a.wq, a.hidden, 0, w.dnormed, DTYPE_F32));
    TRY(project_back(a, w.d.k, a.keys, a.wk, a.hidden, 1, w.dnormed, DTYPE_F32));
    return project_back(a, w.d.v, a.keys, a.wv, a.hidden, 1, w.dnormed, DTYPE_F32);
}

// ---- between them --------------------------------------------------------------------------------

cudaError_t attend(const Attention &a)
{
    const CudaAttention &w = a.work;
    const AttentionLaunches &launches = a.dtype == DTYPE_F32   ? attention_f32
                                        : a.dtype == DTYPE_F16 ? attention_f16
                                                               : attention_bf16;
    AttentionCore core = {a.dims->batch,
                          a.dims->sequence,
                          a.dims->heads,
                          a.dims->kv_heads,
                          a.dims->head_dim,
                          w.in.q,
                          w.in.k,
                          w.in.v,
                          w.context,
                          w.dcontext,
                          w.d.q,
                          w.d.k,
                          w.d.v,
                          reinterpret_cast<QuerySums *>(w.sums)};
    if (is_wide(a.dims))
        return attention_wide(a.queue, a.dtype, core, w.wide);
    TRY(launches.forward(a.queue->stream, core));
    return w.dcontext ? launches.backward(a.queue->stream, core) : cudaSuccess;
}

} // namespace

cudaError_t cuda_pre_expert(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor attention, Tensor y)
{
    Attention a = attention_of(queue, dims, attention, false);
    TRY(project_in(a, x, attention));
    TRY(attend(a));
    TRY(cudaMemcpyAsync(y.data, x.data, a.tokens * a.hidden * dtype_bytes(x.dtype), cudaMemcpyDeviceToDevice,
                        queue->stream));
    return project(a, a.work.context, a.queries, a.wo, a.hidden, 1, 1, y.data); // rounded once, with the residual
}

cudaError_t cuda_pre_expert_backward(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor attention,
                                     Tensor dx, Tensor dattention)
{
    Attention a = attention_of(queue, dims, attention, true);
    const CudaAttention &w = a.work;
    uint64_t wo_place = 2 * a.hidden + a.hidden * (a.queries + 2 * a.keys);
    TRY(project_in(a, x, attention));
    TRY(project_back(a, dx.data, a.hidden, a.wo, a.queries, 0, w.dcontext, a.dtype));
    TRY(attend(a));
    TRY(weight_gradient(a, w.context, a.queries, dx.data, a.hidden, 1, element_in(dattention.data, a.dtype, wo_place)));
    TRY(project_in_back(a, dattention.data));
    return norm_backward(queue->stream, x.data, x.dtype, a.tokens, a.hidden, attention.data, w.dnormed, dx.data,
                         dx.data, dattention.data, w.norm_sums);
}
