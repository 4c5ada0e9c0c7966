// Token rows in 8 or 4 bits (docs/packets.md): from activations to bits, and back. The CUDA twins write the same bits.
// Loops are such as compilers vectorise; each is compiled twice from one body, without and with wide instructions.
#include "kernels/host/internal.h"

#define BODY static inline __attribute__((always_inline))

enum { INT8_STEPS = 127, INT4_STEPS = 7 }; // a scale is the largest magnitude over so many

#define FP8_MOST    448.0f    // 1.75 x 2^8
#define FP8_LEAST   0x1p-6f   // of those with a full fraction
#define SCALE_LEAST 0x1p-126f // below it, 1 over a scale may be none: everything is 0

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

BODY float most_of(TokenFormat format)
{
    return format == TOKENS_FP8 ? FP8_MOST : format == TOKENS_INT8 ? INT8_STEPS : INT4_STEPS;
}

// Stores the scale of a largest magnitude, and returns one over what was stored; 0 where that is no number, too.
BODY float scale_store(float largest, float most, uint8_t *to)
{
    float scale = largest / most;
    scale = scale < SCALE_LEAST ? 0 : scale;
    host_from_f32(&scale, to, DTYPE_BF16, 1);
    host_to_f32(to, DTYPE_BF16, &scale, 1);
    return scale > 0 ? 1 / scale : 0;
}

BODY float scale_load(const uint8_t *from)
{
    float scale;
    host_to_f32(from, DTYPE_BF16, &scale, 1);
    return scale;
}

// ---- elements ----------------------------------------------------------------------------------

// A sign, 4 bits of exponent with bias 7, 3 bits of fraction; nearest, ties to even. What is no number becomes one: its
// scale is none.
BODY uint8_t fp8_of(float value)
{
    uint32_t bits = float_bits(value), sign = bits >> 24 & 0x80;
    float magnitude = bits_float(bits & INT32_MAX);
    magnitude = magnitude < FP8_MOST ? magnitude : FP8_MOST;
    uint32_t of = float_bits(magnitude);
    uint32_t normal = ((of + 0x7FFFFu + (of >> 20 & 1)) >> 20) - (120u << 3);
    uint32_t small = float_bits(magnitude + 0x1p14f) - float_bits(0x1p14f); // multiples of 2^-9
    return (uint8_t)(sign | (magnitude < FP8_LEAST ? small : normal));
}

BODY float fp8_value(uint8_t code)
{
    uint32_t magnitude = code & 0x7F;
    float normal = bits_float((magnitude << 20) + (120u << 23)), small = (float)(int32_t)magnitude * 0x1p-9f;
    return bits_float(float_bits(magnitude < 8 ? small : normal) | (uint32_t)(code & 0x80) << 24);
}

// The nearest whole number, even ones of two, from -most to most.
BODY int32_t step_of(float value, float most)
{
    const float whole = 0x1.8p23f; // its sum with a small number ends with that number's integer bits
    value = value > -most ? value : -most;
    value = value < most ? value : most;
    return (int32_t)(float_bits(value + whole) - float_bits(whole));
}

BODY void write_bytes(TokenFormat format, float inverse, const float *restrict x, uint32_t count, uint8_t *restrict to)
{
    for (uint32_t i = 0; i < count; i++)
        to[i] = format == TOKENS_FP8 ? fp8_of(x[i] * inverse) : (uint8_t)step_of(x[i] * inverse, INT8_STEPS);
}

BODY void read_bytes(TokenFormat format, float scale, const uint8_t *restrict from, uint32_t count, float *restrict x)
{
    for (uint32_t i = 0; i < count; i++)
        x[i] = scale * (format == TOKENS_FP8 ? fp8_value(from[i]) : (float)(int8_t)from[i]);
}

// Byte j of a block's H has element j in its lower bits, element H + j above, each plus 8; nothing is 0.
BODY void write_nibbles(float inverse, const float *restrict x, uint32_t count, uint8_t *restrict to)
{
    uint8_t steps[TOKEN_SHORT_BLOCK + 1] = {0};
    uint32_t half = (count + 1) / 2;
    for (uint32_t i = 0; i < count; i++)
        steps[i] = (uint8_t)(step_of(x[i] * inverse, INT4_STEPS) + 8);
    for (uint32_t j = 0; j < half; j++)
        to[j] = (uint8_t)(steps[j] | steps[half + j] << 4);
}

BODY void read_nibbles(float scale, const uint8_t *restrict from, uint32_t count, float *restrict x)
{
    uint32_t half = (count + 1) / 2;
    for (uint32_t j = 0; j < half; j++)
        x[j] = scale * (float)((int32_t)(from[j] & 15) - 8);
    for (uint32_t j = half; j < count; j++)
        x[j] = scale * (float)((int32_t)(from[j - half] >> 4) - 8);
}

// ---- rows --------------------------------------------------------------------------------------

// Elements of a block, and their bytes.
typedef struct {
    uint64_t first, byte;
    uint32_t count;
} RowBlock;

