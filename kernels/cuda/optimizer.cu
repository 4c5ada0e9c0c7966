// AdamW, one pass over weights, gradient and state, 16-byte accesses of the state: bound by memory; the norm of
// gradients.
#include <math.h>

#include "kernels/cuda/internal.h"

namespace
{

constexpr int EACH = 4; // elements a thread

// Gradients count less where the norm of all of them is too large.
__device__ __forceinline__ float gradient_scale(const AdamWFactors &f, const float *squares)
{
    float norm = squares && f.clip > 0 ? sqrtf(*squares) * f.scale : 0;
    return norm > f.clip && f.clip > 0 ? f.scale * f.clip / norm : f.scale;
}

// A buffer's weights [rows][cols] with their gradient, of the same dtype or f32; state f32 [rows][2 cols], or [3 cols]
// with a master copy for 16-bit weights.
template <typename T, typename Gradient> struct Weights {
    static constexpr bool HAS_MASTER = sizeof(T) == 2;
    T *weights;
    const Gradient *gradient;
    float *state;
    uint64_t rows, cols;
    bool aligned;
    ModelRanges undecayed;
};

__device__ __forceinline__ bool decays(const ModelRanges &undecayed, uint64_t element)
{
    bool inside = false;
    for (uint32_t r = 0; r < undecayed.count; r++)
        inside |= element - undecayed.ranges[r].first < undecayed.ranges[r].count;
    return !inside;
}

// EACH neighbours of a row from `first` on.
template <typename T, typename Gradient>
__device__ __forceinline__ void update(const AdamWFactors &f, float scale, const Weights<T, Gradient> &of, uint64_t row,
                                       uint64_t first)
{
    uint64_t cols = of.cols;
    float *moments = of.state + row * (of.HAS_MASTER ? 3 : 2) * cols;
    T *weights = of.weights + row * cols;
    Run<Gradient, EACH> g;
    Run<T, EACH> stored;
    Run<float, EACH> m, v, w;
    g.load(of.gradient + row * cols, first, cols, of.aligned);
    m.load(moments, first, cols, of.aligned);
    v.load(moments + cols, first, cols, of.aligned);
    if constexpr (of.HAS_MASTER)
        w.load(moments + 2 * cols, first, cols, of.aligned);
    else
        w.load(weights, first, cols, of.aligned);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        float d = g.values[i] * scale;
        m.values[i] = f.beta1 * m.values[i] + (1.0f - f.beta1) * d;
        v.values[i] = f.beta2 * v.values[i] + (1.0f - f.beta2) * d * d;
        float decay = decays(of.undecayed, row * cols + first + i) ? f.decay : 1.0f;
        w.values[i] = decay * w.values[i] - f.rate * m.values[i] / (sqrtf(v.values[i]) * f.correction + f.epsilon);
        stored.values[i] = w.values[i];
    }
    m.store(moments, first, cols, of.aligned);
    v.store(moments + cols, first, cols, of.aligned);
    if constexpr (of.HAS_MASTER)
        w.store(moments + 2 * cols, first, cols, of.aligned);
    stored.store(weights, first, cols, of.aligned);
}

template <typename T, typename Gradient>
__global__ void __launch_bounds__(BLOCK_THREADS)
    adamw_kernel(const AdamWFactors *__restrict__ factors, const float *__restrict__ squares, Weights<T, Gradient> of)
{
    AdamWFactors f = *factors;
    uint64_t per_row = (of.cols + EACH - 1) / EACH;
    uint64_t index = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index < of.rows * per_row)
        update(f, gradient_scale(f, squares), of, index / per_row, index % per_row * EACH);
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

template <typename T, typename Gradient>
Weights<T, Gradient> weights_of(const ModelRanges *undecayed, Tensor weights, Tensor gradient, Tensor state)
{
    bool aligned = is_aligned<T>(weights.data, weights.cols) && is_aligned<Gradient>(gradient.data, 0) &&
                   is_aligned<float>(state.data, weights.cols);
    return {static_cast<T *>(weights.data),
            static_cast<const Gradient *>(gradient.data),
            static_cast<float *>(state.data),
            weights.rows,
            weights.cols,
            aligned,
            *undecayed};
}

