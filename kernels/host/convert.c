// Conversion between f32 and the storage dtypes, rounding to nearest, ties to even. f16 uses the
// F16C instructions where the processor has them.
#include <string.h>

#include "kernels/host/internal.h"

static void bf16_to_f32(const uint16_t *from, float *to, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        to[i] = bits_float((uint32_t)from[i] << 16);
}

static void f32_to_bf16(const float *from, uint16_t *to, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits = float_bits(from[i]);
        uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
        uint32_t quiet_nan = (bits >> 16) | 0x40u;
        to[i] = (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded);
    }
}

static float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 0x1Fu, fraction = half & 0x3FFu;
    if (exponent == 31)
        return bits_float(sign | 0x7F800000u | (fraction ? (fraction | 0x200u) << 13 : 0));
    if (exponent == 0) {
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

static uint16_t float_to_half(float value)
{
    uint32_t bits = float_bits(value), magnitude = bits & 0x7FFFFFFFu;
    uint32_t sign = (bits >> 16) & 0x8000u;
    if (magnitude > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
    if (magnitude >= 0x477FF000u) // 65520, half way between the largest half and the next step
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude < 0x38800000u) { // below 2^-14: the adder rounds to multiples of 2^-24
        uint32_t sum = float_bits(bits_float(magnitude) + 0.5f);
        return (uint16_t)(sign | (sum - 0x3F000000u));
    }
    uint32_t odd = (magnitude >> 13) & 1u;
    return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xFFFu + odd) >> 13));
}

void convert_f16_to_f32_portable(const uint16_t *from, float *to, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        to[i] = half_to_float(from[i]);
}

void convert_f32_to_f16_portable(const float *from, uint16_t *to, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        to[i] = float_to_half(from[i]);
}

#if defined(__x86_64__)
#include <immintrin.h>

static bool has_f16c(void)
{
    return __builtin_cpu_supports("avx2"); // all of which have F16C; not every compiler knows that name
}

__attribute__((target("f16c,avx"))) static void f16_to_f32_f16c(const uint16_t *from, float *to, uint64_t count)
{
    uint64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    convert_f16_to_f32_portable(from + i, to + i, count - i);
}

__attribute__((target("f16c,avx"))) static void f32_to_f16_f16c(const float *from, uint16_t *to, uint64_t count)
{
    uint64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    convert_f32_to_f16_portable(from + i, to + i, count - i);
}

static void f16_to_f32(const uint16_t *from, float *to, uint64_t count)
{
    (has_f16c() ? f16_to_f32_f16c : convert_f16_to_f32_portable)(from, to, count);
}

static void f32_to_f16(const float *from, uint16_t *to, uint64_t count)
{
    (has_f16c() ? f32_to_f16_f16c : convert_f32_to_f16_portable)(from, to, count);
}
#else
static void f16_to_f32(const uint16_t *from, float *to, uint64_t count)
{
    convert_f16_to_f32_portable(from, to, count);
}

static void f32_to_f16(const float *from, uint16_t *to, uint64_t count)
{
    convert_f32_to_f16_portable(from, to, count);
}
#endif

void host_to_f32(const void *from, Dtype dtype, float *to, uint64_t count)
{
    assert(dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16);
    if (dtype == DTYPE_F16)
        f16_to_f32(from, to, count);
    else if (dtype == DTYPE_BF16)
        bf16_to_f32(from, to, count);
    else if (count > 0)
        memcpy(to, from, count * sizeof(*to));
}

void host_from_f32(const float *from, void *to, Dtype dtype, uint64_t count)
{
    assert(dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16);
    if (dtype == DTYPE_F16)
        f32_to_f16(from, to, count);
    else if (dtype == DTYPE_BF16)
        f32_to_bf16(from, to, count);
    else if (count > 0)
        memcpy(to, from, count * sizeof(*from));
}
