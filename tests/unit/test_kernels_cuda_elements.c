// CUDA kernels that handle elements one by one against their host twins: embeddings, residuals, sums, AdamW. In the
// emulation this checks their logic.
// builds: dev  seconds: 4
#include "cuda_tensors.h"
#include "engines/cuda_step.h"

// Both sides add the same numbers in f32 in the same order and round once: what differs is at most a fused
// multiply-add's missing rounding before the last one.
static double elementwise_tolerance(Dtype dtype)
{
    return 2 * rounding(dtype) + 4 * rounding(DTYPE_F32);
}

static const uint32_t widths[] = {1, 8, 64, 259, 520};

Test(kernels_cuda, embed_and_its_gradient)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t w = 0; w < COUNT_OF(widths); w++) {
            ModelDims dims = {.dtype = dtypes[d], .hidden = widths[w], .vocabulary = 7, .sequence = 5, .batch = 3};
            uint64_t elements = model_embedding_elements(&dims), hidden = dims.hidden;
            Tensor tokens = make_tokens(&dims), embedding = make_random(dtypes[d], 1, elements, 1);
            Tensor x = make(dtypes[d], 15, hidden), dx = make_random(dtypes[d], 15, hidden, 1);
            Tensor dembedding = make_random(dtypes[d], 1, elements, 1);
            Tensor tokens_there = device_copy(tokens), x_there = device_like(x);
            Tensor dembedding_there = device_copy(dembedding);
            StepTensors operands = {.embed_backward = {.tokens = tokens, .dx = dx, .dembedding = dembedding}};
            const CudaQueue *q = device_queue(cuda_op_scratch(&dims, OP_EMBED_BACKWARD, &operands, 1));
            host_embed(&dims, tokens, embedding, x);
            EXPECT_SUCCESS(cuda_embed(q, &dims, tokens_there, device_copy(embedding), x_there));
            expect_same(x_there, x, tensor_bytes(x), "embed");
            host_embed_backward(&dims, tokens, dx, dembedding);
            EXPECT_SUCCESS(cuda_embed_backward(q, &dims, tokens_there, device_copy(dx), dembedding_there));
            expect_near(dembedding_there, dembedding, elements, elementwise_tolerance(dtypes[d]), "embed_backward");
            device_finish();
        }
    }
}

// The words of batches that share each with many tokens, and some with one: those of a chunk, of several, and between.
static void expect_word_sums(Dtype dtype, uint32_t vocabulary, int32_t (*word_of)(uint64_t token), uint32_t hidden)
{
    ModelDims dims = {.dtype = dtype, .hidden = hidden, .vocabulary = vocabulary, .sequence = 100, .batch = 7};
    Tensor tokens = make(DTYPE_I32, dims.batch, dims.sequence + 1), dx = make_random(dtype, 700, hidden, 1);
    uint64_t elements = model_embedding_elements(&dims);
    Tensor dembedding = make_random(dtype, 1, elements, 1);
    for (uint64_t i = 0; i < tokens.rows * tokens.cols; i++)
        ((int32_t *)tokens.data)[i] = word_of(i);
    Tensor there = device_copy(dembedding);
    StepTensors operands = {.embed_backward = {.tokens = tokens, .dx = dx, .dembedding = dembedding}};
    const CudaQueue *q = device_queue(cuda_op_scratch(&dims, OP_EMBED_BACKWARD, &operands, 1));
    host_embed_backward(&dims, tokens, dx, dembedding);
    EXPECT_SUCCESS(cuda_embed_backward(q, &dims, device_copy(tokens), device_copy(dx), there));
    // each side makes 700 roundings at most, of numbers not larger than the result by much
    expect_near(there, dembedding, elements, elementwise_tolerance(dtype) + 2 * 700 * rounding(DTYPE_F32), "words");
    device_finish();
}

static int32_t one_word(uint64_t token)
{
    (void)token;
    return 1;
}

static int32_t few_words(uint64_t token)
{
    return (int32_t)(token * token % 11);
}

static int32_t many_words(uint64_t token)
{
    return token % 3 ? (int32_t)(token * 7919 % 70001) : 70000;
}

Test(kernels_cuda, gradients_of_words)
{
    expect_word_sums(DTYPE_F32, 2, one_word, 3);
    expect_word_sums(DTYPE_F16, 11, few_words, 16);
    expect_word_sums(DTYPE_BF16, 70001, many_words, 9);
}