template <typename T, typename Gradient>
cudaError_t step_with(const CudaQueue *queue, const AdamWFactors *factors, const ModelRanges *undecayed, Tensor squares,
                      Tensor weights, Tensor gradient, Tensor state)
{
    uint64_t threads = weights.rows * blocks_for(weights.cols, EACH);
    return launch(queue->stream, static_cast<unsigned>(blocks_for(threads, BLOCK_THREADS)), BLOCK_THREADS, 0,
                  adamw_kernel<T, Gradient>, factors, static_cast<const float *>(squares.data),
                  weights_of<T, Gradient>(undecayed, weights, gradient, state));
}

template <typename T>
cudaError_t step(const CudaQueue *queue, const AdamWFactors *factors, const ModelRanges *undecayed, Tensor squares,
                 Tensor weights, Tensor gradient, Tensor state)
{
    if (gradient.dtype == DTYPE_F32)
        return step_with<T, float>(queue, factors, undecayed, squares, weights, gradient, state);
    return step_with<T, T>(queue, factors, undecayed, squares, weights, gradient, state);
}

// ---- norm of gradients ---------------------------------------------------------------------------

constexpr unsigned SQUARE_BLOCKS = CUDA_SQUARE_BLOCKS;

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
__global__ void square_kernel(const T *__restrict__ gradient, double *__restrict__ partial, uint64_t count,
                              bool aligned)
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
__global__ void square_total_kernel(const double *__restrict__ partial, unsigned count, const float *before,
                                    float *squares)
{
    __shared__ double shared[BLOCK_THREADS];
    double sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x)
        sum += partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0)
        *squares = static_cast<float>(sum + (before ? *before : 0.0f));
}

template <typename T> cudaError_t square(const CudaQueue *queue, Tensor gradient, double *partial, unsigned *blocks)
{
    uint64_t count = gradient.rows * gradient.cols, all = blocks_for(count, BLOCK_THREADS * Piece<T>::LENGTH);
    *blocks = static_cast<unsigned>(all < 1 ? 1 : all < SQUARE_BLOCKS ? all : SQUARE_BLOCKS);
    return launch(queue->stream, *blocks, BLOCK_THREADS, 0, square_kernel<T>, static_cast<const T *>(gradient.data),
                  partial, count, is_aligned<T>(gradient.data, 0));
}

} // namespace

cudaError_t cuda_squares(const CudaQueue *queue, Tensor gradient, Tensor before, Tensor squares)
{
    CudaScratch scratch = scratch_of(queue);
    double *partial = cuda_squares_take(&scratch);
    unsigned blocks;
    TRY(BY_DTYPE(gradient.dtype, square, queue, gradient, partial, &blocks));
    return launch(queue->stream, 1, BLOCK_THREADS, 0, square_total_kernel, partial, blocks,
                  static_cast<const float *>(before.data), static_cast<float *>(squares.data));
}

AdamWFactors cuda_adamw_factors(const AdamW *adamw, double clip)
{
    double t = static_cast<double>(adamw->step);
    double first = 1 - pow(adamw->beta1, t), second = 1 - pow(adamw->beta2, t);
    return {adamw->gradient_scale,
            adamw->beta1,
            adamw->beta2,
            static_cast<float>(adamw->learning_rate / first),
            static_cast<float>(1 - static_cast<double>(adamw->learning_rate) * adamw->weight_decay),
            static_cast<float>(1 / sqrt(second)),
            adamw->epsilon,
            static_cast<float>(clip)};
}

cudaError_t cuda_optimizer_begin(const CudaQueue *queue, Tensor weights, Tensor state)
{
    return BY_DTYPE(weights.dtype, begin, queue, weights, state);
}

cudaError_t cuda_optimizer(const CudaQueue *queue, const AdamWFactors *factors, const ModelRanges *undecayed,
                           Tensor squares, Tensor weights, Tensor gradient, Tensor state)
{
    if (weights.rows == 0 || weights.cols == 0)
        return cudaSuccess;
    return BY_DTYPE(weights.dtype, step, queue, factors, undecayed, squares, weights, gradient, state);
}
