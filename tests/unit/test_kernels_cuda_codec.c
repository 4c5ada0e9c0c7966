// Compression on CUDA against its host twin: the same bytes in packets, in what senders keep and in what receivers
// make, over several blocks, a short last one, ties, zeros, and f32 and 16-bit experts. In the emulation this checks
// the logic.
// builds: dev  seconds: 4
#include "cuda_tensors.h"

typedef struct {
    uint64_t rows, cols;
    double ratio;
    bool ties; // many elements are alike
} CodecCase;

static const CodecCase cases[] = {
    {2, 3 * CODEC_BLOCK, 50, false},
    {3, CODEC_BLOCK + 77, 50, false},
    {1, 40, 4, false},
    {2, 8200, 2, false},
    {2, CODEC_BLOCK + 1, 50, true},
    {1, 5000, 1, false},
    {2, 9, 1000, true},
    {1, CODEC_BLOCK + 130, 51, false},
    {1, 2 * CODEC_BLOCK + 257, 200, true},
};

static Tensor make_packets(const CodecCase *c, Dtype dtype, Packing packing, uint64_t rows)
{
    return make(DTYPE_U8, rows, packing_bytes(packing, c->cols, dtype));
}

static Tensor make_values(const CodecCase *c, Dtype dtype, uint64_t rows)
{
    Tensor values = make_random(dtype, rows, c->cols, 1);
    for (uint64_t i = 0; c->ties && i < rows * c->cols; i++) {
        float value = (float)((int)(i * 7 % 5) - 2) / 4;
        host_from_f32(&value, element_in(values.data, dtype, i), dtype, 1);
    }
    return values;
}

// Everything that is rounded here is rounded once from the same f32 number on both sides, so bytes are equal.
static void encode_both(const CodecCase *c, Dtype dtype, Codec of, Packing packing, bool has_mean)
{
    const CodecInfo *codec = codec_info(of);
    Tensor experts = make_values(c, dtype, c->rows), none = {0}, packet = make_packets(c, dtype, packing, c->rows);
    Tensor mean = has_mean ? make_random(dtype, 1, c->cols, 0.5) : none;
    Tensor base = codec->remembers ? make_random(dtype, c->rows, c->cols, 0.5) : mean;
    Tensor packet_there = device_like(packet), base_there = device_copy(base), mean_there = device_copy(mean);
    const CudaQueue *q = device_queue(0);
    EXPECT_SUCCESS(cuda_encode(q, codec, packing, device_copy(experts), base_there, packet_there));
    host_encode(codec, packing, experts, base, packet);
    expect_same(packet_there, packet, tensor_bytes(packet), "packet");
    if (codec->remembers)
        expect_same(base_there, base, tensor_bytes(base), "what was sent");

    uint64_t held = c->rows + 2;
    Tensor own = make_random(dtype, 2, c->cols, 1), packets = make_packets(c, dtype, packing, held);
    memset(packets.data, 0xFF, tensor_bytes(packets)); // own packets are not read
    for (uint64_t r = 0; r < held; r++)
        if (r < 1 || r >= 3)
            memcpy((char *)packets.data + r * packets.cols, (char *)packet.data + (r < 1 ? 0 : r - 2) * packet.cols,
                   packet.cols);
    Tensor decoded = make_random(dtype, held, c->cols, 1), decoded_there = device_copy(decoded);
    EXPECT_SUCCESS(
        cuda_decode(q, codec, packing, 1, device_copy(packets), device_copy(own), mean_there, decoded_there));
    host_decode(codec, packing, 1, packets, own, mean, decoded);
    expect_same(decoded_there, decoded, tensor_bytes(decoded), "decoded experts");
    device_finish();
}

Test(kernels_cuda, experts_encode_and_decode)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t i = 0; i < COUNT_OF(cases); i++) {
            for (int codec = CODEC_SR; codec < CODEC_COUNT; codec++)
                encode_both(&cases[i], dtypes[d], (Codec)codec, codec_packing((Codec)codec, cases[i].ratio), false);
            encode_both(&cases[i], dtypes[d], CODEC_SR, codec_packing(CODEC_SR, cases[i].ratio), true);
            encode_both(&cases[i], dtypes[d], CODEC_SR, (Packing){PACKET_WHOLE, 1}, true);
            encode_both(&cases[i], dtypes[d], CODEC_SIGN, (Packing){PACKET_WHOLE, 1}, false);
        }
    }
}

Test(kernels_cuda, mean_of_experts)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t i = 0; i < COUNT_OF(cases); i++) {
            Tensor experts = make_random(dtypes[d], 5, cases[i].cols, 1), mean = make(dtypes[d], 1, cases[i].cols);
            Tensor mean_there = device_like(mean);
            host_mean(20, experts, mean);
            EXPECT_SUCCESS(cuda_mean(device_queue(0), 20, device_copy(experts), mean_there));
            expect_same(mean_there, mean, tensor_bytes(mean), "mean");
            device_finish();
        }
    }
}

static void gradient_both(const CodecCase *c, Dtype dtype, Packing packing)
{
    uint64_t members = 3, own = 1, held = members * c->rows;
    Tensor gathered = make_values(c, dtype, held), error = make_random(dtype, held, c->cols, 0.1);
    Tensor packets = make_packets(c, dtype, packing, held), shard = make(dtype, c->rows, c->cols);
    Tensor gathered_there = device_copy(gathered), error_there = device_copy(error), shard_there = device_like(shard);
    Tensor packets_there = device_like(packets);
    const CudaQueue *q = device_queue(0);
    EXPECT_SUCCESS(
        cuda_encode_gradient(q, packing, own * c->rows, c->rows, gathered_there, error_there, packets_there));
    host_encode_gradient(packing, own * c->rows, c->rows, gathered, error, packets);
    expect_same(packets_there, packets, tensor_bytes(packets), "packets of gradients");
    expect_same(error_there, error, tensor_bytes(error), "what was left out");
    EXPECT_SUCCESS(cuda_decode_gradient(q, packing, own, gathered_there, packets_there, shard_there));
    host_decode_gradient(packing, own, gathered, packets, shard);
    expect_same(shard_there, shard, tensor_bytes(shard), "sums of gradients");
    device_finish();
}

Test(kernels_cuda, gradients_encode_and_decode)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t i = 0; i < COUNT_OF(cases); i++) {
            for (int g = GRADIENT_TOPK; g < GRADIENT_COUNT; g++)
                gradient_both(&cases[i], dtypes[d], gradient_packing((GradientReturn)g, cases[i].ratio));
            gradient_both(&cases[i], dtypes[d], (Packing){PACKET_WHOLE, 1});
        }
}
