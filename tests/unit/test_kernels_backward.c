// The backward host kernels against central differences of plain forward passes in double, which in turn
// must agree with the forward kernels. Odd sizes, all dtypes, guard bytes around every buffer, scratch
// exactly as large as engines/host_scratch.c says.
// builds: dev fast
#include <math.h>

#include "tensors.h"

enum { SAMPLES = 24, VARIABLES_MAX = 4 };

static Tensor copy_of(Tensor from)
{
    Tensor copy = make(from.dtype, from.rows, from.cols);
    memcpy(copy.data, from.data, from.rows * from.cols * dtype_bytes(from.dtype));
    return copy;
}

static Record *records_of(Tensor records)
{
    return records.data;
}

// ---- central differences ---------------------------------------------------------------------------

// Both sides start from the same stored values. f32: some hundred roundings of 6e-8 in sums whose terms are no larger
// than a few times the largest element. 16-bit: sums are f32 still, the result is rounded once, by 2^-11 or 2^-8 at
// most, and twice where it is added to what dx held (f16 values are below 1 here, hence never denormal by much).
static double tolerance(Dtype dtype)
{
    return dtype == DTYPE_F32 ? 2e-5 : dtype == DTYPE_F16 ? 1e-3 : 8e-3;
}

// An output in double of variables in double. The objective is its product with `seed`, whose gradient by a variable is
// what a backward op gets `seed` for.
typedef struct Problem Problem;
struct Problem {
    const ModelDims *dims;
    void (*forward)(const Problem *problem, double *out);
    double *variables[VARIABLES_MAX];
    uint64_t out_count;
    double *out;
    const double *seed;
    const int32_t *tokens, *slots;
    const Record *records;
    uint64_t rows, record_rows;
    uint32_t per_row, fanout;
    double balance;
};

static double objective(const Problem *problem)
{
    double sum = 0;
    memset(problem->out, 0, problem->out_count * sizeof(*problem->out));
    problem->forward(problem, problem->out);
    for (uint64_t i = 0; i < problem->out_count; i++)
        sum += problem->seed[i] * problem->out[i];
    return sum;
}

static void prepare(Problem *problem, uint64_t out_count)
{
    problem->out_count = out_count;
    problem->out = numbers(out_count);
}

static void expect_near(double got, double want, double largest, Dtype dtype, const char *what, uint64_t index)
{
    cr_assert(fabs(got - want) <= tolerance(dtype) * largest, "%s, %s, element %llu: got %g, expected %g", what,
              dtype_name(dtype), (unsigned long long)index, got, want);
}

static void expect_forward(Problem *problem, Tensor y, const char *what)
{
    double largest = 1;
    objective(problem);
    for (uint64_t i = 0; i < problem->out_count; i++)
        largest = fmax(largest, fabs(problem->out[i]));
    for (uint64_t i = 0; i < problem->out_count; i++)
        expect_near(at(y, i), problem->out[i], largest, y.dtype, what, i);
}

// Step h: the difference is off by h^2 times a third derivative (1e-10 of the gradient's size) and by the rounding of
// the objective over 2h (1e-16 x some hundred / 1e-5 = 1e-9): nothing beside the tolerance.
static double difference(Problem *problem, uint32_t variable, uint64_t index)
{
    const double h = 1e-5;
    double *value = &problem->variables[variable][index], kept = *value;
    *value = kept + h;
    double above = objective(problem);
    *value = kept - h;
    double below = objective(problem);
    *value = kept;
    return (above - below) / (2 * h);
}

// Some elements of `got`, all where there are few. A random one of each stretch, and both ends.
static void expect_gradient(Problem *problem, uint32_t variable, Tensor got, const char *what)
{
    uint64_t count = got.rows * got.cols, samples = count < SAMPLES ? count : SAMPLES;
    double largest = 0;
    for (uint64_t i = 0; i < count; i++) {
        cr_assert(isfinite(at(got, i)), "%s, element %llu is not finite", what, (unsigned long long)i);
        largest = fmax(largest, fabs(at(got, i)));
    }
    for (uint64_t s = 0; s < samples; s++) {
        uint64_t first = s * count / samples, end = (s + 1) * count / samples;
        uint64_t index = s == 0             ? 0
                         : s + 1 == samples ? count - 1
                                            : first + (uint64_t)(random_unit() * (double)(end - first));
        double want = difference(problem, variable, index);
        expect_near(at(got, index), want, fmax(largest, fabs(want)), got.dtype, what, index);
    }
}

