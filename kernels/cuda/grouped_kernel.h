// The kernel behind grouped.h, for one dtype. A block computes 128 x 128 sums, eight warps 32 x 64 each, from tiles of
// both factors that a pipeline of asynchronous copies keeps ready in shared memory. Rows of shared memory are padded so
// that neither copies nor reads meet in a bank. What matrices do not fill is read as 0 and never written.
#ifndef HEP_CUDA_GROUPED_KERNEL_H
#define HEP_CUDA_GROUPED_KERNEL_H

#include "kernels/cuda/activation.h"
#include "kernels/cuda/grouped_share.h"
#include "kernels/cuda/warp_tile.h"

namespace
{

constexpr int STAGES = 4, GROUPED_THREADS = 256, BLOCKS_EACH = 2; // BLOCKS_EACH: a multiprocessor

// How both factors' tiles lie in shared memory: LINES of LENGTH elements.
template <typename T, GroupedForm FORM> struct Layout {
    static constexpr int DEPTH = 64 / sizeof(T), PAD = 16 / sizeof(T);
    static constexpr bool A_TRANSPOSED = FORM == GroupedForm::GRADIENT,
                          B_TRANSPOSED = FORM == GroupedForm::ROWS_TRANSPOSED;
    static constexpr int A_LENGTH = A_TRANSPOSED ? TILE : DEPTH, A_LINES = A_TRANSPOSED ? DEPTH : TILE;
    static constexpr int B_LENGTH = B_TRANSPOSED ? DEPTH : TILE, B_LINES = B_TRANSPOSED ? TILE : DEPTH;
    static constexpr int A_STRIDE = A_LENGTH + PAD, B_STRIDE = B_LENGTH + PAD;
    static constexpr int A_SIZE = A_LINES * A_STRIDE, B_SIZE = B_LINES * B_STRIDE;
    static constexpr size_t BYTES = STAGES * (A_SIZE + B_SIZE) * sizeof(T);
    static constexpr int PATCH_STRIDE = FRAGMENT + 4, PATCH = FRAGMENT * PATCH_STRIDE;
    static_assert(2 * PATCH * sizeof(float) * (GROUPED_THREADS / WARP) <= BYTES, "patches lie where tiles were");
    static_assert(A_SIZE * sizeof(T) % 32 == 0 && B_SIZE * sizeof(T) % 32 == 0, "fragments are read from multiples");
};

// What of a line may be read: `count` elements from `from` on.
template <typename T> struct Line {
    const T *from;
    int64_t count;
};

// One tile into shared memory; line_at(line, column) says what there is from `column` on.
template <int LINES, int LENGTH, int STRIDE, typename T, typename LineAt>
__device__ __forceinline__ void load_tile(T *tile, bool aligned, const LineAt &line_at)
{
    constexpr int VECTOR = Vector<T>::LENGTH, PER_LINE = LENGTH / VECTOR, PIECES = LINES * PER_LINE;
    static_assert(PIECES % GROUPED_THREADS == 0, "every thread loads as much");
#pragma unroll
    for (int piece = 0; piece < PIECES; piece += GROUPED_THREADS) {
        int i = piece + threadIdx.x, line = i / PER_LINE, column = i % PER_LINE * VECTOR;
        T *to = tile + line * STRIDE + column;
        Line<T> source = line_at(line, column);
        if (aligned && source.count >= VECTOR) {
            copy_async(to, source.from);
            continue;
        }
        for (int e = 0; e < VECTOR; e++)
            to[e] = e < source.count ? source.from[e] : from_f32<T>(0);
    }
}

// Fills one stage. `part`: which pair of factors; `depth`: where its slice of the sum begins; row_index: [TILE], where
// a's rows are.
template <typename T, GroupedForm FORM>
__device__ __forceinline__ void load_stage(const GroupedArguments &p, const Share &share, int part, uint64_t depth,
                                           const uint32_t *row_index, T *a_tile, T *b_tile)
{
    using L = Layout<T, FORM>;
    const T *a = static_cast<const T *>(p.a[part].data), *b = static_cast<const T *>(p.b.data);
    const T *w = static_cast<const T *>(p.w[part].data) + share.slot * p.w[part].slot_stride;
    const T *gate = static_cast<const T *>(p.w[1].data) + share.slot * p.w[1].slot_stride;
    int64_t left = static_cast<int64_t>(share.depth - depth); // of the sum
    load_tile<L::A_LINES, L::A_LENGTH, L::A_STRIDE>(a_tile, p.aligned, [&](int line, int column) -> Line<T> {
        if (FORM == GroupedForm::GRADIENT) {
            if (line >= left)
                return {a, 0};
            uint64_t row = row_of(p.sorted, p.a[0], share.depth_first + depth + line);
            uint64_t at = share.first_row + column;
            return {a + row * p.a[0].stride + at, static_cast<int64_t>(p.m - at)};
        }
        if (static_cast<uint64_t>(line) >= share.rows)
            return {a, 0};
        uint64_t row = part == 0 ? row_index[line] : share.first_row + line;
        return {a + row * p.a[part].stride + depth + column, left - column};
    });
    load_tile<L::B_LINES, L::B_LENGTH, L::B_STRIDE>(b_tile, p.aligned, [&](int line, int column) -> Line<T> {
        int64_t cols = static_cast<int64_t>(share.cols);
        if (FORM == GroupedForm::ROWS_TRANSPOSED) {
            if (line >= cols)
                return {w, 0};
            return {w + (share.first_col + line) * p.w[part].stride + depth + column, left - column};
        }
        if (line >= left)
            return {FORM == GroupedForm::GRADIENT ? b : w, 0};
        if (FORM == GroupedForm::GRADIENT) {
            uint64_t row = row_of(p.sorted, p.b, share.depth_first + depth + line);
            return {b + row * p.b.stride + share.first_col + column, cols - column};
        }
        if (FORM == GroupedForm::ROWS_GATED && column >= TILE / 2)
            return {gate + (depth + line) * p.w[1].stride + share.first_col + column - TILE / 2,
                    cols - (column - TILE / 2)};
        return {w + (depth + line) * p.w[0].stride + share.first_col + column, cols - column};
    });
}

// Eight neighbours of a row of the result.
template <typename T>
__device__ __forceinline__ void store_eight(const float *values, T *to, int64_t count, bool aligned)
{
    constexpr int LENGTH = Piece<T>::LENGTH;
#pragma unroll
    for (int first = 0; first < FRAGMENT / 2; first += LENGTH) {
        Piece<T> piece;
#pragma unroll
        for (int i = 0; i < LENGTH; i++)
            piece.values[i] = values[first + i];
        int64_t left = count - first;
        if (left > 0)
            piece.store(to + first, 0, static_cast<uint64_t>(left), aligned && left >= LENGTH);
    }
}

// The warp's sums go through its patches of shared memory, so that a lane has eight neighbours to write.
template <typename T, GroupedForm FORM, typename Sums>
__device__ __forceinline__ void store_sums(const GroupedArguments &p, const Share &share, const Sums &sums,
                                           float *patches, int warp_row, const int (&first_col)[COL_FRAGMENTS])
{
    using L = Layout<T, FORM>;
    constexpr bool GATED = FORM == GroupedForm::ROWS_GATED;
    int lane = threadIdx.x % WARP, row = lane / 2, col = lane % 2 * (FRAGMENT / 2);
    uint64_t slot_place = FORM == GroupedForm::GRADIENT ? share.slot * p.c_slot_stride : 0;
    T *c = static_cast<T *>(p.c) + slot_place;
    float *up = patches, *gate = patches + L::PATCH;
#pragma unroll
    for (int i = 0; i < ROW_FRAGMENTS; i++) {
#pragma unroll
        for (int j = 0; j < (GATED ? COL_FRAGMENTS / 2 : COL_FRAGMENTS); j++) {
            sums.store(i, j, up, L::PATCH_STRIDE);
            if (GATED)
                sums.store(i, j + COL_FRAGMENTS / 2, gate, L::PATCH_STRIDE);
            __syncwarp();
            float values[FRAGMENT / 2];
#pragma unroll
            for (int e = 0; e < FRAGMENT / 2; e++) {
                float value = up[row * L::PATCH_STRIDE + col + e];
                float other = GATED ? gate[row * L::PATCH_STRIDE + col + e] : 0;
                values[e] = p.activates ? activation_of(p.activation, value, other) : value;
            }
            uint64_t in_tile = warp_row + i * FRAGMENT + row;
            int64_t columns = static_cast<int64_t>(share.cols) - first_col[j] - col;
            if (in_tile < share.rows && columns > 0)
                store_eight(values, c + (share.first_row + in_tile) * p.n + share.first_col + first_col[j] + col,
                            columns, p.aligned);
            __syncwarp();
        }
    }
}

template <typename T, GroupedForm FORM>
__device__ __forceinline__ void multiply_share(const GroupedArguments &p, const Share &share, unsigned char *memory,
                                               uint32_t *row_index)
{
    using L = Layout<T, FORM>;
    T *tiles = reinterpret_cast<T *>(memory);
    if (FORM != GroupedForm::GRADIENT && threadIdx.x < share.rows)
        row_index[threadIdx.x] = row_of(p.sorted, p.a[0], share.first_row + threadIdx.x);
    __syncthreads(); // and all have stored their sums of an earlier share

    unsigned slices = static_cast<unsigned>((share.depth + L::DEPTH - 1) / L::DEPTH), slice = 0;
    int parts = slices == 0 ? 0 : parts_of<FORM>(p), part = 0;
    auto fill = [&](unsigned stage) { // with the next slice, part by part
        if (part < parts) {
            T *tile = tiles + stage % STAGES * (L::A_SIZE + L::B_SIZE);
            load_stage<T, FORM>(p, share, part, static_cast<uint64_t>(slice) * L::DEPTH, row_index, tile,
                                tile + L::A_SIZE);
            part += slice + 1 == slices;
            slice = slice + 1 == slices ? 0 : slice + 1;
        }
        copy_commit(); // also an empty group: they are counted
    };
    int warp = threadIdx.x / WARP, warp_row = warp / 2 * WARP_ROWS;
    int first_col[COL_FRAGMENTS];
#pragma unroll
    for (int j = 0; j < COL_FRAGMENTS; j++)
        first_col[j] = FORM == GroupedForm::ROWS_GATED
                           ? j / 2 * (TILE / 2) + warp % 2 * (WARP_COLS / 2) + j % 2 * FRAGMENT
                           : warp % 2 * WARP_COLS + j * FRAGMENT;
    WarpTile<T, L::A_TRANSPOSED, L::B_TRANSPOSED> sums;
    sums.clear();
    for (unsigned s = 0; s < STAGES - 1; s++)
        fill(s);
    for (unsigned step = 0; step < slices * parts; step++) {
        copy_await<STAGES - 2>();
        __syncthreads(); // this stage is there for all, and nobody reads the one that is filled next
        fill(step + STAGES - 1);
        const T *stage = tiles + step % STAGES * (L::A_SIZE + L::B_SIZE);
        if (static_cast<uint64_t>(warp_row) < share.rows)
            sums.template multiply_add<L::DEPTH, L::A_STRIDE, L::B_STRIDE>(stage, stage + L::A_SIZE, warp_row,
                                                                           first_col);
    }
    copy_await<0>();
    __syncthreads();
    float *patches = reinterpret_cast<float *>(memory) + warp * 2 * L::PATCH;
    store_sums<T, FORM>(p, share, sums, patches, warp_row, first_col);
}

template <typename T, GroupedForm FORM>
__global__ void __launch_bounds__(GROUPED_THREADS, BLOCKS_EACH) grouped_kernel(GroupedArguments p)
{
    DYNAMIC_SHARED(memory);
    __shared__ uint32_t row_index[TILE];
    Turns turns = turns_of<FORM>(p);
    for (uint32_t index = turns.index; index < turns.end; index += turns.step)
        multiply_share<T, FORM>(p, share_of<FORM, TILE>(p, index), memory, row_index);
}

template <typename T, GroupedForm FORM>
cudaError_t launch_grouped(cudaStream_t stream, const GroupedArguments &p, uint64_t shares)
{
    return launch_shares(stream, p, shares, grouped_kernel<T, FORM>, GROUPED_THREADS, Layout<T, FORM>::BYTES,
                         BLOCKS_EACH);
}

template <typename T> constexpr GroupedKernel grouped_kernel_of()
{
    return {TILE,
            {launch_grouped<T, GroupedForm::ROWS>, launch_grouped<T, GroupedForm::ROWS_GATED>,
             launch_grouped<T, GroupedForm::ROWS_TRANSPOSED>, launch_grouped<T, GroupedForm::GRADIENT>}};
}

} // namespace

#endif
