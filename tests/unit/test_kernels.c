// The host kernels against plain loops in double, over odd sizes and all dtypes, with guard bytes
// around every output and scratch exactly as large as engines/host_scratch.c says. Routing: test_kernels_route.c.
// builds: dev fast
#include <math.h>

#include "engines/saturating.h"
#include "expected.h"

// ---- plain forms -----------------------------------------------------------------------------------

static double *plain_norm(Tensor x, uint64_t rows, uint64_t hidden, Tensor gains, uint64_t first)
{
    double *out = doubles(rows * hidden);
    for (uint64_t r = 0; r < rows; r++) {
        double mean = 0, variance = 0;
        for (uint64_t i = 0; i < hidden; i++)
            mean += at(x, r * hidden + i) / (double)hidden;
        for (uint64_t i = 0; i < hidden; i++)
            variance += pow(at(x, r * hidden + i) - mean, 2) / (double)hidden;
        for (uint64_t i = 0; i < hidden; i++)
            out[r * hidden + i] = (at(x, r * hidden + i) - mean) / sqrt(variance + 1e-5) * at(gains, first + i) +
                                  at(gains, first + hidden + i);
    }
    return out;
}

static double *plain_multiply(const double *a, Tensor b, uint64_t first, uint64_t m, uint64_t n, uint64_t k)
{
    double *out = doubles(m * n);
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t p = 0; p < k; p++)
            for (uint64_t j = 0; j < n; j++)
                out[i * n + j] += a[i * k + p] * at(b, first + p * n + j);
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

static double *plain_feed_forward(const ModelDims *dims, uint64_t inner, const double *in, uint64_t rows,
                                  Tensor weights, uint64_t first)
{
    uint64_t hidden = dims->hidden, matrix = hidden * inner;
    bool gated = dims->activation == ACTIVATION_SWIGLU;
    double *up = plain_multiply(in, weights, first, rows, inner, hidden);
    double *gate = gated ? plain_multiply(in, weights, first + matrix, rows, inner, hidden) : doubles(rows * inner);
    for (uint64_t i = 0; i < rows * inner; i++)
        up[i] = plain_activation(dims->activation, up[i], gate[i]);
    double *out = plain_multiply(up, weights, first + (gated ? 2 : 1) * matrix, rows, hidden, inner);
    free(up);
    free(gate);
    return out;
}

// ---- conversion --------------------------------------------------------------------------------------

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

Test(kernels, every_half_converts_alike_and_back)
{
    uint16_t halves[1024], back[1024];
    float fast[1024], portable[1024];
    for (uint32_t first = 0; first < 65536; first += 1024) {
        for (uint32_t i = 0; i < 1024; i++)
            halves[i] = (uint16_t)(first + i);
        host_to_f32(halves, DTYPE_F16, fast, 1024);
        convert_f16_to_f32_portable(halves, portable, 1024);
        convert_f32_to_f16_portable(portable, back, 1024);
        for (uint32_t i = 0; i < 1024; i++) {
            cr_assert_eq(bits_of(fast[i]), bits_of(portable[i]), "half %04x", halves[i]);
            if (!isnan(portable[i]))
                cr_assert_eq(back[i], halves[i]);
            else
                cr_assert((back[i] & 0x7FFF) > 0x7C00, "half %04x must stay NaN", halves[i]);
        }
    }
}

Test(kernels, floats_round_to_half_alike)
{
    float values[8];
    uint16_t fast[8], portable[8];
    for (uint64_t bits = 0; bits < 0x100000000; bits += 8 * 4099) {
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t pattern = (uint32_t)(bits + i * 4099);
            memcpy(&values[i], &pattern, sizeof(pattern));
        }
        host_from_f32(values, fast, DTYPE_F16, 8);
        convert_f32_to_f16_portable(values, portable, 8);
        for (uint32_t i = 0; i < 8; i++)
            cr_assert_eq(fast[i], portable[i], "%a: %04x and %04x", (double)values[i], fast[i], portable[i]);
    }
    const float ties[] = {2049, 2051, 65519, 65520, 0x1p-25f, 0x1.8p-24f, -0x1.004p-14f, 0x1p-26f};
    const uint16_t expected[] = {0x6800, 0x6802, 0x7BFF, 0x7C00, 0x0000, 0x0002, 0x8401, 0x0000};
    convert_f32_to_f16_portable(ties, portable, 8);
    for (uint32_t i = 0; i < 8; i++)
        cr_assert_eq(portable[i], expected[i], "%a: got %04x, expected %04x", (double)ties[i], portable[i],
                     expected[i]);
}

