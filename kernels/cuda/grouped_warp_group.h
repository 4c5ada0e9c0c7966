// The kernel behind grouped.h for compute capability 9.0: two warp groups compute 128 x 256 sums, 64 x 256 each, 16-bit
// factors, rows of whole 16-byte vectors.
//
// A stage of shared memory holds 64 of the depth, 16 KB of a and 32 KB of b, and asks for 2 x 128 x 256 x 64 FLOPs: 85
// for every byte that comes in. Multiplying reads a warp group's 2 KB of a and 8 KB of b for 64 x 256 x 16
// multiply-adds, 80 bytes a cycle of the 128 that shared memory has at the rate of dense products; filling stages
// writes 48 more. Of four stages one is multiplied, one may still be, one is there or about to be, and one is filled.
// One block takes a multiprocessor: 193 KB of its memory, 128 of at most 255 registers a thread for sums.
//
// The stages are a stream across the shares of a block: the next share's first ones are on their way while this one's
// sums are stored, straight from registers. Group of copies s holds stage s; at step s
//     all of a thread's copies up to stage s have landed, and it has published them        copy_await, group_publish
//     so have all threads', and both warp groups are done with stage s - 2                 __syncthreads
//     products of stage s begin, s - 1 may be under way                                    group_multiply_add
//     stage s + 2 is filled, where s - 2 was                                               fill
//     products of stage s - 1 are awaited                                                  group_await
#ifndef HEP_CUDA_GROUPED_WARP_GROUP_H
#define HEP_CUDA_GROUPED_WARP_GROUP_H

#include "kernels/cuda/activation.h"
#include "kernels/cuda/grouped_feed.h"

namespace
{

constexpr int AHEAD = GROUP_STAGES - 2; // so many stages a fill comes before its products

// sums += the products of the stage at this shared address, of the calling warp group's rows.
template <typename T, GroupedForm FORM>
__device__ __forceinline__ void multiply_stage(float (&sums)[GROUP_SUMS], uint32_t stage)
{
    using S = Stage<FORM>;
    uint32_t first_row = threadIdx.x / WARP_GROUP * GROUP_ROWS;
    group_begin(sums);
#pragma unroll
    for (uint32_t depth = 0; depth < SLICE; depth += GROUP_DEPTH) {
        uint64_t a, b;
        if constexpr (S::A_ALONG_ROWS)
            a = S::A::along_lines(stage, first_row, depth);
        else
            a = S::A::across_lines(stage, first_row, depth);
        if constexpr (S::B_ALONG_COLS)
            b = S::B::along_lines(stage + S::A::BYTES, 0, depth);
        else
            b = S::B::across_lines(stage + S::A::BYTES, 0, depth);
        group_multiply_add<T, S::A_ALONG_ROWS, S::B_ALONG_COLS>(sums, a, b);
    }
    group_commit();
}

template <typename T> __device__ __forceinline__ uint32_t pair_of(float first, float second)
{
    T pair[2] = {from_f32<T>(first), from_f32<T>(second)};
    uint32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return bits;
}

// words[i] of lane l of four neighbours becomes words[l] of lane i.
__device__ __forceinline__ void exchange_of_four(uint32_t (&words)[4])
{
    bool odd = threadIdx.x % 2, high = threadIdx.x / 2 % 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t got = __shfl_xor_sync(WHOLE_WARP, odd ? words[i] : words[i + 1], 1);
        words[i] = odd ? got : words[i];
        words[i + 1] = odd ? words[i + 1] : got;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t got = __shfl_xor_sync(WHOLE_WARP, high ? words[i] : words[i + 2], 2);
        words[i] = high ? got : words[i];
        words[i + 2] = high ? words[i + 2] : got;
    }
}

// Four lanes, which share a row, have two neighbours each of four times eight columns; once exchanged, each has eight
// neighbours, 16 bytes.
template <typename T>
__device__ __forceinline__ void store_sums(const GroupedArguments &p, const Share &share, T *c, int count,
                                           const float (&sums)[GROUP_SUMS])
{
    constexpr int EIGHTS = 4, EACH = 4, HALF = 2; // sums of a thread in eight columns: a row's, then another's
    int thread = static_cast<int>(threadIdx.x), first_row = thread / WARP_GROUP * GROUP_ROWS;
#pragma unroll
    for (int first = 0; first < GROUP_SUMS; first += EIGHTS * EACH) {
        if (first >= count)
            break;
#pragma unroll
        for (int half = 0; half < EACH; half += HALF) {
            uint32_t words[EIGHTS];
#pragma unroll
            for (int eight = 0; eight < EIGHTS; eight++) {
                int i = first + eight * EACH + half;
                words[eight] = pair_of<T>(sums[i], sums[i + 1]);
            }
            exchange_of_four(words);
            uint64_t row = first_row + group_row(thread, half);
            uint64_t col = group_col(0, first) + thread % EIGHTS * 8;
            if (row < share.rows && col < share.cols)
                *reinterpret_cast<uint4 *>(c + (share.first_row + row) * p.n + share.first_col +
                                           col) = {words[0], words[1], words[2], words[3]};
        }
    }
}

