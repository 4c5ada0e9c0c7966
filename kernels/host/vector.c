// Vectors: reductions in lanes, elementwise functions with wide instructions where the processor has
// them; and the scratch allocator. Results do not depend on the processor: the order of additions
// follows from the length alone, and no multiplication is fused with an addition.
#include "kernels/host/internal.h"

float vector_max(const float *x, uint64_t count)
{
    assert(count > 0);
    float lanes[LANES], result = x[0];
    for (uint64_t lane = 0; lane < LANES; lane++)
        lanes[lane] = x[0];
    uint64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (uint64_t lane = 0; lane < LANES; lane++)
            lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    for (; i < count; i++)
        result = x[i] > result ? x[i] : result;
    for (uint64_t lane = 0; lane < LANES; lane++)
        result = lanes[lane] > result ? lanes[lane] : result;
    return result;
}

float vector_sum(const float *x, uint64_t count)
{
    float lanes[LANES] = {0}, result = 0;
    uint64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (uint64_t lane = 0; lane < LANES; lane++)
            lanes[lane] += x[i + lane];
    for (; i < count; i++)
        result += x[i];
    for (uint64_t lane = 0; lane < LANES; lane++)
        result += lanes[lane];
    return result;
}

float vector_dot(const float *x, const float *y, uint64_t count)
{
    float lanes[LANES] = {0}, result = 0;
    uint64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (uint64_t lane = 0; lane < LANES; lane++)
            lanes[lane] += x[i + lane] * y[i + lane];
    for (; i < count; i++)
        result += x[i] * y[i];
    for (uint64_t lane = 0; lane < LANES; lane++)
        result += lanes[lane];
    return result;
}

void vector_multiply(float *x, const float *y, uint64_t count)
{
    float *restrict to = x;
    const float *restrict by = y;
    for (uint64_t i = 0; i < count; i++)
        to[i] *= by[i];
}

// Each function is compiled twice from one body, without and with wide instructions.
#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2")))
static bool has_wide(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
#define WIDE
static bool has_wide(void)
{
    return false;
}
#endif
// Read once per call through volatile. Were they constants, gcc would compute the functions of clamped values
// beside the others, for every value, and those are denormal: 100 times slower.
static const volatile float exp_least = EXP_LEAST, exp_most = EXP_MOST;

#define BODY static inline __attribute__((always_inline)) void

BODY exp_body(float *restrict x, uint64_t count, float shift)
{
    float least = exp_least, most = exp_most;
    for (uint64_t i = 0; i < count; i++)
        x[i] = exp_clamped(x[i] - shift, least, most);
}

// x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)) with u = sqrt(2/pi) (x + 0.044715 x^3).
BODY gelu_body(float *restrict x, uint64_t count)
{
    float least = exp_least, most = exp_most;
    for (uint64_t i = 0; i < count; i++) {
        float u = 0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + exp_clamped(-2.0f * u, least, most));
    }
}

BODY silu_multiply_body(float *restrict x, const float *restrict gate, uint64_t count)
{
    float least = exp_least, most = exp_most;
    for (uint64_t i = 0; i < count; i++)
        x[i] *= gate[i] / (1.0f + exp_clamped(-gate[i], least, most));
}

// With e = exp(-2u) and s = 1 / (1 + e): (x s)' = s + x s (1 - s) 2 u', and 1 - s = e s loses no digits.
BODY gelu_derivative_body(float *restrict x, float *restrict act, uint64_t count)
{
    float least = exp_least, most = exp_most;
    for (uint64_t i = 0; i < count; i++) {
        float square = 0.044715f * x[i] * x[i];
        float e = exp_clamped(-2.0f * 0.79788456f * x[i] * (1.0f + square), least, most), s = 1.0f / (1.0f + e);
        float slope = 2.0f * 0.79788456f * (1.0f + 3.0f * square);
        act[i] = x[i] * s;
        x[i] = s + act[i] * (e * s) * slope;
    }
}

