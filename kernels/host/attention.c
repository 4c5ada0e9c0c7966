// The attention block: LayerNorm, causal multi-head attention (grouped key/value heads allowed),
// output projection, residual; and its gradient. One sequence at a time, one head at a time, queries in blocks.
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
    // Of the backward pass:
    float *dout;               // [sequence][H]: gradient by the projected output, later by the norm
    float *context, *dcontext; // [sequence][A]; the gradient by q replaces q
    float *dk, *dv;            // [sequence][K]
    float *dscores;            // [block][sequence]
} Attention;

static Attention attention_begin(const ModelDims *dims, Tensor weights, Scratch *scratch)
{
    uint64_t hidden = dims->hidden, sequence = dims->sequence;
    uint64_t queries = (uint64_t)dims->heads * dims->head_dim, keys = (uint64_t)dims->kv_heads * dims->head_dim;
    Attention a = {.dims = dims, .queries = queries, .keys = keys, .dtype = weights.dtype};
    a.wq = element_at(weights.data, weights.dtype, 2 * hidden);
    a.wk = element_at(a.wq, weights.dtype, hidden * queries);
    a.wv = element_at(a.wk, weights.dtype, hidden * keys);
    a.wo = element_at(a.wv, weights.dtype, hidden * keys);
    a.norm = scratch_convert(scratch, weights.data, weights.dtype, 2 * hidden);
    a.hidden = scratch_take(scratch, sequence, hidden);
    a.q = scratch_take(scratch, sequence, queries);
    a.k = scratch_take(scratch, sequence, keys);
    a.v = scratch_take(scratch, sequence, keys);
    a.scores = scratch_take(scratch, smaller(sequence, SCRATCH_ROWS), sequence);
    uint64_t in_panel = hidden * smaller(queries, SCRATCH_COLUMNS);
    uint64_t out_panel = queries * smaller(hidden, SCRATCH_COLUMNS);
    a.panel = scratch_panel(scratch, weights.dtype, 1, in_panel > out_panel ? in_panel : out_panel);
    return a;
}

// Softmax of each row of scores over the keys its query may see; 0 after them.
static void softmax_causal(float *scores, uint64_t first_query, uint64_t queries, uint64_t stride)
{
    for (uint64_t r = 0; r < queries; r++) {
        float *restrict row = scores + r * stride;
        uint64_t visible = first_query + r + 1;
        vector_exp(row, visible, vector_max(row, visible));
        float scale = 1.0f / vector_sum(row, visible);
        for (uint64_t i = 0; i < visible; i++)
            row[i] *= scale;
        memset(row + visible, 0, (first_query + queries - visible) * sizeof(*row));
    }
}

