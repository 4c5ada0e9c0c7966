// LayerNorm over rows and its gradient, in f32. A block a row; gradients of the parameters are summed over chunks of
// rows, then over chunks, both in order.
#include "kernels/cuda/internal.h"
#include "kernels/cuda/norm_moments.h"

namespace
{

constexpr uint64_t CHUNK = CUDA_NORM_CHUNK;
static_assert(sizeof(Moments) == 2 * sizeof(float), "scratch has two floats a row");
constexpr int EACH = 4; // elements a thread, of the gradient

template <typename T>
__global__ void norm_kernel(const T *__restrict__ x, const T *__restrict__ parameters, T *__restrict__ out,
                            float *__restrict__ exact, uint64_t hidden, bool aligned)
{
    __shared__ float scratch[WARP];
    uint64_t row = blockIdx.x;
    const T *from = x + row * hidden;
    Moments moments = moments_of(from, hidden, aligned, scratch);
    Piece<T> piece, gain, bias;
    Run<float, Piece<T>::LENGTH> precise;
    for (uint64_t at = threadIdx.x * Piece<T>::LENGTH; at < hidden; at += blockDim.x * Piece<T>::LENGTH) {
        piece.load(from, at, hidden, aligned);
        gain.load(parameters, at, hidden, aligned);
        bias.load(parameters + hidden, at, hidden, aligned);
#pragma unroll
        for (int i = 0; i < Piece<T>::LENGTH; i++) {
            float normed = (piece.values[i] - moments.mean) * moments.scale;
            piece.values[i] = precise.values[i] = normed * gain.values[i] + bias.values[i];
        }
        piece.store(out + row * hidden, at, hidden, aligned);
        if (exact)
            precise.store(exact + row * hidden, at, hidden, aligned);
    }
}

template <typename T>
cudaError_t norm(cudaStream_t stream, const void *x, uint64_t rows, uint64_t hidden, const void *parameters, void *out,
                 float *exact)
{
    bool aligned = is_aligned<T>(x, hidden) && is_aligned<T>(parameters, hidden) && is_aligned<T>(out, hidden) &&
                   is_aligned<float>(exact, 0);
    if (rows == 0)
        return cudaSuccess;
    return launch(stream, static_cast<unsigned>(rows), 128, 0, norm_kernel<T>, static_cast<const T *>(x),
                  static_cast<const T *>(parameters), static_cast<T *>(out), exact, hidden, aligned);
}

// ---- backward ------------------------------------------------------------------------------------

// With n = (x - mean) scale and g = d gain: dx = add + scale (g - mean(g) - n mean(g n)). Leaves the moments.
template <typename T>
__global__ void norm_backward_kernel(const T *__restrict__ x, const T *__restrict__ parameters,
                                     const float *__restrict__ d, const T *add, T *dx, Moments *__restrict__ moments,
                                     uint64_t hidden, bool aligned)
{
    __shared__ float scratch[WARP];
    uint64_t row = blockIdx.x;
    const T *from = x + row * hidden;
    const float *dr = d + row * hidden;
    Moments own = moments_of(from, hidden, aligned, scratch);
    float shift = 0, tilt = 0;
    Run<T, EACH> in, gain, sum = {};
    Run<float, EACH> gradient;
    for (uint64_t at = threadIdx.x * EACH; at < hidden; at += blockDim.x * EACH) {
        in.load(from, at, hidden, aligned);
        gain.load(parameters, at, hidden, aligned);
        gradient.load(dr, at, hidden, aligned);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float g = gradient.values[i] * gain.values[i]; // both 0 beyond the row
            shift += g;
            tilt += g * (in.values[i] - own.mean) * own.scale;
        }
    }
    shift = block_reduce(shift, Add(), scratch) / static_cast<float>(hidden);
    tilt = block_reduce(tilt, Add(), scratch) / static_cast<float>(hidden);
    for (uint64_t at = threadIdx.x * EACH; at < hidden; at += blockDim.x * EACH) {
        in.load(from, at, hidden, aligned);
        gain.load(parameters, at, hidden, aligned);
        gradient.load(dr, at, hidden, aligned);
        if (add)
            sum.load(add + row * hidden, at, hidden, aligned);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float normed = (in.values[i] - own.mean) * own.scale;
            sum.values[i] += own.scale * (gradient.values[i] * gain.values[i] - shift - normed * tilt);
        }
        sum.store(dx + row * hidden, at, hidden, aligned);
        if (!add)
            sum = {};
    }
    if (threadIdx.x == 0)
        moments[row] = own;
}

