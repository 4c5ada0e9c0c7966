// Weights and the reference: values depend on their place alone, the host kernels agree with the
// reference within its tolerance, and a single misrouted token or lost partial sum exceeds it.
// builds: dev fast  seconds: 9
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "effort.h"
#include "engines/host_scratch.h"
#include "kernels/host/kernels.h"
#include "runtime/check/reference.h"
#include "runtime/check/tolerance.h"
#include "runtime/training/data.h"
#include "runtime/training/weights.h"

static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

static Tensor make(Dtype dtype, uint64_t rows, uint64_t cols)
{
    Tensor tensor = {.data = calloc(rows * cols + 1, dtype_bytes(dtype)), .dtype = dtype, .rows = rows, .cols = cols};
    cr_assert(tensor.data);
    return tensor;
}

static double at(Tensor tensor, uint64_t index)
{
    float value;
    host_to_f32((const char *)tensor.data + index * dtype_bytes(tensor.dtype), tensor.dtype, &value, 1);
    return (double)value;
}

static ModelDims small_dims(Dtype dtype)
{
    return (ModelDims){.name = "small",
                       .dtype = dtype,
                       .layers = 3,
                       .hidden = 64,
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 16,
                       .vocabulary = 50,
                       .sequence = 24,
                       .batch = 3,
                       .ffn_inner = 128,
                       .experts = 8,
                       .top_k = 2,
                       .inner = 128,
                       .shared_experts = 1,
                       .activation = ACTIVATION_GELU};
}

// ---- weights ---------------------------------------------------------------------------------------

Test(weights, an_expert_made_alone_is_the_same)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        ModelDims dims = small_dims(dtypes[d]);
        uint64_t elements = model_expert_elements(&dims);
        Tensor all = make(dtypes[d], 8, elements), one = make(dtypes[d], 1, elements);
        weights_fill_experts(&dims, 5, 2, 0, 8, all);
        weights_fill_experts(&dims, 5, 2, 6, 1, one);
        cr_assert_arr_eq((char *)all.data + 6 * elements * dtype_bytes(dtypes[d]), one.data,
                         elements * dtype_bytes(dtypes[d]));
        free(all.data);
        free(one.data);
    }
}

Test(weights, seed_layer_and_kind_change_every_tensor)
{
    ModelDims dims = small_dims(DTYPE_F32);
    uint64_t elements = model_ffn_elements(&dims);
    Tensor a = make(DTYPE_F32, 1, elements), b = make(DTYPE_F32, 1, elements);
    weights_fill_ffn(&dims, 1, 0, a);
    weights_fill_ffn(&dims, 2, 0, b);
    cr_assert_arr_neq(a.data, b.data, 64);
    weights_fill_ffn(&dims, 1, 1, b);
    cr_assert_arr_neq(a.data, b.data, 64);
    weights_fill_attention(&dims, 1, 0, b);
    cr_assert_arr_neq(a.data, b.data, 64);
    weights_fill_ffn(&dims, 1, 0, b);
    cr_assert_arr_eq(a.data, b.data, elements * sizeof(float));
    free(a.data);
    free(b.data);
}

Test(weights, mean_and_deviation)
{
    ModelDims dims = small_dims(DTYPE_F32);
    Tensor attention = make(DTYPE_F32, 1, model_attention_elements(&dims));
    weights_fill_attention(&dims, 1, 0, attention);
    double gain = 0, sum = 0, squares = 0, count = 64 * 64;
    for (uint64_t i = 0; i < 64; i++)
        gain += at(attention, i) / 64;
    for (uint64_t i = 0; i < 64 * 64; i++) {
        sum += at(attention, 128 + i);
        squares += pow(at(attention, 128 + i), 2);
    }
    cr_assert_float_eq(gain, 1, 0.01);
    cr_assert_float_eq(sum / count, 0, 0.01);
    cr_assert_float_eq(sqrt(squares / count), 1 / sqrt(64.0), 0.006);
    free(attention.data);
}

