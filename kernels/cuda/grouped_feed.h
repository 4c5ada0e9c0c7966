// What fills the stages of grouped_warp_group.h: where the tiles of a stage lie, and the copies of a block's shares,
// one slice of the depth after another. Copies are most of what threads do while matrices are multiplied, so that
// addresses are kept short: a 32-bit row times a 32-bit stride. What matrices do not fill becomes 0.
#ifndef HEP_CUDA_GROUPED_FEED_H
#define HEP_CUDA_GROUPED_FEED_H

#include "kernels/cuda/grouped_share.h"
#include "kernels/cuda/swizzled_tile.h"

namespace
{

constexpr int GROUPS = TILE / GROUP_ROWS, GROUP_THREADS = GROUPS * WARP_GROUP, GROUP_STAGES = 4;
constexpr int SLICE = 64; // of the depth in a stage

// A tile's lines follow the depth where neighbours in memory are neighbours of the result; elsewhere they are the
// result's rows or columns.
template <GroupedForm FORM> struct Stage {
    static constexpr bool A_ALONG_ROWS = FORM == GroupedForm::GRADIENT;
    static constexpr bool B_ALONG_COLS = FORM != GroupedForm::ROWS_TRANSPOSED;
    using A = SwizzledTile<A_ALONG_ROWS ? SLICE : TILE, A_ALONG_ROWS ? TILE : SLICE>;
    using B = SwizzledTile<B_ALONG_COLS ? SLICE : GROUP_COLS, B_ALONG_COLS ? GROUP_COLS : SLICE>;
    static constexpr uint32_t BYTES = A::BYTES + B::BYTES, ALIGNMENT = A::REPEAT_BYTES;
    static constexpr size_t SHARED_BYTES = static_cast<size_t>(GROUP_STAGES) * BYTES + ALIGNMENT;
    static_assert(A::BYTES % ALIGNMENT == 0 && B::BYTES % ALIGNMENT == 0, "tiles begin where addresses repeat");
};

// Of a matrix, what one thread copies: its columns of some rows.
struct RowVectors {
    const char *from; // its columns of row 0
    uint32_t stride;  // bytes

