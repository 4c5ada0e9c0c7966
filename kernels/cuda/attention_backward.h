// The gradient of attention: probabilities once more, from what the forward kernel kept of every query. One kernel for
// the gradients by keys and values (a block owns keys, queries pass by, heads that share keys one after another), one
// for that by queries. Every sum has one owner and a fixed order.
#ifndef HEP_CUDA_ATTENTION_BACKWARD_H
#define HEP_CUDA_ATTENTION_BACKWARD_H

#include <math.h>

#include "kernels/cuda/attention_tiles.h"

namespace
{

__device__ __forceinline__ float probability(const QuerySums &of, float score, float scale)
{
    return exp2f(fmaf(score, scale, -of.largest)) * of.share;
}

// p and dscores = p (dp - dot), of the warp's 16 rows and a tile's columns: a_s b_s^T are the scores, a_p b_p^T is dp.
// p_at(j, e, score) and dot_at(j, e) say what belongs to a lane's sums.
template <typename T, int D, bool ALL, typename PAt, typename DotAt, int N>
__device__ __forceinline__ void scores_back(const T *a_s, const T *b_s, const T *a_p, const T *b_p, Live live,
                                            const PAt &p_at, const DotAt &dot_at, float (&p)[N][4],
                                            float (&dscores)[N][4])
{
    using S = Shape<T, D, true>;
    WarpRows<T>::template multiply_transposed<D, S::COLS, S::STRIDE, ALL>(p, a_s, b_s, live);
    WarpRows<T>::template multiply_transposed<D, S::COLS, S::STRIDE, ALL>(dscores, a_p, b_p, live);
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            p[j][e] = p_at(j, e, p[j][e]);
            dscores[j][e] = p[j][e] * (dscores[j][e] - dot_at(j, e));
        }
}

// Rows of four matrices in shared memory: a warp's of two of them, a tile's of the others.
template <typename T> struct Factors {
    const T *q, *k, *v, *dcontext;
};

// Where the warp's rows, the tile's rows and the sequence begin and end.
struct Span {
    int row, tile, count;
    Live live;
};

template <typename T, int D, bool ALL>
__device__ __forceinline__ void add_queries(float (&dq)[D / 8][4], const Factors<T> &of, const Span &span,
                                            const QuerySums (&sums)[2], float scale)
{
    using S = Shape<T, D, true>;
    float p[S::COLS / 8][4] = {}, dscores[S::COLS / 8][4] = {};
    scores_back<T, D, ALL>(
        of.q, of.k, of.dcontext, of.v, span.live,
        [&](int j, int e, float score) {
            bool hidden = !ALL && span.tile + 8 * j + lane_col() + e % 2 > span.row + lane_row() + e / 2 * 8;
            return hidden ? 0.0f : probability(sums[e / 2], score, scale);
        },
        [&](int, int e) { return sums[e / 2].dot; }, p, dscores);
    WarpRows<T>::template multiply<S::COLS, D, S::STRIDE, ALL>(dq, dscores, of.k, span.live);
}

template <typename T, int D> __global__ void __launch_bounds__(Shape<T, D, true>::THREADS) queries_kernel(Call p)
{
    using S = Shape<T, D, true>;
    DYNAMIC_SHARED(memory);
    T *own = reinterpret_cast<T *>(memory), *own_d = own + S::OWN, *tiles = own_d + S::OWN;
    Place place = place_of(blockIdx.x, p.core.batch, p.core.heads, p.blocks, true);
    HeadRows<const T> q = head_rows<T>(p, p.core.q, place, false), d = head_rows<T>(p, p.core.dcontext, place, false);
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
    float dq[D / 8][4] = {};
    QuerySums sums[2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = first_row + lane_row() + 8 * half;
        if (row < q.count)
            sums[half] = query_sums(p, place)[row];
    }
    load_rows<T, S::ROWS, D, S::STRIDE, S::THREADS>(own, q, block_row);
    load_rows<T, S::ROWS, D, S::STRIDE, S::THREADS>(own_d, d, block_row);
    fill(0);
    T *rows = own + warp_row * S::STRIDE, *rows_d = own_d + warp_row * S::STRIDE;
    for (int tile = 0; tile < count; tile++) {
        copy_await<0>();
        __syncthreads();
        fill(tile + 1);
        const T *keys = tiles + tile % 2 * 2 * S::TILE;
        Factors<T> of = {rows, keys, keys + S::TILE, rows_d};
        int visible = min(first_row + ROWS_OF_WARP, q.count) - tile * S::COLS;
        Span span = {first_row, tile * S::COLS, q.count, {0, (min(visible, S::COLS) + GROUP - 1) / GROUP}};
        if (first_row >= q.count || visible <= 0)
            continue;
        if (first_row >= span.tile + S::COLS - 1)
            add_queries<T, D, true>(dq, of, span, sums, p.scale);
        else
            add_queries<T, D, false>(dq, of, span, sums, p.scale);
    }
    if (first_row < q.count)
        store_rows<T, D, S::STRIDE>(head_rows<T>(p, p.core.dq, place, false), first_row, 0, dq,
                                    p.scale * static_cast<float>(M_LN2), rows);
}

