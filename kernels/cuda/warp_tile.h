// What one warp computes of a product: 32 x 64 sums in registers, from tiles of both factors in shared memory. Two
// forms: matrix units for 16-bit elements, multiply-adds for f32.
#ifndef HEP_CUDA_WARP_TILE_H
#define HEP_CUDA_WARP_TILE_H

#include "kernels/cuda/mma.h"

namespace
{

constexpr int WARP_ROWS = 32, WARP_COLS = 64;
constexpr int ROW_FRAGMENTS = WARP_ROWS / FRAGMENT, COL_FRAGMENTS = WARP_COLS / FRAGMENT;

// Tiles of shared memory: a as [rows][depth], or [depth][rows] if A_TRANSPOSED; b as [depth][cols], or [cols][depth] if
// B_TRANSPOSED; `stride` elements from line to line.
template <typename T, bool A_TRANSPOSED, bool B_TRANSPOSED> struct WarpTile {
    static constexpr int HALVES = 2, HALF = FRAGMENT / 2; // a fragment's columns, as mma takes them
    float sums[ROW_FRAGMENTS][COL_FRAGMENTS][HALVES][4];

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < ROW_FRAGMENTS; i++)
#pragma unroll
            for (int j = 0; j < COL_FRAGMENTS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[i][j][0][e] = sums[i][j][1][e] = 0;
    }

    // The 16 x 16 elements from `row` and `k` on; quarters in the order that mma.h says: rows first.
    template <int STRIDE> __device__ __forceinline__ void load_rows(uint32_t (&to)[4], const T *a, int row, int k)
    {
        int lane = threadIdx.x % WARP, line = lane % HALF, second = lane / HALF % 2 * HALF,
            third = lane / FRAGMENT * HALF;
        if (A_TRANSPOSED)
            load_matrices_transposed(to, a + (k + line + third) * STRIDE + row + second);
        else
            load_matrices(to, a + (row + line + second) * STRIDE + k + third);
    }

    // Likewise from `k` and `col` on; depth first: two registers for each half of the columns.
    template <int STRIDE> __device__ __forceinline__ void load_cols(uint32_t (&to)[4], const T *b, int k, int col)
    {
        int lane = threadIdx.x % WARP, line = lane % HALF, second = lane / HALF % 2 * HALF,
            third = lane / FRAGMENT * HALF;
        if (B_TRANSPOSED)
            load_matrices(to, b + (col + line + third) * STRIDE + k + second);
        else
            load_matrices_transposed(to, b + (k + line + second) * STRIDE + col + third);
    }

    // first_col[j]: where the columns of fragment j begin.
    template <int DEPTH, int A_STRIDE, int B_STRIDE>
    __device__ __forceinline__ void multiply_add(const T *a, const T *b, int first_row,
                                                 const int (&first_col)[COL_FRAGMENTS])
    {
#pragma unroll
        for (int k = 0; k < DEPTH; k += FRAGMENT) {
            uint32_t rows[ROW_FRAGMENTS][4], cols[COL_FRAGMENTS][4];
#pragma unroll
            for (int i = 0; i < ROW_FRAGMENTS; i++)
                load_rows<A_STRIDE>(rows[i], a, first_row + i * FRAGMENT, k);
#pragma unroll
            for (int j = 0; j < COL_FRAGMENTS; j++)
                load_cols<B_STRIDE>(cols[j], b, k, first_col[j]);
#pragma unroll
            for (int i = 0; i < ROW_FRAGMENTS; i++)
#pragma unroll
                for (int j = 0; j < COL_FRAGMENTS; j++)
#pragma unroll
                    for (int h = 0; h < HALVES; h++)
                        mma_16x8x16<T>(sums[i][j][h], rows[i], cols[j][2 * h], cols[j][2 * h + 1]);
        }
    }

    // Fragment i, j as [16][16] in shared memory, `stride` from row to row; to be read after __syncwarp.
    __device__ __forceinline__ void store(int i, int j, float *to, int stride) const
    {
        int lane = threadIdx.x % WARP;
        float *own = to + lane / 4 * stride + lane % 4 * 2;
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                own[e / 2 * HALF * stride + h * HALF + e % 2] = sums[i][j][h][e];
        }
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
