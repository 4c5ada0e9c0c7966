// Dense layers, shared experts and the loss on CUDA, and their gradients, against their host twins. In the emulation
// this checks the kernels' logic; products come from a double of cuBLAS.
// builds: dev  seconds: 8
#include "cuda_layers.h"

// ---- feed-forward ----------------------------------------------------------------------------------

static const ModelDims feed_forward_cases[] = {
    {.hidden = 16, .ffn_inner = 40, .activation = ACTIVATION_GELU, .sequence = 5, .batch = 3},
    {.hidden = 21, .ffn_inner = 35, .activation = ACTIVATION_SWIGLU, .sequence = 70, .batch = 2},
    {.hidden = 8, .ffn_inner = 8, .activation = ACTIVATION_RELU, .sequence = 1, .batch = 1},
};

static void ffn_both(ModelDims dims)
{
    Layer l = make_layer(dims, model_ffn_elements(&dims));
    Tensor x_there = device_copy(l.x), weights_there = device_copy(l.weights), y_there = device_like(l.y);
    Tensor dx_there = device_copy(l.dx), dweights_there = device_like(l.dweights);
    double tolerance = layer_tolerance(dims.dtype, dims.hidden + dims.ffn_inner);
    StepTensors forward = {.ffn = {.x = l.x, .dense = l.weights, .y = l.y}};
    StepTensors backward = {.ffn_backward = {.x = l.x, .dense = l.weights, .dx = l.dx, .ddense = l.dweights}};
    EXPECT_SUCCESS(cuda_ffn(queue_for(&dims, OP_FFN, forward), &dims, x_there, weights_there, y_there));
    host_ffn(&dims, l.x, l.weights, l.y, make_work(&dims, OP_FFN, l.x.rows, 1, 1));
    expect_near(y_there, l.y, l.y.rows * l.y.cols, tolerance, "ffn");
    EXPECT_SUCCESS(cuda_ffn_backward(queue_for(&dims, OP_FFN_BACKWARD, backward), &dims, x_there, weights_there,
                                     dx_there, dweights_there));
    host_ffn_backward(&dims, l.x, l.weights, l.dx, l.dweights, make_work(&dims, OP_FFN_BACKWARD, l.x.rows, 1, 1));
    expect_near(dx_there, l.dx, l.dx.rows * l.dx.cols, 2 * tolerance, "ffn_backward, dx");
    expect_near(dweights_there, l.dweights, l.dweights.cols, 2 * tolerance, "ffn_backward, weights");
    device_finish();
}

static void shared_both(ModelDims dims)
{
    dims.shared_experts = 2;
    dims.inner = dims.ffn_inner;
    Layer l = make_layer(dims, model_shared_elements(&dims));
    Tensor drows = make(dims.dtype, l.x.rows, dims.hidden), drows_there = device_like(drows);
    Tensor x_there = device_copy(l.x), weights_there = device_copy(l.weights), y_there = device_like(l.y);
    Tensor dweights_there = device_like(l.dweights);
    double tolerance = layer_tolerance(dims.dtype, dims.hidden + 2 * dims.inner);
    StepTensors forward = {.shared_expert = {.rows = l.x, .dense = l.weights, .results = l.y}};
    StepTensors backward = {
        .shared_expert_backward = {.rows = l.x, .dense = l.weights, .dx = l.dx, .drows = drows, .ddense = l.dweights}};
    EXPECT_SUCCESS(
        cuda_shared_expert(queue_for(&dims, OP_SHARED_EXPERT, forward), &dims, x_there, weights_there, y_there));
    host_shared_expert(&dims, l.x, l.weights, l.y, make_work(&dims, OP_SHARED_EXPERT, l.x.rows, 1, 1));
    expect_near(y_there, l.y, l.y.rows * l.y.cols, tolerance, "shared_expert");
    EXPECT_SUCCESS(cuda_shared_expert_backward(queue_for(&dims, OP_SHARED_EXPERT_BACKWARD, backward), &dims, x_there,
                                               weights_there, device_copy(l.dx), drows_there, dweights_there));
    host_shared_expert_backward(&dims, l.x, l.weights, l.dx, drows, l.dweights,
                                make_work(&dims, OP_SHARED_EXPERT_BACKWARD, l.x.rows, 1, 1));
    expect_near(drows_there, drows, drows.rows * drows.cols, 2 * tolerance, "shared_expert_backward, rows");
    expect_near(dweights_there, l.dweights, l.dweights.cols, 2 * tolerance, "shared_expert_backward, weights");
    device_finish();
}

Test(kernels_cuda, feed_forward)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t i = 0; i < COUNT_OF(feed_forward_cases); i++) {
            ModelDims dims = feed_forward_cases[i];
            dims.dtype = dtypes[d];
            ffn_both(dims);
            shared_both(dims);
        }
    }
}