Test(kernels, bf16_rounds_to_nearest_even)
{
    const float values[] = {1, 0x1.01p0f, 0x1.03p0f, 0x1.010002p0f, -0x1.01p0f, INFINITY, 0x1.ffp127f, 0};
    const uint16_t expected[] = {0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x7F80, 0x7F80, 0};
    uint16_t got[8];
    float nan = NAN;
    host_from_f32(values, got, DTYPE_BF16, 8);
    for (uint32_t i = 0; i < 8; i++)
        cr_assert_eq(got[i], expected[i], "%a: got %04x, expected %04x", (double)values[i], got[i], expected[i]);
    host_from_f32(&nan, got, DTYPE_BF16, 1);
    cr_assert((got[0] & 0x7FFF) > 0x7F80);
}

// ---- sums of micro-batches -----------------------------------------------------------------------------

// 300 parts of 1 + k / 4: integers and quarters are exact in f32, and in bf16 a sum would stop to grow at 256.
Test(kernels, gradients_are_summed_in_f32)
{
    static const uint64_t counts[] = {1, 7, 1023, 1024, 1025, 4099};
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t c = 0; c < COUNT_OF(counts); c++) {
            Tensor part = make(dtypes[d], 1, counts[c]), sum = make(DTYPE_F32, 1, counts[c]);
            for (uint64_t i = 0; i < counts[c]; i++) {
                float value = 1 + (float)(i % 4) / 4;
                host_from_f32(&value, element_in(part.data, dtypes[d], i), dtypes[d], 1);
                ((float *)sum.data)[i] = 0;
            }
            for (int k = 0; k < 300; k++)
                host_accumulate(part, sum);
            for (uint64_t i = 0; i < counts[c]; i++)
                cr_assert_eq(((const float *)sum.data)[i], (float)(300 + 75 * (i % 4)), "%s, element %llu of %llu: %g",
                             dtype_name(dtypes[d]), (unsigned long long)i, (unsigned long long)counts[c],
                             (double)((const float *)sum.data)[i]);
            finish();
        }
}

// To nearest, ties to even: f16 has steps of 2^-10 above 1, bf16 of 2^-7.
Test(kernels, sums_of_gradients_round_once)
{
    const float values[] = {1, 0x1.002p0f, 0x1.006p0f, 0x1.002002p0f, 0x1.01p0f, 0x1.03p0f, 0x1.010002p0f, -0x1.03p0f};
    const float as_f16[] = {1, 1, 0x1.008p0f, 0x1.004p0f, 0x1.01p0f, 0x1.03p0f, 0x1.01p0f, -0x1.03p0f};
    const float as_bf16[] = {1, 1, 1, 1, 1, 0x1.04p0f, 0x1.02p0f, -0x1.04p0f};
    const float *const expected[] = {values, as_f16, as_bf16};
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        Tensor sum = make(DTYPE_F32, 1, 8), gradient = make(dtypes[d], 1, 8);
        memcpy(sum.data, values, sizeof(values));
        host_round(sum, gradient);
        for (uint64_t i = 0; i < 8; i++)
            cr_assert_eq(at(gradient, i), (double)expected[d][i], "%s of %a: %a", dtype_name(dtypes[d]),
                         (double)values[i], at(gradient, i));
        finish();
    }
}

Test(kernels, fast_exponential)
{
    for (double x = -87; x < 88; x += 0.00731) {
        double want = exp((double)(float)x), got = (double)exp_f32((float)x);
        cr_assert(fabs(got - want) <= 3e-7 * want, "exp(%g): got %g, expected %g", x, got, want);
    }
    cr_assert_eq(exp_f32(0), 1);
    cr_assert(exp_f32(-INFINITY) < 2e-38f && exp_f32(INFINITY) > 1e38f && isnan(exp_f32(NAN)));
}

