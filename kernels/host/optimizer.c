// AdamW (Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2): one step of one weight
// buffer, in blocks, so that 16-bit weights and gradients are converted on the stack.
#include <math.h>

#include "kernels/host/internal.h"

enum { BLOCK = 256 };

// Place of part `part` of the state of weights row `row`: first moments, second moments, master copy.
static float *state_of(Tensor weights, Tensor state, uint64_t row, uint64_t part)
{
    return (float *)state.data + row * state.cols + part * weights.cols;
}

static bool has_master(Tensor weights)
{
    return weights.dtype != DTYPE_F32;
}

static void check_shapes(Tensor weights, Tensor state)
{
    (void)weights;
    (void)state; // where nothing is asserted
    assert(state.dtype == DTYPE_F32 && state.rows == weights.rows);
    assert(state.cols == (has_master(weights) ? 3 : 2) * weights.cols);
}

void host_optimizer_begin(Tensor weights, Tensor state)
{
    check_shapes(weights, state);
    for (uint64_t row = 0; row < weights.rows; row++) {
        memset(state_of(weights, state, row, 0), 0, 2 * weights.cols * sizeof(float));
        if (has_master(weights))
            host_to_f32(element_at(weights.data, weights.dtype, row * weights.cols), weights.dtype,
                        state_of(weights, state, row, 2), weights.cols);
    }
}

// The constants of a step, with the corrections for moments that began at 0.
typedef struct {
    float scale, beta1, beta2, rate, decay, correction, epsilon;
} Factors;

static Factors factors_of(const AdamW *adamw)
{
    double t = (double)adamw->step;
    double first = 1 - pow((double)adamw->beta1, t), second = 1 - pow((double)adamw->beta2, t);
    return (Factors){
        .scale = adamw->gradient_scale,
        .beta1 = adamw->beta1,
        .beta2 = adamw->beta2,
        .rate = (float)((double)adamw->learning_rate / first),
        .decay = (float)(1 - (double)adamw->learning_rate * (double)adamw->weight_decay),
        .correction = (float)(1 / sqrt(second)),
        .epsilon = adamw->epsilon,
    };
}

static void update(const Factors *s, const float *restrict gradient, float *restrict m, float *restrict v,
                   float *restrict w, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        float g = gradient[i] * s->scale;
        m[i] = s->beta1 * m[i] + (1.0f - s->beta1) * g;
        v[i] = s->beta2 * v[i] + (1.0f - s->beta2) * g * g;
        w[i] = s->decay * w[i] - s->rate * m[i] / (sqrtf(v[i]) * s->correction + s->epsilon);
    }
}

// Elements `at` to the returned one, `end` at most, all decay, or none of them.
static uint64_t run_end(const ModelRanges *undecayed, uint64_t at, uint64_t end, bool *decay)
{
    *decay = true;
    for (uint32_t r = 0; r < undecayed->count; r++) {
        const ModelRange *range = &undecayed->ranges[r];
        if (at >= range->first + range->count)
            continue;
        *decay = at < range->first;
        return smaller(end, *decay ? range->first : range->first + range->count);
    }
    return end;
}

// `count` weights from flat place `place` on, which is `first` of its row.
static void update_block(const Factors *factors, Tensor weights, Tensor gradient, float *of_row, uint64_t place,
                         uint64_t first, uint64_t count)
{
    float block[BLOCK];
    float *m = of_row + first, *v = m + weights.cols;
    float *w = has_master(weights) ? v + weights.cols : (float *)weights.data + place;
    host_to_f32(element_at(gradient.data, gradient.dtype, place), gradient.dtype, block, count);
    update(factors, block, m, v, w, count);
    if (has_master(weights))
        host_from_f32(w, element_in(weights.data, weights.dtype, place), weights.dtype, count);
}

void host_optimizer(const AdamW *adamw, const ModelRanges *undecayed, Tensor weights, Tensor gradient, Tensor state)
{
    check_shapes(weights, state);
    assert(adamw->step > 0 && (gradient.dtype == weights.dtype || gradient.dtype == DTYPE_F32));
    assert(gradient.rows == weights.rows && gradient.cols == weights.cols);
    Factors decaying = factors_of(adamw), constant = decaying;
    constant.decay = 1;
    for (uint64_t row = 0; row < weights.rows; row++) {
        for (uint64_t first = 0, end; first < weights.cols; first = end) {
            uint64_t from = row * weights.cols;
            bool decay;
            end = run_end(undecayed, from + first, from + smaller(first + BLOCK, weights.cols), &decay) - from;
            update_block(decay ? &decaying : &constant, weights, gradient, state_of(weights, state, row, 0),
                         from + first, first, end - first);
        }
    }
}

void host_squares(Tensor gradient, Tensor before, Tensor squares)
{
    float block[BLOCK];
    double sum = before.data ? (double)*(const float *)before.data : 0;
    uint64_t elements = gradient.rows * gradient.cols;
    for (uint64_t first = 0; first < elements; first += BLOCK) {
        uint64_t count = smaller(BLOCK, elements - first);
        host_to_f32(element_at(gradient.data, gradient.dtype, first), gradient.dtype, block, count);
        for (uint64_t i = 0; i < count; i++)
            sum += (double)block[i] * (double)block[i];
    }
    *(float *)squares.data = (float)sum;
}

// ---- local steps -------------------------------------------------------------------------------

static bool has_momentum(Tensor weights, Tensor outer)
{
    assert(weights.dtype == DTYPE_F32 && outer.dtype == DTYPE_F32 && outer.rows == weights.rows);
    assert(outer.cols == weights.cols || outer.cols == 2 * weights.cols);
    return outer.cols > weights.cols;
}

void host_outer_begin(Tensor weights, Tensor outer)
{
    bool momentum = has_momentum(weights, outer);
    for (uint64_t row = 0; row < weights.rows; row++) {
        float *at = (float *)outer.data + row * outer.cols;
        memcpy(at, (const float *)weights.data + row * weights.cols, weights.cols * sizeof(float));
        if (momentum)
            memset(at + weights.cols, 0, weights.cols * sizeof(float));
    }
}

void host_outer_gradient(Tensor weights, Tensor outer, Tensor gradient)
{
    (void)has_momentum(weights, outer);
    for (uint64_t row = 0; row < weights.rows; row++) {
        const float *at = (const float *)outer.data + row * outer.cols;
        const float *w = (const float *)weights.data + row * weights.cols;
        float *moved = (float *)gradient.data + row * weights.cols;
        for (uint64_t i = 0; i < weights.cols; i++)
            moved[i] = at[i] - w[i];
    }
}

void host_outer_step(const OuterStep *step, Tensor gradient, Tensor outer, Tensor weights)
{
    bool momentum = has_momentum(weights, outer);
    float mean = 1.0f / (float)step->workers;
    for (uint64_t row = 0; row < weights.rows; row++) {
        float *at = (float *)outer.data + row * outer.cols, *m = at + weights.cols;
        const float *sum = (const float *)gradient.data + row * weights.cols;
        float *w = (float *)weights.data + row * weights.cols;
        for (uint64_t i = 0; i < weights.cols; i++) {
            float moved = sum[i] * mean;
            if (momentum) {
                m[i] = step->momentum * m[i] + moved;
                moved += step->momentum * m[i];
            }
            at[i] -= step->learning_rate * moved;
            w[i] = at[i];
        }
    }
}
