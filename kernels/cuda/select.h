// The largest elements of a codec block (ir/codec.h) by magnitude, as kernels/host/select.c chooses them: the block's
// threads hold eight neighbours each, a radix search finds the k-th largest key with histograms in shared memory, a
// scan gives every kept element its place, ascending by index. One pass over the data, which stays in registers.
// packet.h uses it.
#ifndef HEP_CUDA_SELECT_H
#define HEP_CUDA_SELECT_H

#include "ir/codec.h"
#include "kernels/cuda/device.h"

namespace
{

constexpr int SELECT_EACH = 8, SELECT_THREADS = CODEC_BLOCK / SELECT_EACH, SELECT_BINS = 256;

template <typename T> using Eight = Run<T, SELECT_EACH>;

struct SelectShared {
    uint32_t histogram[SELECT_BINS];
    uint32_t digit, left;
    uint32_t warp_sums[SELECT_THREADS / WARP];
};

// What of a block is kept: all keys above `least`, and the first `ties` that equal it.
struct Bound {
    uint32_t least, ties;
};

// Bits of a float without the sign: they order magnitudes, NaN above all.
__device__ __forceinline__ uint32_t key_of(float value)
{
    return __float_as_uint(value) & 0x7FFFFFFFu;
}

// One count a lane, but equal digits of a warp in one addition: exponents are alike.
__device__ __forceinline__ void count_together(SelectShared *shared, bool counts, uint32_t digit)
{
    uint32_t peers = __match_any_sync(WHOLE_WARP, counts ? digit : SELECT_BINS);
    bool leads = (peers & ((1u << threadIdx.x % WARP) - 1)) == 0;
    if (counts && leads)
        atomicAdd(&shared->histogram[digit], static_cast<uint32_t>(__popc(peers)));
}

// By the first warp: the digit that holds the k-th largest, and how many of it are still to be found.
__device__ __forceinline__ void find_digit(SelectShared *shared, uint32_t k)
{
    constexpr uint32_t EACH = SELECT_BINS / WARP;
    uint32_t highest = SELECT_BINS - 1 - threadIdx.x * EACH, own = 0;
    for (uint32_t b = 0; b < EACH; b++)
        own += shared->histogram[highest - b];
    uint32_t sum = own;
#pragma unroll
    for (uint32_t distance = 1; distance < WARP; distance *= 2) {
        uint32_t before = __shfl_up_sync(WHOLE_WARP, sum, distance);
        sum += threadIdx.x >= distance ? before : 0;
    }
    uint32_t above = sum - own;
    if (above >= k || sum < k)
        return;
    uint32_t digit = highest;
    while (above + shared->histogram[digit] < k)
        above += shared->histogram[digit--];
    shared->digit = digit;
    shared->left = k - above;
}

// By the whole block: of its `count` elements, of which this thread holds those from `first` on, the k largest.
__device__ __forceinline__ Bound find_bound(SelectShared *shared, const float (&values)[SELECT_EACH], uint32_t first,
                                            uint32_t count, uint32_t k)
{
    uint32_t prefix = 0, mask = 0;
    for (int pass = 0; pass < 4; pass++) {
        int shift = pass < 3 ? 23 - 8 * pass : 0;
        if (threadIdx.x < SELECT_BINS)
            shared->histogram[threadIdx.x] = 0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SELECT_EACH; i++) {
            uint32_t key = key_of(values[i]), digit = key >> shift & (SELECT_BINS - 1);
            bool counts = first + i < count && (key & mask) == prefix;
            if (pass == 0)
                count_together(shared, counts, digit);
            else if (counts)
                atomicAdd(&shared->histogram[digit], 1u);
        }
        __syncthreads();
        if (threadIdx.x < WARP)
            find_digit(shared, k);
        __syncthreads();
        prefix |= shared->digit << shift;
        mask |= (SELECT_BINS - 1u) << shift;
        k = shared->left;
    }
    return {prefix, k};
}

// By the whole block: the sum of what the threads before this one gave.
__device__ __forceinline__ uint32_t block_scan(SelectShared *shared, uint32_t own)
{
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, sum = own;
#pragma unroll
    for (uint32_t distance = 1; distance < WARP; distance *= 2) {
        uint32_t before = __shfl_up_sync(WHOLE_WARP, sum, distance);
        sum += lane >= distance ? before : 0;
    }
    if (lane == WARP - 1)
        shared->warp_sums[warp] = sum;
    __syncthreads();
    for (uint32_t w = 0; w < warp; w++)
        sum += shared->warp_sums[w];
    return sum - own;
}

// What of a codec block is kept, and where: values (bf16) and their indices in the block; or, where a scale is given,
// `indices` with a multiple of that above 12 bits.
struct Selection {
    uint32_t count, kept;
    uint16_t *values, *indices;
    float scale, inverse;
};

// The nearest multiple of a scale, even ones of two, from -7 to 7, plus 8; what is no number becomes one.
__device__ __forceinline__ uint32_t step_of(float value, float inverse)
{
    float steps = value * inverse;
    steps = steps > -7 ? steps : -7;
    steps = steps < 7 ? steps : 7;
    return static_cast<uint32_t>(__float2int_rn(steps) + 8);
}

// Returns what receivers will read of it.
__device__ __forceinline__ float write_element(const Selection &block, uint32_t place, uint32_t index, float value)
{
    if (!block.values) {
        uint32_t step = step_of(value, block.inverse);
        block.indices[place] = static_cast<uint16_t>(index | step << 12);
        return block.scale * static_cast<float>(static_cast<int>(step) - 8);
    }
    __nv_bfloat16 stored = __float2bfloat16_rn(value);
    reinterpret_cast<__nv_bfloat16 *>(block.values)[place] = stored;
    block.indices[place] = static_cast<uint16_t>(index);
    return __bfloat162float(stored);
}

// By the whole block: writes the `kept` largest of `values`. Returns which of this thread's elements these are, bit i
// for element i; what receivers will read of those replaces them.
__device__ __forceinline__ uint32_t write_largest(SelectShared *shared, const Selection &block,
                                                  float (&values)[SELECT_EACH])
{
    uint32_t first = threadIdx.x * SELECT_EACH, above = 0, equal = 0, kept = 0;
    Bound bound = find_bound(shared, values, first, block.count, block.kept);
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++) {
        bool inside = first + i < block.count;
        above += inside && key_of(values[i]) > bound.least;
        equal += inside && key_of(values[i]) == bound.least;
    }
    uint32_t before = block_scan(shared, above << 16 | equal); // neither reaches 2^16
    uint32_t above_before = before >> 16, equal_before = before & 0xFFFF;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++) {
        uint32_t key = key_of(values[i]);
        bool inside = first + i < block.count, is_above = inside && key > bound.least;
        bool is_equal = inside && key == bound.least;
        if (is_above || (is_equal && equal_before < bound.ties)) {
            uint32_t place = above_before + (equal_before < bound.ties ? equal_before : bound.ties);
            values[i] = write_element(block, place, first + i, values[i]);
            kept |= 1u << i;
        }
        above_before += is_above;
        equal_before += is_equal;
    }
    return kept;
}

} // namespace

#endif
