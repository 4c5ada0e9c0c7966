// Compression of what migrates: experts as the largest elements of a difference, gradients that return with error
// feedback. Packets as ir/codec.h lays them out. What receivers add to their copies and what the sender adds to its own
// goes through one function, so that all keep the same bits.
#include "ir/codec.h"
#include "kernels/host/internal.h"

// The part of a packet that belongs to one block.
typedef struct {
    uint64_t first; // element of the vector
    uint32_t count, kept;
    uint16_t *values, *indices; // bf16; in the block
} Block;

static Block block_at(double ratio, Dtype dtype, uint64_t elements, uint64_t index, void *packet)
{
    uint64_t first = index * CODEC_BLOCK, count = smaller(CODEC_BLOCK, elements - first);
    uint32_t kept = codec_kept(count, dtype, ratio);
    uint16_t *values = (uint16_t *)packet + 2 * index * codec_kept(CODEC_BLOCK, dtype, ratio);
    return (Block){first, (uint32_t)count, kept, values, values + kept};
}

static void *row_in(Tensor tensor, uint64_t row)
{
    return element_in(tensor.data, tensor.dtype, row * tensor.cols);
}

static void check_packets(double ratio, Tensor vectors, Tensor packets)
{
    (void)ratio, (void)vectors, (void)packets; // where nothing is asserted
    assert(packets.dtype == DTYPE_U8 && packets.cols == codec_packet_bytes(vectors.cols, vectors.dtype, ratio));
}

// ---- blocks ------------------------------------------------------------------------------------

// out = `count` elements of a, less those of b where there is one.
static void subtract(const void *a, const void *b, Dtype dtype, uint64_t count, float *out)
{
    float stored[CODEC_BLOCK];
    const float *less = b;
    if (b && dtype != DTYPE_F32) {
        host_to_f32(b, dtype, stored, count);
        less = stored;
    }
    const float *from = a;
    if (!b || dtype != DTYPE_F32) {
        host_to_f32(a, dtype, out, count);
        from = out;
    }
    for (uint64_t i = 0; b && i < count; i++)
        out[i] = from[i] - less[i];
}

static void block_write(const Block *block, const float *difference)
{
    float values[CODEC_BLOCK];
    select_largest(difference, block->count, block->kept, block->indices);
    for (uint32_t i = 0; i < block->kept; i++)
        values[i] = difference[block->indices[i]];
    host_from_f32(values, block->values, DTYPE_BF16, block->kept);
}

// Adds what the block holds to the elements of the vector `to`, each sum rounded to its dtype.
static void block_add(const Block *block, void *to, Dtype dtype)
{
    float sums[CODEC_BLOCK], values[CODEC_BLOCK];
    uint32_t elements[CODEC_BLOCK];
    uint16_t *halves = (uint16_t *)elements;
    void *target = element_in(to, dtype, block->first);
    host_to_f32(block->values, DTYPE_BF16, values, block->kept);
    for (uint32_t i = 0; i < block->kept; i++) {
        assert(block->indices[i] < block->count);
        if (dtype == DTYPE_F32)
            elements[i] = ((uint32_t *)target)[block->indices[i]];
        else
            halves[i] = ((uint16_t *)target)[block->indices[i]];
    }
    host_to_f32(elements, dtype, sums, block->kept);
    for (uint32_t i = 0; i < block->kept; i++)
        sums[i] += values[i];
    host_from_f32(sums, elements, dtype, block->kept);
    for (uint32_t i = 0; i < block->kept; i++) {
        if (dtype == DTYPE_F32)
            ((uint32_t *)target)[block->indices[i]] = elements[i];
        else
            ((uint16_t *)target)[block->indices[i]] = halves[i];
    }
}

// ---- experts -----------------------------------------------------------------------------------

void host_encode(const CodecInfo *codec, double ratio, Tensor experts, Tensor base, Tensor packet)
{
    check_packets(ratio, experts, packet);
    assert(packet.rows == experts.rows && base.rows == (codec->remembers ? experts.rows : base.data ? 1 : base.rows));
    float difference[CODEC_BLOCK];
    for (uint64_t row = 0; row < experts.rows; row++) {
        const char *from = codec->remembers ? row_in(base, row) : base.data;
        for (uint64_t b = 0; b < codec_blocks(experts.cols); b++) {
            Block block = block_at(ratio, experts.dtype, experts.cols, b, row_in(packet, row));
            subtract(element_in(row_in(experts, row), experts.dtype, block.first),
                     from ? element_at(from, experts.dtype, block.first) : NULL, experts.dtype, block.count,
                     difference);
            block_write(&block, difference);
            if (codec->remembers)
                block_add(&block, row_in(base, row), base.dtype);
        }
    }
}