BODY RowBlock block_at(TokenFormat format, uint64_t hidden, uint64_t index)
{
    uint64_t size = token_block(format), first = index * size;
    return (RowBlock){first, format == TOKENS_INT4 ? first / 2 : first, (uint32_t)smaller(size, hidden - first)};
}

BODY void encode_row(TokenFormat format, Tensor rows, uint64_t row, uint8_t *to, uint64_t bytes)
{
    uint64_t hidden = rows.cols, blocks = (hidden + token_block(format) - 1) / token_block(format);
    uint64_t scales = token_scales_offset(format, hidden), element_end = 0;
    float x[TOKEN_BLOCK];
    for (uint64_t b = 0; b < blocks; b++) {
        RowBlock block = block_at(format, hidden, b);
        host_to_f32(element_at(rows.data, rows.dtype, row * hidden + block.first), rows.dtype, x, block.count);
        float inverse =
            scale_store(largest_magnitude(x, block.count), most_of(format), to + scales + b * TOKEN_SCALE_BYTES);
        if (format == TOKENS_INT4)
            write_nibbles(inverse, x, block.count, to + block.byte);
        else
            write_bytes(format, inverse, x, block.count, to + block.byte);
        element_end = block.byte + (format == TOKENS_INT4 ? (block.count + 1) / 2 : block.count);
    }
    memset(to + element_end, 0, scales - element_end);
    uint64_t end = scales + blocks * TOKEN_SCALE_BYTES;
    memset(to + end, 0, bytes - end);
}

BODY void decode_row(TokenFormat format, const uint8_t *from, Tensor rows, uint64_t row)
{
    uint64_t hidden = rows.cols, blocks = (hidden + token_block(format) - 1) / token_block(format);
    uint64_t scales = token_scales_offset(format, hidden);
    float x[TOKEN_BLOCK];
    for (uint64_t b = 0; b < blocks; b++) {
        RowBlock block = block_at(format, hidden, b);
        float scale = scale_load(from + scales + b * TOKEN_SCALE_BYTES);
        if (format == TOKENS_INT4)
            read_nibbles(scale, from + block.byte, block.count, x);
        else
            read_bytes(format, scale, from + block.byte, block.count, x);
        host_from_f32(x, element_in(rows.data, rows.dtype, row * hidden + block.first), rows.dtype, block.count);
    }
}

// A loop of its own for every format.
BODY void encode_body(TokenFormat format, uint64_t count, Tensor rows, Tensor packed)
{
    for (uint64_t r = 0; r < count; r++) {
        uint8_t *to = (uint8_t *)packed.data + r * packed.cols;
        if (format == TOKENS_FP8)
            encode_row(TOKENS_FP8, rows, r, to, packed.cols);
        else if (format == TOKENS_INT8)
            encode_row(TOKENS_INT8, rows, r, to, packed.cols);
        else
            encode_row(TOKENS_INT4, rows, r, to, packed.cols);
    }
}

BODY void decode_body(TokenFormat format, uint64_t count, Tensor packed, Tensor rows)
{
    for (uint64_t r = 0; r < count; r++) {
        const uint8_t *from = (const uint8_t *)packed.data + r * packed.cols;
        if (format == TOKENS_FP8)
            decode_row(TOKENS_FP8, from, rows, r);
        else if (format == TOKENS_INT8)
            decode_row(TOKENS_INT8, from, rows, r);
        else
            decode_row(TOKENS_INT4, from, rows, r);
    }
}

static void encode_portable(TokenFormat format, uint64_t count, Tensor rows, Tensor packed)
{
    encode_body(format, count, rows, packed);
}

static void decode_portable(TokenFormat format, uint64_t count, Tensor packed, Tensor rows)
{
    decode_body(format, count, packed, rows);
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2")))

WIDE static void encode_wide(TokenFormat format, uint64_t count, Tensor rows, Tensor packed)
{
    encode_body(format, count, rows, packed);
}

WIDE static void decode_wide(TokenFormat format, uint64_t count, Tensor packed, Tensor rows)
{
    decode_body(format, count, packed, rows);
}

static bool is_wide(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
#define encode_wide encode_portable
#define decode_wide decode_portable

static bool is_wide(void)
{
    return false;
}
#endif

static void check_rows(TokenFormat format, uint64_t count, Tensor rows, Tensor packed)
{
    assert(format != TOKENS_FULL && packed.dtype == DTYPE_U8 && count <= rows.rows && count <= packed.rows);
    assert(packed.cols == token_row_bytes(format, rows.cols, rows.dtype));
    (void)format, (void)count, (void)rows, (void)packed;
}

void host_encode_rows(TokenFormat format, uint64_t count, Tensor rows, Tensor packed)
{
    check_rows(format, count, rows, packed);
    (is_wide() ? encode_wide : encode_portable)(format, count, rows, packed);
}

void host_decode_rows(TokenFormat format, uint64_t count, Tensor packed, Tensor rows)
{
    check_rows(format, count, rows, packed);
    (is_wide() ? decode_wide : decode_portable)(format, count, packed, rows);
}
