// The sizes of packets: what a ratio buys, with every byte counted, and the ends of the range.
#include <criterion/criterion.h>

#include <math.h>
#include <stdint.h>

#include "ir/codec.h"

static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

static Packing largest(double ratio)
{
    return (Packing){PACKET_LARGEST, ratio};
}

Test(codec_geometry, a_ratio_counts_values_and_indices)
{
    const double ratios[] = {1, 1.5, 2, 10, 50, 200, 1000};
    for (int d = 0; d < 3; d++)
        for (int r = 0; r < 7; r++)
            for (uint64_t blocks = 1; blocks < 5; blocks++) {
                uint64_t elements = blocks * CODEC_BLOCK, dense = elements * dtype_bytes(dtypes[d]);
                uint64_t bytes = packing_bytes(largest(ratios[r]), elements, dtypes[d]);
                cr_assert_eq(bytes % 4, 0);
                cr_assert((double)bytes * ratios[r] <= (double)dense, "more than the ratio allows");
                uint64_t more = bytes + blocks * CODEC_ELEMENT_BYTES;
                cr_assert((double)more * ratios[r] > (double)dense, "one more element a block would fit");
            }
    cr_assert_eq(packing_kept(largest(50), CODEC_BLOCK, DTYPE_F32), 81);
    cr_assert_eq(packing_kept(largest(50), CODEC_BLOCK, DTYPE_BF16), 40);
}

Test(codec_geometry, short_blocks_keep_something_and_never_more_than_they_have)
{
    cr_assert_eq(packing_kept(largest(50), 0, DTYPE_F32), 0);
    cr_assert_eq(packing_kept(largest(50), 1, DTYPE_F32), 1);
    cr_assert_eq(packing_kept(largest(100), 199, DTYPE_F16), 1);
    cr_assert_eq(packing_kept(largest(0.01), 7, DTYPE_F32), 7);
    cr_assert_eq(packing_kept(largest(1), 7, DTYPE_BF16), 3);
    cr_assert_eq(packing_kept(largest(1e300), CODEC_BLOCK, DTYPE_F32), 1);
    cr_assert_eq(packing_kept(largest(0), CODEC_BLOCK, DTYPE_F32), CODEC_BLOCK);
    cr_assert_eq(packing_kept(largest((double)NAN), CODEC_BLOCK, DTYPE_F32), 1);
    cr_assert_eq(codec_blocks(CODEC_BLOCK + 1), 2);
    cr_assert_eq(packing_bytes(largest(50), CODEC_BLOCK + 1, DTYPE_F32), (81 + 1) * 4);
    cr_assert_eq(packing_bytes(largest(50), 0, DTYPE_F32), 0);
}

// A scale of 2 bytes and a 32-bit word for 32 elements, whatever their dtype.
Test(codec_geometry, signs)
{
    const Packing sign = codec_packing(CODEC_SIGN, 1);
    cr_assert_eq(packing_bytes(sign, CODEC_BLOCK, DTYPE_F32), 516);
    cr_assert_eq(packing_bytes(sign, 2 * CODEC_BLOCK, DTYPE_BF16), 1028);
    cr_assert_eq(packing_bytes(sign, 2 * CODEC_BLOCK + 33, DTYPE_F32), 1028 + 12);
    cr_assert_eq(packing_bytes(sign, 1, DTYPE_F32), 8);
    cr_assert_eq(packing_bytes(sign, 0, DTYPE_F32), 0);
    cr_assert_eq(packing_kept(sign, 77, DTYPE_F16), 77);
    cr_assert_float_eq(packing_ratio(sign, DTYPE_F32), 16384 / 514.0, 1e-12);
    cr_assert_float_eq(packing_ratio(sign, DTYPE_BF16), 8192 / 514.0, 1e-12);
    cr_assert_eq(packing_bytes(sign, UINT64_MAX, DTYPE_F32), UINT64_MAX);
}

// Of each 128 elements, or the rest of them, a scale and a byte for 2 or 5.
Test(codec_geometry, groups)
{
    const Packing q4 = gradient_packing(GRADIENT_Q4, 1), ternary = gradient_packing(GRADIENT_TERNARY, 1);
    cr_assert_eq(packing_bytes(q4, CODEC_BLOCK, DTYPE_F32), 32 * 66);
    cr_assert_eq(packing_bytes(q4, CODEC_BLOCK + 128 + 5, DTYPE_BF16), 32 * 66 + 66 + 2 + 3 + 1);
    cr_assert_eq(packing_bytes(q4, 1, DTYPE_F32), 4);
    cr_assert_eq(packing_bytes(ternary, CODEC_BLOCK, DTYPE_F32), 32 * 28);
    cr_assert_eq(packing_bytes(ternary, 2 * CODEC_BLOCK + 11, DTYPE_F16), 64 * 28 + 2 + 3 + 3);
    cr_assert_eq(packing_kept(ternary, 11, DTYPE_F16), 11);
    cr_assert_float_eq(packing_ratio(q4, DTYPE_F32), 512 / 66.0, 1e-12);
    cr_assert_float_eq(packing_ratio(ternary, DTYPE_BF16), 256 / 28.0, 1e-12);
}

// Beyond 50x an element takes 2 bytes, and a block 2 of scale: 4096 * 4 / 100 is 163.84, of which 161.84 buy 80.
Test(codec_geometry, large_ratios_get_short_elements)
{
    const Packing at = codec_packing(CODEC_DELTA, 50), above = codec_packing(CODEC_DELTA, 100);
    cr_assert_eq(at.form, PACKET_LARGEST);
    cr_assert_eq(above.form, PACKET_SHORT);
    cr_assert_eq(gradient_packing(GRADIENT_TOPK, 100).form, PACKET_SHORT);
    cr_assert_eq(codec_packing(CODEC_SIGN, 100).form, PACKET_SIGN);
    cr_assert_eq(packing_kept(above, CODEC_BLOCK, DTYPE_F32), 80);
    cr_assert_eq(packing_bytes(above, CODEC_BLOCK, DTYPE_F32), 164);
    cr_assert_eq(packing_kept(above, CODEC_BLOCK, DTYPE_BF16), 39);
    cr_assert_eq(packing_bytes(above, 3 * CODEC_BLOCK, DTYPE_BF16), 240);
    cr_assert_eq(packing_kept(above, 3, DTYPE_F32), 1);
    cr_assert_eq(packing_bytes(above, 3, DTYPE_F32), 4);
}

Test(codec_geometry, sizes_do_not_overflow)
{
    cr_assert_eq(packing_bytes(largest(1), UINT64_MAX, DTYPE_F32), UINT64_MAX);
    cr_assert_eq(packing_bytes(largest(1e-9), UINT64_MAX / 4, DTYPE_F32), UINT64_MAX / 4 * 4);
}