// ---- layers --------------------------------------------------------------------------------------------

Test(kernels, embed_and_residual)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        ModelDims dims = {.dtype = dtypes[d], .hidden = 259, .vocabulary = 11, .sequence = 5, .batch = 3};
        uint64_t hidden = dims.hidden, count = 15 * hidden;
        Tensor tokens = make_tokens(&dims), embedding = make_random(dtypes[d], 1, model_embedding_elements(&dims), 1);
        Tensor x = make(dtypes[d], 15, hidden), y = make(dtypes[d], 15, hidden), none = {0};
        Tensor results = make_random(dtypes[d], 15, hidden, 1), shared = make_random(dtypes[d], 15, hidden, 1);
        double *want = doubles(count);
        host_embed(&dims, tokens, embedding, x);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t token = i / hidden, word = (uint64_t)((int32_t *)tokens.data)[token / 5 * 6 + token % 5];
            want[i] = at(embedding, word * hidden + i % hidden) + at(embedding, (11 + token % 5) * hidden + i % hidden);
        }
        expect_close(x, want, count, "embed");
        host_residual(x, results, none, y);
        for (uint64_t i = 0; i < count; i++)
            want[i] = at(x, i) + at(results, i);
        expect_close(y, want, count, "residual");
        host_residual(x, results, shared, y);
        for (uint64_t i = 0; i < count; i++)
            want[i] += at(shared, i);
        expect_close(y, want, count, "residual with shared experts");
        free(want);
        finish();
    }
}

static double *plain_attention(const ModelDims *dims, const double *q, const double *k, const double *v)
{
    uint64_t width = (uint64_t)dims->heads * dims->head_dim, keys = (uint64_t)dims->kv_heads * dims->head_dim;
    uint64_t sequence = dims->sequence, dim = dims->head_dim, tokens = model_tokens(dims);
    double *context = doubles(tokens * width), *scores = doubles(sequence);
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

static void check_attention(ModelDims dims)
{
    uint64_t hidden = dims.hidden, tokens = model_tokens(&dims);
    uint64_t width = (uint64_t)dims.heads * dims.head_dim, keys = (uint64_t)dims.kv_heads * dims.head_dim;
    Tensor x = make_random(dims.dtype, tokens, hidden, 1), y = make(dims.dtype, tokens, hidden);
    Tensor weights = make_random(dims.dtype, 1, model_attention_elements(&dims), 1.7 / sqrt((double)hidden));
    host_pre_expert(&dims, x, weights, y, make_work(&dims, OP_PRE_EXPERT, tokens, 1, 1));
    uint64_t wq = 2 * hidden, wk = wq + hidden * width, wv = wk + hidden * keys, wo = wv + hidden * keys;
    double *norm = plain_norm(x, tokens, hidden, weights, 0);
    double *q = plain_multiply(norm, weights, wq, tokens, width, hidden);
    double *k = plain_multiply(norm, weights, wk, tokens, keys, hidden);
    double *v = plain_multiply(norm, weights, wv, tokens, keys, hidden);
    double *context = plain_attention(&dims, q, k, v);
    double *out = plain_multiply(context, weights, wo, tokens, hidden, width);
    for (uint64_t i = 0; i < tokens * hidden; i++)
        out[i] += at(x, i);
    expect_close(y, out, tokens * hidden, "pre_expert");
    double *owned[] = {norm, q, k, v, context, out};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
    finish();
}

Test(kernels, attention)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        ModelDims dims = {
            .dtype = dtypes[d], .hidden = 20, .heads = 3, .kv_heads = 3, .head_dim = 5, .sequence = 7, .batch = 3};
        check_attention(dims);
        dims.heads = 4, dims.kv_heads = 2; // grouped keys, inner width differs from hidden
        check_attention(dims);
        dims.sequence = 1; // one token
        check_attention(dims);
    }
    check_attention((ModelDims){
        .dtype = DTYPE_F16, .hidden = 6, .heads = 1, .kv_heads = 1, .head_dim = 6, .sequence = 259, .batch = 2});
    check_attention((ModelDims){
        .dtype = DTYPE_BF16, .hidden = 1030, .heads = 2, .kv_heads = 1, .head_dim = 4, .sequence = 3, .batch = 1});
    check_attention((ModelDims){
        .dtype = DTYPE_F16, .hidden = 8, .heads = 103, .kv_heads = 103, .head_dim = 10, .sequence = 3, .batch = 1});
}

