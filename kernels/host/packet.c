// A block's part of a packet (docs/packets.md): from values to bits, and back. Sums are made in the order of a halving
// tree, as the CUDA twins make them: both write the same bits. Loops are such as compilers vectorise; each is compiled
// twice from one body, without and with wide instructions.
#include <math.h>

#include "kernels/host/internal.h"

#define BODY static inline __attribute__((always_inline))

enum { TREE = 128 }; // elements whose sum is made by halving

PacketBlock packet_block(Packing packing, Tensor vectors, uint64_t index, void *packet)
{
    uint64_t first = index * CODEC_BLOCK, count = smaller(CODEC_BLOCK, vectors.cols - first);
    uint64_t begin = index * packing_block_bytes(packing, CODEC_BLOCK, vectors.dtype);
    uint32_t bytes = packing_block_bytes(packing, count, vectors.dtype);
    bool last = first + count == vectors.cols;
    return (PacketBlock){
        .form = packing.form,
        .first = first,
        .count = (uint32_t)count,
        .kept = packing_kept(packing, count, vectors.dtype),
        .data = (uint8_t *)packet + begin,
        .bytes = bytes,
        .padding = last ? (uint32_t)(packing_bytes(packing, vectors.cols, vectors.dtype) - begin - bytes) : 0,
    };
}

// ---- scales ------------------------------------------------------------------------------------

// sums[i] += sums[i + half], for all i below `half`: a step of a halving tree. Unrolled where `half` is a constant.
BODY void halve(float *sums, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++)
        sums[i] += sums[i + half];
}

// Of the magnitudes of TREE elements: of the two halves element by element, until one is left.
BODY float tree_sum(const float *restrict x)
{
    float sums[TREE / 2];
    for (uint32_t i = 0; i < TREE / 2; i++)
        sums[i] = fabsf(x[i]) + fabsf(x[i + TREE / 2]);
    halve(sums, 32);
    halve(sums, 16);
    halve(sums, 8);
    halve(sums, 4);
    halve(sums, 2);
    return sums[0] + sums[1];
}

// Of the magnitudes of a block, whose last TREE elements may be fewer: those that are missing count as 0.
BODY float block_sum(const float *x, uint32_t count)
{
    float sums[CODEC_BLOCK / TREE] = {0}, rest[TREE] = {0};
    uint32_t whole = count / TREE;
    for (uint32_t t = 0; t < whole; t++)
        sums[t] = tree_sum(x + (uint64_t)t * TREE);
    if (count % TREE > 0) {
        memcpy(rest, x + (uint64_t)whole * TREE, count % TREE * sizeof(float));
        sums[whole] = tree_sum(rest);
    }
    for (uint32_t half = CODEC_BLOCK / TREE / 2; half > 0; half /= 2)
        halve(sums, half);
    return sums[0];
}

static void scale_store(float scale, uint8_t *to)
{
    host_from_f32(&scale, to, DTYPE_BF16, 1);
}

static float scale_load(const uint8_t *from)
{
    float scale;
    host_to_f32(from, DTYPE_BF16, &scale, 1);
    return scale;
}

// ---- signs -------------------------------------------------------------------------------------

// Of W words word w has in bit b the sign of element b W + w: neighbours in memory are neighbours in vectors.
enum { SIGN_WORDS = CODEC_BLOCK / 32 };

BODY uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

BODY float bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

BODY void sign_write(const PacketBlock *block, const float *restrict values)
{
    uint32_t words[SIGN_WORDS] = {0}, count = packing_sign_words(block->count);
    scale_store(block_sum(values, block->count) / (float)block->count, block->data);
    for (uint32_t b = 0, first = 0; first < block->count; b++, first += count) {
        uint32_t length = block->count - first < count ? block->count - first : count;
        const float *from = values + first;
        for (uint32_t w = 0; w < length; w++)
            words[w] |= (uint32_t)(from[w] < 0) << b;
    }
    memcpy(block->data + CODEC_SCALE_BYTES, words, count * sizeof(*words));
}

BODY void sign_add(const PacketBlock *block, float factor, float *restrict to)
{
    uint32_t words[SIGN_WORDS], count = packing_sign_words(block->count);
    uint32_t scale = float_bits(factor * scale_load(block->data));
    memcpy(words, block->data + CODEC_SCALE_BYTES, count * sizeof(*words));
    for (uint32_t b = 0, first = 0; first < block->count; b++, first += count) {
        uint32_t length = block->count - first < count ? block->count - first : count;
        float *at = to + first;
        for (uint32_t w = 0; w < length; w++)
            at[w] += bits_float(scale ^ (words[w] << (31 - b) & 0x80000000u));
    }
}

// ---- the largest -------------------------------------------------------------------------------

uint16_t *packet_indices(const PacketBlock *block)
{
    return (uint16_t *)(void *)block->data + block->kept;
}

static void largest_write(const PacketBlock *block, const float *values)
{
    float kept[CODEC_BLOCK];
    uint16_t *indices = packet_indices(block);
    select_largest(values, block->count, block->kept, indices);
    for (uint32_t i = 0; i < block->kept; i++)
        kept[i] = values[indices[i]];
    host_from_f32(kept, block->data, DTYPE_BF16, block->kept);
}

static void largest_add(const PacketBlock *block, float factor, float *to)
{
    float values[CODEC_BLOCK];
    const uint16_t *indices = packet_indices(block);
    host_to_f32(block->data, DTYPE_BF16, values, block->kept);
    for (uint32_t i = 0; i < block->kept; i++)
        to[indices[i]] += factor * values[i];
}

// ---- all forms ---------------------------------------------------------------------------------

BODY void write_body(const PacketBlock *block, const float *values)
{
    switch (block->form) {
    case PACKET_LARGEST:
        largest_write(block, values);
        break;
    case PACKET_SIGN:
        sign_write(block, values);
        break;
    }
}

BODY void add_body(const PacketBlock *block, float factor, float *to)
{
    switch (block->form) {
    case PACKET_LARGEST:
        largest_add(block, factor, to);
        break;
    case PACKET_SIGN:
        sign_add(block, factor, to);
        break;
    }
}

static void write_portable(const PacketBlock *block, const float *values)
{
    write_body(block, values);
}

static void add_portable(const PacketBlock *block, float factor, float *to)
{
    add_body(block, factor, to);
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2")))

WIDE static void write_wide(const PacketBlock *block, const float *values)
{
    write_body(block, values);
}

WIDE static void add_wide(const PacketBlock *block, float factor, float *to)
{
    add_body(block, factor, to);
}

static bool is_wide(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
#define write_wide write_portable
#define add_wide   add_portable

static bool is_wide(void)
{
    return false;
}
#endif

void packet_write(const PacketBlock *block, const float *values)
{
    (is_wide() ? write_wide : write_portable)(block, values);
    memset(block->data + block->bytes, 0, block->padding);
}

void packet_add(const PacketBlock *block, float factor, float *to)
{
    (is_wide() ? add_wide : add_portable)(block, factor, to);
}