// ---- plain forward passes --------------------------------------------------------------------------

static void plain_norm(uint64_t rows, uint64_t hidden, const double *x, const double *gain, double *out)
{
    for (uint64_t r = 0; r < rows; r++) {
        const double *from = x + r * hidden;
        double mean = 0, variance = 0;
        for (uint64_t i = 0; i < hidden; i++)
            mean += from[i] / (double)hidden;
        for (uint64_t i = 0; i < hidden; i++)
            variance += (from[i] - mean) * (from[i] - mean) / (double)hidden;
        for (uint64_t i = 0; i < hidden; i++)
            out[r * hidden + i] = (from[i] - mean) / sqrt(variance + 1e-5) * gain[i] + gain[hidden + i];
    }
}

static double *plain_multiply(uint64_t m, uint64_t n, uint64_t k, const double *a, const double *b)
{
    double *out = calloc(m * n + 1, sizeof(*out));
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t p = 0; p < k; p++)
            for (uint64_t j = 0; j < n; j++)
                out[i * n + j] += a[i * k + p] * b[p * n + j];
    return out;
}

static double plain_activation(Activation activation, double up, double gate)
{
    if (activation == ACTIVATION_RELU)
        return up > 0 ? up : 0;
    if (activation == ACTIVATION_SWIGLU)
        return up * gate / (1 + exp(-gate));
    return up / 2 * (1 + tanh(sqrt(2 / M_PI) * (up + 0.044715 * up * up * up)));
}

// Adds scale x down(activation(up(in))) to out.
static void plain_feed_forward(const ModelDims *dims, uint64_t inner, uint64_t rows, const double *in,
                               const double *weights, double scale, double *out)
{
    uint64_t hidden = dims->hidden, matrix = hidden * inner;
    bool gated = dims->activation == ACTIVATION_SWIGLU;
    double *up = plain_multiply(rows, inner, hidden, in, weights);
    double *gate = gated ? plain_multiply(rows, inner, hidden, in, weights + matrix) : NULL;
    for (uint64_t i = 0; i < rows * inner; i++)
        up[i] = plain_activation(dims->activation, up[i], gate ? gate[i] : 0);
    double *result = plain_multiply(rows, hidden, inner, up, weights + (gated ? 2 : 1) * matrix);
    for (uint64_t i = 0; i < rows * hidden; i++)
        out[i] += scale * result[i];
    free(up);
    free(gate);
    free(result);
}

// ---- dense layers ----------------------------------------------------------------------------------

static void ffn_forward(const Problem *p, double *out)
{
    uint64_t hidden = p->dims->hidden;
    double *normed = calloc(p->rows * hidden, sizeof(*normed));
    plain_norm(p->rows, hidden, p->variables[0], p->variables[1], normed);
    memcpy(out, p->variables[0], p->rows * hidden * sizeof(*out));
    plain_feed_forward(p->dims, p->dims->ffn_inner, p->rows, normed, p->variables[1] + 2 * hidden, 1, out);
    free(normed);
}

static void shared_forward(const Problem *p, double *out)
{
    plain_feed_forward(p->dims, (uint64_t)p->dims->shared_experts * p->dims->inner, p->rows, p->variables[0],
                       p->variables[1], 1, out);
}

static void check_ffn(Dtype dtype, Activation activation, uint32_t hidden, uint32_t inner, uint64_t rows)
{
    ModelDims dims = {.dtype = dtype, .hidden = hidden, .activation = activation, .ffn_inner = inner};
    Tensor x = make_random(dtype, rows, hidden, 1), y = make(dtype, rows, hidden);
    Tensor ffn = make_random(dtype, 1, model_ffn_elements(&dims), 1.7 / sqrt((double)hidden));
    Tensor dx = make_random(dtype, rows, hidden, 1), dffn = make(dtype, 1, ffn.cols);
    Problem p = {.dims = &dims, .forward = ffn_forward, .variables = {values_of(x), values_of(ffn)}, .rows = rows};
    prepare(&p, rows * hidden);
    p.seed = values_of(dx);
    host_ffn(&dims, x, ffn, y, make_work(&dims, OP_FFN, rows, 1, 1));
    expect_forward(&p, y, "ffn");
    host_ffn_backward(&dims, x, ffn, dx, dffn, make_work(&dims, OP_FFN_BACKWARD, rows, 1, 1));
    expect_gradient(&p, 0, dx, "ffn dx");
    expect_gradient(&p, 1, dffn, "dffn");
    finish();
}

