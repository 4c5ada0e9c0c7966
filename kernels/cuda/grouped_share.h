// What the kernels behind grouped.h have in common: their forms and arguments, which part of a result a block computes,
// and what of the factors' lines may be read.
#ifndef HEP_CUDA_GROUPED_SHARE_H
#define HEP_CUDA_GROUPED_SHARE_H

#include "kernels/cuda/grouped.h"

namespace
{

constexpr int TILE = GROUPED_TILE;
constexpr uint32_t BAND = 16; // rows of tiles whose blocks go together

// A block's share of the work.
struct Share {
    uint32_t slot;
    uint64_t first_row, rows;    // sorted places it writes; of gradients, rows of the matrix
    uint64_t first_col, cols;    // of the result
    uint64_t depth_first, depth; // what it sums over
};

// How many shares there are: rows of tiles that exist, not those that could. At most 2^32 - 1, grouped.cu has looked.
template <GroupedForm FORM> __device__ __forceinline__ uint32_t share_count(const GroupedArguments &p)
{
    uint32_t row_tiles = FORM == GroupedForm::GRADIENT ? p.row_tiles : *p.sorted.tile_count;
    return row_tiles * p.col_tiles * (FORM == GroupedForm::GRADIENT ? static_cast<uint32_t>(p.sorted.held) : 1);
}

// The shares that a block takes in turns: those of blocks that run at once are neighbours.
struct Turns {
    uint32_t index, step, end;
};

template <GroupedForm FORM> __device__ __forceinline__ Turns turns_of(const GroupedArguments &p)
{
    uint32_t count = share_count<FORM>(p), each = p.abreast * p.turns, begin = blockIdx.x / p.abreast * each;
    return {begin + blockIdx.x % p.abreast, p.abreast, count < begin || count - begin < each ? count : begin + each};
}

struct TilePlace {
    uint32_t row, col;
};

// Tile `index` of row_tiles x col_tiles: a band of rows after another, column by column. The blocks that run at the
// same time share what they read: a band's rows stay in the L2 cache while weights pass by once.
__device__ __forceinline__ TilePlace tile_place(uint32_t index, uint32_t row_tiles, uint32_t col_tiles)
{
    uint32_t band = index / (BAND * col_tiles), in_band = index - band * BAND * col_tiles;
    uint32_t rows = row_tiles - band * BAND < BAND ? row_tiles - band * BAND : BAND;
    return {band * BAND + in_band % rows, in_band / rows};
}

// COLS: columns of a block's tile of b; where the form is gated half of them are columns of the result.
template <GroupedForm FORM, int COLS>
__device__ __forceinline__ Share share_of(const GroupedArguments &p, uint32_t index)
{
    constexpr uint64_t RESULT_COLS = FORM == GroupedForm::ROWS_GATED ? COLS / 2 : COLS;
    Share share;
    uint32_t row_tiles = FORM == GroupedForm::GRADIENT ? p.row_tiles : *p.sorted.tile_count;
    uint32_t slot = FORM == GroupedForm::GRADIENT ? index / (row_tiles * p.col_tiles) : 0;
    TilePlace place = tile_place(index - slot * row_tiles * p.col_tiles, row_tiles, p.col_tiles);
    share.first_col = place.col * RESULT_COLS;
    share.cols = p.n - share.first_col < RESULT_COLS ? p.n - share.first_col : RESULT_COLS;
    if (FORM == GroupedForm::GRADIENT) {
        share.slot = slot;
        share.first_row = static_cast<uint64_t>(place.row) * TILE;
        share.rows = p.m - share.first_row < TILE ? p.m - share.first_row : TILE;
        share.depth_first = p.sorted.begins[slot];
        share.depth = p.sorted.begins[slot + 1] - share.depth_first;
        return share;
    }
    uint2 tile = p.sorted.tiles[place.row];
    uint64_t end = p.sorted.begins[tile.x + 1];
    share.slot = tile.x;
    share.first_row = tile.y;
    share.rows = end - tile.y < TILE ? end - tile.y : TILE;
    share.depth_first = 0;
    share.depth = p.k;
    return share;
}

// How many pairs of factors are summed.
template <GroupedForm FORM> __device__ __forceinline__ int parts_of(const GroupedArguments &p)
{
    return FORM == GroupedForm::ROWS_TRANSPOSED && p.a[1].data ? 2 : 1;
}

__device__ __forceinline__ uint32_t row_of(const SortedRows &sorted, const GroupedRows &rows, uint64_t place)
{
    return rows.gathered ? sorted.rows[place] : static_cast<uint32_t>(place);
}

inline cudaError_t multiprocessors(uint64_t *count)
{
    int device, value;
    TRY(cudaGetDevice(&device));
    TRY(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device));
    *count = static_cast<uint64_t>(value);
    return cudaSuccess;
}

// A block takes some shares in turns: copies for the next begin before the sums of the last are stored. It does not
// take all that its multiprocessor will: messages on other streams wait for places to become free, and if they hold
// some when this begins, the blocks that had to wait would double the time. How many shares there are is known on the
// device only; blocks without one cost a start each, so there are not too many rounds of blocks.
template <typename Kernel>
cudaError_t launch_shares(cudaStream_t stream, const GroupedArguments &arguments, uint64_t shares, Kernel kernel,
                          unsigned threads, size_t shared_bytes, uint64_t blocks_each)
{
    constexpr uint64_t LEAST_TURNS = 4, MOST_ROUNDS = 16;
    GroupedArguments p = arguments;
    uint64_t abreast;
    TRY(multiprocessors(&abreast));
    abreast *= blocks_each;
    if (p.sorted.most_abreast > 0 && p.sorted.most_abreast < abreast)
        abreast = p.sorted.most_abreast;
    uint64_t turns = blocks_for(shares, abreast * MOST_ROUNDS);
    turns = turns > LEAST_TURNS ? turns : LEAST_TURNS;
    uint64_t rounds = shares / (abreast * turns), left = shares - rounds * abreast * turns;
    p.abreast = static_cast<uint32_t>(abreast);
    p.turns = static_cast<uint32_t>(turns);
    TRY(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)));
    return launch(stream, static_cast<unsigned>(rounds * abreast + (left < abreast ? left : abreast)), threads,
                  shared_bytes, kernel, p);
}

} // namespace

#endif
