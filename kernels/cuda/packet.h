// A codec block's part of a packet, from values to bits and back, as kernels/host/packet.c has it: the block's threads
// hold eight neighbours each. Sums are made in the same order there, so that both write the same bits.
#ifndef HEP_CUDA_PACKET_H
#define HEP_CUDA_PACKET_H

#include "kernels/cuda/select.h"

namespace
{

constexpr uint32_t TREE = 128, TREE_THREADS = TREE / SELECT_EACH, TREES = CODEC_BLOCK / TREE;

struct PacketShared {
    SelectShared select;
    float sums[TREES];
    uint64_t flags[SELECT_THREADS]; // a byte per element
};

// A codec block's part of a packet.
struct PacketBlock {
    uint32_t count, kept, bytes, padding;
    uint8_t *data;

    __device__ __forceinline__ Selection largest() const
    {
        uint16_t *values = reinterpret_cast<uint16_t *>(data);
        return {count, kept, values, values + kept};
    }
};

// `kept`, `bytes`: of all blocks but the last; `_last` of that.
struct PacketShape {
    PacketForm form;
    uint64_t cols;
    uint32_t kept, kept_last, bytes, bytes_last, padding;

    __device__ __forceinline__ PacketBlock at(uint8_t *packet, uint64_t block) const
    {
        uint64_t first = block * CODEC_BLOCK;
        bool whole = first + CODEC_BLOCK <= cols, last = first + CODEC_BLOCK >= cols;
        return {static_cast<uint32_t>(whole ? uint64_t{CODEC_BLOCK} : cols - first), whole ? kept : kept_last,
                whole ? bytes : bytes_last, last ? padding : 0, packet + block * bytes};
    }
};

inline PacketShape packet_shape(uint64_t cols, Dtype dtype, Packing packing)
{
    uint64_t rest = cols % CODEC_BLOCK;
    uint32_t bytes = packing_block_bytes(packing, CODEC_BLOCK, dtype);
    uint32_t bytes_last = packing_block_bytes(packing, rest, dtype);
    uint64_t used = cols / CODEC_BLOCK * bytes + bytes_last;
    return {packing.form,
            cols,
            packing_kept(packing, CODEC_BLOCK, dtype),
            packing_kept(packing, rest, dtype),
            bytes,
            bytes_last,
            static_cast<uint32_t>(packing_bytes(packing, cols, dtype) - used)};
}

__device__ __forceinline__ __nv_bfloat16 *scale_of(uint8_t *at)
{
    return reinterpret_cast<__nv_bfloat16 *>(at);
}

// Of the magnitudes of the TREE elements that 16 neighbouring threads hold, to all of them: the two halves are added
// element by element, until one is left. Elements that are missing are 0.
__device__ __forceinline__ float tree_sum(const float (&values)[SELECT_EACH])
{
    float sums[SELECT_EACH];
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        sums[i] = fabsf(values[i]);
#pragma unroll
    for (uint32_t half = TREE_THREADS / 2; half > 0; half /= 2)
#pragma unroll
        for (int i = 0; i < SELECT_EACH; i++)
            sums[i] += __shfl_xor_sync(WHOLE_WARP, sums[i], half);
#pragma unroll
    for (int half = SELECT_EACH / 2; half > 0; half /= 2)
#pragma unroll
        for (int i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

// By the whole block: of all its magnitudes.
__device__ __forceinline__ float block_sum(PacketShared *shared, const float (&values)[SELECT_EACH])
{
    float own = tree_sum(values);
    if (threadIdx.x % TREE_THREADS == 0)
        shared->sums[threadIdx.x / TREE_THREADS] = own;
    __syncthreads();
    float sum = shared->sums[threadIdx.x % TREES];
#pragma unroll
    for (uint32_t half = TREES / 2; half > 0; half /= 2)
        sum += __shfl_xor_sync(WHOLE_WARP, sum, half);
    return sum;
}

// Values of elements that are missing must be 0.
__device__ __forceinline__ void write_signs(PacketShared *shared, const PacketBlock &block,
                                            float (&values)[SELECT_EACH])
{
    uint64_t flags = 0;
    __nv_bfloat16 stored = __float2bfloat16_rn(block_sum(shared, values) / static_cast<float>(block.count));
    float scale = __bfloat162float(stored);
    if (threadIdx.x == 0)
        *scale_of(block.data) = stored;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++) {
        bool negative = values[i] < 0;
        flags |= static_cast<uint64_t>(negative) << 8 * i;
        values[i] = negative ? -scale : scale;
    }
    shared->flags[threadIdx.x] = flags;
    __syncthreads();
    const uint8_t *negative = reinterpret_cast<const uint8_t *>(shared->flags);
    uint32_t words = (block.count + 31) / 32, word = threadIdx.x / 4, bit = threadIdx.x % 4 * 8, byte = 0;
    if (word >= words)
        return;
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        uint32_t element = (bit + k) * words + word;
        byte |= element < block.count ? static_cast<uint32_t>(negative[element]) << k : 0;
    }
    block.data[CODEC_SCALE_BYTES + threadIdx.x] = static_cast<uint8_t>(byte);
}

// By the whole block: writes the part of `values`. Returns which of this thread's elements it holds, bit i for element
// i; what receivers will read of those replaces them.
__device__ __forceinline__ uint32_t write_packet(PacketShared *shared, PacketForm form, const PacketBlock &block,
                                                 float (&values)[SELECT_EACH])
{
    uint32_t first = threadIdx.x * SELECT_EACH;
    if (threadIdx.x < block.padding)
        block.data[block.bytes + threadIdx.x] = 0;
    if (form == PACKET_LARGEST)
        return write_largest(&shared->select, block.largest(), values);
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        values[i] = first + i < block.count ? values[i] : 0;
    write_signs(shared, block, values);
    uint32_t own = first < block.count ? block.count - first : 0;
    return own >= SELECT_EACH ? (1u << SELECT_EACH) - 1 : (1u << own) - 1;
}

// What the part says of this thread's elements, where it holds all.
__device__ __forceinline__ void read_packet(PacketForm form, const PacketBlock &block, float (&values)[SELECT_EACH])
{
    (void)form;
    uint32_t first = threadIdx.x * SELECT_EACH;
    float scale = __bfloat162float(*scale_of(block.data));
    uint32_t words = (block.count + 31) / 32;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++) {
        uint32_t element = first + i < block.count ? first + i : 0, bit = element / words;
        uint8_t byte = block.data[CODEC_SCALE_BYTES + 4 * (element % words) + bit / 8];
        values[i] = byte >> bit % 8 & 1 ? -scale : scale;
    }
}

// By the whole block: adds what the part says to the elements of the block, each sum rounded to its dtype.
template <typename T> __device__ __forceinline__ void add_packet(PacketForm form, const PacketBlock &block, T *to)
{
    if (form == PACKET_LARGEST) {
        Selection largest = block.largest();
        for (uint32_t i = threadIdx.x; i < largest.kept; i += blockDim.x) {
            T *element = &to[largest.indices[i]];
            float value = __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(largest.values)[i]);
            *element = from_f32<T>(to_f32(*element) + value);
        }
        return;
    }
    float values[SELECT_EACH];
    uint32_t first = threadIdx.x * SELECT_EACH;
    read_packet(form, block, values);
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        if (first + i < block.count)
            to[first + i] = from_f32<T>(to_f32(to[first + i]) + values[i]);
}

} // namespace

#endif