static void decode_row(double ratio, void *packet, Tensor to, uint64_t row)
{
    for (uint64_t b = 0; b < codec_blocks(to.cols); b++) {
        Block block = block_at(ratio, to.dtype, to.cols, b, packet);
        block_add(&block, row_in(to, row), to.dtype);
    }
}

void host_decode(const CodecInfo *codec, double ratio, uint64_t own_first, Tensor packet, Tensor own, Tensor mean,
                 Tensor experts)
{
    uint64_t bytes = experts.cols * dtype_bytes(experts.dtype);
    check_packets(ratio, experts, packet);
    assert(packet.rows == experts.rows && own.cols == experts.cols && own_first + own.rows <= experts.rows);
    for (uint64_t row = 0; row < experts.rows; row++) {
        if (row >= own_first && row - own_first < own.rows) {
            memcpy(row_in(experts, row), row_in(own, row - own_first), bytes);
            continue;
        }
        if (!codec->remembers && mean.data)
            memcpy(row_in(experts, row), mean.data, bytes);
        else if (!codec->remembers)
            memset(row_in(experts, row), 0, bytes);
        decode_row(ratio, row_in(packet, row), experts, row);
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

static void encode_gradient_row(double ratio, Tensor gathered, Tensor error, uint64_t row, void *packet)
{
    float due[CODEC_BLOCK], left[CODEC_BLOCK], values[CODEC_BLOCK];
    Dtype dtype = gathered.dtype;
    for (uint64_t b = 0; b < codec_blocks(gathered.cols); b++) {
        Block block = block_at(ratio, dtype, gathered.cols, b, packet);
        void *kept_back = element_in(row_in(error, row), dtype, block.first);
        host_to_f32(element_at(row_in(gathered, row), dtype, block.first), dtype, due, block.count);
        host_to_f32(kept_back, dtype, left, block.count);
        for (uint32_t i = 0; i < block.count; i++)
            due[i] += left[i];
        block_write(&block, due);
        host_to_f32(block.values, DTYPE_BF16, values, block.kept);
        for (uint32_t i = 0; i < block.kept; i++)
            due[block.indices[i]] -= values[i];
        host_from_f32(due, kept_back, dtype, block.count);
    }
}

void host_encode_gradient(double ratio, uint64_t own_first, uint64_t own_count, Tensor gathered, Tensor error,
                          Tensor packets)
{
    check_packets(ratio, gathered, packets);
    assert(packets.rows == gathered.rows && error.rows == gathered.rows && error.dtype == gathered.dtype);
    for (uint64_t row = 0; row < gathered.rows; row++)
        if (row < own_first || row - own_first >= own_count)
            encode_gradient_row(ratio, gathered, error, row, row_in(packets, row));
}

void host_decode_gradient(double ratio, uint64_t own, Tensor gathered, Tensor received, Tensor shard)
{
    check_packets(ratio, shard, received);
    uint64_t members = gathered.rows / shard.rows;
    assert(received.rows == gathered.rows && gathered.dtype == shard.dtype && own < members);
    float sum[CODEC_BLOCK], values[CODEC_BLOCK];
    for (uint64_t row = 0; row < shard.rows; row++)
        for (uint64_t b = 0; b < codec_blocks(shard.cols); b++) {
            uint64_t first = b * CODEC_BLOCK, count = smaller(CODEC_BLOCK, shard.cols - first);
            const void *summand = element_at(row_in(gathered, own * shard.rows + row), shard.dtype, first);
            host_to_f32(summand, shard.dtype, sum, count);
            for (uint64_t m = 0; m < members; m++) {
                if (m == own)
                    continue;
                Block block = block_at(ratio, shard.dtype, shard.cols, b, row_in(received, m * shard.rows + row));
                host_to_f32(block.values, DTYPE_BF16, values, block.kept);
                for (uint32_t i = 0; i < block.kept; i++) {
                    assert(block.indices[i] < block.count);
                    sum[block.indices[i]] += values[i];
                }
            }
            host_from_f32(sum, element_in(row_in(shard, row), shard.dtype, first), shard.dtype, count);
        }
}
