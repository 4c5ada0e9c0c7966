// What kernels share: launching, 16-byte vectors of elements with f32 values, reductions over warps and blocks, places
// in row-major buffers, scratch. For nvcc; tests/cuda_emulation compiles the same kernels for the processor, with its
// own forms of what is marked HEP_CUDA_EMULATION.
#ifndef HEP_CUDA_DEVICE_H
#define HEP_CUDA_DEVICE_H

#include <assert.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/cuda/kernels.h"

#ifndef HEP_CUDA_EMULATION
// Dynamic shared memory of the kernel, 128-byte aligned: matrix units read from multiples of 32 bytes.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaStream_t stream, dim3 grid, unsigned threads, size_t shared_bytes, void (*kernel)(Parameters...),
                   Arguments... arguments)
{
    kernel<<<grid, threads, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
    return cudaGetLastError();
}
#endif

// Calls in a row; the first failure ends them.
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        cudaError_t error_ = (call);                                                                                   \
        if (error_ != cudaSuccess)                                                                                     \
            return error_;                                                                                             \
    } while (0)

// `function` (a template over the element type) for the dtype of a buffer.
#define BY_DTYPE(dtype, function, ...)                                                                                 \
    ((dtype) == DTYPE_F32   ? function<float>(__VA_ARGS__)                                                             \
     : (dtype) == DTYPE_F16 ? function<__half>(__VA_ARGS__)                                                            \
                            : function<__nv_bfloat16>(__VA_ARGS__))

enum { WARP = 32, BLOCK_THREADS = 256 };
#define WHOLE_WARP 0xFFFFFFFFu

static inline uint64_t blocks_for(uint64_t count, uint64_t per_block)
{
    return (count + per_block - 1) / per_block;
}

// ---- elements ------------------------------------------------------------------------------------

static __device__ __forceinline__ float to_f32(float x)
{
    return x;
}

static __device__ __forceinline__ float to_f32(__half x)
{
    return __half2float(x);
}

