// See reference_math.h.
#include "runtime/check/reference_math.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static bool is_stopped(const atomic_bool *stopped)
{
    return atomic_load_explicit(stopped, memory_order_relaxed);
}

static void add_products_4(uint64_t k, uint64_t n, const double *in, const float *weights, double *restrict out)
{
    for (uint64_t i = 0; i < k; i++) {
        double a = in[i], b = in[k + i], c = in[2 * k + i], d = in[3 * k + i];
        const float *restrict row = weights + i * n;
        for (uint64_t j = 0; j < n; j++) {
            double w = (double)row[j];
            out[j] += a * w;
            out[n + j] += b * w;
            out[2 * n + j] += c * w;
            out[3 * n + j] += d * w;
        }
    }
}

static void add_products_1(uint64_t k, uint64_t n, const double *in, const float *weights, double *restrict out)
{
    for (uint64_t i = 0; i < k; i++) {
        const float *restrict row = weights + i * n;
        for (uint64_t j = 0; j < n; j++)
            out[j] += in[i] * (double)row[j];
    }
}

// Four rows at a time, to read the weights less often.
void reference_multiply(const atomic_bool *stopped, ProductSize size, const double *in, const float *weights,
                        double *out)
{
    uint64_t r = 0, rows = size.rows, k = size.k, n = size.n;
    memset(out, 0, rows * n * sizeof(*out));
    for (; r + 4 <= rows && !is_stopped(stopped); r += 4)
        add_products_4(k, n, in + r * k, weights, out + r * n);
    for (; r < rows && !is_stopped(stopped); r++)
        add_products_1(k, n, in + r * k, weights, out + r * n);
}

void reference_normalise(uint64_t rows, uint64_t hidden, const double *x, const float *gain, const float *bias,
                         double *out)
{
    for (uint64_t r = 0; r < rows; r++) {
        const double *from = x + r * hidden;
        double mean = 0, variance = 0;
        for (uint64_t i = 0; i < hidden; i++)
            mean += from[i] / (double)hidden;
        for (uint64_t i = 0; i < hidden; i++)
            variance += (from[i] - mean) * (from[i] - mean) / (double)hidden;
        double scale = 1 / sqrt(variance + 1e-5);
        for (uint64_t i = 0; i < hidden; i++)
            out[r * hidden + i] = (from[i] - mean) * scale * (double)gain[i] + (double)bias[i];
    }
}

double reference_softmax(double *values, uint64_t count)
{
    double max = -INFINITY, sum = 0;
    for (uint64_t i = 0; i < count; i++)
        max = fmax(max, values[i]);
    for (uint64_t i = 0; i < count; i++)
        sum += exp(values[i] - max);
    for (uint64_t i = 0; i < count; i++)
        values[i] = exp(values[i] - max) / sum;
    return max + log(sum);
}

double reference_activation(Activation activation, double up, double gate)
{
    switch (activation) {
    case ACTIVATION_RELU:
        return fmax(up, 0);
    case ACTIVATION_GELU: // the tanh form
        return 0.5 * up * (1 + tanh(sqrt(2 / M_PI) * (up + 0.044715 * up * up * up)));
    case ACTIVATION_SWIGLU:
        return up * gate / (1 + exp(-gate));
    case ACTIVATION_COUNT:
        assert(false);
    }
    return NAN;
}
