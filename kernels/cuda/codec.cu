// Compression of what migrates, the counterpart of kernels/host/codec.c: a block of threads a codec block of a row.
// What receivers add to their copies and what the sender adds to its own is the same sum, element by element, so that
// all keep the same bits.
#include "kernels/cuda/internal.h"
#include "kernels/cuda/packet.h"

namespace
{

// Where a thread's elements lie: row, and the first of them in it.
struct Elements {
    uint64_t row, first, block;
};

__device__ __forceinline__ Elements own_elements()
{
    return {blockIdx.y, static_cast<uint64_t>(blockIdx.x) * CODEC_BLOCK + threadIdx.x * SELECT_EACH, blockIdx.x};
}

dim3 codec_grid(uint64_t cols, uint64_t rows)
{
    return dim3(static_cast<unsigned>(codec_blocks(cols)), static_cast<unsigned>(rows));
}

__device__ __forceinline__ uint8_t *packet_row(void *packets, uint64_t packet_bytes, uint64_t row)
{
    return static_cast<uint8_t *>(packets) + row * packet_bytes;
}

struct Packets {
    void *data;
    uint64_t bytes; // of one
    PacketShape shape;
};

Packets packets_of(Tensor packets, uint64_t cols, Dtype dtype, Packing packing)
{
    return {packets.data, packets.cols, packet_shape(cols, dtype, packing)};
}

// mean: one row, NULL if absent; sent: as experts, NULL of codecs that remember nothing.
template <typename T>
__global__ void __launch_bounds__(SELECT_THREADS)
    encode_kernel(const T *__restrict__ experts, const T *__restrict__ mean, T *__restrict__ sent, Packets packets,
                  bool aligned)
{
    __shared__ PacketShared memory;
    Elements own = own_elements();
    uint64_t cols = packets.shape.cols;
    Eight<T> difference, base = {};
    difference.load(experts + own.row * cols, own.first, cols, aligned);
    bool whole = packets.shape.form == PACKET_WHOLE; // stands for itself
    if ((mean || sent) && !whole)
        base.load(sent ? sent + own.row * cols : mean, own.first, cols, aligned);
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        difference.values[i] -= base.values[i];
    PacketBlock block = packets.shape.at(packet_row(packets.data, packets.bytes, own.row), own.block);
    uint32_t kept = write_packet<T>(&memory, packets.shape.form, block, difference.values);
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        if (sent && (kept >> i & 1))
            sent[own.row * cols + own.first + i] = from_f32<T>(base.values[i] + difference.values[i]);
}

template <typename T>
cudaError_t encode(const CudaQueue *queue, const CodecInfo *codec, Packing packing, Tensor experts, Tensor base,
                   Tensor packet)
{
    uint64_t cols = experts.cols;
    bool aligned = is_aligned<T>(experts.data, cols) && is_aligned<T>(base.data, 0);
    T *from = static_cast<T *>(base.data);
    return launch(queue->stream, codec_grid(cols, experts.rows), SELECT_THREADS, 0, encode_kernel<T>,
                  static_cast<const T *>(experts.data), codec->remembers ? nullptr : from,
                  codec->remembers ? from : nullptr, packets_of(packet, cols, experts.dtype, packing), aligned);
}

// ---- decode --------------------------------------------------------------------------------------

// Rows from own_first on, own_rows of them, are copies of `own`; others get their packet added: to what is there, or,
// if it `begins`, to the mean, or to 0.
struct Decode {
    uint64_t own_first, own_rows;
    bool begins;
};

template <typename T>
__global__ void __launch_bounds__(SELECT_THREADS)
    decode_kernel(Decode decode, Packets packets, const T *__restrict__ own, const T *__restrict__ mean,
                  T *__restrict__ to, bool aligned)
{
    Elements place = own_elements();
    uint64_t cols = packets.shape.cols;
    bool is_own = place.row >= decode.own_first && place.row - decode.own_first < decode.own_rows;
    T *row = to + place.row * cols;
    if (is_own || decode.begins) {
        Eight<T> base = {};
        const T *from = is_own ? own + (place.row - decode.own_first) * cols : mean;
        if (from)
            base.load(from, place.first, cols, aligned);
        base.store(row, place.first, cols, aligned);
    }
    if (is_own)
        return;
    __syncthreads(); // the block's other threads add to what this one wrote
    PacketBlock block = packets.shape.at(packet_row(packets.data, packets.bytes, place.row), place.block);
    add_packet<T>(packets.shape.form, block, row + place.block * CODEC_BLOCK);
}

template <typename T>
cudaError_t decode(const CudaQueue *queue, const CodecInfo *codec, Packing packing, uint64_t own_first, Tensor packet,
                   Tensor own, Tensor mean, Tensor experts)
{
    uint64_t cols = experts.cols;
    bool whole = packing.form == PACKET_WHOLE; // stands for itself
    Decode what = {own_first, own.rows, !codec->remembers || whole};
    if (whole)
        mean.data = nullptr;
    bool aligned = is_aligned<T>(experts.data, cols) && is_aligned<T>(own.data, 0) && is_aligned<T>(mean.data, 0);
    return launch(queue->stream, codec_grid(cols, experts.rows), SELECT_THREADS, 0, decode_kernel<T>, what,
                  packets_of(packet, cols, experts.dtype, packing), static_cast<const T *>(own.data),
                  static_cast<const T *>(mean.data), static_cast<T *>(experts.data), aligned);
}

template <typename T>
__global__ void mean_kernel(float all, const T *__restrict__ experts, T *__restrict__ shared, uint64_t rows,
                            uint64_t cols, bool aligned)
{
    uint64_t at = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * Piece<T>::LENGTH;
    Piece<T> sum = {}, part;
    if (at >= cols)
        return;
    for (uint64_t row = 0; row < rows; row++) {
        part.load(experts + row * cols, at, cols, aligned);
        sum.add(part);
    }
#pragma unroll
    for (int i = 0; i < Piece<T>::LENGTH; i++)
        sum.values[i] /= all;
    sum.store(shared, at, cols, aligned);
}

template <typename T> cudaError_t mean(const CudaQueue *queue, uint64_t all, Tensor experts, Tensor shared)
{
    unsigned blocks = static_cast<unsigned>(blocks_for(experts.cols, BLOCK_THREADS * Piece<T>::LENGTH));
    return launch(queue->stream, blocks, BLOCK_THREADS, 0, mean_kernel<T>, static_cast<float>(all),
                  static_cast<const T *>(experts.data), static_cast<T *>(shared.data), experts.rows, experts.cols,
                  is_aligned<T>(experts.data, experts.cols) && is_aligned<T>(shared.data, 0));
}

// ---- gradients -----------------------------------------------------------------------------------

template <typename T>
__global__ void __launch_bounds__(SELECT_THREADS)
    encode_gradient_kernel(uint64_t own_first, uint64_t own_count, const T *__restrict__ gathered,
                           T *__restrict__ error, Packets packets, bool aligned)
{
    __shared__ PacketShared memory;
    Elements place = own_elements();
    uint64_t cols = packets.shape.cols, row = place.row * cols;
    if (place.row >= own_first && place.row - own_first < own_count)
        return;
    Eight<T> due, left;
    due.load(gathered + row, place.first, cols, aligned);
    left.load(error + row, place.first, cols, aligned);
    float values[SELECT_EACH];
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        values[i] = due.values[i] += left.values[i];
    PacketBlock block = packets.shape.at(packet_row(packets.data, packets.bytes, place.row), place.block);
    uint32_t kept = write_packet<T>(&memory, packets.shape.form, block, values);
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        due.values[i] -= kept >> i & 1 ? values[i] : 0;
    due.store(error + row, place.first, cols, aligned);
}

template <typename T>
cudaError_t encode_gradient(const CudaQueue *queue, Packing packing, uint64_t own_first, uint64_t own_count,
                            Tensor gathered, Tensor error, Tensor packets)
{
    uint64_t cols = gathered.cols;
    return launch(queue->stream, codec_grid(cols, gathered.rows), SELECT_THREADS, 0, encode_gradient_kernel<T>,
                  own_first, own_count, static_cast<const T *>(gathered.data), static_cast<T *>(error.data),
                  packets_of(packets, cols, gathered.dtype, packing),
                  is_aligned<T>(gathered.data, cols) && is_aligned<T>(error.data, 0));
}

// The sums of a block lie in shared memory, where packets are added one after another.
template <typename T>
__global__ void __launch_bounds__(SELECT_THREADS)
    decode_gradient_kernel(uint64_t own, uint64_t members, uint64_t rows, const T *__restrict__ gathered,
                           Packets packets, T *__restrict__ shard, bool aligned)
{
    __shared__ float sums[CODEC_BLOCK];
    Elements place = own_elements();
    uint64_t cols = packets.shape.cols;
    Eight<T> piece;
    piece.load(gathered + (own * rows + place.row) * cols, place.first, cols, aligned);
    float *mine = sums + threadIdx.x * SELECT_EACH;
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        mine[i] = piece.values[i];
    for (uint64_t member = 0; member < members; member++) {
        if (member == own)
            continue;
        PacketBlock block =
            packets.shape.at(packet_row(packets.data, packets.bytes, member * rows + place.row), place.block);
        __syncthreads();
        add_packet<T>(packets.shape.form, block, sums);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SELECT_EACH; i++)
        piece.values[i] = mine[i];
    piece.store(shard + place.row * cols, place.first, cols, aligned);
}

template <typename T>
cudaError_t decode_gradient(const CudaQueue *queue, Packing packing, uint64_t own, Tensor gathered, Tensor received,
                            Tensor shard)
{
    return launch(queue->stream, codec_grid(shard.cols, shard.rows), SELECT_THREADS, 0, decode_gradient_kernel<T>, own,
                  gathered.rows / shard.rows, shard.rows, static_cast<const T *>(gathered.data),
                  packets_of(received, shard.cols, shard.dtype, packing), static_cast<T *>(shard.data),
                  is_aligned<T>(gathered.data, shard.cols) && is_aligned<T>(shard.data, 0));
}

bool is_empty(Tensor tensor)
{
    return tensor.rows == 0 || tensor.cols == 0;
}

} // namespace

