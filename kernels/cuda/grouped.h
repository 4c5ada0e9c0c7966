// Products of many experts in one launch. Rows are sorted by expert on the device, and so are the numbers of rows: the
// kernels read them there, the host neither loops over experts nor waits. 16-bit factors go through the matrix units,
// f32 through plain multiply-adds.
// Why not cuBLAS: its grouped products want the sizes on the host, its batched ones equal sizes. Two kernels do the
// same: grouped_kernel.h with what compute capabilities from 8.0 on have in common, for all dtypes and shapes, and
// grouped_warp_group.h with the faster instructions of 9.0, for 16-bit rows of whole 16-byte vectors.
#ifndef HEP_CUDA_GROUPED_H
#define HEP_CUDA_GROUPED_H

#include "kernels/cuda/device.h"

enum { GROUPED_TILE = CUDA_GROUPED_TILE }; // rows that a block computes

// Rows sorted by expert. `begins` [held + 1]: the rows of slot s are sorted places begins[s] .. begins[s + 1].
struct SortedRows {
    const uint32_t *begins;
    const uint32_t *rows; // [sorted place] which hidden row it is
    const uint2 *tiles;   // tile t: slot, first sorted place
    const uint32_t *tile_count;
    uint64_t pair_bound, held;
    uint32_t most_abreast; // blocks that multiply at once; 0: as many as can
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
cudaError_t grouped_multiply(const CudaQueue *queue, Dtype dtype, const SortedRows &sorted, uint64_t n, uint64_t k,
                             GroupedRows a, GroupedWeights w, GroupedWeights gate, bool activates,
                             Activation activation, void *c);
// c [pairs][n] = a [pairs][k] times w [n][k] transposed (+ b times v transposed, where b.data is given).
cudaError_t grouped_multiply_transposed(const CudaQueue *queue, Dtype dtype, const SortedRows &sorted, uint64_t n,
                                        uint64_t k, GroupedRows a, GroupedWeights w, GroupedRows b, GroupedWeights v,
                                        void *c);
// For every slot: gradient [m][n] = a [its rows][m] transposed b [its rows][n], 0 where it has no rows.
cudaError_t grouped_gradient(const CudaQueue *queue, Dtype dtype, const SortedRows &sorted, uint64_t m, uint64_t n,
                             GroupedRows a, GroupedRows b, void *gradient, uint64_t slot_stride);

// ---- between grouped.cu and the kernels ----------------------------------------------------------

enum class GroupedForm {
    ROWS,            // a [pairs][k] b [slot][k][n]
    ROWS_GATED,      // the same with two matrices, half of a block's columns each
    ROWS_TRANSPOSED, // a [pairs][k] b [slot][n][k], one pair of factors or two
    GRADIENT,        // a [pairs][m] transposed b [pairs][n], by slot
};

struct GroupedArguments {
    SortedRows sorted;
    GroupedRows a[2];
    GroupedWeights w[2];
    GroupedRows b; // of gradients
    void *c;
    uint64_t c_slot_stride;        // of gradients
    uint64_t m, n, k;              // m: of gradients; k: elsewhere
    uint32_t row_tiles, col_tiles; // row_tiles: of gradients; elsewhere the most there can be
    uint32_t abreast, turns;       // so many blocks run at once, and take so many tiles each
    bool activates, aligned;       // aligned: every row is whole vectors of 16 bytes
    Activation activation;
};

// One kernel for one dtype, each a source of its own, so that they compile side by side.
struct GroupedKernel {
    uint32_t cols; // that a block computes; half of them of each matrix where the form is gated
    cudaError_t (*launch[4])(cudaStream_t stream, const GroupedArguments &arguments, uint64_t shares); // by form
};

extern const GroupedKernel grouped_f32, grouped_f16, grouped_bf16, grouped_warp_group_f16, grouped_warp_group_bf16;

#endif