static void check_feed_forward(Dtype dtype, Activation activation, uint32_t hidden, uint32_t inner, uint64_t rows)
{
    ModelDims dims = {.dtype = dtype,
                      .hidden = hidden,
                      .activation = activation,
                      .ffn_inner = 2 * inner,
                      .inner = inner,
                      .shared_experts = 2};
    double scale = 1.7 / sqrt((double)hidden);
    Tensor x = make_random(dtype, rows, hidden, 1), y = make(dtype, rows, hidden);
    Tensor ffn = make_random(dtype, 1, model_ffn_elements(&dims), scale);
    Tensor shared = make_random(dtype, 1, model_shared_elements(&dims), scale), results = make(dtype, rows, hidden);
    host_ffn(&dims, x, ffn, y, make_work(&dims, OP_FFN, rows, 1, 1));
    double *norm = plain_norm(x, rows, hidden, ffn, 0), *in = doubles(rows * hidden);
    double *want = plain_feed_forward(&dims, 2 * inner, norm, rows, ffn, 2 * hidden);
    for (uint64_t i = 0; i < rows * hidden; i++)
        want[i] += in[i] = at(x, i);
    expect_close(y, want, rows * hidden, "ffn");
    host_shared_expert(&dims, x, shared, results, make_work(&dims, OP_SHARED_EXPERT, rows, 1, 1));
    double *want_shared = plain_feed_forward(&dims, 2 * inner, in, rows, shared, 0);
    expect_close(results, want_shared, rows * hidden, "shared_expert");
    double *owned[] = {norm, in, want, want_shared};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
    finish();
}

Test(kernels, feed_forward)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (Activation activation = 0; activation < ACTIVATION_COUNT; activation++) {
            check_feed_forward(dtypes[d], activation, 17, 5, 1);
            check_feed_forward(dtypes[d], activation, 5, 33, 259);
        }
        check_feed_forward(dtypes[d], ACTIVATION_SWIGLU, 3, 1025, 2);
        check_feed_forward(dtypes[d], ACTIVATION_GELU, 1027, 3, 2);
    }
}

// ---- gate --------------------------------------------------------------------------------------------------

typedef struct {
    ModelDims dims;
    Tensor x, router, rows, records;
} Gate;

static Gate run_gate(Dtype dtype, Routing routing, uint64_t capacity, uint32_t experts, uint32_t top_k, uint64_t tokens)
{
    Gate gate = {.dims = {.dtype = dtype, .hidden = 19, .experts = experts, .top_k = top_k}};
    gate.x = make_random(dtype, tokens, 19, 1);
    gate.router = make_random(dtype, 1, model_router_elements(&gate.dims), 0.8);
    gate.rows = make(dtype, tokens, 19);
    gate.records = make(DTYPE_I32, tokens, 2 * top_k);
    host_gate(&gate.dims, routing, capacity, gate.x, gate.router, gate.rows, gate.records,
              make_work(&gate.dims, OP_GATE, tokens, 1, 1));
    return gate;
}

