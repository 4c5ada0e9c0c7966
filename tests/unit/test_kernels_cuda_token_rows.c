// Packed token rows on CUDA against their host twins: the same bytes, and the same activations again, over whole and
// short blocks, odd rows, zeros, ties, numbers far too small and far too large, and rows that are not there. In the
// emulation this checks the logic.
// builds: dev  seconds: 3
#include "cuda_tensors.h"

static const uint64_t widths[] = {1, 3, 32, 72, 128, 130, 257, 512, 612};

static Tensor make_rows(Dtype dtype, uint64_t cols)
{
    Tensor rows = make_random(dtype, 6, cols, 1);
    static const float odd[] = {0, 1, -1, 0.5f, 3e-41f, -2e-39f, 6e4f, -0.0f, 1e-3f, 7};
    for (uint64_t i = 0; i < cols; i++) {
        float value = odd[i % COUNT_OF(odd)], tiny = i % 3 == 1 ? 1e-40f : 0, zero = 0;
        host_from_f32(&value, element_in(rows.data, dtype, cols + i), dtype, 1);
        host_from_f32(&tiny, element_in(rows.data, dtype, 2 * cols + i), dtype, 1);
        host_from_f32(&zero, element_in(rows.data, dtype, 3 * cols + i), dtype, 1);
    }
    return rows;
}

static void pack_both(TokenFormat format, Dtype dtype, uint64_t cols)
{
    const CudaQueue *q = device_queue(0);
    Tensor rows = make_rows(dtype, cols), packed = make(DTYPE_U8, 6, token_row_bytes(format, cols, dtype));
    Tensor packed_there = device_like(packed), back = make(dtype, 6, cols), back_there = device_like(back);
    CudaRows all = {.rows = 6};
    EXPECT_SUCCESS(cuda_encode_rows(q, format, all, device_copy(rows), packed_there));
    host_encode_rows(format, 6, rows, packed);
    expect_same(packed_there, packed, tensor_bytes(packed), "packed rows");
    EXPECT_SUCCESS(cuda_decode_rows(q, format, all, packed_there, back_there));
    host_decode_rows(format, 6, packed, back);
    expect_same(back_there, back, tensor_bytes(back), "unpacked rows");
    device_finish();
}

Test(kernels_cuda, rows_pack_and_unpack)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t w = 0; w < COUNT_OF(widths); w++)
            for (int format = TOKENS_FP8; format < TOKEN_FORMAT_COUNT; format++)
                pack_both((TokenFormat)format, dtypes[d], widths[w]);
}

// Of 2, 3 and 1 rows those of the second member stayed at home: 3 came back.
Test(kernels_cuda, rows_that_are_not_there_are_left_alone)
{
    const int32_t counts[] = {2, 3, 1};
    const CudaQueue *q = device_queue(0);
    Tensor rows = make_random(DTYPE_F32, 6, 40, 1), packed = make(DTYPE_U8, 6, 44), back = make(DTYPE_F32, 6, 40);
    CudaRows sent = {.counts = device_table(counts, 3), .members = 3, .rows = 6, .skipped = 2};
    Tensor packed_there = device_like(packed), back_there = device_like(back);
    memset(packed.data, 0xFF, tensor_bytes(packed));
    memset(back.data, 0xFF, tensor_bytes(back));
    EXPECT_SUCCESS(cuda_encode_rows(q, TOKENS_INT8, sent, device_copy(rows), packed_there));
    host_encode_rows(TOKENS_INT8, 3, rows, packed);
    expect_same(packed_there, packed, tensor_bytes(packed), "packed rows");
    EXPECT_SUCCESS(cuda_decode_rows(q, TOKENS_INT8, sent, packed_there, back_there));
    host_decode_rows(TOKENS_INT8, 3, packed, back);
    expect_same(back_there, back, tensor_bytes(back), "unpacked rows");
    device_finish();
}
