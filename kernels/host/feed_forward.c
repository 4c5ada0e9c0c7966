// Feed-forward networks and their gradients: the block that dense layers, experts and shared experts
// have in common, and the first and last of these. The inner dimension is processed in panels of columns, whose
// contributions to the output add up in f32.
#include "kernels/host/internal.h"

FeedForward feed_forward_begin(const ModelDims *dims, Dtype dtype, uint64_t inner, uint64_t block, Scratch *scratch)
{
    uint64_t columns = smaller(inner, SCRATCH_COLUMNS);
    FeedForward ff = {.dims = dims, .inner = inner, .dtype = dtype};
    ff.in = scratch_take(scratch, block, dims->hidden);
    ff.out = scratch_take(scratch, block, dims->hidden);
    ff.act = scratch_take(scratch, block, columns);
    if (dims->activation == ACTIVATION_SWIGLU)
        ff.gate = scratch_take(scratch, block, columns);
    ff.panel = scratch_panel(scratch, dtype, dims->hidden, columns);
    return ff;
}

static void activate(Activation activation, float *act, const float *gate, uint64_t count)
{
    switch (activation) {
    case ACTIVATION_RELU:
        for (uint64_t i = 0; i < count; i++)
            act[i] = act[i] > 0 ? act[i] : 0;
        break;
    case ACTIVATION_GELU:
        vector_gelu(act, count);
        break;
    case ACTIVATION_SWIGLU:
        vector_silu_multiply(act, gate, count);
        break;
    case ACTIVATION_COUNT:
        assert(false);
    }
}

void feed_forward_run(const FeedForward *ff, const void *weights, const float *in, uint64_t rows, float *out)
{
    uint64_t hidden = ff->dims->hidden, inner = ff->inner, matrix = hidden * inner;
    const void *gate = element_at(weights, ff->dtype, matrix);
    const void *down = element_at(weights, ff->dtype, ff->gate ? 2 * matrix : matrix);
    for (uint64_t first = 0; first < inner; first += SCRATCH_COLUMNS) {
        uint64_t cols = smaller(SCRATCH_COLUMNS, inner - first);
        Weights up_panel = {element_at(weights, ff->dtype, first), ff->dtype, inner};
        Weights gate_panel = {element_at(gate, ff->dtype, first), ff->dtype, inner};
        Weights down_panel = {element_at(down, ff->dtype, first * hidden), ff->dtype, hidden};
        matrix_multiply(rows, cols, hidden, in, hidden, up_panel, 0, ff->act, cols, ff->panel);
        if (ff->gate)
            matrix_multiply(rows, cols, hidden, in, hidden, gate_panel, 0, ff->gate, cols, ff->panel);
        activate(ff->dims->activation, ff->act, ff->gate, rows * cols);
        matrix_multiply(rows, hidden, cols, ff->act, cols, down_panel, first > 0, out, hidden, ff->panel);
    }
}

void host_ffn(const ModelDims *dims, Tensor x, Tensor ffn, Tensor y, Tensor work)
{
    uint64_t hidden = dims->hidden, rows = x.rows;
    Scratch scratch = scratch_begin(work);
    const float *norm = scratch_convert(&scratch, ffn.data, ffn.dtype, 2 * hidden);
    FeedForward ff = feed_forward_begin(dims, ffn.dtype, dims->ffn_inner, smaller(rows, SCRATCH_ROWS), &scratch);
    const void *weights = element_at(ffn.data, ffn.dtype, 2 * hidden);
    assert(x.dtype == y.dtype && y.rows >= rows);
    for (uint64_t first = 0; first < rows; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, rows - first);
        const void *in = element_at(x.data, x.dtype, first * hidden);
        norm_rows(in, x.dtype, count, hidden, norm, ff.in);
        feed_forward_run(&ff, weights, ff.in, count, ff.out);
        residual_store(in, ff.out, element_in(y.data, y.dtype, first * hidden), y.dtype, count * hidden);
    }
}

