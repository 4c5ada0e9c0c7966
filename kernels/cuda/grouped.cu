// Which kernel multiplies a shape, and with what arguments.
#include "kernels/cuda/grouped.h"

namespace
{

bool is_whole(const void *data, uint64_t elements, Dtype dtype)
{
    return elements * dtype_bytes(dtype) % 16 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

bool are_whole(const GroupedWeights &weights, Dtype dtype)
{
    return is_whole(weights.data, weights.stride, dtype) && is_whole(nullptr, weights.slot_stride, dtype);
}

bool are_aligned(const GroupedArguments &p, Dtype dtype)
{
    return is_whole(p.a[0].data, p.a[0].stride, dtype) && is_whole(p.a[1].data, p.a[1].stride, dtype) &&
           is_whole(p.b.data, p.b.stride, dtype) && are_whole(p.w[0], dtype) && are_whole(p.w[1], dtype) &&
           is_whole(p.c, p.n, dtype) && is_whole(nullptr, p.c_slot_stride, dtype) && is_whole(nullptr, p.m, dtype) &&
           is_whole(nullptr, p.k, dtype);
}

// Whether rows are no longer than 32-bit offsets in bytes reach.
bool are_short(const GroupedArguments &p, Dtype dtype)
{
    uint64_t longest = p.k;
    for (uint64_t stride : {p.a[0].stride, p.a[1].stride, p.b.stride, p.w[0].stride, p.w[1].stride})
        longest = stride > longest ? stride : longest;
    return longest <= UINT32_MAX / dtype_bytes(dtype);
}

const GroupedKernel &kernel_of(const CudaQueue *queue, Dtype dtype, const GroupedArguments &p)
{
    bool warp_groups = queue->warp_groups && p.aligned && are_short(p, dtype);
    switch (dtype) {
    case DTYPE_F16:
        return warp_groups ? grouped_warp_group_f16 : grouped_f16;
    case DTYPE_BF16:
        return warp_groups ? grouped_warp_group_bf16 : grouped_bf16;
    default:
        return grouped_f32;
    }
}

uint32_t tiles_of(uint64_t length, uint64_t tile)
{
    return static_cast<uint32_t>(blocks_for(length, tile));
}

uint32_t tile_bound(const SortedRows &sorted)
{
    uint64_t slots = sorted.held < sorted.pair_bound ? sorted.held : sorted.pair_bound; // that have rows
    return static_cast<uint32_t>(sorted.pair_bound / GROUPED_TILE + slots);
}

cudaError_t launch_form(const CudaQueue *queue, Dtype dtype, GroupedForm form, GroupedArguments p)
{
    bool is_gradient = form == GroupedForm::GRADIENT;
    p.aligned = are_aligned(p, dtype);
    const GroupedKernel &kernel = kernel_of(queue, dtype, p);
    p.row_tiles = is_gradient ? tiles_of(p.m, GROUPED_TILE) : tile_bound(p.sorted);
    p.col_tiles = tiles_of(p.n, form == GroupedForm::ROWS_GATED ? kernel.cols / 2 : kernel.cols);
    uint64_t shares = static_cast<uint64_t>(p.row_tiles) * p.col_tiles * (is_gradient ? p.sorted.held : 1);
    if (shares == 0)
        return cudaSuccess;
    return shares > INT32_MAX ? cudaErrorInvalidValue : kernel.launch[static_cast<int>(form)](queue->stream, p, shares);
}

} // namespace

cudaError_t grouped_multiply(const CudaQueue *queue, Dtype dtype, const SortedRows &sorted, uint64_t n, uint64_t k,
                             GroupedRows a, GroupedWeights w, GroupedWeights gate, bool activates,
                             Activation activation, void *c)
{
    GroupedArguments p = {};
    p.sorted = sorted;
    p.a[0] = a;
    p.w[0] = w;
    p.w[1] = gate;
    p.c = c;
    p.n = n;
    p.k = k;
    p.activates = activates;
    p.activation = activation;
    return launch_form(queue, dtype, gate.data ? GroupedForm::ROWS_GATED : GroupedForm::ROWS, p);
}

cudaError_t grouped_multiply_transposed(const CudaQueue *queue, Dtype dtype, const SortedRows &sorted, uint64_t n,
                                        uint64_t k, GroupedRows a, GroupedWeights w, GroupedRows b, GroupedWeights v,
                                        void *c)
{
    GroupedArguments p = {};
    p.sorted = sorted;
    p.a[0] = a;
    p.a[1] = b;
    p.w[0] = w;
    p.w[1] = v;
    p.c = c;
    p.n = n;
    p.k = k;
    return launch_form(queue, dtype, GroupedForm::ROWS_TRANSPOSED, p);
}

cudaError_t grouped_gradient(const CudaQueue *queue, Dtype dtype, const SortedRows &sorted, uint64_t m, uint64_t n,
                             GroupedRows a, GroupedRows b, void *gradient, uint64_t slot_stride)
{
    GroupedArguments p = {};
    p.sorted = sorted;
    p.a[0] = a;
    p.b = b;
    p.c = gradient;
    p.c_slot_stride = slot_stride;
    p.m = m;
    p.n = n;
    return launch_form(queue, dtype, GroupedForm::GRADIENT, p);
}
