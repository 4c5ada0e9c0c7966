// LayerNorm over rows and its gradient, in f32.
#include <math.h>

#include "kernels/host/internal.h"

static float sum_of_squares(const float *x, uint64_t count, float mean)
{
    float lanes[LANES] = {0}, result = 0;
    uint64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (uint64_t lane = 0; lane < LANES; lane++)
            lanes[lane] += (x[i + lane] - mean) * (x[i + lane] - mean);
    for (; i < count; i++)
        result += (x[i] - mean) * (x[i] - mean);
    for (uint64_t lane = 0; lane < LANES; lane++)
        result += lanes[lane];
    return result;
}

// The mean of a row; *scale becomes one over its deviation.
static float moments(const float *row, uint64_t hidden, float *scale)
{
    float mean = vector_sum(row, hidden) / (float)hidden;
    *scale = 1.0f / sqrtf(sum_of_squares(row, hidden, mean) / (float)hidden + NORM_EPSILON);
    return mean;
}

void norm_rows(const void *x, Dtype dtype, uint64_t rows, uint64_t hidden, const float *parameters, float *out)
{
    const float *restrict gain = parameters, *restrict bias = parameters + hidden;
    host_to_f32(x, dtype, out, rows * hidden);
    for (uint64_t r = 0; r < rows; r++) {
        float *restrict row = out + r * hidden;
        float scale, mean = moments(row, hidden, &scale);
        for (uint64_t i = 0; i < hidden; i++)
            row[i] = (row[i] - mean) * scale * gain[i] + bias[i];
    }
}

// With n = (x - mean) scale and g = d gain: dx = scale (g - mean(g) - n mean(g n)).
void norm_backward(const void *x, Dtype dtype, uint64_t rows, uint64_t hidden, const float *parameters, float *d,
                   float *dparameters, float *row)
{
    const float *restrict gain = parameters;
    float *restrict dgain = dparameters, *restrict dbias = dparameters + hidden, *restrict normed = row;
    for (uint64_t r = 0; r < rows; r++) {
        float *restrict dr = d + r * hidden;
        host_to_f32(element_at(x, dtype, r * hidden), dtype, normed, hidden);
        float scale, mean = moments(normed, hidden, &scale);
        for (uint64_t i = 0; i < hidden; i++) {
            normed[i] = (normed[i] - mean) * scale;
            dgain[i] += dr[i] * normed[i];
            dbias[i] += dr[i];
            dr[i] *= gain[i];
        }
        float shift = vector_sum(dr, hidden) / (float)hidden, tilt = vector_dot(dr, normed, hidden) / (float)hidden;
        for (uint64_t i = 0; i < hidden; i++)
            dr[i] = scale * (dr[i] - shift - normed[i] * tilt);
    }
}
