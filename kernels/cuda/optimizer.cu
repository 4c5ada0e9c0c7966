// AdamW, one pass over weights, gradient and state: 4 elements a thread, 16-byte accesses of the state. Bound by memory.
#include <math.h>

#include "kernels/cuda/internal.h"

namespace {

constexpr int LENGTH = 4;

// Up to four neighbours of one row of the state.
struct Four {
    float values[LENGTH];

    __device__ void load(const float *from, uint64_t count)
    {
        if (count == LENGTH) {
            *reinterpret_cast<float4 *>(values) = *reinterpret_cast<const float4 *>(from);
            return;
        }
        for (uint64_t i = 0; i < LENGTH; i++)
            values[i] = i < count ? from[i] : 0;
    }

    __device__ void store(float *to, uint64_t count) const
    {
        if (count == LENGTH) {
            *reinterpret_cast<float4 *>(to) = *reinterpret_cast<const float4 *>(values);
            return;
        }
        for (uint64_t i = 0; i < count; i++)
            to[i] = values[i];
    }
};

// Where a thread works: `count` columns from `column` on of `row`; they are LENGTH and aligned, or one.
struct Spot {
    uint64_t row, column, count;
};

__device__ Spot own_spot(uint64_t cols, bool aligned)
{
    uint64_t length = aligned ? LENGTH : 1, per_row = cols / length;
    uint64_t index = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    return {index / per_row, index % per_row * length, length};
}

// weights, gradient [rows][cols]; state f32 [rows][2 cols], or [3 cols] with a master copy for 16-bit weights.
template <typename T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    adamw_kernel(const AdamWFactors *__restrict__ factors, T *__restrict__ weights, const T *__restrict__ gradient,
                 float *__restrict__ state, uint64_t rows, uint64_t cols, bool aligned)
{
    constexpr bool HAS_MASTER = sizeof(T) == 2;
    AdamWFactors f = *factors;
    Spot spot = own_spot(cols, aligned);
    if (spot.row >= rows)
        return;
    uint64_t place = spot.row * cols + spot.column;
    float *moments = state + spot.row * (HAS_MASTER ? 3 : 2) * cols + spot.column;
    Four m, v, w;
    m.load(moments, spot.count);
    v.load(moments + cols, spot.count);
    if (HAS_MASTER)
        w.load(moments + 2 * cols, spot.count);
    alignas(8) T g[LENGTH], out[LENGTH];
    for (uint64_t i = 0; i < LENGTH; i++)
        g[i] = i < spot.count ? gradient[place + i] : from_f32<T>(0);
#pragma unroll
    for (int i = 0; i < LENGTH; i++) {
        float d = to_f32(g[i]) * f.scale;
        if (!HAS_MASTER)
            w.values[i] = static_cast<uint64_t>(i) < spot.count ? to_f32(weights[place + i]) : 0;
        m.values[i] = f.beta1 * m.values[i] + (1.0f - f.beta1) * d;
        v.values[i] = f.beta2 * v.values[i] + (1.0f - f.beta2) * d * d;
        w.values[i] = f.decay * w.values[i] - f.rate * m.values[i] / (sqrtf(v.values[i]) * f.correction + f.epsilon);
        out[i] = from_f32<T>(w.values[i]);
    }
    m.store(moments, spot.count);
    v.store(moments + cols, spot.count);
    if (HAS_MASTER)
        w.store(moments + 2 * cols, spot.count);
    for (uint64_t i = 0; i < spot.count; i++)
        weights[place + i] = out[i];
}

template <typename T>
__global__ void begin_kernel(const T *__restrict__ weights, float *__restrict__ state, uint64_t rows, uint64_t cols)
{
    uint64_t index = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= rows * cols)
        return;
    float *moments = state + index / cols * (sizeof(T) == 2 ? 3 : 2) * cols + index % cols;
    moments[0] = moments[cols] = 0;
    if (sizeof(T) == 2)
        moments[2 * cols] = to_f32(weights[index]);
}

template <typename T> cudaError_t begin(const CudaQueue *queue, Tensor weights, Tensor state)
{
    uint64_t count = weights.rows * weights.cols;
    if (count == 0)
        return cudaSuccess;
    return launch(queue->stream, static_cast<unsigned>(blocks_for(count, BLOCK_THREADS)), BLOCK_THREADS, 0,
                  begin_kernel<T>, static_cast<const T *>(weights.data), static_cast<float *>(state.data), weights.rows,
                  weights.cols);
}