// `column`: where the block's columns of dk and dv begin; sums: of the tile's queries.
template <typename T, int D, bool ALL>
__device__ __forceinline__ void add_keys(float (&dk)[Shape<T, D, true>::OUT / 8][4],
                                         float (&dv)[Shape<T, D, true>::OUT / 8][4], const Factors<T> &of, int column,
                                         const Span &span, const QuerySums *sums, float scale)
{
    using S = Shape<T, D, true>;
    constexpr int OUT = S::OUT;
    float p[S::COLS / 8][4] = {}, dscores[S::COLS / 8][4] = {};
    scores_back<T, D, ALL>(
        of.k, of.q, of.v, of.dcontext, span.live,
        [&](int j, int e, float score) {
            int in_tile = 8 * j + lane_col() + e % 2, query = span.tile + in_tile;
            bool hidden = !ALL && (query >= span.count || query < span.row + lane_row() + e / 2 * 8);
            return hidden ? 0.0f : probability(sums[in_tile], score, scale);
        },
        [&](int j, int e) { return sums[8 * j + lane_col() + e % 2].dot; }, p, dscores);
    WarpRows<T>::template multiply<S::COLS, OUT, S::STRIDE, ALL>(dv, p, of.dcontext + column, span.live);
    WarpRows<T>::template multiply<S::COLS, OUT, S::STRIDE, ALL>(dk, dscores, of.q + column, span.live);
}

template <typename T, int D> __global__ void __launch_bounds__(Shape<T, D, true>::THREADS, 1) keys_kernel(Call p)
{
    using S = Shape<T, D, true>;
    constexpr int OUT = S::OUT;
    DYNAMIC_SHARED(memory);
    __shared__ QuerySums sums[2][S::COLS];
    T *own = reinterpret_cast<T *>(memory), *own_v = own + S::OWN, *tiles = own_v + S::OWN;
    uint32_t group = p.core.heads / p.core.kv_heads;
    int column = static_cast<int>(blockIdx.y) * OUT;
    Place place = place_of(blockIdx.x, p.core.batch, p.core.kv_heads, p.blocks, false);
    place.head *= group; // the first that shares them
    HeadRows<const T> k = head_rows<T>(p, p.core.k, place, true), v = head_rows<T>(p, p.core.v, place, true);
    int block_row = static_cast<int>(place.block) * S::ROWS, warp_row = threadIdx.x / WARP * ROWS_OF_WARP;
    int first_row = block_row + warp_row, first_tile = block_row / S::COLS;
    int count = (k.count + S::COLS - 1) / S::COLS - first_tile; // of one head's queries
    auto fill = [&](uint64_t item) {
        int stage = static_cast<int>(item % 2), first = (first_tile + static_cast<int>(item % count)) * S::COLS;
        T *to = tiles + stage * 2 * S::TILE;
        if (item < static_cast<uint64_t>(count) * group) {
            Place of = {place.batch, place.head + static_cast<uint32_t>(item / count), 0};
            load_rows<T, S::COLS, D, S::STRIDE, S::THREADS>(to, head_rows<T>(p, p.core.q, of, false), first);
            load_rows<T, S::COLS, D, S::STRIDE, S::THREADS>(to + S::TILE, head_rows<T>(p, p.core.dcontext, of, false),
                                                            first);
            for (int i = static_cast<int>(threadIdx.x); i < S::COLS; i += S::THREADS) {
                if (first + i < k.count)
                    copy_async(&sums[stage][i], &query_sums(p, of)[first + i]);
                else
                    sums[stage][i] = {};
            }
        }
        copy_commit();
    };
    float dk[OUT / 8][4] = {}, dv[OUT / 8][4] = {};
    load_rows<T, S::ROWS, D, S::STRIDE, S::THREADS>(own, k, block_row);
    load_rows<T, S::ROWS, D, S::STRIDE, S::THREADS>(own_v, v, block_row);
    fill(0);
    T *rows = own + warp_row * S::STRIDE, *rows_v = own_v + warp_row * S::STRIDE;
    for (uint64_t item = 0; item < static_cast<uint64_t>(count) * group; item++) {
        copy_await<0>();
        __syncthreads();
        fill(item + 1);
        const T *queries = tiles + item % 2 * 2 * S::TILE;
        Factors<T> of = {queries, rows, rows_v, queries + S::TILE};
        int first = (first_tile + static_cast<int>(item % count)) * S::COLS;
        Live live = {max(first_row - first, 0) / GROUP, (min(k.count - first, S::COLS) + GROUP - 1) / GROUP};
        Span span = {first_row, first, k.count, live};
        if (first_row >= k.count || live.first >= live.end)
            continue;
        if (first >= first_row + ROWS_OF_WARP - 1 && first + S::COLS <= k.count)
            add_keys<T, D, true>(dk, dv, of, column, span, sums[item % 2], p.scale);
        else
            add_keys<T, D, false>(dk, dv, of, column, span, sums[item % 2], p.scale);
    }
    if (first_row >= k.count)
        return;
    store_rows<T, OUT, S::STRIDE>(head_rows<T>(p, p.core.dk, place, true), first_row, column, dk,
                                  p.scale * static_cast<float>(M_LN2), rows);
    store_rows<T, OUT, S::STRIDE>(head_rows<T>(p, p.core.dv, place, true), first_row, column, dv, 1.0f, rows_v);
}

} // namespace

#endif