// Experts are distinct and sorted by their logits; weights are the softmax over those kept.
static void check_gate(const Gate *gate, bool learned)
{
    uint64_t tokens = gate->x.rows, experts = gate->dims.experts, top_k = gate->dims.top_k;
    double *norm = plain_norm(gate->x, tokens, 19, gate->router, 0);
    double *logits = plain_multiply(norm, gate->router, 38, tokens, experts, 19);
    expect_close(gate->rows, norm, tokens * 19, "gate rows");
    for (uint64_t t = 0; t < tokens; t++) {
        double sum = 0, *own = logits + t * experts, last = INFINITY;
        for (uint64_t j = 0; j < top_k; j++) {
            int32_t expert = record(gate->records, t * top_k + j)->expert;
            sum += expert >= 0 ? exp(own[expert]) : 0;
        }
        for (uint64_t j = 0; j < top_k; j++) {
            const Record *chosen = record(gate->records, t * top_k + j);
            cr_assert(chosen->expert >= -1 && chosen->expert < (int32_t)experts);
            if (chosen->expert < 0) {
                cr_assert_eq(chosen->weight, 0);
                continue;
            }
            cr_assert(own[chosen->expert] <= last + 1e-5);
            last = own[chosen->expert];
            cr_assert_float_eq(chosen->weight, exp(last) / sum, 1e-5);
            own[chosen->expert] = -INFINITY; // a second time would be found below last
        }
        for (uint64_t e = 0; e < experts && learned; e++)
            cr_assert(own[e] <= last + 1e-5, "token %llu: expert %llu was passed over", (unsigned long long)t,
                      (unsigned long long)e);
    }
    free(norm);
    free(logits);
}

static void count_records(const Gate *gate, uint64_t *counts)
{
    memset(counts, 0, gate->dims.experts * sizeof(*counts));
    for (uint64_t i = 0; i < gate->x.rows * gate->dims.top_k; i++)
        if (record(gate->records, i)->expert >= 0)
            counts[record(gate->records, i)->expert]++;
}

Test(kernels, gate_chooses_the_largest_logits)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        const uint32_t experts[] = {1, 7, 7, 1030}, top_k[] = {1, 3, 7, 2};
        const uint64_t tokens[] = {5, 261, 1, 2};
        for (size_t i = 0; i < COUNT_OF(experts); i++) {
            Gate gate = run_gate(dtypes[d], ROUTING_LEARNED, 0, experts[i], top_k[i], tokens[i]);
            check_gate(&gate, true);
            finish();
        }
    }
}

// Groups with the best experts, then the best experts of these, found here by sorting out one after the other.
static void check_groups(const Gate *gate)
{
    uint32_t experts = gate->dims.experts, group = experts / gate->dims.groups;
    double *norm = plain_norm(gate->x, gate->x.rows, 19, gate->router, 0);
    double *logits = plain_multiply(norm, gate->router, 38, gate->x.rows, experts, 19);
    for (uint64_t t = 0; t < gate->x.rows; t++) {
        double *own = logits + t * experts, best[16];
        bool open[16] = {false};
        for (uint32_t g = 0; g < gate->dims.groups; g++) {
            best[g] = -INFINITY;
            for (uint32_t e = g * group; e < (g + 1) * group; e++)
                best[g] = fmax(best[g], own[e]);
        }
        for (uint32_t n = 0; n < gate->dims.group_top_k; n++) {
            uint32_t most = UINT32_MAX;
            for (uint32_t g = 0; g < gate->dims.groups; g++)
                if (!open[g] && (most == UINT32_MAX || best[g] > best[most]))
                    most = g;
            open[most] = true;
        }
        for (uint32_t j = 0; j < gate->dims.top_k; j++) {
            uint32_t most = UINT32_MAX;
            for (uint32_t e = 0; e < experts; e++)
                if (open[e / group] && (most == UINT32_MAX || own[e] > own[most]))
                    most = e;
            cr_assert_eq(record(gate->records, t * gate->dims.top_k + j)->expert, (int32_t)most);
            own[most] = -INFINITY;
        }
    }
    free(norm);
    free(logits);
}