Test(data, tokens_are_words)
{
    ModelDims dims = small_dims(DTYPE_F32);
    Tensor a = make(DTYPE_I32, 3, 25), b = make(DTYPE_I32, 3, 25);
    bool seen[50] = {0};
    uint64_t distinct = 0;
    Data data = {0};
    cr_assert(data_fill(&data, &dims, &(DataBatch){.seed = 1}, a.data, &(Fault){0}));
    for (uint64_t i = 0; i < 75; i++) {
        int32_t word = ((int32_t *)a.data)[i];
        cr_assert(word >= 0 && word < 50);
        distinct += !seen[word];
        seen[word] = true;
    }
    cr_assert(distinct > 25);
    cr_assert(data_fill(&data, &dims, &(DataBatch){.seed = 1, .rank = 1}, b.data, &(Fault){0}));
    cr_assert_arr_neq(a.data, b.data, 75 * sizeof(int32_t));
    cr_assert(data_fill(&data, &dims, &(DataBatch){.seed = 1, .iteration = 1}, b.data, &(Fault){0}));
    cr_assert_arr_neq(a.data, b.data, 75 * sizeof(int32_t));
    free(a.data);
    free(b.data);
}

// ---- one rank on the host kernels --------------------------------------------------------------------

typedef struct {
    const Plan *plan;
    uint64_t seed, capacity;
    Tensor x, y, rows, records, results, shared, tokens;
    int32_t *decisions;
    double loss;
    int broken; // the way on which a scale is wrong; -1: none
    uint32_t doublings;
} HostRun;

static Tensor make_work(const HostRun *run, Op op)
{
    const ModelDims *dims = &run->plan->model;
    return make(DTYPE_F32, 1, host_scratch_elements(dims, op, run->x.rows, dims->top_k, 1));
}

static void swap_x(HostRun *run)
{
    Tensor x = run->x;
    run->x = run->y;
    run->y = x;
}

// Rows as they are after a way on which they travel packed. Where this way is the broken one, one row's first scale is
// some powers of 2 too large.
static void travel(const HostRun *run, TokenWay way, Tensor rows)
{
    TokenFormat format = run->plan->tokens[way];
    if (format == TOKENS_FULL)
        return;
    Tensor packed = make(DTYPE_U8, rows.rows, token_row_bytes(format, rows.cols, rows.dtype));
    host_encode_rows(format, rows.rows, rows, packed);
    char *scale = (char *)packed.data + 3 * packed.cols + token_scales_offset(format, rows.cols);
    uint16_t bits;
    memcpy(&bits, scale, sizeof(bits));
    bits = (uint16_t)(bits + ((run->broken == (int)way ? run->doublings : 0) << 7));
    memcpy(scale, &bits, sizeof(bits));
    host_decode_rows(format, rows.rows, packed, rows);
    free(packed.data);
}

static void host_moe(HostRun *run, uint32_t layer, int32_t *decisions)
{
    const ModelDims *dims = &run->plan->model;
    Tensor router = make(dims->dtype, 1, model_router_elements(dims)), shared = {0};
    Tensor experts = make(dims->dtype, dims->experts, model_expert_elements(dims));
    Tensor gate_work = make_work(run, OP_GATE), work = make_work(run, OP_EXPERT),
           shared_work = make_work(run, OP_SHARED_EXPERT);
    int32_t slots[64];
    for (uint32_t e = 0; e < dims->experts; e++)
        slots[e] = (int32_t)e;
    weights_fill_router(dims, run->seed, layer, router);
    weights_fill_experts(dims, run->seed, layer, 0, dims->experts, experts);
    host_gate(dims, ROUTING_LEARNED, run->capacity, run->x, router, run->rows, run->records, gate_work);
    for (uint64_t i = 0; i < run->x.rows * dims->top_k; i++)
        decisions[i] = ((Record *)run->records.data)[i].expert;
    Tensor sent = make(dims->dtype, run->rows.rows, run->rows.cols);
    memcpy(sent.data, run->rows.data, sent.rows * sent.cols * dtype_bytes(sent.dtype));
    travel(run, WAY_DISPATCH, sent);
    cr_assert_eq(host_expert(dims, slots, run->x.rows, 1, sent, run->records, experts, run->results, work), 0);
    travel(run, WAY_COMBINE, run->results);
    free(sent.data);
    if (dims->shared_experts > 0) {
        shared = make(dims->dtype, 1, model_shared_elements(dims));
        weights_fill_shared(dims, run->seed, layer, shared);
        host_shared_expert(dims, run->rows, shared, run->shared, shared_work);
    }
    host_residual(run->x, run->results, dims->shared_experts > 0 ? run->shared : shared, run->y);
    swap_x(run);
    void *owned[] = {router.data, experts.data, shared.data, work.data, gate_work.data, shared_work.data};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
}