static void check_shared(Dtype dtype, Activation activation, uint32_t hidden, uint32_t inner, uint64_t rows)
{
    ModelDims dims = {.dtype = dtype, .hidden = hidden, .activation = activation, .inner = inner, .shared_experts = 2};
    Tensor in = make_random(dtype, rows, hidden, 1), results = make(dtype, rows, hidden);
    Tensor shared = make_random(dtype, 1, model_shared_elements(&dims), 1.7 / sqrt((double)hidden));
    Tensor dx = make_random(dtype, rows, hidden, 1), kept = copy_of(dx), drows = make(dtype, rows, hidden);
    Tensor dshared = make(dtype, 1, shared.cols);
    Problem p = {
        .dims = &dims, .forward = shared_forward, .variables = {values_of(in), values_of(shared)}, .rows = rows};
    prepare(&p, rows * hidden);
    p.seed = values_of(dx);
    host_shared_expert(&dims, in, shared, results, make_work(&dims, OP_SHARED_EXPERT, rows, 1, 1));
    expect_forward(&p, results, "shared_expert");
    host_shared_expert_backward(&dims, in, shared, dx, drows, dshared,
                                make_work(&dims, OP_SHARED_EXPERT_BACKWARD, rows, 1, 1));
    cr_assert_arr_eq(dx.data, kept.data, rows * hidden * dtype_bytes(dtype), "dx is read only");
    expect_gradient(&p, 0, drows, "shared_expert drows");
    expect_gradient(&p, 1, dshared, "dshared");
    finish();
}

// Far out as well, where exponentials are clamped. 1e-6: a few roundings of values below 2, and exp within 2 ulp.
Test(kernels_backward, derivatives_of_activations)
{
    const double far[] = {-1e4, -300, -88, 88, 300, 1e4};
    for (int i = 0; i < 6000; i++) {
        double x = (double)(float)(i < 6 ? far[i] : (i - 3000) / 100.0), s = 1 / (1 + exp(-x));
        double u = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x), slope = sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
        float up = (float)x, act, linear = 0.75f, gate = (float)x, product;
        vector_gelu_derivative(&up, &act, 1);
        double want = (1 + tanh(u)) / 2 + x / 2 * slope * (1 - tanh(u) * tanh(u));
        cr_assert_float_eq((double)up, want, 1e-6, "gelu'(%g): got %g, expected %g", x, (double)up, want);
        cr_assert_float_eq((double)act, x * (1 + tanh(u)) / 2, 1e-6 * fmax(1, fabs(x)));
        vector_silu_multiply_derivative(&linear, &gate, &product, 1);
        want = s + x * s * (1 - s);
        cr_assert_float_eq((double)linear, x * s, 1e-6 * fmax(1, fabs(x)));
        cr_assert_float_eq((double)gate, 0.75 * want, 1e-6, "silu'(%g): got %g, expected %g", x, (double)gate / 0.75,
                           want);
        cr_assert_float_eq((double)product, 0.75 * x * s, 1e-6 * fmax(1, fabs(x)));
    }
}

Test(kernels_backward, feed_forward)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (Activation activation = 0; activation < ACTIVATION_COUNT; activation++) {
            check_ffn(dtypes[d], activation, 17, 5, 1);
            check_ffn(dtypes[d], activation, 5, 13, 23);
            check_shared(dtypes[d], activation, 7, 3, 9);
        }
        check_ffn(dtypes[d], ACTIVATION_SWIGLU, 3, 1027, 2);  // two panels of the inner dimension
        check_shared(dtypes[d], ACTIVATION_GELU, 1027, 2, 2); // and of the hidden one
        check_ffn(dtypes[d], ACTIVATION_GELU, 3, 4, 259);     // two blocks of rows
        check_shared(dtypes[d], ACTIVATION_SWIGLU, 3, 2, 259);
    }
}

// ---- attention -------------------------------------------------------------------------------------

