// The attention block: LayerNorm, causal multi-head attention (grouped key/value heads allowed),
// output projection, residual. One sequence at a time, one head at a time, queries in blocks.
#include <math.h>

#include "kernels/host/internal.h"

typedef struct {
    const ModelDims *dims;
    uint64_t queries, keys; // A = heads x head_dim, K = kv_heads x head_dim
    Dtype dtype;            // of the weights
    const void *wq, *wk, *wv, *wo;
    const float *norm; // gain, bias
    float *hidden;     // [sequence][H]: norm(x), later the projected output
    float *q, *k, *v;  // [sequence][A], [K], [K]; the context replaces q
    float *scores;     // [block][sequence]
    float *panel;
} Attention;

static Attention attention_begin(const ModelDims *dims, Tensor weights, Tensor work)
{
    uint64_t hidden = dims->hidden, sequence = dims->sequence;
    uint64_t queries = (uint64_t)dims->heads * dims->head_dim, keys = (uint64_t)dims->kv_heads * dims->head_dim;
    Scratch scratch = scratch_begin(work);
    Attention a = {.dims = dims, .queries = queries, .keys = keys, .dtype = weights.dtype};
    a.wq = element_at(weights.data, weights.dtype, 2 * hidden);
    a.wk = element_at(a.wq, weights.dtype, hidden * queries);
    a.wv = element_at(a.wk, weights.dtype, hidden * keys);
    a.wo = element_at(a.wv, weights.dtype, hidden * keys);
    a.norm = scratch_convert(&scratch, weights.data, weights.dtype, 2 * hidden);
    a.hidden = scratch_take(&scratch, sequence, hidden);
    a.q = scratch_take(&scratch, sequence, queries);
    a.k = scratch_take(&scratch, sequence, keys);
    a.v = scratch_take(&scratch, sequence, keys);
    a.scores = scratch_take(&scratch, smaller(sequence, WORKSPACE_ROWS), sequence);
    uint64_t in_panel = hidden * smaller(queries, WORKSPACE_COLUMNS);
    uint64_t out_panel = queries * smaller(hidden, WORKSPACE_COLUMNS);
    a.panel = scratch_panel(&scratch, weights.dtype, 1, in_panel > out_panel ? in_panel : out_panel);
    return a;
}

// Softmax of each row of scores over the keys its query may see; 0 behind them.
static void softmax_causal(float *scores, uint64_t first_query, uint64_t queries, uint64_t stride)
{
    for (uint64_t r = 0; r < queries; r++) {
        float *restrict row = scores + r * stride;
        uint64_t visible = first_query + r + 1;
        vector_exp(row, visible, vector_max(row, visible));
        float scale = 1.0f / vector_sum(row, visible);
        for (uint64_t i = 0; i < visible; i++)
            row[i] *= scale;
        memset(row + visible, 0, (first_query + queries - visible) * sizeof *row);
    }
}

static void attend_head(const Attention *a, uint64_t head)
{
    uint64_t sequence = a->dims->sequence, head_dim = a->dims->head_dim;
    uint64_t kv_head = head / (a->dims->heads / a->dims->kv_heads);
    const float *k = a->k + kv_head * head_dim;
    Weights v = {.data = a->v + kv_head * head_dim, .dtype = DTYPE_F32, .stride = a->keys};
    float scale = 1.0f / sqrtf((float)head_dim);
    for (uint64_t first = 0; first < sequence; first += WORKSPACE_ROWS) {
        uint64_t queries = smaller(WORKSPACE_ROWS, sequence - first), keys = first + queries;
        float *q = a->q + first * a->queries + head * head_dim;
        matrix_multiply_transposed(queries, keys, head_dim, scale, q, a->queries, k, a->keys, a->scores, keys);
        softmax_causal(a->scores, first, queries, keys);
        matrix_multiply(queries, head_dim, keys, a->scores, keys, v, 0, q, a->queries, NULL);
    }
}

static void project(const Attention *a, const float *in, uint64_t in_cols, const void *weights, float *out,
                    uint64_t out_cols)
{
    Weights matrix = {.data = weights, .dtype = a->dtype, .stride = out_cols};
    matrix_multiply(a->dims->sequence, out_cols, in_cols, in, in_cols, matrix, 0, out, out_cols, a->panel);
}

void host_pre_expert(const ModelDims *dims, Tensor x, Tensor attention, Tensor y, Tensor work)
{
    Attention a = attention_begin(dims, attention, work);
    uint64_t hidden = dims->hidden, sequence_elements = dims->sequence * hidden;
    assert(x.dtype == y.dtype && x.rows * x.cols >= dims->batch * sequence_elements);
    for (uint64_t b = 0; b < dims->batch; b++) {
        const void *in = element_at(x.data, x.dtype, b * sequence_elements);
        norm_rows(in, x.dtype, dims->sequence, hidden, a.norm, a.hidden);
        project(&a, a.hidden, hidden, a.wq, a.q, a.queries);
        project(&a, a.hidden, hidden, a.wk, a.k, a.keys);
        project(&a, a.hidden, hidden, a.wv, a.v, a.keys);
        for (uint64_t head = 0; head < dims->heads; head++)
            attend_head(&a, head);
        project(&a, a.q, a.queries, a.wo, a.hidden, hidden);
        residual_store(in, a.hidden, element_in(y.data, y.dtype, b * sequence_elements), y.dtype, sequence_elements);
    }
}