Test(kernels_cuda, residual_with_and_without_shared)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t w = 0; w < COUNT_OF(widths); w++) {
            Tensor x = make_random(dtypes[d], 9, widths[w], 1), results = make_random(dtypes[d], 9, widths[w], 1);
            Tensor shared = make_random(dtypes[d], 9, widths[w], 1), y = make(dtypes[d], 9, widths[w]), none = {0};
            Tensor x_there = device_copy(x), y_there = device_like(y), results_there = device_copy(results);
            host_residual(x, results, shared, y);
            EXPECT_SUCCESS(cuda_residual(device_queue(0), x_there, results_there, device_copy(shared), y_there));
            expect_same(y_there, y, tensor_bytes(y), "residual with shared");
            host_residual(x, results, none, x);
            EXPECT_SUCCESS(cuda_residual(device_queue(0), x_there, results_there, none, x_there));
            expect_same(x_there, x, tensor_bytes(x), "residual in place");
            device_finish();
        }
    }
}

Test(kernels_cuda, sum_of_parts)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        Tensor parts[5], there[5], sum = make(DTYPE_F32, 1, 1001), want = make(dtypes[d], 1, 1001);
        const void *pointers[5];
        for (size_t p = 0; p < 5; p++) {
            parts[p] = make_random(dtypes[d], 1, 1001, 1);
            there[p] = device_copy(parts[p]);
            pointers[p] = there[p].data;
        }
        for (uint64_t i = 0; i < 1001; i++) {
            float total = (float)at(parts[0], i);
            for (size_t p = 1; p < 5; p++)
                total += (float)at(parts[p], i);
            ((float *)sum.data)[i] = total;
        }
        host_from_f32(sum.data, want.data, dtypes[d], 1001);
        Tensor table = device_make(DTYPE_U8, 1, sizeof(pointers));
        EXPECT_SUCCESS(cudaMemcpy(table.data, pointers, sizeof(pointers), cudaMemcpyHostToDevice));
        EXPECT_SUCCESS(cuda_sum(device_queue(0), table.data, 5, there[2])); // a part may be the sum
        expect_same(there[2], want, tensor_bytes(want), "sum");
        device_finish();
    }
}

// The own part lies elsewhere, whichever it is.
Test(kernels_cuda, sum_with_the_own_part)
{
    enum { COLS = 77, PARTS = 3 };
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (uint32_t own = 0; own < PARTS; own++) {
            Tensor parts[PARTS], others = make(dtypes[d], PARTS - 1, COLS), sum = make(DTYPE_F32, 1, COLS),
                                 want = make(dtypes[d], 1, COLS);
            uint64_t bytes = tensor_bytes(want);
            for (uint32_t p = 0; p < PARTS; p++) {
                parts[p] = make_random(dtypes[d], 1, COLS, 1);
                if (p != own)
                    memcpy((char *)others.data + (p - (p > own)) * bytes, parts[p].data, bytes);
            }
            for (uint64_t i = 0; i < COLS; i++)
                ((float *)sum.data)[i] = ((float)at(parts[0], i) + (float)at(parts[1], i)) + (float)at(parts[2], i);
            host_from_f32(sum.data, want.data, dtypes[d], COLS);
            Tensor out = device_copy(parts[own]); // may be the own part
            EXPECT_SUCCESS(cuda_sum_with_own(device_queue(0), out.data, own, device_copy(others).data, PARTS, out));
            expect_same(out, want, bytes, "sum with the own part");
            device_finish();
        }
}

// A product and a sum in f32, which may be rounded together, then to the sum's dtype.
Test(kernels_cuda, scaled_summands)
{
    static const uint64_t counts[] = {1, 8, 1001};
    for (size_t from = 0; from < COUNT_OF(dtypes); from++)
        for (size_t to = 0; to < COUNT_OF(dtypes); to++)
            for (size_t c = 0; c < COUNT_OF(counts); c++) {
                Tensor part = make_random(dtypes[from], 1, counts[c], 1),
                       sum = make_random(dtypes[to], 1, counts[c], 1);
                Tensor there = device_copy(sum);
                EXPECT_SUCCESS(cuda_add_scaled(device_queue(0), device_copy(part), 0.3f, there));
                host_add_scaled(part, 0.3f, sum);
                expect_near(there, sum, counts[c], 2 * rounding(dtypes[to]), "scaled sum");
                device_finish();
            }
}

// What follows the first `skipped` elements, where whole registers are not aligned.
static Tensor from_element(Tensor tensor, uint64_t skipped)
{
    return (Tensor){(char *)tensor.data + skipped * dtype_bytes(tensor.dtype), tensor.dtype, tensor.rows,
                    tensor.cols - skipped};
}

