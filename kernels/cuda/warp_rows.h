// What one warp computes of a product with 16 rows whose sums stay in registers, to be changed between two products:
// matrix units for 16-bit elements, multiply-adds for f32. Either way lane l holds of every 16 x 8 sums rows l / 4 and
// l / 4 + 8, columns 2 (l % 4) and the next: [0..1] of the first row, [2..3] of the second.
#ifndef HEP_CUDA_WARP_ROWS_H
#define HEP_CUDA_WARP_ROWS_H

#include "kernels/cuda/mma.h"

namespace
{

constexpr int ROWS_OF_WARP = 16, GROUP = 16; // columns are left out in whole groups

// Groups of columns that count; the others may be left out.
struct Live {
    int first, end;

    template <bool ALL> __device__ __forceinline__ bool has(int group) const
    {
        return ALL || (group >= first && group < end);
    }
};

__device__ __forceinline__ int lane_row()
{
    return static_cast<int>(threadIdx.x % WARP) / 4;
}

__device__ __forceinline__ int lane_col()
{
    return static_cast<int>(threadIdx.x % 4) * 2;
}

template <typename T> struct WarpRows {
    // sums [16][COLS] += a [16][DEPTH] times b [COLS][DEPTH] transposed; both in shared memory, STRIDE elements from
    // line to line.
    template <int DEPTH, int COLS, int STRIDE, bool ALL>
    static __device__ __forceinline__ void multiply_transposed(float (&sums)[COLS / 8][4], const T *a, const T *b,
                                                               Live live)
    {
        int lane = static_cast<int>(threadIdx.x % WARP);
        const T *a_row = a + lane % 16 * STRIDE + lane / 16 * 8;
        const T *b_row = b + (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < DEPTH; k += GROUP) {
            uint32_t rows[4], cols[4];
            load_matrices(rows, a_row + k);
#pragma unroll
            for (int g = 0; g < COLS / GROUP; g++) {
                if (!live.has<ALL>(g))
                    continue;
                load_matrices(cols, b_row + g * GROUP * STRIDE + k);
                mma_16x8x16<T>(sums[2 * g], rows, cols[0], cols[1]);
                mma_16x8x16<T>(sums[2 * g + 1], rows, cols[2], cols[3]);
            }
        }
    }

    // sums [16][COLS] += p [16][DEPTH] times b [DEPTH][COLS]: p as sums are held, rounded to T; b in shared memory.
    template <int DEPTH, int COLS, int STRIDE, bool ALL>
    static __device__ __forceinline__ void multiply(float (&sums)[COLS / 8][4], const float (&p)[DEPTH / 8][4],
                                                    const T *b, Live live)
    {
        int lane = static_cast<int>(threadIdx.x % WARP);
        const T *b_row = b + lane % 16 * STRIDE + lane / 16 * 8;
#pragma unroll
        for (int g = 0; g < DEPTH / GROUP; g++) {
            if (!live.has<ALL>(g))
                continue;
            const float(&left)[4] = p[2 * g], (&right)[4] = p[2 * g + 1];
            uint32_t rows[4] = {pack_pair<T>(left[0], left[1]), pack_pair<T>(left[2], left[3]),
                                pack_pair<T>(right[0], right[1]), pack_pair<T>(right[2], right[3])};
#pragma unroll
            for (int c = 0; c < COLS; c += GROUP) {
                uint32_t cols[4];
                load_matrices_transposed(cols, b_row + g * GROUP * STRIDE + c);
                mma_16x8x16<T>(sums[c / 8], rows, cols[0], cols[1]);
                mma_16x8x16<T>(sums[c / 8 + 1], rows, cols[2], cols[3]);
            }
        }
    }
};

template <> struct WarpRows<float> {
    template <int DEPTH, int COLS, int STRIDE, bool ALL>
    static __device__ __forceinline__ void multiply_transposed(float (&sums)[COLS / 8][4], const float *a,
                                                               const float *b, Live live)
    {
        const float *a_row = a + lane_row() * STRIDE, *b_row = b + lane_col() * STRIDE;
#pragma unroll 2
        for (int k = 0; k < DEPTH; k += 4) {
            Vector<float> rows[2] = {load_vector(a_row + k), load_vector(a_row + 8 * STRIDE + k)};
#pragma unroll
            for (int j = 0; j < COLS / 8; j++) {
                if (!live.has<ALL>(j / 2))
                    continue;
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    Vector<float> col = load_vector(b_row + (8 * j + c) * STRIDE + k);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        sums[j][c] += rows[0].values[i] * col.values[i];
                        sums[j][2 + c] += rows[1].values[i] * col.values[i];
                    }
                }
            }
        }
    }

    // The four lanes of a row have its elements of p between them.
    template <int DEPTH, int COLS, int STRIDE, bool ALL>
    static __device__ __forceinline__ void multiply(float (&sums)[COLS / 8][4], const float (&p)[DEPTH / 8][4],
                                                    const float *b, Live live)
    {
        int quad = static_cast<int>(threadIdx.x % WARP) / 4 * 4;
        const float *b_row = b + lane_col();
#pragma unroll
        for (int j = 0; j < DEPTH / 8; j++) {
            if (!live.has<ALL>(j / 2))
                continue;
#pragma unroll
            for (int k = 0; k < 8; k++) {
                float upper = __shfl_sync(WHOLE_WARP, p[j][k % 2], quad + k / 2);
                float lower = __shfl_sync(WHOLE_WARP, p[j][2 + k % 2], quad + k / 2);
                const float *from = b_row + (8 * j + k) * STRIDE;
#pragma unroll
                for (int c = 0; c < COLS / 8; c++) {
                    float2 cols = *reinterpret_cast<const float2 *>(from + 8 * c);
                    sums[c][0] += upper * cols.x;
                    sums[c][1] += upper * cols.y;
                    sums[c][2] += lower * cols.x;
                    sums[c][3] += lower * cols.y;
                }
            }
        }
    }
};

} // namespace

#endif