static void attend_head(const Attention *a, uint64_t head)
{
    uint64_t sequence = a->dims->sequence, head_dim = a->dims->head_dim;
    uint64_t kv_head = head / (a->dims->heads / a->dims->kv_heads);
    Weights k = {.data = a->k + kv_head * head_dim, .dtype = DTYPE_F32, .stride = a->keys};
    Weights v = {.data = a->v + kv_head * head_dim, .dtype = DTYPE_F32, .stride = a->keys};
    float scale = 1.0f / sqrtf((float)head_dim);
    for (uint64_t first = 0; first < sequence; first += SCRATCH_ROWS) {
        uint64_t queries = smaller(SCRATCH_ROWS, sequence - first), keys = first + queries;
        float *q = a->q + first * a->queries + head * head_dim;
        matrix_multiply_transposed(queries, keys, head_dim, scale, q, a->queries, k, 0, a->scores, keys, NULL);
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

// Queries, keys and values of one sequence.
static void project_in(const Attention *a, const void *x, Dtype dtype)
{
    uint64_t hidden = a->dims->hidden;
    norm_rows(x, dtype, a->dims->sequence, hidden, a->norm, a->hidden);
    project(a, a->hidden, hidden, a->wq, a->q, a->queries);
    project(a, a->hidden, hidden, a->wk, a->k, a->keys);
    project(a, a->hidden, hidden, a->wv, a->v, a->keys);
}

void host_pre_expert(const ModelDims *dims, Tensor x, Tensor attention, Tensor y, Tensor work)
{
    Scratch scratch = scratch_begin(work);
    Attention a = attention_begin(dims, attention, &scratch);
    uint64_t hidden = dims->hidden, sequence_elements = dims->sequence * hidden;
    assert(x.dtype == y.dtype && x.rows * x.cols >= dims->batch * sequence_elements);
    for (uint64_t b = 0; b < dims->batch; b++) {
        const void *in = element_at(x.data, x.dtype, b * sequence_elements);
        project_in(&a, in, x.dtype);
        for (uint64_t head = 0; head < dims->heads; head++)
            attend_head(&a, head);
        project(&a, a.q, a.queries, a.wo, a.hidden, hidden);
        residual_store(in, a.hidden, element_in(y.data, y.dtype, b * sequence_elements), y.dtype, sequence_elements);
    }
}

// ---- backward ------------------------------------------------------------------------------------

static void attention_backward_begin(Attention *a, Scratch *scratch)
{
    uint64_t sequence = a->dims->sequence;
    a->dout = scratch_take(scratch, sequence, a->dims->hidden);
    a->context = scratch_take(scratch, sequence, a->queries);
    a->dcontext = scratch_take(scratch, sequence, a->queries);
    a->dk = scratch_take(scratch, sequence, a->keys);
    a->dv = scratch_take(scratch, sequence, a->keys);
    a->dscores = scratch_take(scratch, smaller(sequence, SCRATCH_ROWS), sequence);
}

// Softmax of scale x scores, by row: d = scale p (d - sum of p d).
static void softmax_backward(float scale, const float *p, float *d, uint64_t rows, uint64_t cols)
{
    for (uint64_t r = 0; r < rows; r++) {
        const float *restrict pr = p + r * cols;
        float *restrict dr = d + r * cols, mean = vector_dot(pr, dr, cols);
        for (uint64_t i = 0; i < cols; i++)
            dr[i] = scale * pr[i] * (dr[i] - mean);
    }
}

// From q, k, v and dcontext: the head's part of the context, of dk and dv (added) and of the gradient by q.
static void attend_head_backward(const Attention *a, uint64_t head)
{
    uint64_t sequence = a->dims->sequence, head_dim = a->dims->head_dim;
    uint64_t column = head / (a->dims->heads / a->dims->kv_heads) * head_dim;
    Weights k = {.data = a->k + column, .dtype = DTYPE_F32, .stride = a->keys};
    Weights v = {.data = a->v + column, .dtype = DTYPE_F32, .stride = a->keys};
    float scale = 1.0f / sqrtf((float)head_dim);
    for (uint64_t first = 0; first < sequence; first += SCRATCH_ROWS) {
        uint64_t queries = smaller(SCRATCH_ROWS, sequence - first), keys = first + queries;
        uint64_t place = first * a->queries + head * head_dim;
        float *q = a->q + place, *dcontext = a->dcontext + place;
        matrix_multiply_transposed(queries, keys, head_dim, scale, q, a->queries, k, 0, a->scores, keys, NULL);
        softmax_causal(a->scores, first, queries, keys);
        matrix_multiply(queries, head_dim, keys, a->scores, keys, v, 0, a->context + place, a->queries, NULL);
        matrix_add_gradient(keys, head_dim, queries, 1, a->scores, keys, dcontext, a->queries, a->dv + column, a->keys);
        matrix_multiply_transposed(queries, keys, head_dim, 1, dcontext, a->queries, v, 0, a->dscores, keys, NULL);
        softmax_backward(scale, a->scores, a->dscores, queries, keys);
        matrix_add_gradient(keys, head_dim, queries, 1, a->dscores, keys, q, a->queries, a->dk + column, a->keys);
        matrix_multiply(queries, head_dim, keys, a->dscores, keys, k, 0, q, a->queries, NULL);
    }
}

// Through out = in weights [in_cols][out_cols]: din = dout weights^T + beta din.
static void project_back(const Attention *a, const float *dout, uint64_t out_cols, const void *weights, float beta,
                         float *din, uint64_t in_cols)
{
    Weights matrix = {.data = weights, .dtype = a->dtype, .stride = out_cols};
    matrix_multiply_transposed(a->dims->sequence, in_cols, out_cols, 1, dout, out_cols, matrix, beta, din, in_cols,
                               a->panel);
}

// Its weights: gradient += in^T dout.
static void add_gradient(const Attention *a, const float *in, uint64_t in_cols, const float *dout, uint64_t out_cols,
                         float *gradient)
{
    matrix_add_gradient(in_cols, out_cols, a->dims->sequence, 1, in, in_cols, dout, out_cols, gradient, out_cols);
}

// `x` and `dx`: one sequence, dx in and out. Adds to `gradient`, laid out like the weights.
static void sequence_backward(const Attention *a, const void *x, void *dx, Dtype dtype, float *gradient, float *row)
{
    uint64_t hidden = a->dims->hidden, sequence = a->dims->sequence;
    float *dwq = gradient + 2 * hidden, *dwk = dwq + hidden * a->queries, *dwv = dwk + hidden * a->keys;
    float *dwo = dwv + hidden * a->keys;
    project_in(a, x, dtype);
    host_to_f32(dx, dtype, a->dout, sequence * hidden);
    project_back(a, a->dout, hidden, a->wo, 0, a->dcontext, a->queries);
    memset(a->dk, 0, sequence * a->keys * sizeof(*a->dk));
    memset(a->dv, 0, sequence * a->keys * sizeof(*a->dv));
    for (uint64_t head = 0; head < a->dims->heads; head++)
        attend_head_backward(a, head);
    add_gradient(a, a->context, a->queries, a->dout, hidden, dwo);
    add_gradient(a, a->hidden, hidden, a->q, a->queries, dwq);
    add_gradient(a, a->hidden, hidden, a->dk, a->keys, dwk);
    add_gradient(a, a->hidden, hidden, a->dv, a->keys, dwv);
    project_back(a, a->q, a->queries, a->wq, 0, a->dout, hidden);
    project_back(a, a->dk, a->keys, a->wk, 1, a->dout, hidden);
    project_back(a, a->dv, a->keys, a->wv, 1, a->dout, hidden);
    norm_backward(x, dtype, sequence, hidden, a->norm, a->dout, gradient, row);
    residual_store(dx, a->dout, dx, dtype, sequence * hidden);
}

void host_pre_expert_backward(const ModelDims *dims, Tensor x, Tensor attention, Tensor dx, Tensor dattention,
                              Tensor work)
{
    uint64_t sequence_elements = (uint64_t)dims->sequence * dims->hidden, elements = model_attention_elements(dims);
    Scratch scratch = scratch_begin(work);
    Attention a = attention_begin(dims, attention, &scratch);
    attention_backward_begin(&a, &scratch);
    float *row = scratch_take(&scratch, 1, dims->hidden), *gradient = scratch_gradient(&scratch, dattention, elements);
    assert(x.dtype == dx.dtype && dx.rows * dx.cols >= dims->batch * sequence_elements);
    assert(dattention.dtype == attention.dtype);
    for (uint64_t b = 0; b < dims->batch; b++)
        sequence_backward(&a, element_at(x.data, x.dtype, b * sequence_elements),
                          element_in(dx.data, dx.dtype, b * sequence_elements), x.dtype, gradient, row);
    gradient_store(gradient, dattention, 0, elements);
}
