// Products of many experts in one launch. Rows are sorted by expert on the device, and so are the numbers of rows: the
// kernel reads them there, the host neither loops over experts nor waits. 16-bit factors go through the matrix units,
// f32 through plain multiply-adds.
// Why not cuBLAS: its grouped products want the sizes on the host, its batched ones equal sizes. The price: wmma and
// asynchronous copies are what compute capabilities 8.0 and 9.0 have in common; the warp-group instructions of 9.0,
// which cuBLAS uses there, are faster.
#ifndef HEP_CUDA_GROUPED_H
#define HEP_CUDA_GROUPED_H

#include "kernels/cuda/device.h"

enum { GROUPED_TILE = 128 }; // rows and columns that a block computes

// Rows sorted by expert. `begins` [held + 1]: the rows of slot s are sorted places begins[s] .. begins[s + 1].
struct SortedRows {
    const uint32_t *begins;
    const uint32_t *pairs;  // [sorted place] which pair (row of records and record) it is
    uint32_t pairs_per_row; // of the hidden rows: pair / this = row
    const uint2 *tiles;     // tile t: slot, first sorted place
    const uint32_t *tile_count;
    uint64_t pair_bound, held;
};

// A row-major matrix that has a row for every sorted place, or, `gathered`, for every hidden row.
struct GroupedRows {
    const void *data;
    uint64_t stride;
    bool gathered;
};

// One matrix per slot.
struct GroupedWeights {
    const void *data;
    uint64_t stride, slot_stride; // elements
};

// c [pairs][n] = a [pairs][k] times w [k][n] of each row's slot; with `activates`, the activation of that. Where the
// activation is gated, `gate` is w's second matrix, and c the gated product; `gate.data` NULL elsewhere.
cudaError_t grouped_multiply(cudaStream_t stream, Dtype dtype, const SortedRows &sorted, uint64_t n, uint64_t k,
                             GroupedRows a, GroupedWeights w, GroupedWeights gate, bool activates,
                             Activation activation, void *c);
// c [pairs][n] = a [pairs][k] times w [n][k] transposed (+ b times v transposed, where b.data is given).
cudaError_t grouped_multiply_transposed(cudaStream_t stream, Dtype dtype, const SortedRows &sorted, uint64_t n,
                                        uint64_t k, GroupedRows a, GroupedWeights w, GroupedRows b, GroupedWeights v,
                                        void *c);
// For every slot: gradient [m][n] = a [its rows][m] transposed b [its rows][n], 0 where it has no rows.
cudaError_t grouped_gradient(cudaStream_t stream, Dtype dtype, const SortedRows &sorted, uint64_t m, uint64_t n,
                             GroupedRows a, GroupedRows b, void *gradient, uint64_t slot_stride);

// Each dtype is a source of its own, so that they compile side by side.
struct GroupedLaunches {
    cudaError_t (*multiply)(cudaStream_t, const SortedRows &, uint64_t, uint64_t, GroupedRows, GroupedWeights,
                            GroupedWeights, bool, Activation, void *);
    cudaError_t (*multiply_transposed)(cudaStream_t, const SortedRows &, uint64_t, uint64_t, GroupedRows,
                                       GroupedWeights, GroupedRows, GroupedWeights, void *);
    cudaError_t (*gradient)(cudaStream_t, const SortedRows &, uint64_t, uint64_t, GroupedRows, GroupedRows, void *,
                            uint64_t);
};

extern const GroupedLaunches grouped_f32, grouped_f16, grouped_bf16;

#endif
