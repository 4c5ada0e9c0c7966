// What the kernels of attention share: the rows a block owns and those of the tiles that pass by, from global memory to
// shared memory and back, and which block does what.
#ifndef HEP_CUDA_ATTENTION_TILES_H
#define HEP_CUDA_ATTENTION_TILES_H

#include "kernels/cuda/attention_core.h"
#include "kernels/cuda/warp_rows.h"

namespace
{

// A block's own rows, 16 a warp, and those of a tile that passes by: as many as fit in the 99 KB that every GPU from
// compute capability 8.0 on has for a block. Shared memory in KB, and the blocks that a multiprocessor of 8.0 and
// of 9.0 runs at once by that and by what ptxas says of registers (none of these forms spills any):
//   head up to         32            64            128           256
//   16-bit, forward    25    5 5     45    3 4     85    1 2     83    1 2
//   queries            30    4 3     54    2 3     68    2 3     66    2 3
//   keys               32    2 2     56    2 2     69    2 2     66    2 3
//   f32, forward       27    5 5     51    3 4     99    1 2     98    1 2
//   queries            36    4 4     68    2 3     66    2 3     98    1 2
//   keys               37    2 2     69    2 2     66    2 3     98    1 2
struct Extent {
    int rows, cols;
};

constexpr Extent forward_extent(bool is_f32, int head)
{
    if (is_f32)
        return head <= 128 ? Extent{64, 32} : Extent{32, 16};
    return head <= 128 ? Extent{64, 64} : Extent{32, 32};
}

constexpr Extent backward_extent(bool is_f32, int head)
{
    if (is_f32)
        return head <= 64 ? Extent{64, 32} : head <= 128 ? Extent{32, 16} : Extent{16, 16};
    return head <= 64 ? Extent{64, 64} : head <= 128 ? Extent{64, 32} : Extent{32, 16};
}

// Rows of D elements and 16 bytes: neither copies nor matrix units meet in a bank.
template <typename T, int D, bool BACKWARD> struct Shape {
    static constexpr Extent EXTENT = BACKWARD ? backward_extent(sizeof(T) == 4, D) : forward_extent(sizeof(T) == 4, D);
    static constexpr int ROWS = EXTENT.rows, COLS = EXTENT.cols, THREADS = ROWS / ROWS_OF_WARP * WARP;
    static constexpr int STRIDE = D + 16 / static_cast<int>(sizeof(T)), TILE = COLS * STRIDE, OWN = ROWS * STRIDE;
    static constexpr int OUT = D <= 128 ? D : 128; // columns of dk and dv that a block has sums of
    static constexpr size_t BYTES = ((BACKWARD ? 2 : 1) * OWN + 4 * TILE) * sizeof(T);
};

// ---- rows in global memory -----------------------------------------------------------------------

// One head's part of some tokens of a sequence.
template <typename T> struct HeadRows {
    T *data; // of the sequence's first token
    uint64_t stride;
    int count, cols; // tokens of the sequence; elements of the head
    bool aligned;
};

// LINES rows from `first` on, 0 where there is nothing.
template <typename T, int LINES, int D, int STRIDE, int THREADS>
__device__ __forceinline__ void load_rows(T *tile, const HeadRows<const T> &rows, int first)
{
    constexpr int VECTOR = Vector<T>::LENGTH, PER_LINE = D / VECTOR, PIECES = LINES * PER_LINE;
    static_assert(PIECES % THREADS == 0, "every thread loads as much");
#pragma unroll 4
    for (int piece = 0; piece < PIECES; piece += THREADS) {
        int i = piece + static_cast<int>(threadIdx.x), line = i / PER_LINE, col = i % PER_LINE * VECTOR;
        T *to = tile + line * STRIDE + col;
        int left = first + line < rows.count ? rows.cols - col : 0;
        const T *from = rows.data + static_cast<uint64_t>(first + line) * rows.stride + col;
        if (rows.aligned && left >= VECTOR) {
            copy_async(to, from);
            continue;
        }
        Vector<T> vector;
#pragma unroll
        for (int e = 0; e < VECTOR; e++)
            vector.values[e] = e < left ? from[e] : from_f32<T>(0);
        store_vector(to, vector);
    }
}

// Columns `begin` .. begin + COLS of the warp's 16 rows from `first` on, by way of `patch` [16][STRIDE] in shared
// memory that only this warp uses.
template <typename T, int COLS, int STRIDE>
__device__ __forceinline__ void store_rows(const HeadRows<T> &rows, int first, int begin,
                                           const float (&sums)[COLS / 8][4], float scale, T *patch)
{
    constexpr int VECTOR = Vector<T>::LENGTH, PER_LINE = COLS / VECTOR;
    __syncwarp(); // all lanes have read what was there
#pragma unroll
    for (int j = 0; j < COLS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            patch[(lane_row() + e / 2 * 8) * STRIDE + 8 * j + lane_col() + e % 2] = from_f32<T>(sums[j][e] * scale);
    __syncwarp();
    for (int i = static_cast<int>(threadIdx.x % WARP); i < ROWS_OF_WARP * PER_LINE; i += WARP) {
        int line = i / PER_LINE, col = i % PER_LINE * VECTOR, left = rows.cols - begin - col;
        if (first + line >= rows.count || left <= 0)
            continue;
        T *to = rows.data + static_cast<uint64_t>(first + line) * rows.stride + begin + col;
        Vector<T> vector = load_vector(patch + line * STRIDE + col);
        if (rows.aligned && left >= VECTOR) {
            store_vector(to, vector);
            continue;
        }
#pragma unroll
        for (int e = 0; e < VECTOR; e++)
            if (e < left)
                to[e] = vector.values[e];
    }
}

// ---- places --------------------------------------------------------------------------------------

// A block's share: some rows of one head of one sequence.
struct Place {
    uint32_t batch, head, block;
};

struct Call {
    AttentionCore core;
    uint32_t blocks; // of rows, a head
    float scale;     // of scores, for base 2 exponentials
    bool aligned;
};

// Heads change fastest, so that blocks with much to do, whether those are the last ones, start first.
__device__ __forceinline__ Place place_of(uint64_t index, uint32_t batch, uint32_t heads, uint32_t blocks, bool reverse)
{
    uint64_t per_block = static_cast<uint64_t>(batch) * heads;
    uint32_t block = static_cast<uint32_t>(index / per_block), rest = static_cast<uint32_t>(index % per_block);
    return {rest / heads, rest % heads, reverse ? blocks - 1 - block : block};
}

template <typename T> __device__ __forceinline__ HeadRows<T> head_rows(const Call &p, void *data, Place place, bool kv)
{
    uint64_t stride = static_cast<uint64_t>(kv ? p.core.kv_heads : p.core.heads) * p.core.head_dim;
    uint64_t head = kv ? place.head / (p.core.heads / p.core.kv_heads) : place.head;
    uint64_t begin = place.batch * static_cast<uint64_t>(p.core.sequence) * stride + head * p.core.head_dim;
    return {static_cast<T *>(data) + begin, stride, static_cast<int>(p.core.sequence),
            static_cast<int>(p.core.head_dim), p.aligned};
}

template <typename T>
__device__ __forceinline__ HeadRows<const T> head_rows(const Call &p, const void *data, Place place, bool kv)
{
    HeadRows<T> rows = head_rows<T>(p, const_cast<void *>(data), place, kv);
    return {rows.data, rows.stride, rows.count, rows.cols, rows.aligned};
}

// Of the queries of a head.
__device__ __forceinline__ QuerySums *query_sums(const Call &p, Place place)
{
    return p.core.sums + (place.batch * static_cast<uint64_t>(p.core.heads) + place.head) * p.core.sequence;
}

} // namespace

#endif
