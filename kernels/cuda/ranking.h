// Stable ranks by counting: every item (a record row, a pair, a token) may name several keys (members, experts), each
// once, and learns how many earlier items name the same key. Blocks of items are counted, counts are scanned over the
// blocks, and ranks within a block come from votes, so the result does not depend on scheduling. Three launches.
//
// A `Keys` is copied to the device and has
//   uint32_t per_item;
//   __device__ uint64_t items(uint64_t *shared) const;                by a whole block; `shared`: one number
//   __device__ int32_t key(uint64_t item, uint32_t index) const;      -1 where it names none
// and a `Place` has
//   __device__ void operator()(uint64_t item, uint32_t key, uint32_t rank) const;
#ifndef HEP_CUDA_RANKING_H
#define HEP_CUDA_RANKING_H

#include "kernels/cuda/device.h"

namespace
{

constexpr uint32_t RANK_ITEMS = CUDA_RANK_ITEMS, RANK_WARPS = RANK_ITEMS / WARP, RANK_KEYS = 64;

using Ranking = CudaRanking;

// Every block writes its line of the table, also where it has no items.
template <typename Keys> __global__ void rank_count_kernel(Keys keys, Ranking ranking)
{
    __shared__ uint64_t present;
    __shared__ uint32_t counts[RANK_KEYS];
    uint64_t items = keys.items(&present);
    uint64_t item = static_cast<uint64_t>(blockIdx.x) * RANK_ITEMS + threadIdx.x;
    for (uint32_t base = 0; base < ranking.keys; base += RANK_KEYS) {
        bool has_key = threadIdx.x < RANK_KEYS && base + threadIdx.x < ranking.keys;
        if (threadIdx.x < RANK_KEYS)
            counts[threadIdx.x] = 0;
        __syncthreads();
        for (uint32_t i = 0; item < items && i < keys.per_item; i++) {
            int64_t key = static_cast<int64_t>(keys.key(item, i)) - base;
            if (key >= 0 && key < RANK_KEYS)
                atomicAdd(&counts[key], 1u);
        }
        __syncthreads();
        if (has_key)
            ranking.table[blockIdx.x * static_cast<uint64_t>(ranking.keys) + base + threadIdx.x] = counts[threadIdx.x];
    }
}

// Sum over the lanes up to and with this one.
__device__ __forceinline__ uint32_t warp_scan(uint32_t x)
{
    uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (uint32_t distance = 1; distance < WARP; distance *= 2) {
        uint32_t before = __shfl_up_sync(WHOLE_WARP, x, distance);
        x += lane >= distance ? before : 0;
    }
    return x;
}

// One block; a warp a key, its lanes over the blocks of items; then one warp over the keys.
__global__ void rank_scan_kernel(Ranking ranking)
{
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (uint32_t key = warp; key < ranking.keys; key += blockDim.x / WARP) {
        uint32_t before = 0;
        for (uint64_t first = 0; first < ranking.blocks; first += WARP) {
            bool inside = first + lane < ranking.blocks;
            uint32_t *place = &ranking.table[(first + lane) * ranking.keys + key];
            uint32_t count = inside ? *place : 0, sum = warp_scan(count);
            if (inside)
                *place = before + sum - count;
            before += __shfl_sync(WHOLE_WARP, sum, WARP - 1);
        }
        if (lane == 0)
            ranking.counts[key] = before;
    }
    __syncthreads();
    if (warp > 0)
        return;
    uint32_t before = 0;
    for (uint32_t first = 0; first < ranking.keys; first += WARP) {
        bool inside = first + lane < ranking.keys;
        uint32_t count = inside ? ranking.counts[first + lane] : 0, sum = warp_scan(count);
        if (inside)
            ranking.begins[first + lane] = before + sum - count;
        before += __shfl_sync(WHOLE_WARP, sum, WARP - 1);
    }
    if (lane == 0)
        ranking.begins[ranking.keys] = before;
}

// Which of RANK_KEYS keys from `base` on the item names.
template <typename Keys>
__device__ __forceinline__ uint64_t named_keys(const Keys &keys, uint64_t item, uint64_t items, uint32_t base)
{
    uint64_t named = 0;
    for (uint32_t i = 0; item < items && i < keys.per_item; i++) {
        int64_t key = static_cast<int64_t>(keys.key(item, i)) - base;
        if (key >= 0 && key < RANK_KEYS)
            named |= uint64_t{1} << key;
    }
    return named;
}

template <typename Keys, typename Place> __global__ void rank_place_kernel(Keys keys, Place place, Ranking ranking)
{
    __shared__ uint64_t present;
    __shared__ uint32_t before[RANK_KEYS][RANK_WARPS + 1]; // odd rows: no two keys in one bank
    uint64_t items = keys.items(&present);
    uint64_t item = static_cast<uint64_t>(blockIdx.x) * RANK_ITEMS + threadIdx.x;
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    if (static_cast<uint64_t>(blockIdx.x) * RANK_ITEMS >= items)
        return;
    for (uint32_t base = 0; base < ranking.keys; base += RANK_KEYS) {
        uint32_t count = ranking.keys - base < RANK_KEYS ? ranking.keys - base : RANK_KEYS;
        uint64_t named = named_keys(keys, item, items, base);
        for (uint32_t k = 0; k < count; k++) {
            uint32_t votes = __ballot_sync(WHOLE_WARP, (named >> k & 1) != 0);
            if (lane == 0)
                before[k][warp] = __popc(votes);
        }
        __syncthreads();
        if (threadIdx.x < count) {
            uint32_t sum = ranking.table[blockIdx.x * static_cast<uint64_t>(ranking.keys) + base + threadIdx.x];
            for (uint32_t w = 0; w < RANK_WARPS; w++) {
                uint32_t votes = before[threadIdx.x][w];
                before[threadIdx.x][w] = sum;
                sum += votes;
            }
        }
        __syncthreads();
        for (uint32_t k = 0; k < count; k++) {
            uint32_t votes = __ballot_sync(WHOLE_WARP, (named >> k & 1) != 0);
            if (named >> k & 1)
                place(item, base + k, before[k][warp] + __popc(votes & ((1u << lane) - 1)));
        }
        __syncthreads();
    }
}

// Counts and begins; ranks in a block are still to come.
template <typename Keys> cudaError_t rank_count(cudaStream_t stream, const Keys &keys, const Ranking &ranking)
{
    if (ranking.blocks > 0)
        TRY(launch(stream, static_cast<unsigned>(ranking.blocks), RANK_ITEMS, 0, rank_count_kernel<Keys>, keys,
                   ranking));
    return launch(stream, 1, 1024, 0, rank_scan_kernel, ranking);
}

template <typename Keys, typename Place>
cudaError_t rank_place(cudaStream_t stream, const Keys &keys, const Place &place, const Ranking &ranking)
{
    if (ranking.blocks == 0)
        return cudaSuccess;
    return launch(stream, static_cast<unsigned>(ranking.blocks), RANK_ITEMS, 0, rank_place_kernel<Keys, Place>, keys,
                  place, ranking);
}

} // namespace

#endif
