// Packed token rows: bytes worked out by hand, bytes of longer rows by a script of its own in exact fractions, what
// they unpack to, numbers at the ends of what floats can be, sizes, and 16-bit activations.
// builds: dev fast  seconds: 1
#include <math.h>

#include "tensors.h"

// Elements, in 8 of which the largest makes a scale that bf16 holds exactly or not.
static const float ten[] = {448, -3.5f, 0.3f, 0, -0.017f, 1e-3f, 29, -100, 17, 0x1p-8f};

static Tensor row_of(const float *values, uint64_t count)
{
    Tensor row = make(DTYPE_F32, 1, count);
    memcpy(row.data, values, count * sizeof(*values));
    return row;
}

static void expect_bytes(TokenFormat format, const uint8_t *bytes, uint64_t count, const float *values)
{
    Tensor row = row_of(ten, COUNT_OF(ten)), packed = make(DTYPE_U8, 1, count),
           back = make(DTYPE_F32, 1, COUNT_OF(ten));
    host_encode_rows(format, 1, row, packed);
    for (uint64_t i = 0; i < count; i++)
        cr_expect_eq(((uint8_t *)packed.data)[i], bytes[i], "%s: byte %llu is 0x%02X, not 0x%02X",
                     token_format_name(format), (unsigned long long)i, ((uint8_t *)packed.data)[i], bytes[i]);
    host_decode_rows(format, 1, packed, back);
    for (uint64_t i = 0; i < COUNT_OF(ten); i++)
        cr_expect_eq(at(back, i), (double)values[i], "%s: element %llu is %g, not %g", token_format_name(format),
                     (unsigned long long)i, at(back, i), (double)values[i]);
    finish();
}

// The scale is 448 / 448 = 1. Steps are 32 from 256 on, 2 from 16 on (29, 17: ties to even), 8 from 64 on (-100: a tie
// to even), 2^-9 below 2^-6.
Test(kernels, fp8_rows_have_these_bytes)
{
    static const uint8_t bytes[] = {0x7E, 0xC6, 0x2A, 0, 0x89, 0x01, 0x5E, 0xEC, 0x58, 0x02, 0x80, 0x3F};
    static const float values[] = {448, -3.5f, 0.3125f, 0, -0.017578125f, 0x1p-9f, 28, -96, 16, 0x1p-8f};
    expect_bytes(TOKENS_FP8, bytes, sizeof(bytes), values);
}

// 448 / 127 = 3.5276 is 3.53125 in bf16, 0x4062: of that 8.2, -28.3 and 4.8 steps.
Test(kernels, int8_rows_have_these_bytes)
{
    static const uint8_t bytes[] = {127, 0xFF, 0, 0, 0, 0, 8, 0xE4, 5, 0, 0x62, 0x40};
    static const float values[] = {448.46875f, -3.53125f, 0, 0, 0, 0, 28.25f, -98.875f, 17.65625f, 0};
    expect_bytes(TOKENS_INT8, bytes, sizeof(bytes), values);
}

// 448 / 7 = 64, 0x4280. Ten elements are 5 bytes, of which byte j has elements j and 5 + j; then one to even.
Test(kernels, int4_rows_have_these_bytes)
{
    static const uint8_t bytes[] = {0x8F, 0x88, 0x68, 0x88, 0x88, 0, 0x80, 0x42};
    static const float values[] = {448, 0, 0, 0, 0, 0, 0, -128, 0, 0};
    expect_bytes(TOKENS_INT4, bytes, sizeof(bytes), values);
}

static uint32_t hash_of(const void *data, uint64_t bytes) // FNV-1a
{
    uint32_t hash = 0x811C9DC5u;
    for (uint64_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 0x01000193u;
    return hash;
}

static const struct {
    uint64_t cols;
    TokenFormat format;
    uint32_t bytes, packed, back; // hashes of the packed row and of what it unpacks to
} rows[] = {
    {130, TOKENS_FP8, 136, 0x7FFC9D3Du, 0x91FE20F6u},  {130, TOKENS_INT8, 136, 0x1D00C399u, 0xAA24202Du},
    {130, TOKENS_INT4, 76, 0x40C62B40u, 0x960145E8u},  {257, TOKENS_FP8, 264, 0xCD08D81Du, 0xD1922B0Au},
    {257, TOKENS_INT8, 264, 0xB5921A97u, 0x14EFABE9u}, {257, TOKENS_INT4, 148, 0x080283DAu, 0x466A9621u},
    {77, TOKENS_FP8, 80, 0xD3B57E80u, 0xDE9DC16Fu},    {77, TOKENS_INT8, 80, 0xB0C8D62Eu, 0x44129F95u},
    {77, TOKENS_INT4, 48, 0xA269B9EEu, 0x96959FCDu},
};

Test(kernels, long_rows_have_bytes_of_an_independent_script)
{
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint64_t cols = rows[i].cols;
        uint32_t state = (uint32_t)cols;
        Tensor row = make(DTYPE_F32, 1, cols), packed = make(DTYPE_U8, 1, rows[i].bytes),
               back = make(DTYPE_F32, 1, cols);
        for (uint64_t c = 0; c < cols; c++) {
            state = (state * 1103515245u + 12345u) & 0x7FFFFFFFu;
            float value = (float)((int32_t)((state >> 8) % 2001) - 1000) / 64 * (c % 37 ? 1 : 0x1p-9f);
            ((float *)row.data)[c] = value;
        }
        cr_assert_eq(token_row_bytes(rows[i].format, cols, DTYPE_F32), rows[i].bytes);
        host_encode_rows(rows[i].format, 1, row, packed);
        host_decode_rows(rows[i].format, 1, packed, back);
        cr_expect_eq(hash_of(packed.data, rows[i].bytes), rows[i].packed, "packed row %zu", i);
        cr_expect_eq(hash_of(back.data, 4 * cols), rows[i].back, "unpacked row %zu", i);
    }
    finish();
}