static double *plain_context(const ModelDims *dims, const double *q, const double *k, const double *v)
{
    uint64_t width = (uint64_t)dims->heads * dims->head_dim, keys = (uint64_t)dims->kv_heads * dims->head_dim;
    uint64_t sequence = dims->sequence, dim = dims->head_dim, tokens = model_tokens(dims);
    double *context = calloc(tokens * width, sizeof(*context)), *scores = calloc(sequence, sizeof(*scores));
    for (uint64_t t = 0; t < tokens; t++) {
        for (uint64_t h = 0; h < dims->heads; h++) {
            uint64_t first = t / sequence * sequence, kv = h / (dims->heads / dims->kv_heads);
            double sum = 0;
            for (uint64_t s = first; s <= t; s++) {
                double score = 0;
                for (uint64_t i = 0; i < dim; i++)
                    score += q[t * width + h * dim + i] * k[s * keys + kv * dim + i];
                sum += scores[s - first] = exp(score / sqrt((double)dim));
            }
            for (uint64_t s = first; s <= t; s++)
                for (uint64_t i = 0; i < dim; i++)
                    context[t * width + h * dim + i] += scores[s - first] / sum * v[s * keys + kv * dim + i];
        }
    }
    free(scores);
    return context;
}

static void attention_forward(const Problem *p, double *out)
{
    uint64_t hidden = p->dims->hidden, tokens = p->rows;
    uint64_t width = (uint64_t)p->dims->heads * p->dims->head_dim;
    uint64_t keys = (uint64_t)p->dims->kv_heads * p->dims->head_dim;
    const double *x = p->variables[0], *wq = p->variables[1] + 2 * hidden, *wk = wq + hidden * width;
    const double *wv = wk + hidden * keys, *wo = wv + hidden * keys;
    double *normed = calloc(tokens * hidden, sizeof(*normed));
    plain_norm(tokens, hidden, x, p->variables[1], normed);
    double *q = plain_multiply(tokens, width, hidden, normed, wq);
    double *k = plain_multiply(tokens, keys, hidden, normed, wk), *v = plain_multiply(tokens, keys, hidden, normed, wv);
    double *context = plain_context(p->dims, q, k, v), *result = plain_multiply(tokens, hidden, width, context, wo);
    for (uint64_t i = 0; i < tokens * hidden; i++)
        out[i] = x[i] + result[i];
    double *owned[] = {normed, q, k, v, context, result};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
}

static void check_attention(ModelDims dims)
{
    uint64_t hidden = dims.hidden, tokens = model_tokens(&dims);
    Tensor x = make_random(dims.dtype, tokens, hidden, 1), y = make(dims.dtype, tokens, hidden);
    Tensor weights = make_random(dims.dtype, 1, model_attention_elements(&dims), 1.7 / sqrt((double)hidden));
    Tensor dx = make_random(dims.dtype, tokens, hidden, 1), dweights = make(dims.dtype, 1, weights.cols);
    Problem p = {
        .dims = &dims, .forward = attention_forward, .variables = {values_of(x), values_of(weights)}, .rows = tokens};
    prepare(&p, tokens * hidden);
    p.seed = values_of(dx);
    host_pre_expert(&dims, x, weights, y, make_work(&dims, OP_PRE_EXPERT, tokens, 1, 1));
    expect_forward(&p, y, "pre_expert");
    host_pre_expert_backward(&dims, x, weights, dx, dweights, make_work(&dims, OP_PRE_EXPERT_BACKWARD, tokens, 1, 1));
    expect_gradient(&p, 0, dx, "attention dx");
    expect_gradient(&p, 1, dweights, "dattention");
    finish();
}

Test(kernels_backward, attention)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        ModelDims dims = {
            .dtype = dtypes[d], .hidden = 10, .heads = 3, .kv_heads = 3, .head_dim = 5, .sequence = 7, .batch = 3};
        check_attention(dims);
        dims.heads = 4, dims.kv_heads = 2; // grouped keys, inner width differs from hidden
        check_attention(dims);
        dims.kv_heads = 1, dims.batch = 1;
        check_attention(dims);
        dims.sequence = 1; // one token
        check_attention(dims);
        check_attention((ModelDims){.dtype = dtypes[d],
                                    .hidden = 3,
                                    .heads = 2,
                                    .kv_heads = 1,
                                    .head_dim = 2,
                                    .sequence = 259,
                                    .batch = 1}); // two blocks of queries
        check_attention((ModelDims){.dtype = dtypes[d],
                                    .hidden = 1027,
                                    .heads = 2,
                                    .kv_heads = 1,
                                    .head_dim = 2,
                                    .sequence = 2,
                                    .batch = 1}); // two panels of each kind
        check_attention((ModelDims){
            .dtype = dtypes[d], .hidden = 2, .heads = 103, .kv_heads = 103, .head_dim = 10, .sequence = 2, .batch = 1});
    }
}