static __device__ __forceinline__ float to_f32(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

// Rounds to nearest, ties to even.
template <typename T> static __device__ __forceinline__ T from_f32(float x);

template <> __device__ __forceinline__ float from_f32<float>(float x)
{
    return x;
}

template <> __device__ __forceinline__ __half from_f32<__half>(float x)
{
    return __float2half_rn(x);
}

template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

// As many elements as one 16-byte access moves.
template <typename T> struct Vector {
    static constexpr int LENGTH = 16 / sizeof(T);
    alignas(16) T values[LENGTH];
};

template <typename T> static __device__ __forceinline__ Vector<T> load_vector(const T *from)
{
    Vector<T> vector;
    *reinterpret_cast<uint4 *>(vector.values) = *reinterpret_cast<const uint4 *>(from);
    return vector;
}

template <typename T> static __device__ __forceinline__ void store_vector(T *to, const Vector<T> &vector)
{
    *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(vector.values);
}

// Elements that one thread handles at `first` of a row of `cols`: a vector where rows are `aligned`, else one by one.
template <typename T> struct Piece {
    static constexpr int LENGTH = Vector<T>::LENGTH;
    float values[LENGTH];

    __device__ __forceinline__ void load(const T *row, uint64_t first, uint64_t cols, bool aligned)
    {
        if (aligned) {
            Vector<T> vector = load_vector(row + first);
#pragma unroll
            for (int i = 0; i < LENGTH; i++)
                values[i] = to_f32(vector.values[i]);
            return;
        }
#pragma unroll
        for (int i = 0; i < LENGTH; i++)
            values[i] = first + i < cols ? to_f32(row[first + i]) : 0;
    }

    __device__ __forceinline__ void store(T *row, uint64_t first, uint64_t cols, bool aligned) const
    {
        if (aligned) {
            Vector<T> vector;
#pragma unroll
            for (int i = 0; i < LENGTH; i++)
                vector.values[i] = from_f32<T>(values[i]);
            store_vector(row + first, vector);
            return;
        }
#pragma unroll
        for (int i = 0; i < LENGTH; i++)
            if (first + i < cols)
                row[first + i] = from_f32<T>(values[i]);
    }

    __device__ __forceinline__ void add(const Piece &other, float weight = 1.0f)
    {
#pragma unroll
        for (int i = 0; i < LENGTH; i++)
            values[i] += weight * other.values[i];
    }
};

// N neighbours of a row from `first` on, in as wide accesses as their dtype allows where rows are `aligned`. Beyond
// `cols` they are 0 and stay unwritten.
template <typename T, int N> struct Run {
    static constexpr int BYTES = N * sizeof(T) < 16 ? N * sizeof(T) : 16, EACH = BYTES / sizeof(T);
    using Unit = std::conditional_t<BYTES == 16, uint4, uint2>;
    static_assert(BYTES == 8 || BYTES == 16, "whole units");
    float values[N];

    __device__ __forceinline__ void load(const T *row, uint64_t first, uint64_t cols, bool aligned)
    {
#pragma unroll
        for (int i = 0; i < N; i += EACH) {
            alignas(16) T unit[EACH];
            if (aligned && first + i + EACH <= cols)
                *reinterpret_cast<Unit *>(unit) = *reinterpret_cast<const Unit *>(row + first + i);
            else
                for (int e = 0; e < EACH; e++)
                    unit[e] = first + i + e < cols ? row[first + i + e] : from_f32<T>(0);
#pragma unroll
            for (int e = 0; e < EACH; e++)
                values[i + e] = to_f32(unit[e]);
        }
    }

    __device__ __forceinline__ void store(T *row, uint64_t first, uint64_t cols, bool aligned) const
    {
#pragma unroll
        for (int i = 0; i < N; i += EACH) {
            alignas(16) T unit[EACH];
#pragma unroll
            for (int e = 0; e < EACH; e++)
                unit[e] = from_f32<T>(values[i + e]);
            if (aligned && first + i + EACH <= cols)
                *reinterpret_cast<Unit *>(row + first + i) = *reinterpret_cast<const Unit *>(unit);
            else
                for (int e = 0; e < EACH; e++)
                    if (first + i + e < cols)
                        row[first + i + e] = unit[e];
        }
    }
};

// Whether every row of `cols` elements begins at a multiple of 16 bytes and ends at one.
template <typename T> static bool is_aligned(const void *data, uint64_t cols)
{
    return cols % Vector<T>::LENGTH == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// ---- sums ----------------------------------------------------------------------------------------

struct Add {
    __device__ __forceinline__ float operator()(float a, float b) const
    {
        return a + b;
    }
};

struct Max {
    __device__ __forceinline__ float operator()(float a, float b) const
    {
        return fmaxf(a, b);
    }
};

// Over the 32 lanes; every lane gets it.
template <typename Operation> static __device__ __forceinline__ float warp_reduce(float x, Operation operation)
{
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        x = operation(x, __shfl_xor_sync(WHOLE_WARP, x, distance));
    return x;
}

// Over all threads of a block of whole warps; every thread gets it. `scratch`: shared, [WARP].
template <typename Operation>
static __device__ __forceinline__ float block_reduce(float x, Operation operation, float *scratch)
{
    unsigned warps = blockDim.x / WARP;
    x = warp_reduce(x, operation);
    __syncthreads(); // readers of an earlier reduction are done
    if (threadIdx.x % WARP == 0)
        scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    x = scratch[0];
    for (unsigned w = 1; w < warps; w++)
        x = operation(x, scratch[w]);
    return x;
}

// ---- rows that are present -----------------------------------------------------------------------

// By one thread, or by every thread for itself: counts are few.
static __device__ __forceinline__ uint64_t present_rows(const CudaRows &rows)
{
    if (!rows.counts)
        return rows.rows;
    uint64_t sum = 0;
    for (uint32_t m = 0; m < rows.members; m++)
        sum += m + 1 == rows.skipped ? 0 : static_cast<uint64_t>(rows.counts[m]);
    return sum < rows.rows ? sum : rows.rows;
}

// By all threads of a block. `shared`: one number.
static __device__ __forceinline__ uint64_t present_rows_shared(const CudaRows &rows, uint64_t *shared)
{
    if (!rows.counts)
        return rows.rows;
    if (threadIdx.x == 0)
        *shared = present_rows(rows);
    __syncthreads();
    return *shared;
}

// ---- scratch -------------------------------------------------------------------------------------

// The pieces are stated in engines/cuda_scratch.h.
static inline CudaScratch scratch_of(const CudaQueue *queue)
{
    return {static_cast<char *>(queue->work), 0, queue->work_bytes};
}

#endif
