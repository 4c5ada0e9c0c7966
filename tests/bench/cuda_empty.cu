// A kernel that does nothing, and how long it takes to enqueue it: what bench_cuda_enqueue holds steps against.
#include "kernels/cuda/device.h"

namespace
{

__global__ void empty_kernel(uint64_t)
{
}

} // namespace

extern "C" cudaError_t cuda_empty_launch(cudaStream_t stream)
{
    return launch(stream, 1, WARP, 0, empty_kernel, uint64_t{0});
}