static void host_layer(HostRun *run, uint32_t layer, uint32_t *moe)
{
    const ModelDims *dims = &run->plan->model;
    Tensor attention = make(dims->dtype, 1, model_attention_elements(dims)), work = make_work(run, OP_PRE_EXPERT);
    weights_fill_attention(dims, run->seed, layer, attention);
    host_pre_expert(dims, run->x, attention, run->y, work);
    swap_x(run);
    free(attention.data);
    free(work.data);
    if (*moe < run->plan->choice_count && run->plan->choices[*moe].layer == layer) {
        host_moe(run, layer, run->decisions + (*moe)++ * run->x.rows * dims->top_k);
        return;
    }
    Tensor ffn = make(dims->dtype, 1, model_ffn_elements(dims)), ffn_work = make_work(run, OP_FFN);
    weights_fill_ffn(dims, run->seed, layer, ffn);
    host_ffn(dims, run->x, ffn, run->y, ffn_work);
    swap_x(run);
    free(ffn.data);
    free(ffn_work.data);
}

static HostRun host_run_broken(const Plan *plan, uint64_t seed, uint64_t capacity, int broken, uint32_t doublings)
{
    const ModelDims *dims = &plan->model;
    uint64_t tokens = model_tokens(dims);
    HostRun run = {.plan = plan, .seed = seed, .capacity = capacity, .broken = broken, .doublings = doublings};
    Tensor *rows[] = {&run.x, &run.y, &run.rows, &run.results, &run.shared};
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        *rows[i] = make(dims->dtype, tokens, dims->hidden);
    run.records = make(DTYPE_I32, tokens, 2 * dims->top_k);
    run.tokens = make(DTYPE_I32, dims->batch, dims->sequence + 1);
    run.decisions = calloc(plan->choice_count * tokens * dims->top_k, sizeof(*run.decisions));
    Tensor embedding = make(dims->dtype, 1, model_embedding_elements(dims)), loss = make(DTYPE_F32, 1, 1);
    Tensor work = make_work(&run, OP_LOSS);
    cr_assert(data_fill(&(Data){0}, dims, &(DataBatch){.seed = seed}, run.tokens.data, &(Fault){0}));
    weights_fill_embedding(dims, seed, embedding);
    host_embed(dims, run.tokens, embedding, run.x);
    for (uint32_t layer = 0, moe = 0; layer < dims->layers; layer++)
        host_layer(&run, layer, &moe);
    host_loss(dims, run.x, run.tokens, embedding, loss, work);
    run.loss = (double)*(float *)loss.data;
    free(embedding.data);
    free(loss.data);
    free(work.data);
    return run;
}

static HostRun host_run(const Plan *plan, uint64_t seed, uint64_t capacity)
{
    return host_run_broken(plan, seed, capacity, -1, 0);
}

static void host_run_end(HostRun *run)
{
    void *owned[] = {run->x.data,       run->y.data,      run->rows.data,   run->records.data,
                     run->results.data, run->shared.data, run->tokens.data, run->decisions};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
}

// ---- comparison ----------------------------------------------------------------------------------------

// Every layer from `first_moe` on is MoE.
static Plan *make_plan(ModelDims dims, uint32_t first_moe)
{
    Plan *plan = plan_create();
    plan->model = dims;
    plan->capacity = 1; // some tests drop records
    plan->cluster = (Cluster){.name = "one", .level_count = 2, .levels = {{"dc", 1, 1e9, 0, 0}, {"gpu", 1, 1e9, 0, 0}}};
    plan->choice_count = dims.layers - first_moe;
    plan->choices = arena_alloc_array(plan->arena, plan->choice_count, sizeof(*plan->choices));
    for (uint32_t i = 0; i < plan->choice_count; i++)
        plan->choices[i] = (Choice){.layer = first_moe + i, .domain = {1, 1}};
    return plan;
}

// Largest difference of x between the run and the reference on `decisions`, over the reference's RMS.
static double compare_packed(const HostRun *run, const int32_t *decisions, double *loss_error, double *choice_excess,
                             double *packed)
{
    const ModelDims *dims = &run->plan->model;
    uint64_t elements = model_tokens(dims) * dims->hidden;
    double *x = calloc(elements, sizeof(*x)), largest = 0, squares = 0;
    ReferenceResult result;
    Fault fault = {0};
    Reference *reference = reference_create(run->plan, run->seed, &fault);
    cr_assert(reference);
    ReferenceInput input = {.tokens = run->tokens.data, .decisions = decisions};
    cr_assert(reference_run(reference, &input, x, &result, &fault), "%s", fault.message);
    for (uint64_t i = 0; i < elements; i++) {
        largest = fmax(largest, fabs(x[i] - at(run->x, i)));
        squares += x[i] * x[i];
        cr_assert(isfinite(x[i]) && isfinite(at(run->x, i)));
    }
    *loss_error = fabs(result.loss - run->loss);
    *choice_excess = result.choice_excess;
    *packed = result.packed;
    free(x);
    reference_destroy(reference);
    return largest / sqrt(squares / (double)elements);
}