Test(kernels, groups_limit_the_choice)
{
    const uint32_t experts[] = {8, 12, 64, 6}, top_k[] = {2, 5, 8, 3}, groups[] = {4, 3, 8, 2}, limits[] = {1, 2, 4, 1};
    for (size_t i = 0; i < COUNT_OF(experts); i++) {
        Gate gate = {.dims = {.dtype = DTYPE_F32,
                              .hidden = 19,
                              .experts = experts[i],
                              .top_k = top_k[i],
                              .groups = groups[i],
                              .group_top_k = limits[i]}};
        gate.x = make_random(DTYPE_F32, 70, 19, 1);
        gate.router = make_random(DTYPE_F32, 1, model_router_elements(&gate.dims), 0.8);
        gate.rows = make(DTYPE_F32, 70, 19);
        gate.records = make(DTYPE_I32, 70, 2 * top_k[i]);
        host_gate(&gate.dims, ROUTING_LEARNED, 0, gate.x, gate.router, gate.rows, gate.records,
                  make_work(&gate.dims, OP_GATE, 70, 1, 1));
        check_groups(&gate);
        check_gate(&gate, false);
        finish();
    }
}

Test(kernels, equal_logits_choose_lower_experts)
{
    ModelDims dims = {.dtype = DTYPE_F32, .hidden = 6, .experts = 5, .top_k = 3};
    Tensor x = make_random(DTYPE_F32, 4, 6, 1), router = make(DTYPE_F32, 1, model_router_elements(&dims));
    Tensor rows = make(DTYPE_F32, 4, 6), records = make(DTYPE_I32, 4, 6);
    memset(router.data, 0, router.cols * sizeof(float));
    host_gate(&dims, ROUTING_LEARNED, 0, x, router, rows, records, make_work(&dims, OP_GATE, 4, 1, 1));
    for (uint64_t i = 0; i < 12; i++) {
        cr_assert_eq(record(records, i)->expert, (int32_t)(i % 3));
        cr_assert_float_eq(record(records, i)->weight, 1.0 / 3, 1e-6);
    }
    finish();
}

Test(kernels, balanced_routing_is_exactly_balanced)
{
    const uint32_t experts[] = {8, 6, 5, 4}, top_k[] = {2, 4, 1, 4};
    for (size_t i = 0; i < COUNT_OF(experts); i++) {
        Gate gate = run_gate(DTYPE_F32, ROUTING_BALANCED, 0, experts[i], top_k[i], 24 * 15);
        uint64_t counts[8];
        check_gate(&gate, false);
        count_records(&gate, counts);
        for (uint32_t e = 0; e < experts[i]; e++)
            cr_assert_eq(counts[e], 24 * 15 * top_k[i] / experts[i]);
        finish();
    }
}

Test(kernels, skewed_routing_leaves_the_upper_half_empty)
{
    const uint32_t experts[] = {16, 8, 4, 3, 2, 1}, top_k[] = {2, 4, 1, 2, 2, 1};
    for (size_t i = 0; i < COUNT_OF(experts); i++) {
        Gate gate = run_gate(DTYPE_F16, ROUTING_SKEWED, 0, experts[i], top_k[i], 1000);
        uint64_t counts[16];
        check_gate(&gate, false);
        count_records(&gate, counts);
        cr_assert(counts[0] > 650 && counts[0] <= 1000, "expert 0 of %u got %llu", experts[i],
                  (unsigned long long)counts[0]);
        if (experts[i] > 2 * top_k[i])
            cr_assert(counts[0] < 750);
        for (uint32_t e = experts[i] / 2; e < experts[i] && experts[i] >= 2 * top_k[i]; e++)
            cr_assert_eq(counts[e], 0);
        finish();
    }
}

Test(kernels, capacity_drops_the_later_tokens)
{
    Gate gate = run_gate(DTYPE_F32, ROUTING_SKEWED, 40, 8, 2, 300);
    uint64_t counts[8], seen[8] = {0};
    check_gate(&gate, false);
    count_records(&gate, counts);
    cr_assert_eq(counts[0], 40);
    Gate free_gate = gate;
    free_gate.records = make(DTYPE_I32, 300, 4);
    host_gate(&gate.dims, ROUTING_SKEWED, 0, gate.x, gate.router, gate.rows, free_gate.records,
              make_work(&gate.dims, OP_GATE, 300, 1, 1));
    for (uint64_t i = 0; i < 600; i++) {
        int32_t wished = record(free_gate.records, i)->expert, got = record(gate.records, i)->expert;
        cr_assert_eq(got, seen[wished]++ < 40 ? wished : -1);
    }
    finish();
}

