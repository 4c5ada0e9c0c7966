// Which experts a token goes to, by its logits or by a fixed routing, and with what weights: as on the host.
#ifndef HEP_CUDA_GATE_CHOICE_H
#define HEP_CUDA_GATE_CHOICE_H

#include <math.h>

#include "kernels/cuda/device.h"

namespace
{

struct GateDims {
    uint64_t tokens;
    uint32_t experts, top_k, group_experts, group_top_k; // group_experts 0: no groups that limit a token
};

// ---- fixed routings, as in kernels/host/gate.c ---------------------------------------------------

__device__ inline uint32_t hash_token(uint64_t token)
{
    uint64_t z = (token + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return static_cast<uint32_t>(z >> 32);
}

__device__ inline uint32_t greatest_divisor(uint32_t a, uint32_t b)
{
    while (b > 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

__device__ inline uint32_t balanced_expert(const GateDims &dims, uint64_t token, uint32_t choice)
{
    uint32_t experts = dims.experts, strides = experts - 1, step = 5 * strides / 8 + 1;
    if (experts == 1)
        return 0;
    while (greatest_divisor(strides, step) > 1)
        step++;
    uint32_t stride = 1 + static_cast<uint32_t>((token / experts + 1) * step % strides);
    while (experts / greatest_divisor(experts, stride) < dims.top_k)
        stride = stride % strides + 1;
    return static_cast<uint32_t>((token + static_cast<uint64_t>(choice) * stride) % experts);
}

__device__ inline uint32_t skewed_expert(const GateDims &dims, uint64_t token, uint32_t choice)
{
    uint32_t half = dims.experts / 2, pool = half > dims.top_k ? half : dims.top_k;
    uint32_t hash = hash_token(token);
    bool popular = hash % 10 < 7 || pool == dims.top_k;
    if (popular && choice == 0)
        return 0;
    return 1 + (hash / 10 + choice) % (pool - 1);
}

// Whether `expert` is among those a token may choose.
__device__ inline bool is_candidate(const GateDims &dims, Routing routing, uint64_t token, uint32_t expert)
{
    if (routing == ROUTING_LEARNED)
        return true;
    for (uint32_t choice = 0; choice < dims.top_k; choice++) {
        uint32_t named =
            routing == ROUTING_BALANCED ? balanced_expert(dims, token, choice) : skewed_expert(dims, token, choice);
        if (named == expert)
            return true;
    }
    return false;
}

// As model_group_allows: by which groups are open, a bit each.
__device__ inline uint64_t group_bit(const GateDims &dims, uint32_t expert)
{
    return dims.group_experts > 0 ? 1ull << expert / dims.group_experts : 0;
}

__device__ inline bool group_allows(const GateDims &dims, uint64_t open, uint32_t expert)
{
    uint32_t count = 0;
    for (uint64_t rest = open; rest; rest &= rest - 1)
        count++;
    return dims.group_experts == 0 || count < dims.group_top_k || (open & group_bit(dims, expert));
}

// ---- choice --------------------------------------------------------------------------------------

// Descending by logit, ties by ascending expert; a logit that is not a number comes last.
struct Candidate {
    float logit;
    int32_t expert; // -1: none
};

__device__ inline bool comes_before(Candidate a, Candidate b)
{
    if (a.expert < 0 || b.expert < 0)
        return a.expert >= 0;
    return a.logit > b.logit || (a.logit == b.logit && a.expert < b.expert);
}

__device__ inline Candidate candidate_of(const float *logits, uint32_t expert)
{
    float logit = logits[expert];
    return {logit == logit ? logit : -INFINITY, static_cast<int32_t>(expert)};
}

// By a warp: the first candidate after `last` in groups that are open or may be opened.
__device__ inline Candidate next_candidate(const GateDims &dims, Routing routing, uint64_t token, const float *logits,
                                           Candidate last, uint64_t open)
{
    Candidate best = {0, -1};
    for (uint32_t expert = threadIdx.x % WARP; expert < dims.experts; expert += WARP) {
        Candidate own = candidate_of(logits, expert);
        bool is_left = last.expert < 0 || comes_before(last, own);
        if (is_left && comes_before(own, best) && is_candidate(dims, routing, token, expert) &&
            (routing != ROUTING_LEARNED || group_allows(dims, open, expert)))
            best = own;
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        Candidate other = {__shfl_xor_sync(WHOLE_WARP, best.logit, distance),
                           __shfl_xor_sync(WHOLE_WARP, best.expert, distance)};
        if (comes_before(other, best))
            best = other;
    }
    return best;
}

// Softmax over the logits of the records that were kept, in place; 0 for the others. By one thread.
__device__ inline void weigh_chosen(Record *chosen, uint32_t count)
{
    float largest = 0, sum = 0;
    bool any = false;
    for (uint32_t i = 0; i < count; i++) {
        if (chosen[i].expert >= 0 && (!any || chosen[i].weight > largest)) {
            largest = chosen[i].weight;
            any = true;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        chosen[i].weight = chosen[i].expert >= 0 ? expf(chosen[i].weight - largest) : 0;
        sum += chosen[i].weight;
    }
    for (uint32_t i = 0; i < count && any; i++)
        chosen[i].weight /= sum;
}

// By a warp: the records [top_k] of one token from its logits [experts]: weights, or logits if they are to be weighed
// later.
__device__ inline void choose(const GateDims &dims, Routing routing, uint64_t token, const float *logits,
                              Record *chosen, bool weigh)
{
    bool leads = threadIdx.x % WARP == 0;
    Candidate last = {0, -1};
    uint64_t open = 0;
    for (uint32_t i = 0; i < dims.top_k; i++) {
        last = next_candidate(dims, routing, token, logits, last, open);
        open |= group_bit(dims, static_cast<uint32_t>(last.expert));
        if (leads)
            chosen[i] = {last.expert, logits[last.expert]};
    }
    if (leads && weigh)
        weigh_chosen(chosen, dims.top_k);
}

} // namespace

#endif
