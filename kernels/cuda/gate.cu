// The gate and its gradient: LayerNorm, logits in f32, choice of experts and their weights in one kernel, a warp a
// token. A fixed routing replaces the choice only. With a capacity, choices are ranked by expert in the order of tokens
// before they are weighed, so that the same ones are dropped as on the host.
#include "kernels/cuda/internal.h"
#include "kernels/cuda/ranking.h"

namespace
{

struct GateDims {
    uint64_t tokens;
    uint32_t experts, top_k;
};

// ---- fixed routings, as in kernels/host/gate.c ---------------------------------------------------

__device__ uint32_t hash_token(uint64_t token)
{
    uint64_t z = (token + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return static_cast<uint32_t>(z >> 32);
}

__device__ uint32_t greatest_divisor(uint32_t a, uint32_t b)
{
    while (b > 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

__device__ uint32_t balanced_expert(const GateDims &dims, uint64_t token, uint32_t choice)
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

__device__ uint32_t skewed_expert(const GateDims &dims, uint64_t token, uint32_t choice)
{
    uint32_t half = dims.experts / 2, pool = half > dims.top_k ? half : dims.top_k;
    uint32_t hash = hash_token(token);
    bool popular = hash % 10 < 7 || pool == dims.top_k;
    if (popular && choice == 0)
        return 0;
    return 1 + (hash / 10 + choice) % (pool - 1);
}

// Whether `expert` is among those a token may choose.
__device__ bool is_candidate(const GateDims &dims, Routing routing, uint64_t token, uint32_t expert)
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

// ---- choice --------------------------------------------------------------------------------------

// Descending by logit, ties by ascending expert; a logit that is not a number comes last.
struct Candidate {
    float logit;
    int32_t expert; // -1: none
};

__device__ bool comes_before(Candidate a, Candidate b)
{
    if (a.expert < 0 || b.expert < 0)
        return a.expert >= 0;
    return a.logit > b.logit || (a.logit == b.logit && a.expert < b.expert);
}

__device__ Candidate candidate_of(const float *logits, uint32_t expert)
{
    float logit = logits[expert];
    return {logit == logit ? logit : -INFINITY, static_cast<int32_t>(expert)};
}

// By a warp: the first candidate behind `last`.
__device__ Candidate next_candidate(const GateDims &dims, Routing routing, uint64_t token, const float *logits,
                                    Candidate last)
{
    Candidate best = {0, -1};
    for (uint32_t expert = threadIdx.x % WARP; expert < dims.experts; expert += WARP) {
        Candidate own = candidate_of(logits, expert);
        bool is_left = last.expert < 0 || comes_before(last, own);
        if (is_left && comes_before(own, best) && is_candidate(dims, routing, token, expert))
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
__device__ void weigh_chosen(Record *chosen, uint32_t count)
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

// logits [tokens][experts] -> records [tokens][top_k]: weights, or logits if they are to be weighed later.
__global__ void choose_kernel(GateDims dims, Routing routing, const float *__restrict__ logits,
                              Record *__restrict__ records, bool weigh)
{
    uint64_t token = static_cast<uint64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    bool leads = threadIdx.x % WARP == 0;
    if (token >= dims.tokens)
        return; // a whole warp
    const float *own = logits + token * dims.experts;
    Record *chosen = records + token * dims.top_k;
    Candidate last = {0, -1};
    for (uint32_t i = 0; i < dims.top_k; i++) {
        last = next_candidate(dims, routing, token, own, last);
        if (leads)
            chosen[i] = {last.expert, own[last.expert]};
    }
    if (leads && weigh)
        weigh_chosen(chosen, dims.top_k);
}

// ---- capacity ------------------------------------------------------------------------------------

struct ExpertKeys {
    uint64_t tokens;
    const Record *records;
    uint32_t per_item;

    __device__ uint64_t items(uint64_t *) const
    {
        return tokens;
    }

    __device__ int32_t key(uint64_t token, uint32_t index) const
    {
        return records[token * per_item + index].expert;
    }
};

// Marks in `dropped` [tokens][top_k] who comes too late: records are keys until all are ranked.
struct DropLate {
    ExpertKeys keys;
    uint64_t capacity_rows;
    uint8_t *dropped;

    __device__ void operator()(uint64_t token, uint32_t expert, uint32_t rank) const
    {
        for (uint32_t i = 0; i < keys.per_item; i++)
            if (keys.key(token, i) == static_cast<int32_t>(expert))
                dropped[token * keys.per_item + i] = rank >= capacity_rows;
    }
};

__global__ void weigh_kernel(GateDims dims, const uint8_t *__restrict__ dropped, Record *__restrict__ records)
{
    uint64_t token = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (token >= dims.tokens)
        return;
    Record *chosen = records + token * dims.top_k;
    for (uint32_t i = 0; i < dims.top_k; i++)
        if (dropped[token * dims.top_k + i])
            chosen[i].expert = -1;
    weigh_chosen(chosen, dims.top_k);
}

// ---- backward ------------------------------------------------------------------------------------

// counts [experts]: kept records; counts[experts]: all of them. Whole numbers, so their order does not matter.
__global__ void count_kept_kernel(GateDims dims, const Record *__restrict__ records, uint32_t *__restrict__ counts)
{
    uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= dims.tokens * dims.top_k || records[i].expert < 0)
        return;
    atomicAdd(&counts[records[i].expert], 1u);
    atomicAdd(&counts[dims.experts], 1u);
}

// A warp a token. In: logits, where balance is not 0; out: their gradients.
__global__ void logits_backward_kernel(GateDims dims, float balance, const Record *__restrict__ records,
                                       const float *__restrict__ drecords, const uint32_t *__restrict__ counts,
                                       float *__restrict__ logits)
{
    uint64_t token = static_cast<uint64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    uint32_t lane = threadIdx.x % WARP, experts = dims.experts;
    if (token >= dims.tokens)
        return;
    float *own = logits + token * experts;
    float kept = balance != 0 ? static_cast<float>(counts[experts]) : 0;
    float share = kept > 0 ? balance * static_cast<float>(experts) / (kept * static_cast<float>(dims.tokens)) : 0;
    float largest = -INFINITY, sum = 0, mean = 0;
    for (uint32_t e = lane; balance != 0 && e < experts; e += WARP)
        largest = fmaxf(largest, own[e]);
    largest = warp_reduce(largest, Max());
    for (uint32_t e = lane; balance != 0 && e < experts; e += WARP) {
        own[e] = expf(own[e] - largest);
        sum += own[e];
        mean += own[e] * share * static_cast<float>(counts[e]);
    }
    sum = warp_reduce(sum, Add());
    mean = warp_reduce(mean, Add()) / sum;

    const Record *chosen = records + token * dims.top_k;
    const float *dweights = drecords + token * dims.top_k;
    float tilt = 0;
    for (uint32_t i = 0; i < dims.top_k; i++)
        tilt += chosen[i].expert >= 0 ? chosen[i].weight * dweights[i] : 0;
    for (uint32_t e = lane; e < experts; e += WARP) {
        float gradient = balance != 0 ? own[e] / sum * (share * static_cast<float>(counts[e]) - mean) : 0;
        for (uint32_t i = 0; i < dims.top_k; i++)
            if (chosen[i].expert == static_cast<int32_t>(e))
                gradient += chosen[i].weight * (dweights[i] - tilt);
        own[e] = gradient;
    }
}

constexpr int LOADED = 8; // a thread

// out = drows (+ dshared), in f32.
template <typename T>
__global__ void load_gradients_kernel(const T *__restrict__ drows, const T *__restrict__ dshared,
                                      float *__restrict__ out, uint64_t count, bool aligned)
{
    uint64_t at = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * LOADED;
    Run<T, LOADED> rows, shared = {};
    Run<float, LOADED> sum;
    if (at >= count)
        return;
    rows.load(drows, at, count, aligned);
    if (dshared)
        shared.load(dshared, at, count, aligned);
#pragma unroll
    for (int i = 0; i < LOADED; i++)
        sum.values[i] = rows.values[i] + shared.values[i];
    sum.store(out, at, count, aligned);
}

template <typename T>
cudaError_t load_gradients(cudaStream_t stream, Tensor drows, Tensor dshared, float *out, uint64_t count)
{
    return launch(stream, static_cast<unsigned>(blocks_for(count, BLOCK_THREADS * LOADED)), BLOCK_THREADS, 0,
                  load_gradients_kernel<T>, static_cast<const T *>(drows.data), static_cast<const T *>(dshared.data),
                  out, count, is_aligned<T>(drows.data, 0) && is_aligned<T>(dshared.data, 0));
}

struct GateWork {
    float *exact;   // [tokens][hidden]: norm(x) before rounding
    float *weights; // [hidden][experts], of 16-bit routers
    float *logits;  // [tokens][experts]; their gradients
    Ranking ranking;
    uint8_t *dropped; // [tokens][top_k]
    // Of the backward pass:
    void *rows; // norm(x), rounded
    float *dnormed, *drouter;
    uint32_t *counts; // [experts + 1]
    void *norm_sums;
};

GateWork gate_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, uint64_t tokens, bool is_backward)
{
    GateWork work = {};
    uint64_t hidden = dims->hidden, experts = dims->experts;
    work.exact = scratch->take<float>(tokens * hidden);
    work.weights = dtype == DTYPE_F32 ? nullptr : scratch->take<float>(hidden * experts);
    work.logits = scratch->take<float>(tokens * experts);
    if (!is_backward) {
        work.ranking = ranking_take(scratch, tokens, dims->experts);
        work.dropped = scratch->take<uint8_t>(tokens * dims->top_k);
        return work;
    }
    work.rows = scratch->take_elements(dtype, tokens * hidden);
    work.dnormed = scratch->take<float>(tokens * hidden);
    work.drouter = dtype == DTYPE_F32 ? nullptr : scratch->take<float>(hidden * experts);
    work.counts = scratch->take<uint32_t>(experts + 1);
    work.norm_sums = scratch->take<char>(norm_backward_bytes(tokens, hidden));
    return work;
}

// The router's matrix in f32.
cudaError_t load_router(cudaStream_t stream, const ModelDims *dims, Tensor router, const GateWork &work,
                        const float **matrix)
{
    const void *stored = element_at(router.data, router.dtype, 2ull * dims->hidden);
    *matrix = router.dtype == DTYPE_F32 ? static_cast<const float *>(stored) : work.weights;
    if (router.dtype == DTYPE_F32)
        return cudaSuccess;
    return convert(stream, stored, router.dtype, work.weights, DTYPE_F32,
                   static_cast<uint64_t>(dims->hidden) * dims->experts);
}

cudaError_t multiply_logits(const CudaQueue *queue, const ModelDims *dims, const GateWork &work, const float *matrix,
                            uint64_t tokens)
{
    return matrix_multiply(queue, tokens, dims->experts, dims->hidden, 1,
                           matrix_of(work.exact, DTYPE_F32, dims->hidden), matrix_of(matrix, DTYPE_F32, dims->experts),
                           0, matrix_of(work.logits, DTYPE_F32, dims->experts));
}

cudaError_t drop_late(cudaStream_t stream, const GateDims &dims, uint64_t capacity_rows, const GateWork &work,
                      Record *records)
{
    ExpertKeys keys = {dims.tokens, records, dims.top_k};
    DropLate drop = {keys, capacity_rows, work.dropped};
    TRY(rank_count(stream, keys, work.ranking));
    TRY(rank_place(stream, keys, drop, work.ranking));
    return launch(stream, static_cast<unsigned>(blocks_for(dims.tokens, BLOCK_THREADS)), BLOCK_THREADS, 0, weigh_kernel,
                  dims, work.dropped, records);
}

} // namespace

uint64_t gate_work_bytes(const ModelDims *dims, Dtype dtype, uint64_t rows, bool is_backward)
{
    CudaScratch sizes = {};
    gate_take(&sizes, dims, dtype, rows, is_backward);
    return sizes.used;
}

cudaError_t cuda_gate(const CudaQueue *queue, const ModelDims *dims, Routing routing, uint64_t capacity_rows, Tensor x,
                      Tensor router, Tensor rows, Tensor records)
{
    CudaScratch scratch = scratch_of(queue);
    GateWork work = gate_take(&scratch, dims, router.dtype, x.rows, false);
    GateDims sizes = {x.rows, dims->experts, dims->top_k};
    Record *out = static_cast<Record *>(records.data);
    const float *matrix;
    TRY(load_router(queue->stream, dims, router, work, &matrix));
    TRY(norm_rows(queue->stream, x.data, x.dtype, x.rows, dims->hidden, router.data, rows.data, work.exact));
    TRY(multiply_logits(queue, dims, work, matrix, x.rows));
    TRY(launch(queue->stream, static_cast<unsigned>(blocks_for(x.rows, BLOCK_THREADS / WARP)), BLOCK_THREADS, 0,
               choose_kernel, sizes, routing, work.logits, out, capacity_rows == 0));
    return capacity_rows == 0 ? cudaSuccess : drop_late(queue->stream, sizes, capacity_rows, work, out);
}

cudaError_t cuda_gate_backward(const CudaQueue *queue, const ModelDims *dims, float balance, Tensor x, Tensor records,
                               Tensor drows, Tensor drecords, Tensor dshared, Tensor router, Tensor dx, Tensor drouter)
{
    CudaScratch scratch = scratch_of(queue);
    uint64_t tokens = x.rows, hidden = dims->hidden, experts = dims->experts;
    GateWork work = gate_take(&scratch, dims, router.dtype, tokens, true);
    GateDims sizes = {tokens, dims->experts, dims->top_k};
    cudaStream_t stream = queue->stream;
    const Record *chosen = static_cast<const Record *>(records.data);
    const float *matrix;
    void *dmatrix = element_in(drouter.data, drouter.dtype, 2 * hidden);
    void *sum = work.drouter ? work.drouter : dmatrix;
    TRY(load_router(stream, dims, router, work, &matrix));
    TRY(norm_rows(stream, x.data, x.dtype, tokens, hidden, router.data, work.rows, work.exact));
    if (balance != 0) {
        TRY(multiply_logits(queue, dims, work, matrix, tokens));
        TRY(cudaMemsetAsync(work.counts, 0, (experts + 1) * sizeof *work.counts, stream));
        TRY(launch(stream, static_cast<unsigned>(blocks_for(tokens * dims->top_k, BLOCK_THREADS)), BLOCK_THREADS, 0,
                   count_kept_kernel, sizes, chosen, work.counts));
    }
    TRY(launch(stream, static_cast<unsigned>(blocks_for(tokens, BLOCK_THREADS / WARP)), BLOCK_THREADS, 0,
               logits_backward_kernel, sizes, balance, chosen, static_cast<const float *>(drecords.data), work.counts,
               work.logits));
    TRY(BY_DTYPE(drows.dtype, load_gradients, stream, drows, dshared, work.dnormed, tokens * hidden));
    Matrix dlogits = matrix_of(work.logits, DTYPE_F32, experts);
    TRY(matrix_multiply(queue, tokens, hidden, experts, 1, dlogits, matrix_of(matrix, DTYPE_F32, experts, true), 1,
                        matrix_of(work.dnormed, DTYPE_F32, hidden)));
    TRY(matrix_multiply(queue, hidden, experts, tokens, 1, matrix_of(work.exact, DTYPE_F32, hidden, true), dlogits, 0,
                        matrix_of(sum, DTYPE_F32, experts)));
    if (work.drouter)
        TRY(convert(stream, work.drouter, DTYPE_F32, dmatrix, drouter.dtype, hidden * experts));
    return norm_backward(stream, x.data, x.dtype, tokens, hidden, router.data, work.dnormed, dx.data, dx.data,
                         drouter.data, work.norm_sums);
}