// In place. Where the form is gated the gate of sum i is i + GROUP_SUMS / 2.
template <Activation ACTIVATION, bool GATED> __device__ __forceinline__ void activate_sums(float (&sums)[GROUP_SUMS])
{
    constexpr int RESULTS = GATED ? GROUP_SUMS / 2 : GROUP_SUMS;
#pragma unroll
    for (int i = 0; i < RESULTS; i++)
        sums[i] = activation_of_16(ACTIVATION, sums[i], GATED ? sums[i + GROUP_SUMS / 2] : 0);
}

template <typename T, GroupedForm FORM>
__device__ __forceinline__ void store_share(const GroupedArguments &p, const Share &share, float (&sums)[GROUP_SUMS])
{
    constexpr bool GATED = FORM == GroupedForm::ROWS_GATED;
    if (GATED && p.activates)
        activate_sums<ACTIVATION_SWIGLU, true>(sums); // the one that is gated
    else if (FORM == GroupedForm::ROWS && p.activates && p.activation == ACTIVATION_RELU)
        activate_sums<ACTIVATION_RELU, false>(sums);
    else if (FORM == GroupedForm::ROWS && p.activates)
        activate_sums<ACTIVATION_GELU, false>(sums);
    T *c = static_cast<T *>(p.c) + (FORM == GroupedForm::GRADIENT ? share.slot * p.c_slot_stride : 0);
    store_sums(p, share, c, GATED ? GROUP_SUMS / 2 : GROUP_SUMS, sums);
}

template <typename T, GroupedForm FORM>
__device__ __forceinline__ void multiply_shares(const GroupedArguments &p, uint32_t stages)
{
    using S = Stage<FORM>;
    uint32_t step = 0;
    Turns turns = turns_of<FORM>(p);
    auto stage_at = [=](uint32_t s) { return stages + s % GROUP_STAGES * S::BYTES; };
    Feed<T, FORM> feed(p, turns);
    for (int s = 0; s < AHEAD; s++)
        feed.fill(stage_at(s));
    for (uint32_t index = turns.index; index < turns.end; index += turns.step) {
        Share share = share_of<FORM, GROUP_COLS>(p, index);
        uint32_t steps = static_cast<uint32_t>((share.depth + SLICE - 1) / SLICE) * parts_of<FORM>(p);
        float sums[GROUP_SUMS];
#pragma unroll
        for (int i = 0; i < GROUP_SUMS; i++)
            sums[i] = 0;
        for (uint32_t end = step + steps; step < end; step++) {
            copy_await<AHEAD - 1>();
            group_publish();
            __syncthreads();
            multiply_stage<T, FORM>(sums, stage_at(step));
            feed.fill(stage_at(step + AHEAD));
            group_await<1>(sums);
        }
        group_await<0>(sums);
        store_share<T, FORM>(p, share, sums);
    }
    copy_await<0>();
}

template <typename T, GroupedForm FORM>
__global__ void __launch_bounds__(GROUP_THREADS, 1) grouped_warp_group_kernel(GroupedArguments p)
{
#if defined(HEP_CUDA_EMULATION) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    DYNAMIC_SHARED(memory);
    constexpr uint32_t ALIGNMENT = Stage<FORM>::ALIGNMENT;
    multiply_shares<T, FORM>(p, (shared_address(memory) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
#endif
}

template <typename T, GroupedForm FORM>
cudaError_t launch_warp_groups(cudaStream_t stream, const GroupedArguments &p, uint64_t shares)
{
    return launch_shares(stream, p, shares, grouped_warp_group_kernel<T, FORM>, GROUP_THREADS,
                         Stage<FORM>::SHARED_BYTES, 1);
}

template <typename T> constexpr GroupedKernel grouped_warp_group_of()
{
    return {GROUP_COLS,
            {launch_warp_groups<T, GroupedForm::ROWS>, launch_warp_groups<T, GroupedForm::ROWS_GATED>,
             launch_warp_groups<T, GroupedForm::ROWS_TRANSPOSED>, launch_warp_groups<T, GroupedForm::GRADIENT>}};
}

} // namespace

#endif
