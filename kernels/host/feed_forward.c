// Feed-forward networks: the block that dense layers, experts and shared experts have in common,
// and the first and last of these. The inner dimension is processed in panels of columns, whose
// contributions to the output add up in f32.
#include "kernels/host/internal.h"

FeedForward feed_forward_begin(const ModelDims *dims, Dtype dtype, uint64_t inner, uint64_t block, Scratch *scratch)
{
    uint64_t columns = smaller(inner, WORKSPACE_COLUMNS);
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
    for (uint64_t first = 0; first < inner; first += WORKSPACE_COLUMNS) {
        uint64_t cols = smaller(WORKSPACE_COLUMNS, inner - first);
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
    FeedForward ff = feed_forward_begin(dims, ffn.dtype, dims->ffn_inner, smaller(rows, WORKSPACE_ROWS), &scratch);
    const void *weights = element_at(ffn.data, ffn.dtype, 2 * hidden);
    assert(x.dtype == y.dtype && y.rows >= rows);
    for (uint64_t first = 0; first < rows; first += WORKSPACE_ROWS) {
        uint64_t count = smaller(WORKSPACE_ROWS, rows - first);
        const void *in = element_at(x.data, x.dtype, first * hidden);
        norm_rows(in, x.dtype, count, hidden, norm, ff.in);
        feed_forward_run(&ff, weights, ff.in, count, ff.out);
        residual_store(in, ff.out, element_in(y.data, y.dtype, first * hidden), y.dtype, count * hidden);
    }
}

void host_shared_expert(const ModelDims *dims, Tensor rows, Tensor shared, Tensor results, Tensor work)
{
    uint64_t hidden = dims->hidden, inner = (uint64_t)dims->shared_experts * dims->inner;
    Scratch scratch = scratch_begin(work);
    FeedForward ff = feed_forward_begin(dims, shared.dtype, inner, smaller(rows.rows, WORKSPACE_ROWS), &scratch);
    assert(results.rows >= rows.rows);
    for (uint64_t first = 0; first < rows.rows; first += WORKSPACE_ROWS) {
        uint64_t count = smaller(WORKSPACE_ROWS, rows.rows - first);
        host_to_f32(element_at(rows.data, rows.dtype, first * hidden), rows.dtype, ff.in, count * hidden);
        feed_forward_run(&ff, shared.data, ff.in, count, ff.out);
        host_from_f32(ff.out, element_in(results.data, results.dtype, first * hidden), results.dtype, count * hidden);
    }
}