template <typename T>
cudaError_t step(const CudaQueue *queue, const AdamWFactors *factors, Tensor weights, Tensor gradient, Tensor state)
{
    uint64_t count = weights.rows * weights.cols;
    bool aligned = weights.cols % LENGTH == 0 && reinterpret_cast<uintptr_t>(state.data) % 16 == 0;
    if (count == 0)
        return cudaSuccess;
    return launch(queue->stream, static_cast<unsigned>(blocks_for(aligned ? count / LENGTH : count, BLOCK_THREADS)),
                  BLOCK_THREADS, 0, adamw_kernel<T>, factors, static_cast<T *>(weights.data),
                  static_cast<const T *>(gradient.data), static_cast<float *>(state.data), weights.rows, weights.cols,
                  aligned);
}

// ---- norm of gradients ---------------------------------------------------------------------------

constexpr unsigned SQUARE_BLOCKS = 1024; // partial sums; their number does not depend on the GPU

// Sum over the block, in an order that depends on its size alone. Complete in thread 0.
__device__ double block_sum(double x, double *shared)
{
    shared[threadIdx.x] = x;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    return shared[0];
}

template <typename T>
__global__ void square_kernel(const T *__restrict__ gradient, double *__restrict__ partial, uint64_t count, bool aligned)
{
    __shared__ double shared[BLOCK_THREADS];
    Piece<T> piece;
    double sum = 0;
    uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x * Piece<T>::LENGTH;
    uint64_t at = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * Piece<T>::LENGTH;
    for (; at < count; at += step) {
        piece.load(gradient, at, count, aligned && at + Piece<T>::LENGTH <= count);
#pragma unroll
        for (int i = 0; i < Piece<T>::LENGTH; i++)
            sum += static_cast<double>(piece.values[i]) * piece.values[i];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

// One block.
__global__ void square_total_kernel(const double *__restrict__ partial, const float *before, float *squares)
{
    __shared__ double shared[BLOCK_THREADS];
    double sum = 0;
    for (unsigned i = threadIdx.x; i < SQUARE_BLOCKS; i += blockDim.x)
        sum += partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0)
        *squares = static_cast<float>(sum + (before ? *before : 0.0f));
}

template <typename T> cudaError_t square(const CudaQueue *queue, Tensor gradient, double *partial)
{
    return launch(queue->stream, SQUARE_BLOCKS, BLOCK_THREADS, 0, square_kernel<T>,
                  static_cast<const T *>(gradient.data), partial, gradient.rows * gradient.cols,
                  is_aligned<T>(gradient.data, 0));
}

} // namespace

uint64_t squares_work_bytes(void)
{
    CudaScratch sizes = {};
    sizes.take<double>(SQUARE_BLOCKS);
    return sizes.used;
}

cudaError_t cuda_squares(const CudaQueue *queue, Tensor gradient, Tensor before, Tensor squares)
{
    CudaScratch scratch = scratch_of(queue);
    double *partial = scratch.take<double>(SQUARE_BLOCKS);
    TRY(BY_DTYPE(gradient.dtype, square, queue, gradient, partial));
    return launch(queue->stream, 1, BLOCK_THREADS, 0, square_total_kernel, partial,
                  static_cast<const float *>(before.data), static_cast<float *>(squares.data));
}

AdamWFactors cuda_adamw_factors(const AdamW *adamw)
{
    double t = static_cast<double>(adamw->step);
    double first = 1 - pow(adamw->beta1, t), second = 1 - pow(adamw->beta2, t);
    return {adamw->gradient_scale,
            adamw->beta1,
            adamw->beta2,
            static_cast<float>(adamw->learning_rate / first),
            static_cast<float>(1 - static_cast<double>(adamw->learning_rate) * adamw->weight_decay),
            static_cast<float>(1 / sqrt(second)),
            adamw->epsilon};
}

cudaError_t cuda_optimizer_begin(const CudaQueue *queue, Tensor weights, Tensor state)
{
    return BY_DTYPE(weights.dtype, begin, queue, weights, state);
}

cudaError_t cuda_optimizer(const CudaQueue *queue, const AdamWFactors *factors, Tensor weights, Tensor gradient,
                           Tensor state)
{
    return BY_DTYPE(weights.dtype, step, queue, factors, weights, gradient, state);
}