void host_shared_expert(const ModelDims *dims, Tensor rows, Tensor shared, Tensor results, Tensor work)
{
    uint64_t hidden = dims->hidden, inner = model_shared_inner(dims);
    Scratch scratch = scratch_begin(work);
    FeedForward ff = feed_forward_begin(dims, shared.dtype, inner, smaller(rows.rows, SCRATCH_ROWS), &scratch);
    assert(results.rows >= rows.rows);
    for (uint64_t first = 0; first < rows.rows; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, rows.rows - first);
        host_to_f32(element_at(rows.data, rows.dtype, first * hidden), rows.dtype, ff.in, count * hidden);
        feed_forward_run(&ff, shared.data, ff.in, count, ff.out);
        host_from_f32(ff.out, element_in(results.data, results.dtype, first * hidden), results.dtype, count * hidden);
    }
}

// ---- backward ------------------------------------------------------------------------------------

FeedForwardBackward feed_forward_backward_begin(const ModelDims *dims, Dtype dtype, uint64_t inner, uint64_t block,
                                                Scratch *scratch)
{
    uint64_t columns = smaller(inner, SCRATCH_COLUMNS);
    FeedForwardBackward ff = {.dims = dims, .inner = inner, .dtype = dtype};
    ff.in = scratch_take(scratch, block, dims->hidden);
    ff.dout = scratch_take(scratch, block, dims->hidden);
    ff.din = scratch_take(scratch, block, dims->hidden);
    ff.act = scratch_take(scratch, block, columns);
    ff.dact = scratch_take(scratch, block, columns);
    ff.up = scratch_take(scratch, block, columns);
    if (dims->activation == ACTIVATION_SWIGLU)
        ff.gate = scratch_take(scratch, block, columns);
    ff.panel = scratch_panel(scratch, dtype, dims->hidden, columns);
    return ff;
}

// act = activation(up, gate); up and gate become the derivatives by them.
static void differentiate(Activation activation, float *act, float *up, float *gate, uint64_t count)
{
    switch (activation) {
    case ACTIVATION_RELU:
        for (uint64_t i = 0; i < count; i++) {
            act[i] = up[i] > 0 ? up[i] : 0;
            up[i] = up[i] > 0 ? 1 : 0;
        }
        break;
    case ACTIVATION_GELU:
        vector_gelu_derivative(up, act, count);
        break;
    case ACTIVATION_SWIGLU:
        vector_silu_multiply_derivative(up, gate, act, count);
        break;
    case ACTIVATION_COUNT:
        assert(false);
    }
}

// The output of row r counts row_weights[r] times.
static void weigh_rows(const FeedForwardBackward *ff, uint64_t rows, uint64_t cols, const float *row_weights,
                       float *drow_weights)
{
    for (uint64_t r = 0; r < rows; r++) {
        float *restrict act = ff->act + r * cols, *restrict dact = ff->dact + r * cols;
        drow_weights[r] += vector_dot(act, dact, cols);
        for (uint64_t i = 0; i < cols; i++) {
            act[i] *= row_weights[r];
            dact[i] *= row_weights[r];
        }
    }
}

// What one matrix into the inner dimension, of which `dinner` [rows][cols] is the gradient, adds to `din`
// (or, the first one, makes it) and to its own gradient.
static void add_inward(const FeedForwardBackward *ff, uint64_t rows, uint64_t cols, const float *dinner, Weights panel,
                       bool is_first, float *gradient)
{
    uint64_t hidden = ff->dims->hidden;
    matrix_multiply_transposed(rows, hidden, cols, 1, dinner, cols, panel, is_first ? 0 : 1, ff->din, hidden,
                               ff->panel);
    matrix_add_gradient(hidden, cols, rows, 1, ff->in, hidden, dinner, cols, gradient, ff->inner);
}