    __device__ __forceinline__ const char *at(uint32_t row) const
    {
        return from + static_cast<uint64_t>(row) * stride;
    }
};

template <typename T>
__device__ __forceinline__ RowVectors vectors_of(const void *data, uint64_t first, uint64_t stride)
{
    return {reinterpret_cast<const char *>(static_cast<const T *>(data) + first),
            static_cast<uint32_t>(stride * sizeof(T))};
}

// Of ROWS_TRANSPOSED all of the first pair of factors comes first, then all of the second.
template <typename T, GroupedForm FORM> struct Feed {
    using S = Stage<FORM>;
    using VectorsA = TileVectors<typename S::A, GROUP_THREADS>;
    using VectorsB = TileVectors<typename S::B, GROUP_THREADS>;
    static constexpr bool IS_GRADIENT = FORM == GroupedForm::GRADIENT;

    const GroupedArguments &p;
    Turns turns; // the first is under way
    Share share;
    int part;
    uint32_t depth;                // where the next slice begins
    uint32_t rows[VectorsA::EACH]; // of a that the thread copies; not of gradients
    RowVectors a, b;               // at the depth 0 of the part
    bool in_a, in_b;               // where a thread's columns do not follow the depth: whether they are in the matrix

    __device__ __forceinline__ Feed(const GroupedArguments &arguments, const Turns &of_block)
        : p(arguments), turns(of_block)
    {
        begin_share();
    }

    // The next share that has something to sum.
    __device__ __forceinline__ void begin_share()
    {
        for (; turns.index < turns.end; turns.index += turns.step) {
            share = share_of<FORM, GROUP_COLS>(p, turns.index);
            if (share.depth > 0) {
                begin_part(0);
                return;
            }
        }
    }

    __device__ __forceinline__ void begin_part(int which)
    {
        part = which;
        depth = 0;
        if constexpr (IS_GRADIENT) {
            a = vectors_of<T>(p.a[0].data, share.first_row + VectorsA::column(), p.a[0].stride);
            b = vectors_of<T>(p.b.data, share.first_col + VectorsB::column(), p.b.stride);
            in_a = VectorsA::column() < share.rows;
            in_b = VectorsB::column() < share.cols;
        } else {
            begin_rows(p.a[part]);
            begin_weights();
        }
    }

    __device__ __forceinline__ void begin_rows(const GroupedRows &matrix)
    {
#pragma unroll
        for (int v = 0; v < VectorsA::EACH; v++) {
            uint32_t line = VectorsA::line(v);
            rows[v] = line < share.rows ? row_of(p.sorted, matrix, share.first_row + line) : 0;
        }
        a = vectors_of<T>(matrix.data, VectorsA::column(), matrix.stride);
    }

    __device__ __forceinline__ void begin_weights()
    {
        uint32_t column = VectorsB::column();
        bool is_gate = FORM == GroupedForm::ROWS_GATED && column >= GROUP_COLS / 2;
        const GroupedWeights &w = p.w[is_gate ? 1 : part];
        uint64_t slot = share.slot * w.slot_stride;
        if (FORM == GroupedForm::ROWS_TRANSPOSED) {
            b = vectors_of<T>(w.data, slot + share.first_col * w.stride + column, w.stride);
            return;
        }
        column -= is_gate ? GROUP_COLS / 2 : 0;
        b = vectors_of<T>(w.data, slot + share.first_col + column, w.stride);
        in_b = column < share.cols;
    }

    __device__ __forceinline__ void advance()
    {
        depth += SLICE;
        if (depth < share.depth)
            return;
        if (part + 1 < parts_of<FORM>(p)) {
            begin_part(part + 1);
            return;
        }
        turns.index += turns.step;
        begin_share();
    }

    // A tile whose lines are places of the slot; `in` the matrix are the thread's columns.
    template <typename Vectors>
    __device__ __forceinline__ void fill_places(uint32_t tile, const GroupedRows &matrix, const RowVectors &from,
                                                bool in)
    {
        uint32_t left = static_cast<uint32_t>(share.depth) - depth, place[Vectors::EACH];
#pragma unroll
        for (int v = 0; v < Vectors::EACH; v++) {
            uint32_t line = Vectors::line(v);
            place[v] = line < left ? row_of(p.sorted, matrix, share.depth_first + depth + line) : 0;
        }
#pragma unroll
        for (int v = 0; v < Vectors::EACH; v++)
            copy_async_or_zero(tile + Vectors::place(v), from.at(place[v]), in && Vectors::line(v) < left);
    }

    __device__ __forceinline__ void fill_a(uint32_t tile)
    {
        if (IS_GRADIENT) {
            fill_places<VectorsA>(tile, p.a[0], a, in_a);
            return;
        }
        bool in_depth = depth + VectorsA::column() < share.depth;
#pragma unroll
        for (int v = 0; v < VectorsA::EACH; v++)
            copy_async_or_zero(tile + VectorsA::place(v), a.at(rows[v]) + depth * sizeof(T),
                               in_depth && VectorsA::line(v) < share.rows);
    }

    __device__ __forceinline__ void fill_b(uint32_t tile)
    {
        if (IS_GRADIENT) {
            fill_places<VectorsB>(tile, p.b, b, in_b);
            return;
        }
        bool in_depth = depth + VectorsB::column() < share.depth; // where columns follow the depth
#pragma unroll
        for (int v = 0; v < VectorsB::EACH; v++) {
            uint32_t line = VectorsB::line(v), to = tile + VectorsB::place(v);
            if (FORM == GroupedForm::ROWS_TRANSPOSED)
                copy_async_or_zero(to, b.at(line) + depth * sizeof(T), in_depth && line < share.cols);
            else
                copy_async_or_zero(to, b.at(depth + line), in_b && depth + line < share.depth);
        }
    }

    // With the next slice, or, at the end, nothing: groups of copies are counted.
    __device__ __forceinline__ void fill(uint32_t stage)
    {
        if (turns.index < turns.end) {
            fill_a(stage);
            fill_b(stage + S::A::BYTES);
            advance();
        }
        copy_commit();
    }
};

} // namespace

#endif
