// A block's part of a packet (docs/packets.md): from values to bits, and back. Sums are made in the order of a halving
// tree, as the CUDA twins make them: both write the same bits. Loops are such as compilers vectorise; each is compiled
// twice from one body, without and with wide instructions.
#include <math.h>

#include "kernels/host/internal.h"

#define BODY static inline __attribute__((always_inline))

enum { TREE = CODEC_GROUP }; // elements whose sum is made by halving

PacketBlock packet_block(Packing packing, Tensor vectors, uint64_t index, void *packet)
{
    uint64_t first = index * CODEC_BLOCK, count = smaller(CODEC_BLOCK, vectors.cols - first);
    uint64_t begin = index * packing_block_bytes(packing, CODEC_BLOCK, vectors.dtype);
    uint32_t bytes = packing_block_bytes(packing, count, vectors.dtype);
    bool last = first + count == vectors.cols;
    return (PacketBlock){
        .form = packing.form,
        .dtype = vectors.dtype,
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

// ---- multiples of a scale ----------------------------------------------------------------------

enum { STEPS = 7 }; // a scale is the largest magnitude over so many

// The largest magnitude, as the bits of floats compare: NaN above all.
BODY float largest_magnitude(const float *restrict x, uint32_t count)
{
    int32_t largest = 0;
    for (uint32_t i = 0; i < count; i++) {
        int32_t bits = (int32_t)(float_bits(x[i]) & INT32_MAX);
        largest = bits > largest ? bits : largest;
    }
    return bits_float((uint32_t)largest);
}

// Stores the scale of a largest magnitude, and returns one over what was stored.
BODY float steps_store(float largest, uint8_t *to)
{
    scale_store(largest / STEPS, to);
    float scale = scale_load(to);
    return scale > 0 ? 1 / scale : 0;
}

// The nearest multiple, even ones of two, from -STEPS to STEPS, plus 8. What is no number becomes one: its scale is
// none.
BODY uint8_t step_of(float value, float inverse)
{
    const float whole = 0x1.8p23f; // its sum with a small number ends with that number's integer bits
    float steps = value * inverse;
    steps = steps > -STEPS ? steps : -STEPS;
    steps = steps < STEPS ? steps : STEPS;
    return (uint8_t)((float_bits(steps + whole) + 8) & 15);
}

// Byte j of a group's H has element j in its lower bits, element H + j above.
BODY void q4_write_group(const float *restrict values, uint32_t count, uint8_t *restrict to)
{
    uint8_t steps[CODEC_GROUP];
    uint32_t half = (count + 1) / 2;
    float inverse = steps_store(largest_magnitude(values, count), to);
    for (uint32_t i = 0; i < count; i++)
        steps[i] = step_of(values[i], inverse);
    if (count % 2 > 0)
        steps[count] = 0;
    to += CODEC_SCALE_BYTES;
    for (uint32_t j = 0; j < half; j++)
        to[j] = (uint8_t)(steps[j] | steps[half + j] << 4);
}

BODY void q4_add_group(const uint8_t *restrict from, float factor, uint32_t count, float *restrict to)
{
    uint32_t half = (count + 1) / 2, above = count - half;
    float scale = factor * scale_load(from), *restrict upper = to + half;
    from += CODEC_SCALE_BYTES;
    for (uint32_t j = 0; j < half; j++)
        to[j] += scale * (float)((int32_t)(from[j] & 15) - 8);
    for (uint32_t j = 0; j < above; j++)
        upper[j] += scale * (float)((int32_t)(from[j] >> 4) - 8);
}

// ---- minus one, zero or one --------------------------------------------------------------------

// A magnitude above the bound counts; the scale is the mean of those. Byte j of B has in base 3, lowest first, those of
// the elements j, B + j, 2 B + j, ..., each plus 1.
BODY void ternary_write_group(const float *restrict values, uint32_t count, uint8_t *restrict to)
{
    const float share = 0.7f; // of the mean
    float padded[CODEC_GROUP] = {0}, large[CODEC_GROUP];
    uint8_t digits[CODEC_GROUP + 4] = {0};
    memcpy(padded, values, count * sizeof(*values));
    float mean = tree_sum(padded) / (float)count, bound = share * mean;
    uint32_t above = 0, bytes = (count + 4) / 5;
    for (uint32_t i = 0; i < CODEC_GROUP; i++) {
        bool counts = fabsf(padded[i]) > bound;
        large[i] = counts ? padded[i] : 0;
        above += counts;
    }
    for (uint32_t i = 0; i < count; i++)
        digits[i] = (uint8_t)(1 + (values[i] > bound) - (values[i] < -bound));
    scale_store(above > 0 ? tree_sum(large) / (float)above : 0 * mean, to); // 0, or no number where there was one
    to += CODEC_SCALE_BYTES;
    for (uint32_t j = 0; j < bytes; j++)
        to[j] = (uint8_t)(digits[j] + 3 * digits[bytes + j] + 9 * digits[2 * bytes + j] + 27 * digits[3 * bytes + j] +
                          81 * digits[4 * bytes + j]);
}

BODY void ternary_add_group(const uint8_t *restrict from, float factor, uint32_t count, float *restrict to)
{
    uint8_t digits[CODEC_GROUP + 4];
    uint16_t rest[CODEC_GROUP];
    uint32_t bytes = (count + 4) / 5;
    float scale = factor * scale_load(from);
    for (uint32_t j = 0; j < bytes; j++)
        rest[j] = from[CODEC_SCALE_BYTES + j];
    for (uint32_t k = 0; k < 5; k++) {
        uint8_t *of = digits + (uint64_t)k * bytes;
        for (uint32_t j = 0; j < bytes; j++) {
            uint16_t third = (uint16_t)(rest[j] * 171u) >> 9; // rest / 3, of bytes
            of[j] = (uint8_t)(rest[j] - 3 * third);
            rest[j] = third;
        }
    }
    for (uint32_t i = 0; i < count; i++)
        to[i] += scale * (float)((int32_t)digits[i] - 1);
}

// ---- groups ------------------------------------------------------------------------------------

BODY void groups_write(const PacketBlock *block, const float *restrict values)
{
    uint8_t *to = block->data;
    bool q4 = block->form == PACKET_Q4;
    uint32_t bytes = packing_block_bytes((Packing){block->form, 1}, CODEC_GROUP, DTYPE_F32), first = 0;
    for (; first + CODEC_GROUP <= block->count; first += CODEC_GROUP, to += bytes)
        if (q4)
            q4_write_group(values + first, CODEC_GROUP, to);
        else
            ternary_write_group(values + first, CODEC_GROUP, to);
    if (first < block->count && q4)
        q4_write_group(values + first, block->count - first, to);
    else if (first < block->count)
        ternary_write_group(values + first, block->count - first, to);
}

BODY void groups_add(const PacketBlock *block, float factor, float *restrict to)
{
    const uint8_t *from = block->data;
    bool q4 = block->form == PACKET_Q4;
    uint32_t bytes = packing_block_bytes((Packing){block->form, 1}, CODEC_GROUP, DTYPE_F32), first = 0;
    for (; first + CODEC_GROUP <= block->count; first += CODEC_GROUP, from += bytes)
        if (q4)
            q4_add_group(from, factor, CODEC_GROUP, to + first);
        else
            ternary_add_group(from, factor, CODEC_GROUP, to + first);
    if (first < block->count && q4)
        q4_add_group(from, factor, block->count - first, to + first);
    else if (first < block->count)
        ternary_add_group(from, factor, block->count - first, to + first);
}

// ---- the largest -------------------------------------------------------------------------------

static void largest_write(const PacketBlock *block, const float *values)
{
    float kept[CODEC_BLOCK];
    uint16_t *indices = (uint16_t *)(void *)block->data + block->kept;
    select_largest(values, block->count, block->kept, indices);
    for (uint32_t i = 0; i < block->kept; i++)
        kept[i] = values[indices[i]];
    host_from_f32(kept, block->data, DTYPE_BF16, block->kept);
}

static void short_write(const PacketBlock *block, const float *values)
{
    uint16_t indices[CODEC_BLOCK], *elements = (uint16_t *)(void *)(block->data + CODEC_SCALE_BYTES);
    float inverse = steps_store(largest_magnitude(values, block->count), block->data);
    select_largest(values, block->count, block->kept, indices);
    for (uint32_t i = 0; i < block->kept; i++)
        elements[i] = (uint16_t)(indices[i] | step_of(values[indices[i]], inverse) << 12);
}

void packet_elements(const PacketBlock *block, uint16_t *indices, float *values)
{
    const uint16_t *elements = (const uint16_t *)(const void *)(block->data + CODEC_SCALE_BYTES);
    if (block->form == PACKET_LARGEST) {
        memcpy(indices, (const uint16_t *)(const void *)block->data + block->kept, block->kept * sizeof(*indices));
        host_to_f32(block->data, DTYPE_BF16, values, block->kept);
        return;
    }
    float scale = scale_load(block->data);
    for (uint32_t i = 0; i < block->kept; i++) {
        indices[i] = elements[i] & (CODEC_BLOCK - 1);
        values[i] = scale * (float)((elements[i] >> 12) - 8);
    }
}

static void elements_add(const PacketBlock *block, float factor, float *to)
{
    float values[CODEC_BLOCK];
    uint16_t indices[CODEC_BLOCK];
    packet_elements(block, indices, values);
    for (uint32_t i = 0; i < block->kept; i++) {
        assert(indices[i] < block->count);
        to[indices[i]] += factor * values[i];
    }
}

// ---- whole elements ----------------------------------------------------------------------------

static void whole_add(const PacketBlock *block, float factor, float *to)
{
    float values[CODEC_BLOCK];
    host_to_f32(block->data, block->dtype, values, block->count);
    for (uint32_t i = 0; i < block->count; i++)
        to[i] += factor * values[i];
}

// ---- all forms ---------------------------------------------------------------------------------

BODY void write_body(const PacketBlock *block, const float *values)
{
    switch (block->form) {
    case PACKET_LARGEST:
        largest_write(block, values);
        break;
    case PACKET_SHORT:
        short_write(block, values);
        break;
    case PACKET_Q4:
    case PACKET_TERNARY:
        groups_write(block, values);
        break;
    case PACKET_SIGN:
        sign_write(block, values);
        break;
    case PACKET_WHOLE:
        host_from_f32(values, block->data, block->dtype, block->count);
        break;
    }
}

BODY void add_body(const PacketBlock *block, float factor, float *to)
{
    switch (block->form) {
    case PACKET_LARGEST:
    case PACKET_SHORT:
        elements_add(block, factor, to);
        break;
    case PACKET_Q4:
    case PACKET_TERNARY:
        groups_add(block, factor, to);
        break;
    case PACKET_SIGN:
        sign_add(block, factor, to);
        break;
    case PACKET_WHOLE:
        whole_add(block, factor, to);
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