cudaError_t cuda_encode(const CudaQueue *queue, const CodecInfo *codec, Packing packing, Tensor experts, Tensor base,
                        Tensor packet)
{
    if (is_empty(experts))
        return cudaSuccess;
    return BY_DTYPE(experts.dtype, encode, queue, codec, packing, experts, base, packet);
}

cudaError_t cuda_decode(const CudaQueue *queue, const CodecInfo *codec, Packing packing, uint64_t own_first,
                        Tensor packet, Tensor own, Tensor mean, Tensor experts)
{
    if (is_empty(packet))
        return cudaSuccess;
    return BY_DTYPE(own.dtype, decode, queue, codec, packing, own_first, packet, own, mean, experts);
}

cudaError_t cuda_mean(const CudaQueue *queue, uint64_t all, Tensor experts, Tensor shared)
{
    if (is_empty(shared))
        return cudaSuccess;
    return BY_DTYPE(experts.dtype, mean, queue, all, experts, shared);
}

cudaError_t cuda_encode_gradient(const CudaQueue *queue, Packing packing, uint64_t own_first, uint64_t own_count,
                                 Tensor gathered, Tensor error, Tensor packets)
{
    if (is_empty(gathered))
        return cudaSuccess;
    return BY_DTYPE(gathered.dtype, encode_gradient, queue, packing, own_first, own_count, gathered, error, packets);
}

cudaError_t cuda_decode_gradient(const CudaQueue *queue, Packing packing, uint64_t own, Tensor gathered,
                                 Tensor received, Tensor shard)
{
    if (is_empty(shard))
        return cudaSuccess;
    return BY_DTYPE(shard.dtype, decode_gradient, queue, packing, own, gathered, received, shard);
}
