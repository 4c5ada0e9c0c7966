// What one warp computes of a product: 32 x 64 sums in registers, from tiles of both factors in shared memory. Two
// forms: matrix units for 16-bit elements, multiply-adds for f32.
#ifndef HEP_CUDA_WARP_TILE_H
#define HEP_CUDA_WARP_TILE_H

#include "kernels/cuda/fragment.h"

namespace
{

constexpr int WARP_ROWS = 32, WARP_COLS = 64;
constexpr int ROW_FRAGMENTS = WARP_ROWS / FRAGMENT, COL_FRAGMENTS = WARP_COLS / FRAGMENT;

// Tiles of shared memory: a as [rows][depth], or [depth][rows] if A_TRANSPOSED; b as [depth][cols], or [cols][depth] if
// B_TRANSPOSED; `stride` elements from line to line.
template <typename T, bool A_TRANSPOSED, bool B_TRANSPOSED> struct WarpTile {
    FragmentSum sums[ROW_FRAGMENTS][COL_FRAGMENTS];

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < ROW_FRAGMENTS; i++)
#pragma unroll
            for (int j = 0; j < COL_FRAGMENTS; j++)
                fragment_clear(sums[i][j]);
    }

    // first_col[j]: where the columns of fragment j begin.
    template <int DEPTH, int A_STRIDE, int B_STRIDE>
    __device__ __forceinline__ void multiply_add(const T *a, const T *b, int first_row,
                                                 const int (&first_col)[COL_FRAGMENTS])
    {
#pragma unroll
        for (int k = 0; k < DEPTH; k += FRAGMENT) {
            FragmentA<T, A_TRANSPOSED> rows[ROW_FRAGMENTS];
            FragmentB<T, B_TRANSPOSED> cols[COL_FRAGMENTS];
#pragma unroll
            for (int i = 0; i < ROW_FRAGMENTS; i++) {
                int row = first_row + i * FRAGMENT;
                fragment_load(rows[i], A_TRANSPOSED ? a + k * A_STRIDE + row : a + row * A_STRIDE + k, A_STRIDE);
            }
#pragma unroll
            for (int j = 0; j < COL_FRAGMENTS; j++) {
                int col = first_col[j];
                fragment_load(cols[j], B_TRANSPOSED ? b + col * B_STRIDE + k : b + k * B_STRIDE + col, B_STRIDE);
            }
#pragma unroll
            for (int i = 0; i < ROW_FRAGMENTS; i++)
#pragma unroll
                for (int j = 0; j < COL_FRAGMENTS; j++)
                    fragment_multiply_add(sums[i][j], rows[i], cols[j]);
        }
    }

    // Fragment i, j as [16][16] in shared memory, `stride` from row to row; to be read after __syncwarp.
    __device__ __forceinline__ void store(int i, int j, float *to, int stride) const
    {
        fragment_store(to, sums[i][j], stride);
    }
};

// A lane has rows lane / 8 + 4 q of its warp's 32, and columns lane % 8 + 8 h of every 16: what the lanes read at once
// lies in different banks.
template <bool A_TRANSPOSED, bool B_TRANSPOSED> struct WarpTile<float, A_TRANSPOSED, B_TRANSPOSED> {
    static constexpr int ROWS = 8, HALVES = 2;
    float sums[ROWS][COL_FRAGMENTS][HALVES];

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int q = 0; q < ROWS; q++)
#pragma unroll
            for (int j = 0; j < COL_FRAGMENTS; j++)
                sums[q][j][0] = sums[q][j][1] = 0;
    }

    template <int DEPTH, int A_STRIDE, int B_STRIDE>
    __device__ __forceinline__ void multiply_add(const float *a, const float *b, int first_row,
                                                 const int (&first_col)[COL_FRAGMENTS])
    {
        int lane = threadIdx.x % WARP, lane_row = first_row + lane / 8, lane_col = lane % 8;
#pragma unroll 4
        for (int k = 0; k < DEPTH; k++) {
            float rows[ROWS], cols[COL_FRAGMENTS][HALVES];
#pragma unroll
            for (int q = 0; q < ROWS; q++) {
                int row = lane_row + 4 * q;
                rows[q] = A_TRANSPOSED ? a[k * A_STRIDE + row] : a[row * A_STRIDE + k];
            }
#pragma unroll
            for (int j = 0; j < COL_FRAGMENTS; j++) {
#pragma unroll
                for (int h = 0; h < HALVES; h++) {
                    int col = first_col[j] + lane_col + 8 * h;
                    cols[j][h] = B_TRANSPOSED ? b[col * B_STRIDE + k] : b[k * B_STRIDE + col];
                }
            }
#pragma unroll
            for (int q = 0; q < ROWS; q++)
#pragma unroll
                for (int j = 0; j < COL_FRAGMENTS; j++)
#pragma unroll
                    for (int h = 0; h < HALVES; h++)
                        sums[q][j][h] += rows[q] * cols[j][h];
        }
    }

    __device__ __forceinline__ void store(int i, int j, float *to, int stride) const
    {
        int lane = threadIdx.x % WARP;
        constexpr int PER_FRAGMENT = ROWS / ROW_FRAGMENTS;
#pragma unroll
        for (int q = 0; q < PER_FRAGMENT; q++)
#pragma unroll
            for (int h = 0; h < HALVES; h++)
                to[(lane / 8 + 4 * q) * stride + lane % 8 + 8 * h] = sums[i * PER_FRAGMENT + q][j][h];
    }
};

} // namespace

#endif