static double compare(const HostRun *run, const int32_t *decisions, double *loss_error, double *choice_excess)
{
    double packed, error = compare_packed(run, decisions, loss_error, choice_excess, &packed);
    cr_assert_eq(packed, 0);
    return error;
}

// An expert that the token with these decisions did not choose.
static int32_t other_expert(const int32_t *decisions, uint32_t top_k)
{
    for (int32_t expert = 0;; expert++) {
        bool chosen = false;
        for (uint32_t j = 0; j < top_k; j++)
            chosen = chosen || decisions[j] == expert;
        if (!chosen)
            return expert;
    }
}

// The run agrees with the reference on its own decisions, and not when one token's expert is another.
static void check_plan(ModelDims dims, uint32_t first_moe, uint64_t capacity, bool sensitive)
{
    Plan *plan = make_plan(dims, first_moe);
    HostRun run = host_run(plan, 42, capacity);
    double tolerance = tolerance_hidden(plan, 0), may_exceed = tolerance_choice(plan, 0), loss_error, excess;
    double error = compare(&run, run.decisions, &loss_error, &excess);
    if (getenv("HEP_TEST_VERBOSE"))
        cr_log_warn("%s, %u layers: error %.3g, loss %.3g, tolerance %.3g, choices %.3g", dtype_name(dims.dtype),
                    dims.layers, error, loss_error, tolerance, excess);
    cr_assert(error <= tolerance, "%s: error %g, tolerance %g", dtype_name(dims.dtype), error, tolerance);
    cr_assert(loss_error <= tolerance, "%s: loss differs by %g, tolerance %g", dtype_name(dims.dtype), loss_error,
              tolerance);
    cr_assert(excess <= may_exceed, "%s: an expert passed over by %g, tolerance %g", dtype_name(dims.dtype), excess,
              may_exceed);
    for (uint32_t layer = 0; layer < plan->choice_count && sensitive; layer += EFFORT_SHARE) {
        // The last record of a token in the middle: the smallest weight, the smallest difference.
        int32_t *record = run.decisions + (layer * model_tokens(&dims) + model_tokens(&dims) / 2 + 1) * dims.top_k - 1;
        int32_t right = *record;
        cr_assert(right >= 0);
        *record = other_expert(record + 1 - dims.top_k, dims.top_k);
        double misrouted = compare(&run, run.decisions, &loss_error, &excess);
        cr_assert(misrouted > 2 * tolerance, "%s: a misrouted token shows only %g", dtype_name(dims.dtype), misrouted);
        // How much better the right one is, is chance: f32 alone is sure to see it.
        cr_assert(dims.dtype != DTYPE_F32 || excess > 2 * may_exceed, "a better expert passed over shows only %g",
                  excess);
        *record = -1;
        double lost = compare(&run, run.decisions, &loss_error, &excess);
        cr_assert(dims.top_k == 1 || lost > 2 * tolerance, "%s: a lost partial sum shows only %g",
                  dtype_name(dims.dtype), lost);
        *record = right;
    }
    host_run_end(&run);
    plan_destroy(plan);
}

Test(reference, agrees_with_the_kernels_and_notices_one_wrong_record)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (Activation activation = 0; activation < ACTIVATION_COUNT; activation++) {
            ModelDims dims = small_dims(dtypes[d]);
            dims.activation = activation;
            check_plan(dims, 1, 0, dtypes[d] != DTYPE_BF16);
            dims.shared_experts = 0;
            dims.top_k = activation == ACTIVATION_RELU ? 1 : 2;
            check_plan(dims, 0, 0, dtypes[d] != DTYPE_BF16);
        }
    }
}

Test(reference, tolerance_holds_for_deep_models)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        ModelDims dims = small_dims(dtypes[d]);
        dims.layers = 12;
        check_plan(dims, 0, 0, dtypes[d] != DTYPE_BF16);
        dims.activation = ACTIVATION_SWIGLU;
        dims.top_k = 4;
        check_plan(dims, 0, 0, false);
    }
}