// silu(g) = g s, silu'(g) = s + g s (1 - s), likewise.
BODY silu_multiply_derivative_body(float *restrict x, float *restrict gate, float *restrict act, uint64_t count)
{
    float least = exp_least, most = exp_most;
    for (uint64_t i = 0; i < count; i++) {
        float e = exp_clamped(-gate[i], least, most), s = 1.0f / (1.0f + e), silu = gate[i] * s;
        act[i] = x[i] * silu;
        gate[i] = x[i] * (s + silu * (e * s));
        x[i] = silu;
    }
}

WIDE static void exp_wide(float *x, uint64_t count, float shift)
{
    exp_body(x, count, shift);
}

WIDE static void gelu_wide(float *x, uint64_t count)
{
    gelu_body(x, count);
}

WIDE static void silu_multiply_wide(float *x, const float *gate, uint64_t count)
{
    silu_multiply_body(x, gate, count);
}

WIDE static void gelu_derivative_wide(float *x, float *act, uint64_t count)
{
    gelu_derivative_body(x, act, count);
}

WIDE static void silu_multiply_derivative_wide(float *x, float *gate, float *act, uint64_t count)
{
    silu_multiply_derivative_body(x, gate, act, count);
}

void vector_exp(float *x, uint64_t count, float shift)
{
    if (has_wide())
        exp_wide(x, count, shift);
    else
        exp_body(x, count, shift);
}

void vector_gelu(float *x, uint64_t count)
{
    if (has_wide())
        gelu_wide(x, count);
    else
        gelu_body(x, count);
}

void vector_silu_multiply(float *x, const float *gate, uint64_t count)
{
    if (has_wide())
        silu_multiply_wide(x, gate, count);
    else
        silu_multiply_body(x, gate, count);
}

void vector_gelu_derivative(float *x, float *act, uint64_t count)
{
    if (has_wide())
        gelu_derivative_wide(x, act, count);
    else
        gelu_derivative_body(x, act, count);
}

void vector_silu_multiply_derivative(float *x, float *gate, float *act, uint64_t count)
{
    if (has_wide())
        silu_multiply_derivative_wide(x, gate, act, count);
    else
        silu_multiply_derivative_body(x, gate, act, count);
}

Scratch scratch_begin(Tensor work)
{
    assert(work.dtype == DTYPE_F32);
    return (Scratch){.next = work.data, .left = work.rows * work.cols};
}

float *scratch_take(Scratch *scratch, uint64_t rows, uint64_t cols)
{
    uint64_t count = (rows * cols + SCRATCH_ALIGNMENT - 1) / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT;
    assert(count <= scratch->left); // else lowering reserved less than engines/host_scratch.c says
    float *piece = scratch->next;
    scratch->next += count;
    scratch->left -= count;
    return piece;
}

const float *scratch_convert(Scratch *scratch, const void *data, Dtype dtype, uint64_t count)
{
    if (dtype == DTYPE_F32)
        return data;
    float *copy = scratch_take(scratch, 1, count);
    host_to_f32(data, dtype, copy, count);
    return copy;
}

float *scratch_panel(Scratch *scratch, Dtype dtype, uint64_t rows, uint64_t cols)
{
    return dtype == DTYPE_F32 ? NULL : scratch_take(scratch, rows, cols);
}

float *scratch_gradient(Scratch *scratch, Tensor gradient, uint64_t count)
{
    assert(gradient.rows * gradient.cols >= count);
    float *sum = gradient.dtype == DTYPE_F32 ? gradient.data : scratch_take(scratch, 1, count);
    memset(sum, 0, count * sizeof(*sum));
    return sum;
}

void gradient_store(const float *sum, Tensor gradient, uint64_t first, uint64_t count)
{
    if (gradient.dtype != DTYPE_F32)
        host_from_f32(sum, element_in(gradient.data, gradient.dtype, first), gradient.dtype, count);
}