// Where sigmoids end: derivatives must keep their digits and not become NaN.
Test(kernels_cuda, activations_of_large_arguments)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (Activation activation = 0; activation < ACTIVATION_COUNT; activation++) {
            ModelDims dims = {.dtype = dtypes[d],
                              .hidden = 8,
                              .inner = 16,
                              .shared_experts = 1,
                              .sequence = 20,
                              .batch = 1,
                              .activation = activation};
            Layer l = make_layer(dims, model_shared_elements(&dims));
            fill_random(l.x, 60);
            Tensor drows = make(dims.dtype, l.x.rows, dims.hidden), drows_there = device_like(drows);
            Tensor dweights_there = device_like(l.dweights);
            StepTensors backward = {
                .shared_expert_backward = {
                    .rows = l.x, .dense = l.weights, .dx = l.dx, .drows = drows, .ddense = l.dweights}};
            EXPECT_SUCCESS(cuda_shared_expert_backward(queue_for(&dims, OP_SHARED_EXPERT_BACKWARD, backward), &dims,
                                                       device_copy(l.x), device_copy(l.weights), device_copy(l.dx),
                                                       drows_there, dweights_there));
            host_shared_expert_backward(&dims, l.x, l.weights, l.dx, drows, l.dweights,
                                        make_work(&dims, OP_SHARED_EXPERT_BACKWARD, l.x.rows, 1, 1));
            // Arguments are rounded to 16 bits before the activation: an error of 60 x rounding in its argument.
            double tolerance = 60 * layer_tolerance(dims.dtype, 24);
            expect_near(drows_there, drows, drows.rows * drows.cols, tolerance, "large arguments, rows");
            expect_near(dweights_there, l.dweights, l.dweights.cols, tolerance, "large arguments, weights");
            device_finish();
        }
    }
}

// ---- loss ------------------------------------------------------------------------------------------

static void loss_both(ModelDims dims)
{
    uint64_t tokens = model_tokens(&dims), elements = model_embedding_elements(&dims);
    Tensor x = make_random(dims.dtype, tokens, dims.hidden, 1), words = make_tokens(&dims);
    Tensor embedding = make_random(dims.dtype, 1, elements, 1), loss = make(DTYPE_F32, 1, 1);
    Tensor dx = make(dims.dtype, tokens, dims.hidden), dembedding = make(dims.dtype, 1, elements);
    Tensor x_there = device_copy(x), words_there = device_copy(words), embedding_there = device_copy(embedding);
    Tensor loss_there = device_like(loss), dx_there = device_like(dx), dembedding_there = device_like(dembedding);
    StepTensors forward = {.loss = {.x = x, .tokens = words, .embedding = embedding, .loss = loss}};
    StepTensors backward = {
        .loss_backward = {.x = x, .tokens = words, .embedding = embedding, .dx = dx, .dembedding = dembedding}};
    double tolerance = layer_tolerance(dims.dtype, dims.hidden + dims.vocabulary);
    EXPECT_SUCCESS(
        cuda_loss(queue_for(&dims, OP_LOSS, forward), &dims, x_there, words_there, embedding_there, loss_there));
    host_loss(&dims, x, words, embedding, loss, make_work(&dims, OP_LOSS, tokens, 1, 1));
    expect_near(loss_there, loss, 1, tolerance, "loss");
    EXPECT_SUCCESS(cuda_loss_backward(queue_for(&dims, OP_LOSS_BACKWARD, backward), &dims, x_there, words_there,
                                      embedding_there, dx_there, dembedding_there));
    host_loss_backward(&dims, x, words, embedding, dx, dembedding, make_work(&dims, OP_LOSS_BACKWARD, tokens, 1, 1));
    expect_near(dx_there, dx, tokens * dims.hidden, 2 * tolerance, "loss_backward, dx");
    expect_near(dembedding_there, dembedding, elements, 2 * tolerance, "loss_backward, embedding");
    device_finish();
}

Test(kernels_cuda, loss)
{
    const ModelDims cases[] = {
        {.hidden = 16, .vocabulary = 11, .sequence = 7, .batch = 3},
        {.hidden = 21, .vocabulary = 301, .sequence = 33, .batch = 1},
        {.hidden = 8, .vocabulary = 1, .sequence = 1, .batch = 1},
        {.hidden = 4, .vocabulary = 70000, .sequence = 300, .batch = 2}, // several blocks of tokens
    };
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t i = 0; i < COUNT_OF(cases) - (d > 0); i++) {
            ModelDims dims = cases[i];
            dims.dtype = dtypes[d];
            loss_both(dims);
        }
    }
}