// Rows that travel packed over one of two levels: as far off as the tolerance says, and no less of it than a twentieth;
// a scale that is twice too large (of 4 bits four times), of one row of one way, is too far off.
Test(reference, packed_rows_and_one_wrong_scale)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (int format = TOKENS_FP8; format < TOKEN_FORMAT_COUNT; format++) {
            Plan *plan = make_plan(small_dims(dtypes[d]), 0);
            plan->cluster.levels[0].count = 2;
            plan->tokens[WAY_DISPATCH] = plan->tokens[WAY_COMBINE] = (TokenFormat)format;
            for (int broken = -1; broken <= WAY_COMBINE; broken++) {
                HostRun run = host_run_broken(plan, 42, 0, broken, format == TOKENS_INT4 ? 2 : 1);
                double loss_error, excess, packed;
                double error = compare_packed(&run, run.decisions, &loss_error, &excess, &packed);
                double tolerance = tolerance_hidden(plan, packed);
                cr_expect_eq(error <= tolerance, broken < 0, "%s, %s, way %d: error %g, tolerance %g",
                             dtype_name(dtypes[d]), token_format_name((TokenFormat)format), broken, error, tolerance);
                if (broken < 0)
                    cr_expect(error > tolerance / 20 && loss_error <= tolerance &&
                                  excess <= tolerance_choice(plan, packed),
                              "%s, %s: error %g, loss %g, choice %g, tolerance %g", dtype_name(dtypes[d]),
                              token_format_name((TokenFormat)format), error, loss_error, excess, tolerance);
                host_run_end(&run);
            }
            plan_destroy(plan);
        }
    }
}

// One level: 2^-8 / 3 on the way out, as much at either of two levels on the way back; of the others
// 2 ln 256 / 12 / 127^2 and 2 ln 64 / 12 / 49.
Test(reference, packing_may_add_so_much)
{
    Plan *plan = make_plan(small_dims(DTYPE_F32), 0);
    cr_expect_eq(tolerance_packed(plan, &plan->choices[0]), 0);
    plan->tokens[WAY_DISPATCH] = plan->tokens[WAY_COMBINE] = TOKENS_FP8;
    cr_expect_eq(tolerance_packed(plan, &plan->choices[0]), 0); // nothing is exchanged
    plan->cluster.levels[0].count = plan->cluster.levels[1].count = 2;
    cr_expect_float_eq(tolerance_packed(plan, &plan->choices[0]), 3 * 0.00130208, 1e-8);
    plan->tokens[WAY_DISPATCH] = TOKENS_INT8;
    plan->tokens[WAY_COMBINE] = TOKENS_INT4;
    cr_expect_float_eq(tolerance_packed(plan, &plan->choices[0]), 5.73003e-5 + 2 * 0.0141459, 1e-7);
    plan_destroy(plan);
}

Test(reference, dropped_records)
{
    ModelDims dims = small_dims(DTYPE_F32);
    check_plan(dims, 0, 12, false);
}

Test(reference, refuses_decisions_that_name_no_expert_and_stops)
{
    ModelDims dims = small_dims(DTYPE_F32);
    Plan *plan = make_plan(dims, 2);
    uint64_t tokens = model_tokens(&dims);
    int32_t *decisions = calloc(2 * tokens, sizeof(*decisions)), *words = calloc(3 * 25, sizeof(*words));
    double *x = calloc(tokens * 64, sizeof(*x));
    ReferenceResult result;
    for (uint64_t i = 0; i < 2 * tokens; i++)
        decisions[i] = (int32_t)(i % 2);
    Fault fault = {0};
    Reference *reference = reference_create(plan, 1, &fault);
    ReferenceInput input = {.tokens = words, .decisions = decisions};
    cr_assert(reference_run(reference, &input, x, &result, &fault));
    decisions[7] = 8;
    cr_assert_not(reference_run(reference, &input, x, &result, &fault));
    cr_assert_eq(fault.kind, FAULT_RUN);
    decisions[7] = 0;
    fault = (Fault){0};
    cr_assert_not(reference_run(reference, &input, x, &result, &fault));
    cr_assert_eq(fault.kind, FAULT_RUN);
    decisions[7] = 1;
    fault = (Fault){0};
    reference_stop(reference);
    cr_assert_not(reference_run(reference, &input, x, &result, &fault));
    cr_assert_eq(fault.kind, FAULT_RUN);
    reference_destroy(reference);
    plan_destroy(plan);
    void *owned[] = {decisions, words, x};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
}

Test(reference, abstract_models_have_none)
{
    ModelDims dims = small_dims(DTYPE_F32);
    dims.abstract = true;
    Plan *plan = make_plan(dims, 0);
    Fault fault = {0};
    cr_assert_null(reference_create(plan, 1, &fault));
    cr_assert_eq(fault.kind, FAULT_RUN);
    plan_destroy(plan);
}