// partial [chunks][2 hidden]: sums over the rows of a chunk of d n, then of d. Grid: columns, chunks.
template <typename T>
__global__ void parameter_sums_kernel(const T *__restrict__ x, const float *__restrict__ d,
                                      const Moments *__restrict__ moments, float *__restrict__ partial, uint64_t rows,
                                      uint64_t hidden)
{
    uint64_t column = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x, chunk = blockIdx.y;
    if (column >= hidden)
        return;
    float gain = 0, bias = 0;
    uint64_t end = (chunk + 1) * CHUNK < rows ? (chunk + 1) * CHUNK : rows;
    for (uint64_t row = chunk * CHUNK; row < end; row++) {
        float dr = d[row * hidden + column];
        gain += dr * (to_f32(x[row * hidden + column]) - moments[row].mean) * moments[row].scale;
        bias += dr;
    }
    partial[chunk * 2 * hidden + column] = gain;
    partial[chunk * 2 * hidden + hidden + column] = bias;
}

template <typename T>
__global__ void parameter_gradient_kernel(const float *__restrict__ partial, T *__restrict__ dparameters,
                                          uint64_t chunks, uint64_t columns)
{
    uint64_t column = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    float sum = 0;
    if (column >= columns)
        return;
    for (uint64_t chunk = 0; chunk < chunks; chunk++)
        sum += partial[chunk * columns + column];
    dparameters[column] = from_f32<T>(sum);
}

template <typename T>
cudaError_t backward(cudaStream_t stream, const void *x, uint64_t rows, uint64_t hidden, const void *parameters,
                     const float *d, const void *add, void *dx, void *dparameters, const CudaNormSums &sums)
{
    Moments *moments = reinterpret_cast<Moments *>(sums.moments);
    const T *from = static_cast<const T *>(x), *norm = static_cast<const T *>(parameters);
    uint64_t chunks = blocks_for(rows, CHUNK);
    unsigned columns = static_cast<unsigned>(blocks_for(hidden, BLOCK_THREADS));
    bool aligned = is_aligned<T>(x, hidden) && is_aligned<T>(parameters, 0) && is_aligned<T>(dx, 0) &&
                   is_aligned<T>(add, 0) && is_aligned<float>(d, hidden);
    TRY(launch(stream, static_cast<unsigned>(rows), BLOCK_THREADS, 0, norm_backward_kernel<T>, from, norm, d,
               static_cast<const T *>(add), static_cast<T *>(dx), moments, hidden, aligned));
    TRY(launch(stream, dim3(columns, static_cast<unsigned>(chunks)), BLOCK_THREADS, 0, parameter_sums_kernel<T>, from,
               d, moments, sums.partial, rows, hidden));
    return launch(stream, static_cast<unsigned>(blocks_for(2 * hidden, BLOCK_THREADS)), BLOCK_THREADS, 0,
                  parameter_gradient_kernel<T>, sums.partial, static_cast<T *>(dparameters), chunks, 2 * hidden);
}

} // namespace

cudaError_t norm_rows(cudaStream_t stream, const void *x, Dtype dtype, uint64_t rows, uint64_t hidden,
                      const void *parameters, void *out, float *exact)
{
    return BY_DTYPE(dtype, norm, stream, x, rows, hidden, parameters, out, exact);
}

cudaError_t norm_backward(cudaStream_t stream, const void *x, Dtype dtype, uint64_t rows, uint64_t hidden,
                          const void *parameters, const float *d, const void *add, void *dx, void *dparameters,
                          const CudaNormSums &sums)
{
    return BY_DTYPE(dtype, backward, stream, x, rows, hidden, parameters, d, add, dx, dparameters, sums);
}