// ---- loss and embedding ----------------------------------------------------------------------------

static void loss_forward(const Problem *p, double *out)
{
    uint64_t hidden = p->dims->hidden, words = p->dims->vocabulary, sequence = p->dims->sequence;
    const double *embedding = p->variables[1];
    double *normed = calloc(p->rows * hidden, sizeof(*normed));
    plain_norm(p->rows, hidden, p->variables[0], embedding + (words + sequence) * hidden, normed);
    for (uint64_t t = 0; t < p->rows; t++) {
        double sum = 0, target = 0;
        int32_t next = p->tokens[t / sequence * (sequence + 1) + t % sequence + 1];
        for (uint64_t w = 0; w < words; w++) {
            double logit = 0;
            for (uint64_t i = 0; i < hidden; i++)
                logit += normed[t * hidden + i] * embedding[w * hidden + i];
            sum += exp(logit);
            target = (int32_t)w == next ? logit : target;
        }
        out[0] += (log(sum) - target) / (double)p->rows;
    }
    free(normed);
}

static void check_loss(Dtype dtype, uint32_t hidden, uint32_t vocabulary, uint32_t sequence, uint32_t batch)
{
    static const double one = 1;
    ModelDims dims = {.dtype = dtype, .hidden = hidden, .vocabulary = vocabulary, .sequence = sequence, .batch = batch};
    uint64_t rows = model_tokens(&dims);
    Tensor tokens = make_tokens(&dims), x = make_random(dtype, rows, hidden, 1), loss = make(DTYPE_F32, 1, 1);
    Tensor embedding = make_random(dtype, 1, model_embedding_elements(&dims), 1);
    Tensor dx = make(dtype, rows, hidden), dembedding = make(dtype, 1, embedding.cols);
    Problem p = {.dims = &dims,
                 .forward = loss_forward,
                 .variables = {values_of(x), values_of(embedding)},
                 .seed = &one,
                 .tokens = tokens.data,
                 .rows = rows};
    prepare(&p, 1);
    host_loss(&dims, x, tokens, embedding, loss, make_work(&dims, OP_LOSS, rows, 1, 1));
    expect_forward(&p, loss, "loss");
    host_loss_backward(&dims, x, tokens, embedding, dx, dembedding, make_work(&dims, OP_LOSS_BACKWARD, rows, 1, 1));
    expect_gradient(&p, 0, dx, "loss dx");
    expect_gradient(&p, 1, dembedding, "dembedding");
    for (uint64_t i = 0; i < (uint64_t)sequence * hidden; i++)
        cr_assert_eq(at(dembedding, (uint64_t)vocabulary * hidden + i), 0, "positions take no part in the loss");
    finish();
}

Test(kernels_backward, loss)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        check_loss(dtypes[d], 9, 11, 5, 3);
        check_loss(dtypes[d], 6, 2, 1, 1);    // one token
        check_loss(dtypes[d], 3, 2051, 2, 2); // three blocks of words
        check_loss(dtypes[d], 3, 7, 37, 7);   // two blocks of rows
        check_loss(dtypes[d], 2, 1030, 130, 2);
    }
}

static void embed_forward(const Problem *p, double *out)
{
    uint64_t hidden = p->dims->hidden, sequence = p->dims->sequence;
    const double *embedding = p->variables[0];
    for (uint64_t i = 0; i < p->rows * hidden; i++) {
        uint64_t t = i / hidden, word = (uint64_t)p->tokens[t / sequence * (sequence + 1) + t % sequence];
        out[i] = embedding[word * hidden + i % hidden] +
                 embedding[(p->dims->vocabulary + t % sequence) * hidden + i % hidden];
    }
}