// ---- experts -----------------------------------------------------------------------------------------------

typedef struct {
    Dtype dtype;
    Activation activation;
    uint32_t hidden, inner, experts, records, fanout;
    uint64_t rows;  // hidden rows
    int one_expert; // everything on it, or -1
} ExpertCase;

static void check_expert(const ExpertCase *c)
{
    ModelDims dims = {
        .dtype = c->dtype, .activation = c->activation, .hidden = c->hidden, .inner = c->inner, .experts = c->experts};
    uint64_t record_rows = c->rows * c->fanout, hidden = c->hidden, missing = 0, pairs = record_rows * c->records;
    Tensor rows = make_random(c->dtype, c->rows, hidden, 1), results = make(c->dtype, c->rows, hidden);
    Tensor records = make(DTYPE_I32, record_rows, 2 * c->records);
    Tensor experts = make_random(c->dtype, c->experts, model_expert_elements(&dims), 1.7 / sqrt((double)hidden));
    int32_t *slots = malloc(c->experts * sizeof(*slots));
    double *want = doubles(c->rows * hidden), *in = doubles(hidden);
    for (uint32_t e = 0; e < c->experts; e++) // reversed; the last expert is not held where there are several
        slots[e] = c->experts > 1 && e + 1 == c->experts ? -1 : (int32_t)(c->experts - 1 - e);
    for (uint64_t p = 0; p < pairs; p++) {
        Record *chosen = (Record *)records.data + p;
        chosen->expert = c->one_expert >= 0 ? c->one_expert : (int32_t)(random_unit() * (c->experts + 1)) - 1;
        chosen->weight = (float)random_unit();
        if (chosen->expert < 0)
            continue;
        missing += slots[chosen->expert] < 0;
        if (slots[chosen->expert] < 0)
            continue;
        uint64_t row = p / c->records / c->fanout;
        for (uint64_t i = 0; i < hidden; i++)
            in[i] = at(rows, row * hidden + i);
        double *out = plain_feed_forward(&dims, c->inner, in, 1, experts,
                                         (uint64_t)slots[chosen->expert] * model_expert_elements(&dims));
        for (uint64_t i = 0; i < hidden; i++)
            want[row * hidden + i] += (double)chosen->weight * out[i];
        free(out);
    }
    uint64_t got = host_expert(&dims, slots, record_rows, c->fanout, rows, records, experts, results,
                               make_work(&dims, OP_EXPERT, c->rows, c->records, c->fanout));
    cr_assert_eq(got, missing);
    expect_close(results, want, c->rows * hidden, "expert");
    free(slots);
    free(want);
    free(in);
    finish();
}

Test(kernels, expert)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        const ExpertCase cases[] = {
            {dtypes[d], ACTIVATION_GELU, 9, 7, 5, 2, 1, 61, -1},
            {dtypes[d], ACTIVATION_SWIGLU, 7, 13, 5, 1, 3, 61, -1},
            {dtypes[d], ACTIVATION_RELU, 4, 3, 100, 1, 1, 30, -1},
            {dtypes[d], ACTIVATION_GELU, 3, 2, 4, 1, 1, 1, 2},
            {dtypes[d], ACTIVATION_GELU, 3, 2, 4, 1, 2, 300, 1},
            {dtypes[d], ACTIVATION_GELU, 3, 2, 1, 1, 1, 0, 0},
            {dtypes[d], ACTIVATION_RELU, 5, 1027, 2, 2, 1, 3, 0},
            {dtypes[d], ACTIVATION_RELU, 3, 2, 3, 2, 1, 20, 2},
        };
        for (size_t i = 0; i < COUNT_OF(cases); i++)
            check_expert(&cases[i]);
    }
}