void feed_forward_backward_run(const FeedForwardBackward *ff, const void *weights, uint64_t rows,
                               const float *row_weights, float *drow_weights)
{
    uint64_t hidden = ff->dims->hidden, inner = ff->inner, matrix = hidden * inner;
    uint64_t down = ff->gate ? 2 * matrix : matrix;
    for (uint64_t first = 0; first < inner; first += SCRATCH_COLUMNS) {
        uint64_t cols = smaller(SCRATCH_COLUMNS, inner - first);
        Weights up_panel = {element_at(weights, ff->dtype, first), ff->dtype, inner};
        Weights gate_panel = {element_at(weights, ff->dtype, matrix + first), ff->dtype, inner};
        Weights down_panel = {element_at(weights, ff->dtype, down + first * hidden), ff->dtype, hidden};
        matrix_multiply(rows, cols, hidden, ff->in, hidden, up_panel, 0, ff->up, cols, ff->panel);
        if (ff->gate)
            matrix_multiply(rows, cols, hidden, ff->in, hidden, gate_panel, 0, ff->gate, cols, ff->panel);
        differentiate(ff->dims->activation, ff->act, ff->up, ff->gate, rows * cols);
        matrix_multiply_transposed(rows, cols, hidden, 1, ff->dout, hidden, down_panel, 0, ff->dact, cols, ff->panel);
        if (row_weights)
            weigh_rows(ff, rows, cols, row_weights, drow_weights);
        matrix_add_gradient(cols, hidden, rows, 1, ff->act, cols, ff->dout, hidden,
                            ff->gradient + down + first * hidden, hidden);
        vector_multiply(ff->up, ff->dact, rows * cols);
        add_inward(ff, rows, cols, ff->up, up_panel, first == 0, ff->gradient + first);
        if (ff->gate) {
            vector_multiply(ff->gate, ff->dact, rows * cols);
            add_inward(ff, rows, cols, ff->gate, gate_panel, false, ff->gradient + matrix + first);
        }
    }
}

void host_ffn_backward(const ModelDims *dims, Tensor x, Tensor ffn, Tensor dx, Tensor dffn, Tensor work)
{
    uint64_t hidden = dims->hidden, rows = x.rows, elements = model_ffn_elements(dims);
    Scratch scratch = scratch_begin(work);
    const float *norm = scratch_convert(&scratch, ffn.data, ffn.dtype, 2 * hidden);
    float *row = scratch_take(&scratch, 1, hidden), *gradient = scratch_gradient(&scratch, dffn, elements);
    FeedForwardBackward ff =
        feed_forward_backward_begin(dims, ffn.dtype, dims->ffn_inner, smaller(rows, SCRATCH_ROWS), &scratch);
    ff.gradient = gradient + 2 * hidden;
    assert(dx.rows >= rows && dffn.dtype == ffn.dtype);
    for (uint64_t first = 0; first < rows; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, rows - first);
        const void *in = element_at(x.data, x.dtype, first * hidden);
        void *d = element_in(dx.data, dx.dtype, first * hidden);
        norm_rows(in, x.dtype, count, hidden, norm, ff.in);
        host_to_f32(d, dx.dtype, ff.dout, count * hidden);
        feed_forward_backward_run(&ff, element_at(ffn.data, ffn.dtype, 2 * hidden), count, NULL, NULL);
        norm_backward(in, x.dtype, count, hidden, norm, ff.din, gradient, row);
        residual_store(d, ff.din, d, dx.dtype, count * hidden);
    }
    gradient_store(gradient, dffn, 0, elements);
}

void host_shared_expert_backward(const ModelDims *dims, Tensor rows, Tensor shared, Tensor dx, Tensor drows,
                                 Tensor dshared, Tensor work)
{
    uint64_t hidden = dims->hidden, inner = model_shared_inner(dims);
    uint64_t elements = model_shared_elements(dims);
    Scratch scratch = scratch_begin(work);
    float *gradient = scratch_gradient(&scratch, dshared, elements);
    FeedForwardBackward ff =
        feed_forward_backward_begin(dims, shared.dtype, inner, smaller(rows.rows, SCRATCH_ROWS), &scratch);
    ff.gradient = gradient;
    assert(dx.rows >= rows.rows && drows.rows >= rows.rows && dshared.dtype == shared.dtype);
    for (uint64_t first = 0; first < rows.rows; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, rows.rows - first);
        host_to_f32(element_at(rows.data, rows.dtype, first * hidden), rows.dtype, ff.in, count * hidden);
        host_to_f32(element_at(dx.data, dx.dtype, first * hidden), dx.dtype, ff.dout, count * hidden);
        feed_forward_backward_run(&ff, shared.data, count, NULL, NULL);
        host_from_f32(ff.din, element_in(drows.data, drows.dtype, first * hidden), drows.dtype, count * hidden);
    }
    gradient_store(gradient, dshared, 0, elements);
}