static void check_embed(Dtype dtype, uint32_t hidden, uint32_t vocabulary, uint32_t sequence, uint32_t batch)
{
    ModelDims dims = {.dtype = dtype, .hidden = hidden, .vocabulary = vocabulary, .sequence = sequence, .batch = batch};
    uint64_t rows = model_tokens(&dims), elements = model_embedding_elements(&dims);
    Tensor tokens = make_tokens(&dims), dx = make_random(dtype, rows, hidden, 1), x = make(dtype, rows, hidden);
    Tensor embedding = make_random(dtype, 1, elements, 1), dembedding = make_random(dtype, 1, elements, 1);
    Problem p = {.dims = &dims,
                 .forward = embed_forward,
                 .variables = {values_of(embedding)},
                 .tokens = tokens.data,
                 .rows = rows};
    double *before = values_of(dembedding);
    prepare(&p, rows * hidden);
    p.seed = values_of(dx);
    host_embed(&dims, tokens, embedding, x);
    expect_forward(&p, x, "embed");
    host_embed_backward(&dims, tokens, dx, dembedding);
    for (uint64_t i = 0; i < elements; i += 1 + elements / 97) {
        double want = before[i] + difference(&p, 0, i);
        expect_near(at(dembedding, i), want, fmax(1, fabs(want)), dtype, "embed_backward", i);
    }
    finish();
}

Test(kernels_backward, embed)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        check_embed(dtypes[d], 7, 5, 6, 4);
        check_embed(dtypes[d], 259, 300, 3, 2); // words without tokens
        check_embed(dtypes[d], 4, 1, 1, 1);
    }
}

// ---- gate ------------------------------------------------------------------------------------------

// Out: the normed rows, the weights of the records as chosen, and the balance loss. The choice is constant.
static void gate_forward(const Problem *p, double *out)
{
    uint64_t hidden = p->dims->hidden, experts = p->dims->experts, top_k = p->dims->top_k;
    double *weights = out + p->rows * hidden, *loss = weights + p->rows * top_k, kept = 0;
    plain_norm(p->rows, hidden, p->variables[0], p->variables[1], out);
    double *logits = plain_multiply(p->rows, experts, hidden, out, p->variables[1] + 2 * hidden);
    double *share = calloc(experts, sizeof(*share));
    for (uint64_t i = 0; i < p->rows * top_k; i++)
        if (p->records[i].expert >= 0) {
            share[p->records[i].expert]++;
            kept++;
        }
    for (uint64_t t = 0; t < p->rows; t++) {
        const Record *chosen = p->records + t * top_k;
        double sum = 0, all = 0;
        for (uint64_t i = 0; i < top_k; i++)
            sum += chosen[i].expert >= 0 ? exp(logits[t * experts + (uint64_t)chosen[i].expert]) : 0;
        for (uint64_t i = 0; i < top_k; i++)
            weights[t * top_k + i] =
                chosen[i].expert >= 0 ? exp(logits[t * experts + (uint64_t)chosen[i].expert]) / sum : 0;
        for (uint64_t e = 0; e < experts; e++)
            all += exp(logits[t * experts + e]);
        for (uint64_t e = 0; e < experts && kept > 0; e++)
            *loss += (double)experts * share[e] / kept * exp(logits[t * experts + e]) / all / (double)p->rows;
    }
    free(logits);
    free(share);
}

typedef struct {
    Dtype dtype;
    uint32_t hidden, experts, top_k;
    uint64_t tokens, capacity;
    bool naive, shared;
    double balance;
} GateCase;

