// The sizes of packets: what a ratio buys, with every byte counted, and the ends of the range.
#include <criterion/criterion.h>

#include <math.h>
#include <stdint.h>

#include "ir/codec.h"

static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

Test(codec_geometry, a_ratio_counts_values_and_indices)
{
    const double ratios[] = {1, 1.5, 2, 10, 50, 200, 1000};
    for (int d = 0; d < 3; d++)
        for (int r = 0; r < 7; r++)
            for (uint64_t blocks = 1; blocks < 5; blocks++) {
                uint64_t elements = blocks * CODEC_BLOCK, dense = elements * dtype_bytes(dtypes[d]);
                uint64_t bytes = codec_packet_bytes(elements, dtypes[d], ratios[r]);
                cr_assert_eq(bytes % 4, 0);
                cr_assert((double)bytes * ratios[r] <= (double)dense, "more than the ratio allows");
                uint64_t more = bytes + blocks * CODEC_ELEMENT_BYTES;
                cr_assert((double)more * ratios[r] > (double)dense, "one more element a block would fit");
            }
    cr_assert_eq(codec_kept(CODEC_BLOCK, DTYPE_F32, 50), 81);
    cr_assert_eq(codec_kept(CODEC_BLOCK, DTYPE_BF16, 50), 40);
}

Test(codec_geometry, short_blocks_keep_something_and_never_more_than_they_have)
{
    cr_assert_eq(codec_kept(0, DTYPE_F32, 50), 0);
    cr_assert_eq(codec_kept(1, DTYPE_F32, 50), 1);
    cr_assert_eq(codec_kept(199, DTYPE_F16, 100), 1);
    cr_assert_eq(codec_kept(7, DTYPE_F32, 0.01), 7);
    cr_assert_eq(codec_kept(7, DTYPE_BF16, 1), 3);
    cr_assert_eq(codec_kept(CODEC_BLOCK, DTYPE_F32, 1e300), 1);
    cr_assert_eq(codec_kept(CODEC_BLOCK, DTYPE_F32, 0), CODEC_BLOCK);
    cr_assert_eq(codec_kept(CODEC_BLOCK, DTYPE_F32, (double)NAN), 1);
    cr_assert_eq(codec_blocks(CODEC_BLOCK + 1), 2);
    cr_assert_eq(codec_packet_bytes(CODEC_BLOCK + 1, DTYPE_F32, 50), (81 + 1) * 4);
    cr_assert_eq(codec_packet_bytes(0, DTYPE_F32, 50), 0);
}

Test(codec_geometry, sizes_do_not_overflow)
{
    cr_assert_eq(codec_packet_bytes(UINT64_MAX, DTYPE_F32, 1), UINT64_MAX);
    cr_assert_eq(codec_packet_bytes(UINT64_MAX / 4, DTYPE_F32, 1e-9), UINT64_MAX / 4 * 4);
}
