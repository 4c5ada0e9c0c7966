// LayerNorm over rows, in f32.
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

void norm_rows(const void *x, Dtype dtype, uint64_t rows, uint64_t hidden, const float *parameters, float *out)
{
    const float *restrict gain = parameters, *restrict bias = parameters + hidden;
    host_to_f32(x, dtype, out, rows * hidden);
    for (uint64_t r = 0; r < rows; r++) {
        float *restrict row = out + r * hidden;
        float mean = vector_sum(row, hidden) / (float)hidden;
        float scale = 1.0f / sqrtf(sum_of_squares(row, hidden, mean) / (float)hidden + NORM_EPSILON);
        for (uint64_t i = 0; i < hidden; i++)
            row[i] = (row[i] - mean) * scale * gain[i] + bias[i];
    }
}