static void check_gate(const GateCase *c)
{
    ModelDims dims = {.dtype = c->dtype, .hidden = c->hidden, .experts = c->experts, .top_k = c->top_k};
    uint64_t count = c->tokens * c->hidden, records = c->tokens * c->top_k;
    uint32_t fanout = c->naive ? c->top_k : 1, per_row = c->naive ? 1 : c->top_k;
    Tensor x = make_random(c->dtype, c->tokens, c->hidden, 1), rows = make(c->dtype, c->tokens, c->hidden);
    Tensor router = make_random(c->dtype, 1, model_router_elements(&dims), 0.8);
    Tensor chosen = make(DTYPE_I32, c->tokens * fanout, 2 * per_row);
    Tensor drows = make_random(c->dtype, c->tokens, c->hidden, 1), dx = make_random(c->dtype, c->tokens, c->hidden, 1);
    Tensor dshared = c->shared ? make_random(c->dtype, c->tokens, c->hidden, 1) : (Tensor){0};
    Tensor drecords = make_random(DTYPE_F32, c->tokens * fanout, per_row, 3), drouter = make(c->dtype, 1, router.cols);
    host_gate(&dims, ROUTING_LEARNED, c->capacity, x, router, rows, chosen,
              make_work(&dims, OP_GATE, c->tokens, per_row, fanout));
    Problem p = {.dims = &dims,
                 .forward = gate_forward,
                 .variables = {values_of(x), values_of(router)},
                 .rows = c->tokens,
                 .records = chosen.data};
    prepare(&p, count + records + 1);
    double *seed = numbers(count + records + 1), *before = values_of(dx);
    p.seed = seed;
    objective(&p);
    for (uint64_t i = 0; i < records; i++)
        cr_assert_float_eq((double)records_of(chosen)[i].weight, p.out[count + i], 1e-5);
    for (uint64_t i = 0; i < count; i++)
        seed[i] = at(drows, i) + (c->shared ? at(dshared, i) : 0);
    for (uint64_t i = 0; i < records; i++)
        seed[count + i] = at(drecords, i);
    seed[count + records] = c->balance;
    host_gate_backward(&dims, (float)c->balance, x, chosen, drows, drecords, dshared, router, dx, drouter,
                       make_work(&dims, OP_GATE_BACKWARD, c->tokens, per_row, fanout));
    expect_gradient(&p, 1, drouter, "drouter");
    double largest = 1;
    for (uint64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(at(dx, i)));
    for (uint64_t i = 0; i < count; i += 1 + count / 29)
        expect_near(at(dx, i), before[i] + difference(&p, 0, i), largest, c->dtype, "gate dx", i);
    finish();
}

Test(kernels_backward, gate)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        const GateCase cases[] = {
            {dtypes[d], 9, 7, 2, 13, 0, false, false, 0},    {dtypes[d], 9, 7, 2, 13, 0, true, true, 0},
            {dtypes[d], 5, 4, 1, 11, 0, false, true, 2},     {dtypes[d], 5, 4, 3, 11, 4, true, false, 0.5},
            {dtypes[d], 6, 3, 3, 1, 0, false, false, 1},     {dtypes[d], 4, 1, 1, 2, 0, false, false, 1},
            {dtypes[d], 3, 5, 2, 259, 60, false, true, 1.5}, {dtypes[d], 2, 1030, 2, 3, 0, false, false, 8},
        };
        for (size_t i = 0; i < COUNT_OF(cases); i++)
            check_gate(&cases[i]);
    }
}

// ---- experts ---------------------------------------------------------------------------------------

// Variables: rows, experts, weights of the records.
static void expert_forward(const Problem *p, double *out)
{
    uint64_t hidden = p->dims->hidden, elements = model_expert_elements(p->dims);
    for (uint64_t i = 0; i < p->record_rows * p->per_row; i++) {
        int32_t expert = p->records[i].expert;
        uint64_t row = i / p->per_row / p->fanout;
        if (expert < 0 || p->slots[expert] < 0)
            continue;
        plain_feed_forward(p->dims, p->dims->inner, 1, p->variables[0] + row * hidden,
                           p->variables[1] + (uint64_t)p->slots[expert] * elements, p->variables[2][i],
                           out + row * hidden);
    }
}

typedef struct {
    Dtype dtype;
    Activation activation;
    uint32_t hidden, inner, experts, records, fanout;
    uint64_t rows, spare; // hidden rows that are there; more that the buffers hold
    int one_expert;       // everything on it, or -1
} ExpertCase;

static uint64_t fill_records(const ExpertCase *c, Tensor records, const int32_t *slots)
{
    uint64_t missing = 0;
    for (uint64_t i = 0; i < c->rows * c->fanout * c->records; i++) {
        int32_t expert = c->one_expert >= 0 ? c->one_expert : (int32_t)(random_unit() * (c->experts + 1)) - 1;
        records_of(records)[i] = (Record){expert, expert < 0 ? 0 : (float)random_unit()};
        missing += expert >= 0 && slots[expert] < 0;
    }
    return missing;
}