Test(kernels, expert_leaves_rows_beyond_the_count_alone)
{
    ModelDims dims = {.dtype = DTYPE_F16, .hidden = 4, .inner = 3, .experts = 1, .activation = ACTIVATION_RELU};
    Tensor rows = make_random(DTYPE_F16, 6, 4, 1), records = make(DTYPE_I32, 6, 2), results = make(DTYPE_F16, 6, 4);
    Tensor experts = make_random(DTYPE_F16, 1, model_expert_elements(&dims), 1);
    int32_t slot = 0;
    for (uint64_t r = 0; r < 2; r++)
        ((Record *)records.data)[r] = (Record){.expert = -1};
    cr_assert_eq(host_expert(&dims, &slot, 2, 1, rows, records, experts, results, make_work(&dims, OP_EXPERT, 6, 1, 1)),
                 0);
    for (uint64_t i = 0; i < 24; i++)
        cr_assert(i < 8 ? at(results, i) == 0 : isnan(at(results, i)));
    finish();
}

// ---- loss ----------------------------------------------------------------------------------------------------

static void check_loss(ModelDims dims)
{
    uint64_t hidden = dims.hidden, tokens = model_tokens(&dims), vocabulary = dims.vocabulary;
    Tensor x = make_random(dims.dtype, tokens, hidden, 2), words = make_tokens(&dims), loss = make(DTYPE_F32, 1, 1);
    Tensor embedding = make_random(dims.dtype, 1, model_embedding_elements(&dims), 1.5);
    host_loss(&dims, x, words, embedding, loss, make_work(&dims, OP_LOSS, tokens, 1, 1));
    double *norm = plain_norm(x, tokens, hidden, embedding, (vocabulary + dims.sequence) * hidden), total = 0;
    for (uint64_t t = 0; t < tokens; t++) {
        double sum = 0, target = 0;
        uint64_t next =
            (uint64_t)((int32_t *)words.data)[t / dims.sequence * (dims.sequence + 1) + t % dims.sequence + 1];
        for (uint64_t w = 0; w < vocabulary; w++) {
            double logit = 0;
            for (uint64_t i = 0; i < hidden; i++)
                logit += norm[t * hidden + i] * at(embedding, w * hidden + i);
            sum += exp(logit);
            target = w == next ? logit : target;
        }
        total += log(sum) - target;
    }
    cr_assert_float_eq(*(float *)loss.data, total / (double)tokens, 1e-5 * (1 + total / (double)tokens));
    free(norm);
    finish();
}

Test(kernels, loss)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        check_loss((ModelDims){.dtype = dtypes[d], .hidden = 13, .vocabulary = 29, .sequence = 5, .batch = 3});
        check_loss((ModelDims){.dtype = dtypes[d], .hidden = 8, .vocabulary = 2500, .sequence = 3, .batch = 1});
        check_loss((ModelDims){.dtype = dtypes[d], .hidden = 3, .vocabulary = 2, .sequence = 1, .batch = 301});
        check_loss((ModelDims){.dtype = dtypes[d], .hidden = 3, .vocabulary = 1, .sequence = 1, .batch = 1});
    }
}

// ---- scratch ----------------------------------------------------------------------------------------------

Test(kernels, scratch_saturates)
{
    ModelDims dims = {.dtype = DTYPE_F16,
                      .hidden = UINT32_MAX,
                      .heads = UINT32_MAX,
                      .kv_heads = UINT32_MAX,
                      .head_dim = UINT32_MAX,
                      .vocabulary = UINT32_MAX,
                      .sequence = UINT32_MAX,
                      .batch = UINT32_MAX,
                      .ffn_inner = UINT32_MAX,
                      .experts = UINT32_MAX,
                      .top_k = UINT32_MAX,
                      .inner = UINT32_MAX,
                      .shared_experts = UINT32_MAX,
                      .activation = ACTIVATION_SWIGLU};
    size_t count;
    const OpInfo *ops = op_table(&count);
    for (size_t i = 0; i < count; i++)
        cr_assert(host_scratch_elements(&dims, ops[i].op, UINT64_MAX, UINT32_MAX, UINT32_MAX) <= SATURATED);
    cr_assert_eq(host_scratch_elements(&dims, OP_PRE_EXPERT, 1, 1, 1), SATURATED);
    cr_assert_eq(host_scratch_elements(&dims, OP_EXPERT, UINT64_MAX, 1, 1), SATURATED);
}
