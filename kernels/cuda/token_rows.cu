// Token rows in 8 or 4 bits, the counterpart of kernels/host/token_rows.c: the same bits. A block of threads a row, a
// warp 128 of its elements at a time, four neighbours a thread. Bound by memory: a row is read once and written once.
#include "kernels/cuda/internal.h"

namespace
{

constexpr unsigned ROW_WARPS = 4, ROW_THREADS = ROW_WARPS * WARP, WHOLE_THREADS = WARP;
constexpr int EACH = 4;                                      // elements of a thread
constexpr unsigned SHORT_THREADS = TOKEN_SHORT_BLOCK / EACH; // that hold a block of 32
static_assert(WARP * EACH == TOKEN_BLOCK, "a warp holds a block");

constexpr float FP8_MOST = 448.0f, FP8_LEAST = 0x1p-6f, SCALE_LEAST = 0x1p-126f;

// What of a row a warp has at hand.
struct Chunk {
    uint64_t hidden, first; // of the elements of this thread
    uint64_t block;         // that these belong to, and which of its threads this is
    unsigned lane, count;   // elements of the block
};

template <TokenFormat F> __device__ __forceinline__ Chunk chunk_at(uint64_t hidden, uint64_t begin)
{
    constexpr unsigned size = F == TOKENS_INT4 ? TOKEN_SHORT_BLOCK : TOKEN_BLOCK, threads = size / EACH;
    unsigned lane = threadIdx.x % WARP;
    uint64_t first = begin + lane * EACH, block = first / size, start = block * size;
    uint64_t left = start < hidden ? hidden - start : 0;
    return {hidden, first, block, lane % threads, static_cast<unsigned>(left < size ? left : size)};
}

// Four neighbours at once where rows allow that.
template <typename T> __device__ __forceinline__ void load(const T *row, const Chunk &at, bool whole, float (&x)[EACH])
{
    struct alignas(EACH * sizeof(T)) Four {
        T values[EACH];
    };
    if (whole && at.first < at.hidden) {
        Four four = *reinterpret_cast<const Four *>(row + at.first);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            x[i] = to_f32(four.values[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        x[i] = at.first + i < at.hidden ? to_f32(row[at.first + i]) : 0;
}

template <typename T> __device__ __forceinline__ void store(T *row, const Chunk &at, bool whole, const float (&x)[EACH])
{
    struct alignas(EACH * sizeof(T)) Four {
        T values[EACH];
    };
    if (whole && at.first < at.hidden) {
        Four four;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            four.values[i] = from_f32<T>(x[i]);
        *reinterpret_cast<Four *>(row + at.first) = four;
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (at.first + i < at.hidden)
            row[at.first + i] = from_f32<T>(x[i]);
}

// The largest magnitude of a block, as the bits of floats compare: NaN above all.
template <TokenFormat F> __device__ __forceinline__ float largest_magnitude(const float (&x)[EACH])
{
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        largest = max(largest, __float_as_uint(x[i]) & 0x7FFFFFFFu);
    for (unsigned distance = (F == TOKENS_INT4 ? SHORT_THREADS : WHOLE_THREADS) / 2; distance > 0; distance /= 2)
        largest = max(largest, __shfl_xor_sync(WHOLE_WARP, largest, distance));
    return __uint_as_float(largest);
}

__device__ __forceinline__ uint32_t fp8_of(float value)
{
    uint32_t sign = __float_as_uint(value) >> 24 & 0x80;
    float magnitude = fabsf(value);
    magnitude = magnitude < FP8_MOST ? magnitude : FP8_MOST;
    uint32_t of = __float_as_uint(magnitude);
    uint32_t normal = ((of + 0x7FFFFu + (of >> 20 & 1)) >> 20) - (120u << 3);
    uint32_t small = static_cast<uint32_t>(__float2int_rn(magnitude * 512.0f));
    return sign | (magnitude < FP8_LEAST ? small : normal);
}

__device__ __forceinline__ float fp8_value(uint32_t code)
{
    uint32_t magnitude = code & 0x7F;
    float normal = __uint_as_float((magnitude << 20) + (120u << 23)), small = static_cast<float>(magnitude) * 0x1p-9f;
    return __uint_as_float(__float_as_uint(magnitude < 8 ? small : normal) | (code & 0x80) << 24);
}

// The nearest whole number, even ones of two, from -most to most; what is no number becomes one.
__device__ __forceinline__ int level_of(float value, float most)
{
    value = value > -most ? value : -most;
    value = value < most ? value : most;
    return __float2int_rn(value);
}

template <TokenFormat F> __device__ __forceinline__ uint32_t code_of(float value)
{
    if (F == TOKENS_FP8)
        return fp8_of(value);
    return F == TOKENS_INT8 ? static_cast<uint32_t>(level_of(value, 127)) & 0xFF
                            : static_cast<uint32_t>(level_of(value, 7) + 8);
}

template <TokenFormat F> __device__ __forceinline__ float value_of(uint32_t code)
{
    if (F == TOKENS_FP8)
        return fp8_value(code);
    return static_cast<float>(F == TOKENS_INT8 ? static_cast<int>(static_cast<int8_t>(code))
                                               : static_cast<int>(code) - 8);
}

// ---- elements of a chunk in a packed row ---------------------------------------------------------

// `codes`: of this thread, a byte each, 0 where there is no element; `shared` [WARP]: the warp's.
__device__ __forceinline__ void write_nibbles(const Chunk &at, uint32_t codes, uint32_t *shared, uint8_t *row)
{
    unsigned half = (at.count + 1) / 2, lane = threadIdx.x % WARP;
    __syncwarp(); // all have read what was there
    shared[lane] = codes;
    __syncwarp();
    uint8_t *to = row + at.block * (TOKEN_SHORT_BLOCK / 2);
    const uint32_t *words = shared + (lane - at.lane);
    if (at.count == TOKEN_SHORT_BLOCK) {
        if (at.lane < SHORT_THREADS / 2)
            reinterpret_cast<uint32_t *>(to)[at.lane] = words[at.lane] | words[at.lane + SHORT_THREADS / 2] << 4;
        return;
    }
    const uint8_t *bytes = reinterpret_cast<const uint8_t *>(words);
    for (unsigned j = at.lane; j < half; j += SHORT_THREADS)
        to[j] = static_cast<uint8_t>(bytes[j] | (half + j < at.count ? bytes[half + j] << 4 : 0));
}

__device__ __forceinline__ uint32_t read_nibbles(const Chunk &at, const uint8_t *row)
{
    const uint8_t *from = row + at.block * (TOKEN_SHORT_BLOCK / 2);
    unsigned half = (at.count + 1) / 2;
    if (at.count == TOKEN_SHORT_BLOCK) {
        uint32_t word = reinterpret_cast<const uint32_t *>(from)[at.lane % (SHORT_THREADS / 2)];
        return (at.lane < SHORT_THREADS / 2 ? word : word >> 4) & 0x0F0F0F0Fu;
    }
    uint32_t codes = 0;
    for (unsigned i = 0; i < EACH; i++) {
        unsigned element = at.lane * EACH + i;
        uint32_t code = element >= at.count ? 0 : element < half ? from[element] & 15 : from[element - half] >> 4;
        codes |= code << 8 * i;
    }
    return codes;
}

__device__ __forceinline__ void write_bytes(const Chunk &at, uint32_t codes, uint8_t *row)
{
    if (at.first + EACH <= at.hidden) {
        *reinterpret_cast<uint32_t *>(row + at.first) = codes;
        return;
    }
    for (int i = 0; i < EACH; i++)
        if (at.first + i < at.hidden)
            row[at.first + i] = static_cast<uint8_t>(codes >> 8 * i);
}

__device__ __forceinline__ uint32_t read_bytes(const Chunk &at, const uint8_t *row)
{
    uint32_t codes = 0;
    if (at.first + EACH <= at.hidden)
        return *reinterpret_cast<const uint32_t *>(row + at.first);
    for (int i = 0; i < EACH; i++)
        if (at.first + i < at.hidden)
            codes |= static_cast<uint32_t>(row[at.first + i]) << 8 * i;
    return codes;
}

// ---- rows ----------------------------------------------------------------------------------------

// A packed row: where its elements end and its scales begin and end.
struct PackedRow {
    uint64_t element_end, scales, scales_end, bytes;
};

PackedRow packed_row(TokenFormat format, uint64_t hidden, uint64_t bytes)
{
    uint64_t scales = token_scales_offset(format, hidden), rest = hidden % TOKEN_SHORT_BLOCK;
    uint64_t nibbles = hidden / TOKEN_SHORT_BLOCK * (TOKEN_SHORT_BLOCK / 2) + (rest + 1) / 2;
    return {format == TOKENS_INT4 ? nibbles : hidden, scales,
            scales + blocks_for(hidden, token_block(format)) * TOKEN_SCALE_BYTES, bytes};
}

template <TokenFormat F, typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    encode_rows_kernel(CudaRows present, PackedRow shape, const T *__restrict__ rows, uint64_t hidden, bool whole,
                       uint8_t *__restrict__ packed)
{
    __shared__ uint64_t count;
    __shared__ uint32_t codes_of_warps[ROW_WARPS][WARP];
    uint64_t row = blockIdx.x;
    if (row >= present_rows_shared(present, &count))
        return;
    uint8_t *to = packed + row * shape.bytes;
    unsigned warp = threadIdx.x / WARP;
    for (uint64_t begin = static_cast<uint64_t>(warp) * TOKEN_BLOCK; begin < hidden; begin += ROW_WARPS * TOKEN_BLOCK) {
        Chunk at = chunk_at<F>(hidden, begin);
        float x[EACH];
        load(rows + row * hidden, at, whole, x);
        float scale = largest_magnitude<F>(x) / (F == TOKENS_FP8 ? FP8_MOST : F == TOKENS_INT8 ? 127.0f : 7.0f);
        __nv_bfloat16 stored = __float2bfloat16_rn(scale < SCALE_LEAST ? 0 : scale);
        scale = __bfloat162float(stored);
        float inverse = scale > 0 ? 1 / scale : 0;
        uint32_t codes = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            codes |= at.first + i < hidden ? code_of<F>(x[i] * inverse) << 8 * i : 0;
        if (F == TOKENS_INT4)
            write_nibbles(at, codes, codes_of_warps[warp], to);
        else
            write_bytes(at, codes, to);
        if (at.lane == 0 && at.count > 0)
            reinterpret_cast<__nv_bfloat16 *>(to + shape.scales)[at.block] = stored;
    }
    for (uint64_t b = shape.element_end + threadIdx.x; b < shape.scales; b += ROW_THREADS)
        to[b] = 0;
    for (uint64_t b = shape.scales_end + threadIdx.x; b < shape.bytes; b += ROW_THREADS)
        to[b] = 0;
}

template <TokenFormat F, typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    decode_rows_kernel(CudaRows present, PackedRow shape, const uint8_t *__restrict__ packed, T *__restrict__ rows,
                       uint64_t hidden, bool whole)
{
    __shared__ uint64_t count;
    uint64_t row = blockIdx.x;
    if (row >= present_rows_shared(present, &count))
        return;
    const uint8_t *from = packed + row * shape.bytes;
    uint64_t warp = threadIdx.x / WARP;
    for (uint64_t begin = warp * TOKEN_BLOCK; begin < hidden; begin += ROW_WARPS * TOKEN_BLOCK) {
        Chunk at = chunk_at<F>(hidden, begin);
        if (at.first >= hidden)
            continue;
        float scale = __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(from + shape.scales)[at.block]);
        uint32_t codes = F == TOKENS_INT4 ? read_nibbles(at, from) : read_bytes(at, from);
        float x[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++)
            x[i] = scale * value_of<F>(codes >> 8 * i & 0xFF);
        store(rows + row * hidden, at, whole, x);
    }
}

// Are all groups of four neighbours in rows aligned?
template <typename T> bool is_in_fours(Tensor rows)
{
    return rows.cols % EACH == 0 && reinterpret_cast<uintptr_t>(rows.data) % (EACH * sizeof(T)) == 0;
}

template <TokenFormat F, typename T>
cudaError_t encode_as(const CudaQueue *queue, CudaRows present, Tensor rows, Tensor packed)
{
    return launch(queue->stream, static_cast<unsigned>(present.rows), ROW_THREADS, 0, encode_rows_kernel<F, T>, present,
                  packed_row(F, rows.cols, packed.cols), static_cast<const T *>(rows.data), rows.cols,
                  is_in_fours<T>(rows), static_cast<uint8_t *>(packed.data));
}

template <TokenFormat F, typename T>
cudaError_t decode_as(const CudaQueue *queue, CudaRows present, Tensor packed, Tensor rows)
{
    return launch(queue->stream, static_cast<unsigned>(present.rows), ROW_THREADS, 0, decode_rows_kernel<F, T>, present,
                  packed_row(F, rows.cols, packed.cols), static_cast<const uint8_t *>(packed.data),
                  static_cast<T *>(rows.data), rows.cols, is_in_fours<T>(rows));
}

template <typename T>
cudaError_t encode(const CudaQueue *queue, TokenFormat format, CudaRows present, Tensor rows, Tensor packed)
{
    return format == TOKENS_FP8    ? encode_as<TOKENS_FP8, T>(queue, present, rows, packed)
           : format == TOKENS_INT8 ? encode_as<TOKENS_INT8, T>(queue, present, rows, packed)
                                   : encode_as<TOKENS_INT4, T>(queue, present, rows, packed);
}

template <typename T>
cudaError_t decode(const CudaQueue *queue, TokenFormat format, CudaRows present, Tensor packed, Tensor rows)
{
    return format == TOKENS_FP8    ? decode_as<TOKENS_FP8, T>(queue, present, packed, rows)
           : format == TOKENS_INT8 ? decode_as<TOKENS_INT8, T>(queue, present, packed, rows)
                                   : decode_as<TOKENS_INT4, T>(queue, present, packed, rows);
}

} // namespace

cudaError_t cuda_encode_rows(const CudaQueue *queue, TokenFormat format, CudaRows present, Tensor rows, Tensor packed)
{
    if (present.rows == 0)
        return cudaSuccess;
    return BY_DTYPE(rows.dtype, encode, queue, format, present, rows, packed);
}

cudaError_t cuda_decode_rows(const CudaQueue *queue, TokenFormat format, CudaRows present, Tensor packed, Tensor rows)
{
    if (present.rows == 0)
        return cudaSuccess;
    return BY_DTYPE(rows.dtype, decode, queue, format, present, packed, rows);
}
