// Mean and deviation of a row, in f32, for kernels that normalise it.
#ifndef HEP_CUDA_NORM_MOMENTS_H
#define HEP_CUDA_NORM_MOMENTS_H

#include "kernels/cuda/device.h"

namespace
{

constexpr float EPSILON = 1e-5f;

struct Moments {
    float mean, scale; // scale: one over the deviation
};

// By a whole block. Two passes, as on the host: the second sums squares of differences.
template <typename T> __device__ Moments moments_of(const T *row, uint64_t hidden, bool aligned, float *scratch)
{
    Piece<T> piece;
    float sum = 0, squares = 0;
    uint64_t step = static_cast<uint64_t>(blockDim.x) * Piece<T>::LENGTH;
    for (uint64_t at = threadIdx.x * Piece<T>::LENGTH; at < hidden; at += step) {
        piece.load(row, at, hidden, aligned);
#pragma unroll
        for (int i = 0; i < Piece<T>::LENGTH; i++)
            sum += piece.values[i];
    }
    float mean = block_reduce(sum, Add(), scratch) / static_cast<float>(hidden);
    for (uint64_t at = threadIdx.x * Piece<T>::LENGTH; at < hidden; at += step) {
        piece.load(row, at, hidden, aligned);
#pragma unroll
        for (int i = 0; i < Piece<T>::LENGTH; i++)
            squares += at + i < hidden ? (piece.values[i] - mean) * (piece.values[i] - mean) : 0;
    }
    float variance = block_reduce(squares, Add(), scratch) / static_cast<float>(hidden);
    return {mean, 1.0f / sqrtf(variance + EPSILON)};
}

// By a warp, likewise.
template <typename T> __device__ Moments warp_moments_of(const T *row, uint64_t hidden, bool aligned)
{
    Piece<T> piece;
    float sum = 0, squares = 0;
    uint64_t first = threadIdx.x % WARP * Piece<T>::LENGTH, step = WARP * Piece<T>::LENGTH;
#pragma unroll 4
    for (uint64_t at = first; at < hidden; at += step) {
        piece.load(row, at, hidden, aligned);
#pragma unroll
        for (int i = 0; i < Piece<T>::LENGTH; i++)
            sum += piece.values[i];
    }
    float mean = warp_reduce(sum, Add()) / static_cast<float>(hidden);
#pragma unroll 4
    for (uint64_t at = first; at < hidden; at += step) {
        piece.load(row, at, hidden, aligned);
#pragma unroll
        for (int i = 0; i < Piece<T>::LENGTH; i++)
            squares += at + i < hidden ? (piece.values[i] - mean) * (piece.values[i] - mean) : 0;
    }
    float variance = warp_reduce(squares, Add()) / static_cast<float>(hidden);
    return {mean, 1.0f / sqrtf(variance + EPSILON)};
}

} // namespace

#endif
