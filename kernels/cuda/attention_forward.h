// Attention forward: a block has 16 queries a warp; tiles of keys and values come by asynchronous copies, two in turn;
// the softmax runs along, its sums rescaled when a larger score comes (Milakov and Gimelshein, arXiv 1805.02867; Dao,
// arXiv 2307.08691). Scores stay in registers.
#ifndef HEP_CUDA_ATTENTION_FORWARD_H
#define HEP_CUDA_ATTENTION_FORWARD_H

#include <math.h>

#include "kernels/cuda/attention_tiles.h"

namespace
{

__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(WHOLE_WARP, x, 1));
    return fmaxf(x, __shfl_xor_sync(WHOLE_WARP, x, 2));
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(WHOLE_WARP, x, 1);
    return x + __shfl_xor_sync(WHOLE_WARP, x, 2);
}

// Of a lane's two queries: sums over the keys so far, relative to the largest score (scaled).
template <int D> struct Attended {
    float context[D / 8][4];
    float largest[2], total[2]; // total: over this lane's columns, at last over all
};

// Keys from `first_key` on for the warp's queries from `first_row` on. ALL: every query sees all of them.
template <typename T, int D, bool ALL>
__device__ __forceinline__ void attend(Attended<D> &of, const T *q, const T *k, const T *v, int first_row,
                                       int first_key, Live live, float scale)
{
    using S = Shape<T, D, false>;
    float s[S::COLS / 8][4] = {};
    WarpRows<T>::template multiply_transposed<D, S::COLS, S::STRIDE, ALL>(s, q, k, live);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = -INFINITY;
#pragma unroll
        for (int j = 0; j < S::COLS / 8; j++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                if (!ALL && first_key + 8 * j + lane_col() + e % 2 > first_row + lane_row() + 8 * half)
                    s[j][e] = -INFINITY;
                largest = fmaxf(largest, s[j][e]);
            }
        largest = fmaxf(of.largest[half], quad_max(largest) * scale); // the first tile has a key for every query
        float shrink = exp2f(of.largest[half] - largest);
        of.largest[half] = largest;
        of.total[half] *= shrink;
#pragma unroll
        for (int j = 0; j < S::COLS / 8; j++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s[j][e] = exp2f(fmaf(s[j][e], scale, -largest));
                of.total[half] += s[j][e];
            }
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            of.context[j][2 * half] *= shrink;
            of.context[j][2 * half + 1] *= shrink;
        }
    }
    WarpRows<T>::template multiply<S::COLS, D, S::STRIDE, ALL>(of.context, s, v, live);
}

// What the gradient needs of the warp's queries.
template <typename T, int D>
__device__ __forceinline__ void keep_sums(const Call &p, Place place, const Attended<D> &of, int first_row)
{
    HeadRows<const T> rows = head_rows<T>(p, p.core.dcontext, place, false);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = first_row + lane_row() + 8 * half;
        const T *dcontext = rows.data + static_cast<uint64_t>(row) * rows.stride;
        float dot = 0;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int col = 8 * j + lane_col() + e;
                if (row < rows.count && col < rows.cols)
                    dot += of.context[j][2 * half + e] * to_f32(dcontext[col]);
            }
        dot = quad_sum(dot);
        if (lane_col() == 0 && row < rows.count) {
            query_sums(p, place)[row] = {of.largest[half], 1.0f / of.total[half], dot};
        }
    }
}

template <typename T, int D> __global__ void __launch_bounds__(Shape<T, D, false>::THREADS) forward_kernel(Call p)
{
    using S = Shape<T, D, false>;
    DYNAMIC_SHARED(memory);
    T *own = reinterpret_cast<T *>(memory), *tiles = own + S::OWN;
    Place place = place_of(blockIdx.x, p.core.batch, p.core.heads, p.blocks, true);
    HeadRows<const T> q = head_rows<T>(p, p.core.q, place, false);
    HeadRows<const T> k = head_rows<T>(p, p.core.k, place, true), v = head_rows<T>(p, p.core.v, place, true);
    int block_row = static_cast<int>(place.block) * S::ROWS, warp_row = threadIdx.x / WARP * ROWS_OF_WARP;
    int first_row = block_row + warp_row, seen = min(block_row + S::ROWS, q.count);
    int count = (seen + S::COLS - 1) / S::COLS;
    auto fill = [&](int tile) {
        T *to = tiles + tile % 2 * 2 * S::TILE;
        if (tile < count) {
            load_rows<T, S::COLS, D, S::STRIDE, S::THREADS>(to, k, tile * S::COLS);
            load_rows<T, S::COLS, D, S::STRIDE, S::THREADS>(to + S::TILE, v, tile * S::COLS);
        }
        copy_commit();
    };
    Attended<D> of = {};
    of.largest[0] = of.largest[1] = -INFINITY;
    load_rows<T, S::ROWS, D, S::STRIDE, S::THREADS>(own, q, block_row);
    fill(0);
    T *own_rows = own + warp_row * S::STRIDE;
    for (int tile = 0; tile < count; tile++) {
        copy_await<0>();
        __syncthreads(); // the tile is there for all, and nobody reads the one that is filled next
        fill(tile + 1);
        const T *keys = tiles + tile % 2 * 2 * S::TILE, *values = keys + S::TILE;
        int first_key = tile * S::COLS, visible = min(first_row + ROWS_OF_WARP, q.count) - first_key;
        Live live = {0, (min(visible, S::COLS) + GROUP - 1) / GROUP};
        if (first_row >= q.count || visible <= 0)
            continue;
        if (first_row >= first_key + S::COLS - 1)
            attend<T, D, true>(of, own_rows, keys, values, first_row, first_key, live, p.scale);
        else
            attend<T, D, false>(of, own_rows, keys, values, first_row, first_key, live, p.scale);
    }
    if (first_row >= q.count)
        return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        of.total[half] = quad_sum(of.total[half]);
        float share = 1.0f / of.total[half];
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            of.context[j][2 * half] *= share;
            of.context[j][2 * half + 1] *= share;
        }
    }
    if (p.core.dcontext)
        keep_sums<T, D>(p, place, of, first_row);
    store_rows<T, D, S::STRIDE>(head_rows<T>(p, p.core.context, place, false), first_row, 0, of.context, 1.0f,
                                own_rows);
}

} // namespace

#endif
