// Compression of weights that are gathered, as a difference, and of gradients that return, with error feedback. Packets
// as ir/codec.h lays them out. What receivers add to their copies and what the sender adds to its own goes through one
// function, so that all keep the same bits.
#include "ir/codec.h"
#include "kernels/host/internal.h"

static void *row_in(Tensor tensor, uint64_t row)
{
    return element_in(tensor.data, tensor.dtype, row * tensor.cols);
}

static void check_packets(Packing packing, Tensor vectors, Tensor packets)
{
    (void)packing, (void)vectors, (void)packets; // where nothing is asserted
    assert(packets.dtype == DTYPE_U8 && packets.cols == packing_bytes(packing, vectors.cols, vectors.dtype));
}

// ---- blocks ------------------------------------------------------------------------------------

// out = `count` elements of a, plus `sign` times those of b where there is one.
static void combine(const void *a, const void *b, float sign, Dtype dtype, uint64_t count, float *out)
{
    float stored[CODEC_BLOCK];
    const float *second = b, *first = a;
    if (b && dtype != DTYPE_F32) {
        host_to_f32(b, dtype, stored, count);
        second = stored;
    }
    if (!b || dtype != DTYPE_F32) {
        host_to_f32(a, dtype, out, count);
        first = out;
    }
    for (uint64_t i = 0; b && i < count; i++)
        out[i] = first[i] + sign * second[i];
}

// Adds the elements that a packet of the largest has to those of a vector, each sum rounded to its dtype.
static void add_some(const PacketBlock *block, void *target, Dtype dtype)
{
    float sums[CODEC_BLOCK], values[CODEC_BLOCK];
    uint32_t elements[CODEC_BLOCK];
    uint16_t *halves = (uint16_t *)elements;
    uint16_t indices[CODEC_BLOCK];
    packet_elements(block, indices, values);
    for (uint32_t i = 0; i < block->kept; i++) {
        assert(indices[i] < block->count);
        halves[i] = ((uint16_t *)target)[indices[i]];
    }
    host_to_f32(elements, dtype, sums, block->kept);
    for (uint32_t i = 0; i < block->kept; i++)
        sums[i] += values[i];
    host_from_f32(sums, elements, dtype, block->kept);
    for (uint32_t i = 0; i < block->kept; i++)
        ((uint16_t *)target)[indices[i]] = halves[i];
}

static void block_add(const PacketBlock *block, void *to, Dtype dtype)
{
    float sums[CODEC_BLOCK];
    void *target = element_in(to, dtype, block->first);
    if (dtype == DTYPE_F32) {
        packet_add(block, 1, target);
    } else if (packet_has_ratio(block->form)) {
        add_some(block, target, dtype);
    } else {
        host_to_f32(target, dtype, sums, block->count);
        packet_add(block, 1, sums);
        host_from_f32(sums, target, dtype, block->count);
    }
}

// ---- weights -----------------------------------------------------------------------------------

// Do packets hold a difference? Whole ones stand for themselves: what was there before does not matter.
static bool is_difference(Packing packing)
{
    return packing.form != PACKET_WHOLE;
}

void host_encode(const CodecInfo *codec, Packing packing, Tensor experts, Tensor base, Tensor packet)
{
    check_packets(packing, experts, packet);
    assert(packet.rows == experts.rows && base.rows == (codec->remembers ? experts.rows : base.data ? 1 : base.rows));
    float difference[CODEC_BLOCK];
    for (uint64_t row = 0; row < experts.rows; row++) {
        const char *from = !is_difference(packing) ? NULL : codec->remembers ? row_in(base, row) : base.data;
        if (codec->remembers && !from)
            memset(row_in(base, row), 0, base.cols * dtype_bytes(base.dtype));
        for (uint64_t b = 0; b < codec_blocks(experts.cols); b++) {
            PacketBlock block = packet_block(packing, experts, b, row_in(packet, row));
            combine(element_in(row_in(experts, row), experts.dtype, block.first),
                    from ? element_at(from, experts.dtype, block.first) : NULL, -1, experts.dtype, block.count,
                    difference);
            packet_write(&block, difference);
            if (codec->remembers)
                block_add(&block, row_in(base, row), base.dtype);
        }
    }
}

static void decode_row(Packing packing, void *packet, Tensor to, uint64_t row)
{
    for (uint64_t b = 0; b < codec_blocks(to.cols); b++) {
        PacketBlock block = packet_block(packing, to, b, packet);
        block_add(&block, row_in(to, row), to.dtype);
    }
}

