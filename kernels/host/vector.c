// Reductions in lanes and the scratch allocator. The order of additions depends on the length alone,
// so results repeat from run to run.
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

Scratch scratch_begin(Tensor work)
{
    assert(work.dtype == DTYPE_F32);
    return (Scratch){.next = work.data, .left = work.rows * work.cols};
}

float *scratch_take(Scratch *scratch, uint64_t rows, uint64_t cols)
{
    uint64_t count = (rows * cols + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
    assert(count <= scratch->left); // else lowering reserved less than ir/workspace.c says
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