// 128 elements: 128 bytes and a scale, up to a multiple of 4; 4 bits: 64 and four scales.
Test(kernels, rows_have_these_sizes)
{
    cr_expect_eq(token_row_bytes(TOKENS_FULL, 128, DTYPE_F32), 512);
    cr_expect_eq(token_row_bytes(TOKENS_FULL, 128, DTYPE_BF16), 256);
    cr_expect_eq(token_row_bytes(TOKENS_FP8, 128, DTYPE_F32), 132);
    cr_expect_eq(token_row_bytes(TOKENS_INT8, 7168, DTYPE_BF16), 7168 + 2 * 56);
    cr_expect_eq(token_row_bytes(TOKENS_INT4, 128, DTYPE_F32), 72);
    cr_expect_eq(token_row_bytes(TOKENS_INT4, 33, DTYPE_F32), 24); // 17, one to even, 4, two to 4
    cr_expect_eq(token_row_bytes(TOKENS_FP8, 1, DTYPE_F16), 4);
}

// Zeros stay; what is too small for a scale becomes 0; the largest floats stay finite; what is not finite shows.
Test(kernels, rows_at_the_ends_of_floats)
{
    static const float starts[] = {0, 1e-40f, 3e38f, INFINITY, NAN};
    for (int format = TOKENS_FP8; format < TOKEN_FORMAT_COUNT; format++) {
        for (size_t i = 0; i < COUNT_OF(starts); i++) {
            const float values[] = {starts[i], 0, -starts[i] / 2, 1e-40f};
            Tensor row = row_of(values, 4), back = make(DTYPE_F32, 1, 4);
            Tensor packed = make(DTYPE_U8, 1, token_row_bytes((TokenFormat)format, 4, DTYPE_F32));
            host_encode_rows((TokenFormat)format, 1, row, packed);
            host_decode_rows((TokenFormat)format, 1, packed, back);
            if (i < 2)
                cr_expect(at(back, 0) == 0 && at(back, 2) == 0, "%g becomes %g", (double)starts[i], at(back, 0));
            if (i == 2)
                cr_expect(at(back, 0) >= 2.9e38 && at(back, 2) <= -1.2e38 && isfinite(at(back, 0)));
            for (size_t k = 0; k < 4; k++)
                cr_expect_eq(isfinite(at(back, k)) != 0, i < 3, "%g, element %zu", (double)starts[i], k);
        }
    }
    finish();
}

// Every element within half a step: 2^-4 of it, or of the block's largest over 127 or 7, and a scale's rounding more.
Test(kernels, rows_are_near_what_they_were)
{
    static const double steps[TOKEN_FORMAT_COUNT] = {[TOKENS_INT8] = 127, [TOKENS_INT4] = 7};
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (int format = TOKENS_FP8; format < TOKEN_FORMAT_COUNT; format++) {
            const uint64_t cols = 300;
            uint64_t block = token_block((TokenFormat)format);
            Tensor from = make_random(dtypes[d], 3, cols, 1), back = make(dtypes[d], 3, cols);
            Tensor packed = make(DTYPE_U8, 3, token_row_bytes((TokenFormat)format, cols, dtypes[d]));
            host_encode_rows((TokenFormat)format, 3, from, packed);
            host_decode_rows((TokenFormat)format, 3, packed, back);
            for (uint64_t i = 0; i < 3 * cols; i++) {
                double largest = 0;
                uint64_t first = i / cols * cols + i % cols / block * block;
                for (uint64_t k = first; k < first + block && k < (i / cols + 1) * cols; k++)
                    largest = fmax(largest, fabs(at(from, k)));
                double bound =
                    steps[format] > 0 ? largest / steps[format] / 2 : fabs(at(from, i)) / 16 + largest * 0x1p-18;
                cr_assert(fabs(at(back, i) - at(from, i)) <= bound * 1.01 + 0x1p-8 * fabs(at(from, i)),
                          "%s, %s, element %llu: %g became %g", token_format_name((TokenFormat)format),
                          dtype_name(dtypes[d]), (unsigned long long)i, at(from, i), at(back, i));
            }
        }
    }
    finish();
}
