// A codec block's part of a packet, from values to bits and back, as kernels/host/packet.c has it: the block's threads
// hold eight neighbours each. Sums are made in the same order there, so that both write the same bits.
#ifndef HEP_CUDA_PACKET_H
#define HEP_CUDA_PACKET_H

#include "kernels/cuda/select.h"

namespace
{

constexpr uint32_t TREE = CODEC_GROUP, TREE_THREADS = TREE / SELECT_EACH, TREES = CODEC_BLOCK / TREE;

struct PacketShared {
    SelectShared select;
    float sums[TREES];
    uint32_t largest[SELECT_THREADS / WARP];
    uint64_t codes[SELECT_THREADS]; // a byte per element
};

// A codec block's part of a packet.
struct PacketBlock {
    uint32_t count, kept, bytes, padding;
    uint8_t *data;

    __device__ __forceinline__ Selection largest() const
    {
        uint16_t *values = reinterpret_cast<uint16_t *>(data);
        return {count, kept, values, values + kept, 0, 0};
    }

    __device__ __forceinline__ Selection short_ones(float scale, float inverse) const
    {
        return {count, kept, nullptr, reinterpret_cast<uint16_t *>(data + CODEC_SCALE_BYTES), scale, inverse};
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
    shared->codes[threadIdx.x] = flags;
    __syncthreads();
    const uint8_t *negative = reinterpret_cast<const uint8_t *>(shared->codes);
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

// The largest magnitude of what `threads` neighbouring threads hold, as the bits of floats compare: NaN above all.
__device__ __forceinline__ uint32_t largest_key(const float (&values)[SELECT_EACH], uint32_t threads)
{
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        largest = max(largest, key_of(values[i]));
    for (uint32_t distance = threads / 2; distance > 0; distance /= 2)
        largest = max(largest, __shfl_xor_sync(WHOLE_WARP, largest, distance));
    return largest;
}

// A scale as it is stored, and one over it.
struct Steps {
    __nv_bfloat16 stored;
    float scale, inverse;
};

__device__ __forceinline__ Steps steps_for(uint32_t largest_key)
{
    __nv_bfloat16 stored = __float2bfloat16_rn(__uint_as_float(largest_key) / 7);
    float scale = __bfloat162float(stored);
    return {stored, scale, scale > 0 ? 1 / scale : 0};
}

__device__ __forceinline__ uint32_t write_short(PacketShared *shared, const PacketBlock &block,
                                                float (&values)[SELECT_EACH])
{
    uint32_t largest = largest_key(values, WARP);
    if (threadIdx.x % WARP == 0)
        shared->largest[threadIdx.x / WARP] = largest;
    __syncthreads();
    for (uint32_t w = 0; w < SELECT_THREADS / WARP; w++)
        largest = max(largest, shared->largest[w]);
    Steps steps = steps_for(largest);
    if (threadIdx.x == 0)
        *scale_of(block.data) = steps.stored;
    return write_largest(&shared->select, block.short_ones(steps.scale, steps.inverse), values);
}

// A group of a block, its threads' codes in shared memory, a byte each.
struct Group {
    uint32_t count, lane; // elements; which of the group's threads this is
    const uint8_t *codes;
    uint8_t *data;

    __device__ __forceinline__ uint32_t code(uint32_t element) const
    {
        return element < count ? codes[element] : 0;
    }
};

__device__ __forceinline__ Group own_group(PacketShared *shared, const PacketBlock &block, uint32_t each)
{
    uint32_t group = threadIdx.x / TREE_THREADS, first = group * TREE;
    uint32_t bytes = CODEC_SCALE_BYTES + (TREE + each - 1) / each;
    uint32_t count = first < block.count ? min(block.count - first, TREE) : 0;
    return {count, threadIdx.x % TREE_THREADS, reinterpret_cast<const uint8_t *>(shared->codes) + first,
            block.data + group * bytes};
}

__device__ __forceinline__ void write_q4(PacketShared *shared, const PacketBlock &block, float (&values)[SELECT_EACH])
{
    Group group = own_group(shared, block, 2);
    Steps steps = steps_for(largest_key(values, TREE_THREADS));
    uint64_t codes = 0;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++) {
        uint32_t step = step_of(values[i], steps.inverse);
        codes |= static_cast<uint64_t>(step) << 8 * i;
        values[i] = steps.scale * static_cast<float>(static_cast<int>(step) - 8);
    }
    shared->codes[threadIdx.x] = codes;
    __syncthreads();
    uint32_t half = (group.count + 1) / 2;
    if (group.lane == 0 && group.count > 0)
        *scale_of(group.data) = steps.stored;
    for (uint32_t j = group.lane; j < half; j += TREE_THREADS)
        group.data[CODEC_SCALE_BYTES + j] = static_cast<uint8_t>(group.code(j) | group.code(half + j) << 4);
}

__device__ __forceinline__ void write_ternary(PacketShared *shared, const PacketBlock &block,
                                              float (&values)[SELECT_EACH])
{
    Group group = own_group(shared, block, 5);
    float mean = tree_sum(values) / static_cast<float>(group.count), bound = 0.7f * mean, large[SELECT_EACH];
    uint32_t above = 0;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++) {
        bool counts = fabsf(values[i]) > bound;
        large[i] = counts ? values[i] : 0;
        above += counts;
    }
#pragma unroll
    for (uint32_t distance = TREE_THREADS / 2; distance > 0; distance /= 2)
        above += __shfl_xor_sync(WHOLE_WARP, above, distance);
    float sum = tree_sum(large);
    __nv_bfloat16 stored = __float2bfloat16_rn(above > 0 ? sum / static_cast<float>(above) : 0 * mean);
    float scale = __bfloat162float(stored);
    uint64_t codes = 0;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++) {
        int digit = 1 + (values[i] > bound) - (values[i] < -bound);
        codes |= static_cast<uint64_t>(digit) << 8 * i;
        values[i] = scale * static_cast<float>(digit - 1);
    }
    shared->codes[threadIdx.x] = codes;
    __syncthreads();
    uint32_t bytes = (group.count + 4) / 5;
    if (group.lane == 0 && group.count > 0)
        *scale_of(group.data) = stored;
    for (uint32_t j = group.lane; j < bytes; j += TREE_THREADS) {
        uint32_t byte = 0, power = 1;
        for (uint32_t k = 0; k < 5; k++, power *= 3)
            byte += power * group.code(k * bytes + j);
        group.data[CODEC_SCALE_BYTES + j] = static_cast<uint8_t>(byte);
    }
}