static void check_expert(const ExpertCase *c)
{
    ModelDims dims = {
        .dtype = c->dtype, .activation = c->activation, .hidden = c->hidden, .inner = c->inner, .experts = c->experts};
    uint64_t hidden = c->hidden, capacity = c->rows + c->spare, present = c->rows * c->fanout;
    uint64_t held = c->experts > 1 ? c->experts - 1 : 1; // the last is elsewhere
    Tensor rows = make_random(c->dtype, capacity, hidden, 1), results = make(c->dtype, capacity, hidden);
    Tensor records = make(DTYPE_I32, capacity * c->fanout, 2 * c->records);
    Tensor experts = make_random(c->dtype, held, model_expert_elements(&dims), 1.7 / sqrt((double)hidden));
    Tensor dresults = make_random(c->dtype, capacity, hidden, 1), drows = make(c->dtype, capacity, hidden);
    Tensor drecords = make(DTYPE_F32, capacity * c->fanout, c->records), dexperts = make(c->dtype, held, experts.cols);
    int32_t *slots = calloc(c->experts, sizeof(*slots));
    for (uint64_t e = 0; e < c->experts; e++)
        slots[e] = (int32_t)held - 1 - (int32_t)e; // -1 for the last
    uint64_t missing = fill_records(c, records, slots);
    double *weights = numbers(present * c->records);
    for (uint64_t i = 0; i < present * c->records; i++)
        weights[i] = (double)records_of(records)[i].weight;
    Problem p = {.dims = &dims,
                 .forward = expert_forward,
                 .variables = {values_of(rows), values_of(experts), weights},
                 .slots = slots,
                 .records = records.data,
                 .record_rows = present,
                 .per_row = c->records,
                 .fanout = c->fanout};
    prepare(&p, c->rows * hidden);
    p.seed = values_of(dresults);
    uint64_t got = host_expert(&dims, slots, present, c->fanout, rows, records, experts, results,
                               make_work(&dims, OP_EXPERT, capacity, c->records, c->fanout));
    cr_assert_eq(got, missing);
    expect_forward(&p, results, "expert");
    got = host_expert_backward(&dims, slots, present, c->fanout, rows, records, experts, dresults, drows, drecords,
                               dexperts, make_work(&dims, OP_EXPERT_BACKWARD, capacity, c->records, c->fanout));
    cr_assert_eq(got, missing);
    drows.rows = c->rows;
    drecords.rows = present;
    expect_gradient(&p, 0, drows, "expert drows");
    expect_gradient(&p, 1, dexperts, "dexperts");
    for (uint64_t i = 0; i < present * c->records; i++) {
        int32_t expert = records_of(records)[i].expert;
        if (expert < 0 || slots[expert] < 0)
            cr_assert_eq(at(drecords, i), 0);
    }
    expect_gradient(&p, 2, drecords, "drecords");
    for (uint64_t e = 0; e < c->experts; e++) { // nobody's expert: exactly 0
        bool chosen = false;
        for (uint64_t i = 0; i < present * c->records; i++)
            chosen = chosen || records_of(records)[i].expert == (int32_t)e;
        for (uint64_t i = 0; !chosen && slots[e] >= 0 && i < experts.cols; i++)
            cr_assert_eq(at(dexperts, (uint64_t)slots[e] * experts.cols + i), 0);
    }
    free(slots);
    finish();
}

Test(kernels_backward, experts)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        const ExpertCase cases[] = {
            {dtypes[d], ACTIVATION_GELU, 7, 5, 4, 2, 1, 11, 3, -1},   // deduplicated, room for more
            {dtypes[d], ACTIVATION_SWIGLU, 7, 5, 4, 1, 2, 11, 0, -1}, // naive: two record rows a row
            {dtypes[d], ACTIVATION_GELU, 5, 3, 6, 1, 3, 9, 1, -1},
            {dtypes[d], ACTIVATION_SWIGLU, 5, 3, 9, 2, 1, 3, 0, -1},   // experts without rows
            {dtypes[d], ACTIVATION_SWIGLU, 5, 3, 3, 2, 1, 9, 0, 1},    // all on one, each row twice
            {dtypes[d], ACTIVATION_RELU, 5, 3, 1, 1, 1, 1, 0, 0},      // one token, one expert
            {dtypes[d], ACTIVATION_GELU, 5, 3, 4, 2, 1, 0, 2, -1},     // no rows
            {dtypes[d], ACTIVATION_GELU, 3, 2, 2, 2, 1, 259, 1, 0},    // two blocks
            {dtypes[d], ACTIVATION_SWIGLU, 3, 1027, 3, 1, 2, 3, 0, -1} // two panels
        };
        for (size_t i = 0; i < COUNT_OF(cases); i++)
            check_expert(&cases[i]);
    }
}