void host_decode(const CodecInfo *codec, Packing packing, uint64_t own_first, Tensor packet, Tensor own, Tensor mean,
                 Tensor experts)
{
    uint64_t bytes = experts.cols * dtype_bytes(experts.dtype);
    check_packets(packing, experts, packet);
    assert(packet.rows == experts.rows && own.cols == experts.cols && own_first + own.rows <= experts.rows);
    for (uint64_t row = 0; row < experts.rows; row++) {
        if (row >= own_first && row - own_first < own.rows) {
            memcpy(row_in(experts, row), row_in(own, row - own_first), bytes);
            continue;
        }
        bool begins = !codec->remembers || !is_difference(packing);
        if (begins && is_difference(packing) && mean.data)
            memcpy(row_in(experts, row), mean.data, bytes);
        else if (begins)
            memset(row_in(experts, row), 0, bytes);
        decode_row(packing, row_in(packet, row), experts, row);
    }
}

void host_mean(uint64_t all, Tensor experts, Tensor shared)
{
    assert(all > 0 && shared.cols == experts.cols && shared.dtype == experts.dtype);
    float sum[CODEC_BLOCK], summand[CODEC_BLOCK];
    for (uint64_t first = 0; first < experts.cols; first += CODEC_BLOCK) {
        uint64_t count = smaller(CODEC_BLOCK, experts.cols - first);
        memset(sum, 0, sizeof(sum));
        for (uint64_t row = 0; row < experts.rows; row++) {
            host_to_f32(element_at(row_in(experts, row), experts.dtype, first), experts.dtype, summand, count);
            for (uint64_t i = 0; i < count; i++)
                sum[i] += summand[i];
        }
        for (uint64_t i = 0; i < count; i++)
            sum[i] /= (float)all;
        host_from_f32(sum, element_in(shared.data, shared.dtype, first), shared.dtype, count);
    }
}

// ---- gradients ---------------------------------------------------------------------------------

static void encode_gradient_row(Packing packing, Tensor gathered, Tensor error, uint64_t row, void *packet)
{
    float due[CODEC_BLOCK];
    Dtype dtype = gathered.dtype;
    for (uint64_t b = 0; b < codec_blocks(gathered.cols); b++) {
        PacketBlock block = packet_block(packing, gathered, b, packet);
        void *kept_back = element_in(row_in(error, row), dtype, block.first);
        const void *gradient = element_at(row_in(gathered, row), dtype, block.first);
        combine(gradient, kept_back, 1, dtype, block.count, due);
        packet_write(&block, due);
        packet_add(&block, -1, due);
        host_from_f32(due, kept_back, dtype, block.count);
    }
}

void host_encode_gradient(Packing packing, uint64_t own_first, uint64_t own_count, Tensor gathered, Tensor error,
                          Tensor packets)
{
    check_packets(packing, gathered, packets);
    assert(packets.rows == gathered.rows && error.rows == gathered.rows && error.dtype == gathered.dtype);
    for (uint64_t row = 0; row < gathered.rows; row++)
        if (row < own_first || row - own_first >= own_count)
            encode_gradient_row(packing, gathered, error, row, row_in(packets, row));
}

void host_decode_gradient(Packing packing, uint64_t own, Tensor gathered, Tensor received, Tensor shard)
{
    check_packets(packing, shard, received);
    uint64_t members = gathered.rows / shard.rows;
    assert(received.rows == gathered.rows && gathered.dtype == shard.dtype && own < members);
    float sum[CODEC_BLOCK];
    for (uint64_t row = 0; row < shard.rows; row++)
        for (uint64_t b = 0; b < codec_blocks(shard.cols); b++) {
            uint64_t first = b * CODEC_BLOCK, count = smaller(CODEC_BLOCK, shard.cols - first);
            const void *summand = element_at(row_in(gathered, own * shard.rows + row), shard.dtype, first);
            host_to_f32(summand, shard.dtype, sum, count);
            for (uint64_t m = 0; m < members; m++) {
                if (m == own)
                    continue;
                PacketBlock block = packet_block(packing, shard, b, row_in(received, m * shard.rows + row));
                packet_add(&block, 1, sum);
            }
            host_from_f32(sum, element_in(row_in(shard, row), shard.dtype, first), shard.dtype, count);
        }
}