template <typename T>
__device__ __forceinline__ void write_whole(const PacketBlock &block, float (&values)[SELECT_EACH])
{
    uint32_t first = threadIdx.x * SELECT_EACH;
    T *data = reinterpret_cast<T *>(block.data);
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++) {
        T stored = from_f32<T>(values[i]);
        if (first + i < block.count)
            data[first + i] = stored;
        values[i] = to_f32(stored);
    }
}

// By the whole block: writes the part of `values`. Returns which of this thread's elements it holds, bit i for element
// i; what receivers will read of those replaces them.
template <typename T>
__device__ __forceinline__ uint32_t write_packet(PacketShared *shared, PacketForm form, const PacketBlock &block,
                                                 float (&values)[SELECT_EACH])
{
    uint32_t first = threadIdx.x * SELECT_EACH;
    if (threadIdx.x < block.padding)
        block.data[block.bytes + threadIdx.x] = 0;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        values[i] = first + i < block.count ? values[i] : 0;
    if (form == PACKET_LARGEST)
        return write_largest(&shared->select, block.largest(), values);
    if (form == PACKET_SHORT)
        return write_short(shared, block, values);
    if (form == PACKET_SIGN)
        write_signs(shared, block, values);
    else if (form == PACKET_Q4)
        write_q4(shared, block, values);
    else if (form == PACKET_WHOLE)
        write_whole<T>(block, values);
    else
        write_ternary(shared, block, values);
    uint32_t own = first < block.count ? block.count - first : 0;
    return own >= SELECT_EACH ? (1u << SELECT_EACH) - 1 : (1u << own) - 1;
}

// What the part says of an element, where it holds all.
template <typename T>
__device__ __forceinline__ float read_element(PacketForm form, const PacketBlock &block, uint32_t element)
{
    if (form == PACKET_WHOLE)
        return to_f32(reinterpret_cast<const T *>(block.data)[element]);
    if (form == PACKET_SIGN) {
        uint32_t words = (block.count + 31) / 32, bit = element / words;
        uint8_t byte = block.data[CODEC_SCALE_BYTES + 4 * (element % words) + bit / 8];
        float scale = __bfloat162float(*scale_of(block.data));
        return byte >> bit % 8 & 1 ? -scale : scale;
    }
    uint32_t each = form == PACKET_Q4 ? 2 : 5, group = element / TREE, at = element % TREE;
    uint32_t count = min(block.count - group * TREE, TREE), bytes = (count + each - 1) / each;
    uint8_t *data = block.data + group * (CODEC_SCALE_BYTES + (TREE + each - 1) / each);
    float scale = __bfloat162float(*scale_of(data));
    uint32_t code = data[CODEC_SCALE_BYTES + at % bytes];
    if (form == PACKET_Q4)
        return scale * static_cast<float>(static_cast<int>(at < bytes ? code & 15 : code >> 4) - 8);
    for (uint32_t k = 0; k < at / bytes; k++)
        code /= 3;
    return scale * static_cast<float>(static_cast<int>(code % 3) - 1);
}

// By the whole block: adds what the part, of a vector of `Stored`, says to the elements of the block, each sum rounded
// to its dtype.
template <typename Stored, typename T>
__device__ __forceinline__ void add_packet(PacketForm form, const PacketBlock &block, T *to)
{
    if (form == PACKET_LARGEST || form == PACKET_SHORT) {
        Selection largest = form == PACKET_LARGEST ? block.largest() : block.short_ones(0, 0);
        float scale = form == PACKET_LARGEST ? 0 : __bfloat162float(*scale_of(block.data));
        for (uint32_t i = threadIdx.x; i < block.kept; i += blockDim.x) {
            uint32_t index = largest.indices[i];
            float value = form == PACKET_LARGEST
                              ? __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(largest.values)[i])
                              : scale * static_cast<float>(static_cast<int>(index >> 12) - 8);
            T *element = &to[index & (CODEC_BLOCK - 1)];
            *element = from_f32<T>(to_f32(*element) + value);
        }
        return;
    }
    uint32_t first = threadIdx.x * SELECT_EACH;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        if (first + i < block.count)
            to[first + i] = from_f32<T>(to_f32(to[first + i]) + read_element<Stored>(form, block, first + i));
}

} // namespace

#endif
