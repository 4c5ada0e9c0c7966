// Attention on CUDA, and its gradients, against its host twin: every form of the fused kernels, whole and part tiles of
// tokens, heads that share keys, heads too wide for them, one token; scores that leave one key of many.
// builds: dev  seconds: 8
#include "cuda_layers.h"

static const ModelDims attention_cases[] = {
    {.hidden = 16, .heads = 2, .kv_heads = 2, .head_dim = 8, .sequence = 9, .batch = 2},
    {.hidden = 21, .heads = 4, .kv_heads = 2, .head_dim = 5, .sequence = 13, .batch = 1}, // rows are not aligned
    {.hidden = 8, .heads = 1, .kv_heads = 1, .head_dim = 8, .sequence = 1, .batch = 3},
    {.hidden = 4, .heads = 4, .kv_heads = 4, .head_dim = 1, .sequence = 18, .batch = 1},
    {.hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 32, .sequence = 140, .batch = 1}, // several tiles
    {.hidden = 12, .heads = 3, .kv_heads = 1, .head_dim = 33, .sequence = 70, .batch = 1},
    {.hidden = 16, .heads = 2, .kv_heads = 1, .head_dim = 64, .sequence = 81, .batch = 2},
    {.hidden = 16, .heads = 1, .kv_heads = 1, .head_dim = 128, .sequence = 66, .batch = 1},
    {.hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 200, .sequence = 40, .batch = 1}, // two blocks of columns
    {.hidden = 8, .heads = 1, .kv_heads = 1, .head_dim = 256, .sequence = 33, .batch = 1},
    {.hidden = 8, .heads = 4, .kv_heads = 2, .head_dim = 257, .sequence = 20, .batch = 2}, // by cuBLAS from here on
    {.hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 264, .sequence = 300, .batch = 1},
};

static void attention_compare(Layer l, double tolerance)
{
    ModelDims dims = l.dims;
    Tensor x_there = device_copy(l.x), weights_there = device_copy(l.weights), y_there = device_like(l.y);
    Tensor dx_there = device_copy(l.dx), dweights_there = device_like(l.dweights);
    StepTensors forward = {.pre_expert = {.x = l.x, .dense = l.weights, .y = l.y}};
    StepTensors backward = {.pre_expert_backward = {.x = l.x, .dense = l.weights, .dx = l.dx, .ddense = l.dweights}};
    EXPECT_SUCCESS(cuda_pre_expert(queue_for(&dims, OP_PRE_EXPERT, forward), &dims, x_there, weights_there, y_there));
    host_pre_expert(&dims, l.x, l.weights, l.y, make_work(&dims, OP_PRE_EXPERT, l.x.rows, 1, 1));
    expect_near(y_there, l.y, l.y.rows * l.y.cols, tolerance, "pre_expert");
    EXPECT_SUCCESS(cuda_pre_expert_backward(queue_for(&dims, OP_PRE_EXPERT_BACKWARD, backward), &dims, x_there,
                                            weights_there, dx_there, dweights_there));
    host_pre_expert_backward(&dims, l.x, l.weights, l.dx, l.dweights,
                             make_work(&dims, OP_PRE_EXPERT_BACKWARD, l.x.rows, 1, 1));
    expect_near(dx_there, l.dx, l.dx.rows * l.dx.cols, 2 * tolerance, "pre_expert_backward, dx");
    expect_near(dweights_there, l.dweights, l.dweights.cols, 2 * tolerance, "pre_expert_backward, weights");
    device_finish();
}

Test(kernels_cuda, attention)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t i = 0; i < COUNT_OF(attention_cases); i++) {
            ModelDims dims = attention_cases[i];
            dims.dtype = dtypes[d];
            attention_compare(make_layer(dims, model_attention_elements(&dims)),
                              layer_tolerance(dims.dtype, dims.hidden + dims.sequence));
        }
    }
}

static void put(Tensor tensor, uint64_t index, float value)
{
    host_from_f32(&value, (char *)tensor.data + index * dtype_bytes(tensor.dtype), tensor.dtype, 1);
}

// Half of the elements of a row are as large as the others are small: LayerNorm makes 1 and -1 of them, exactly.
static void fill_balanced(Tensor x)
{
    for (uint64_t row = 0; row < x.rows; row++) {
        uint64_t left = x.cols / 2;
        for (uint64_t c = 0; c < x.cols; c++) {
            bool up = random_unit() * (double)(x.cols - c) < (double)left;
            put(x, row * x.cols + c, up ? 1024 : -1024);
            left -= up;
        }
    }
}

// Queries and keys are whole numbers that every dtype holds, scores differ by hundreds: exponentials without their
// largest score would overflow, all but one key (or keys that are the same) get 0.
Test(kernels_cuda, attention_of_large_scores)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        ModelDims dims = {.dtype = dtypes[d], .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 16, .batch = 1};
        dims.sequence = 90;
        Layer l = make_layer(dims, model_attention_elements(&dims));
        fill_balanced(l.x);
        uint64_t first = 2 * (uint64_t)dims.hidden, queries = (uint64_t)dims.hidden * dims.heads * dims.head_dim;
        uint64_t keys = (uint64_t)dims.hidden * dims.kv_heads * dims.head_dim;
        for (uint64_t c = 0; c < dims.hidden; c++) {
            put(l.weights, c, 1);
            put(l.weights, dims.hidden + c, 0);
        }
        for (uint64_t i = 0; i < queries + keys; i++)
            put(l.weights, first + i, random_unit() < 0.5 ? -16 : 16);
        attention_compare(l, layer_tolerance(dims.dtype, dims.hidden + dims.sequence));
    }
}

// Sums have one owner each: the same bits every time.
Test(kernels_cuda, attention_repeats_its_bits)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        ModelDims dims = {.dtype = dtypes[d], .hidden = 16, .heads = 4, .kv_heads = 1, .head_dim = 48, .batch = 2};
        dims.sequence = 70;
        Layer l = make_layer(dims, model_attention_elements(&dims));
        Tensor x = device_copy(l.x), weights = device_copy(l.weights), dx[2], dweights[2];
        StepTensors backward = {
            .pre_expert_backward = {.x = l.x, .dense = l.weights, .dx = l.dx, .ddense = l.dweights}};
        for (int i = 0; i < 2; i++) {
            dx[i] = device_copy(l.dx);
            dweights[i] = device_like(l.dweights);
            EXPECT_SUCCESS(cuda_pre_expert_backward(queue_for(&dims, OP_PRE_EXPERT_BACKWARD, backward), &dims, x,
                                                    weights, dx[i], dweights[i]));
        }
        expect_same(dx[1], host_copy(dx[0]), tensor_bytes(l.dx), "dx");
        expect_same(dweights[1], host_copy(dweights[0]), tensor_bytes(l.dweights), "weights");
        device_finish();
    }
}