// Both add one f32 to another, or round one: there is one result.
static void check_sum(Dtype dtype, uint64_t cols, uint64_t skipped)
{
    Tensor sum = make_random(DTYPE_F32, 1, cols, 1), gradient = make(dtype, 1, cols);
    Tensor sum_there = device_copy(sum), gradient_there = device_copy(gradient);
    const CudaQueue *q = device_queue(0);
    for (int i = 0; i < 3; i++) {
        Tensor part = make_random(dtype, 1, cols, 1);
        host_accumulate(from_element(part, skipped), from_element(sum, skipped));
        EXPECT_SUCCESS(cuda_accumulate(q, from_element(device_copy(part), skipped), from_element(sum_there, skipped)));
    }
    expect_same(sum_there, sum, tensor_bytes(sum), "sum of micro-batches");
    host_round(from_element(sum, skipped), from_element(gradient, skipped));
    EXPECT_SUCCESS(cuda_round(q, from_element(sum_there, skipped), from_element(gradient_there, skipped)));
    expect_same(gradient_there, gradient, tensor_bytes(gradient), "rounded sum");
    device_finish();
}

Test(kernels_cuda, sums_of_micro_batches)
{
    static const uint64_t counts[] = {1, 7, 8, 9, 255, 2048, 2049, 5003};
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t c = 0; c < COUNT_OF(counts); c++) {
            check_sum(dtypes[d], counts[c], 0);
            check_sum(dtypes[d], counts[c] + 1, 1);
        }
}

static void check_adamw(Dtype dtype, Dtype of_gradient, uint64_t rows, uint64_t cols, double clip)
{
    AdamW adamw = {.learning_rate = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .weight_decay = 0.1f};
    Tensor weights = make_random(dtype, rows, cols, 1), none = {0};
    Tensor state = make(DTYPE_F32, rows, (dtype == DTYPE_F32 ? 2 : 3) * cols), squares = make(DTYPE_F32, 1, 1);
    Tensor weights_there = device_copy(weights), state_there = device_like(state);
    Tensor factors = device_make(DTYPE_U8, 1, sizeof(AdamWFactors));
    const CudaQueue *q = device_queue(0);
    const ModelRanges undecayed = {2, {{0, rows * cols / 3}, {rows * cols / 2, rows * cols / 4}}};
    host_optimizer_begin(weights, state);
    EXPECT_SUCCESS(cuda_optimizer_begin(q, weights_there, state_there));
    for (adamw.step = 1; adamw.step <= 3; adamw.step++) {
        Tensor gradient = make_random(of_gradient, rows, cols, 1);
        adamw.gradient_scale = 0.5f;
        AdamWFactors values = cuda_adamw_factors(&adamw, clip);
        EXPECT_SUCCESS(cudaMemcpy(factors.data, &values, sizeof(values), cudaMemcpyHostToDevice));
        host_squares(gradient, none, squares);
        float norm = 0.5f * sqrtf(*(const float *)squares.data);
        if (clip > 0 && (double)norm > clip)
            adamw.gradient_scale *= (float)clip / norm;
        host_optimizer(&adamw, &undecayed, weights, gradient, state);
        EXPECT_SUCCESS(cuda_optimizer(q, factors.data, &undecayed, clip > 0 ? device_copy(squares) : none,
                                      weights_there, device_copy(gradient), state_there));
    }
    // Three steps of about 10 operations, which a compiler may fuse; 1 is the largest weight. Where gradients are
    // nearly 0, moments keep fewer digits than that: Adam divides one by the root of the other.
    expect_near(state_there, state, rows * state.cols, 64 * rounding(DTYPE_F32), "state of AdamW");
    expect_near(weights_there, weights, rows * cols, 2 * rounding(dtype) + 64 * rounding(DTYPE_F32), "AdamW");
    device_finish();
}

Test(kernels_cuda, adamw)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        Dtype own = dtypes[d];
        check_adamw(own, own, 1, 1, 0);
        check_adamw(own, own, 3, 333, 0);
        check_adamw(own, own, 5, 1024, 0);
        check_adamw(own, own, 2, 100, 0.25);
        check_adamw(own, own, 2, 100, 1e6);
        check_adamw(own, DTYPE_F32, 3, 333, 0); // a sum over micro-batches
        check_adamw(own, DTYPE_F32, 5, 1024, 0.25);
    }
}

Test(kernels_cuda, squares_of_gradients)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        Tensor gradient = make_random(dtypes[d], 7, 1003, 1), squares = make(DTYPE_F32, 1, 1), none = {0};
        Tensor gradient_there = device_copy(gradient), first = device_like(squares), second = device_like(squares);
        const CudaQueue *q = device_queue(
            cuda_op_scratch(&(ModelDims){0}, OP_SQUARES, &(StepTensors){.squares = {.gradient = gradient}}, 0));
        host_squares(gradient, none, squares);
        EXPECT_SUCCESS(cuda_squares(q, gradient_there, none, first));
        expect_near(first, squares, 1, 4 * rounding(DTYPE_F32), "squares"); // sums in double, rounded once
        host_squares(gradient, squares, squares);
        EXPECT_SUCCESS(cuda_squares(q, gradient_there, first, second));
        expect_near(second, squares, 1, 4 * rounding(DTYPE_F32), "squares added to others");
        device_finish();
    }
}
