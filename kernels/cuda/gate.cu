// The gate and its gradient: LayerNorm, logits in f32, choice of experts and their weights in one kernel, a warp a
// token. A fixed routing replaces the choice only. With a capacity, choices are ranked by expert in the order of tokens
// before they are weighed, so that the same ones are dropped as on the host.
#include "kernels/cuda/gate_choice.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/norm_moments.h"
#include "kernels/cuda/ranking.h"

namespace
{

// logits [tokens][experts] -> records [tokens][top_k]. A warp a token.
__global__ void choose_kernel(GateDims dims, Routing routing, const float *__restrict__ logits,
                              Record *__restrict__ records, bool weigh)
{
    uint64_t token = static_cast<uint64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (token < dims.tokens) // a whole warp
        choose(dims, routing, token, logits + token * dims.experts, records + token * dims.top_k, weigh);
}

// ---- few experts ---------------------------------------------------------------------------------

// The whole gate in one kernel, where a block's logits fit in shared memory. With very few experts what is normalised
// goes out as rows and into products from registers, so that x is all that is read of size; a block of GATE_TOKENS
// reads the whole matrix, which caches hold.
constexpr int FEW_EXPERTS = CUDA_FEW_EXPERTS, VERY_FEW_EXPERTS = 16;
constexpr int GATE_TOKENS = 4, GATE_COLUMNS = 8;                    // tokens a block; experts at a time
constexpr int GATE_THREADS = 128, GATE_WARPS = GATE_THREADS / WARP; // 160 registers a thread, none spilled
static_assert(GATE_WARPS >= GATE_TOKENS, "a warp chooses for every token");

struct Gate {
    GateDims dims;
    Routing routing;
    uint64_t hidden;
    bool weigh, aligned, matrix_aligned;
};

// Elements of one token from `at` on, before rounding.
template <typename T>
__device__ __forceinline__ Piece<T> normed_piece(const T *row, const Piece<T> &gain, const Piece<T> &bias,
                                                 const Moments &moments, uint64_t at, const Gate &gate)
{
    Piece<T> piece;
    piece.load(row, at, gate.hidden, gate.aligned);
#pragma unroll
    for (int i = 0; i < Piece<T>::LENGTH; i++)
        piece.values[i] = (piece.values[i] - moments.mean) * moments.scale * gain.values[i] + bias.values[i];
    return piece;
}

// sums += the products of the block's tokens with the columns of the matrix [hidden][experts] from `first` on, over
// this thread's part of the rows. Leaves the normalised rows in `out` where it is given.
template <typename T>
__device__ void add_logits(const Gate &gate, const T *x, const T *parameters, const Moments (&moments)[GATE_TOKENS],
                           uint64_t first_token, uint32_t first, T *out, float (&sums)[GATE_TOKENS][GATE_COLUMNS])
{
    constexpr int LENGTH = Piece<T>::LENGTH;
    const T *matrix = parameters + 2 * gate.hidden;
    Piece<T> gain, bias, rows[GATE_TOKENS];
    for (uint64_t at = threadIdx.x * LENGTH; at < gate.hidden; at += GATE_THREADS * LENGTH) {
        gain.load(parameters, at, gate.hidden, gate.aligned);
        bias.load(parameters + gate.hidden, at, gate.hidden, gate.aligned);
#pragma unroll
        for (int t = 0; t < GATE_TOKENS; t++) {
            uint64_t token = first_token + t;
            if (token >= gate.dims.tokens)
                token = gate.dims.tokens - 1; // once more, and not used
            rows[t] = normed_piece(x + token * gate.hidden, gain, bias, moments[t], at, gate);
            if (out && first_token + t < gate.dims.tokens)
                rows[t].store(out + token * gate.hidden, at, gate.hidden, gate.aligned);
        }
#pragma unroll
        for (int i = 0; i < LENGTH; i++) {
            Run<T, GATE_COLUMNS> columns = {};
            if (at + i < gate.hidden)
                columns.load(matrix + (at + i) * gate.dims.experts, first, gate.dims.experts, gate.matrix_aligned);
#pragma unroll
            for (int t = 0; t < GATE_TOKENS; t++)
#pragma unroll
                for (int c = 0; c < GATE_COLUMNS; c++)
                    sums[t][c] += rows[t].values[i] * columns.values[c];
        }
    }
}

// parameters: gain [hidden], bias [hidden], matrix [hidden][experts].
template <typename T>
__global__ void __launch_bounds__(GATE_THREADS)
    gate_kernel(Gate gate, const T *__restrict__ x, const T *__restrict__ parameters, T *__restrict__ rows,
                Record *__restrict__ records)
{
    __shared__ float scratch[WARP], partial[GATE_WARPS][GATE_TOKENS][GATE_COLUMNS];
    __shared__ float logits[GATE_TOKENS][VERY_FEW_EXPERTS + GATE_COLUMNS];
    uint64_t first_token = static_cast<uint64_t>(blockIdx.x) * GATE_TOKENS;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Moments moments[GATE_TOKENS];
#pragma unroll
    for (int t = 0; t < GATE_TOKENS; t++) {
        uint64_t token = first_token + t < gate.dims.tokens ? first_token + t : gate.dims.tokens - 1;
        moments[t] = moments_of(x + token * gate.hidden, gate.hidden, gate.aligned, scratch);
    }
    for (uint32_t first = 0; first < gate.dims.experts; first += GATE_COLUMNS) {
        float sums[GATE_TOKENS][GATE_COLUMNS] = {};
        add_logits(gate, x, parameters, moments, first_token, first, first == 0 ? rows : nullptr, sums);
#pragma unroll
        for (int t = 0; t < GATE_TOKENS; t++)
#pragma unroll
            for (int c = 0; c < GATE_COLUMNS; c++) {
                float sum = warp_reduce(sums[t][c], Add());
                if (lane == 0)
                    partial[warp][t][c] = sum;
            }
        __syncthreads();
        if (threadIdx.x < GATE_TOKENS * GATE_COLUMNS) {
            uint32_t t = threadIdx.x / GATE_COLUMNS, c = threadIdx.x % GATE_COLUMNS;
            float sum = partial[0][t][c];
            for (int w = 1; w < GATE_WARPS; w++)
                sum += partial[w][t][c];
            logits[t][first + c] = sum;
        }
        __syncthreads();
    }
    uint64_t token = first_token + warp;
    if (warp < GATE_TOKENS && token < gate.dims.tokens)
        choose(gate.dims, gate.routing, token, logits[warp], records + token * gate.dims.top_k, gate.weigh);
}

// With more, a block of 64 tokens takes the matrix in slices through shared memory: it is read once for 64 tokens. A
// warp has eight tokens, a lane two experts, whose sums stay in registers.
constexpr int TILE_TOKENS = 64, TILE_THREADS = 256, TILE_DEPTH = 32, EACH_TOKENS = 8, EACH_EXPERTS = FEW_EXPERTS / WARP;
constexpr int LOADED_OF_TILE = 8;             // elements of a slice a thread
constexpr int TOKEN_STRIDE = TILE_TOKENS + 4; // rows of whole 16-byte vectors
static_assert(TILE_THREADS / WARP * EACH_TOKENS == TILE_TOKENS, "every token has its warp");
static_assert(TILE_TOKENS * TILE_DEPTH == TILE_THREADS * LOADED_OF_TILE, "every thread loads as much of x");
static_assert(FEW_EXPERTS * TILE_DEPTH == TILE_THREADS * LOADED_OF_TILE, "and of the matrix");

struct alignas(16) GateTile {
    float tokens[TILE_DEPTH][TOKEN_STRIDE]; // normalised
    float matrix[TILE_DEPTH][FEW_EXPERTS];
};

// Slice `depth` of the block's tokens and of the matrix; normalised rows go out.
template <typename T>
__device__ void load_gate_tile(const Gate &gate, const T *x, const T *parameters, const Moments *moments,
                               uint64_t first_token, uint64_t depth, T *out, GateTile *tile)
{
    uint32_t row = threadIdx.x / (TILE_DEPTH / LOADED_OF_TILE);
    uint32_t column = threadIdx.x % (TILE_DEPTH / LOADED_OF_TILE) * LOADED_OF_TILE;
    uint64_t at = depth + column, token = first_token + row, hidden = gate.hidden;
    bool inside = token < gate.dims.tokens && at < hidden;
    Run<T, LOADED_OF_TILE> gain = {}, bias = {}, values = {};
    if (inside) {
        gain.load(parameters, at, hidden, gate.aligned);
        bias.load(parameters + hidden, at, hidden, gate.aligned);
        values.load(x + token * hidden, at, hidden, gate.aligned);
    }
#pragma unroll
    for (int i = 0; i < LOADED_OF_TILE; i++) {
        values.values[i] =
            (values.values[i] - moments[row].mean) * moments[row].scale * gain.values[i] + bias.values[i];
        tile->tokens[column + i][row] = values.values[i];
    }
    if (inside && out)
        values.store(out + token * hidden, at, hidden, gate.aligned);
    uint32_t line = threadIdx.x / (FEW_EXPERTS / LOADED_OF_TILE);
    uint32_t first = threadIdx.x % (FEW_EXPERTS / LOADED_OF_TILE) * LOADED_OF_TILE;
    Run<T, LOADED_OF_TILE> experts = {};
    if (depth + line < hidden && first < gate.dims.experts)
        experts.load(parameters + 2 * hidden + (depth + line) * gate.dims.experts, first, gate.dims.experts,
                     gate.matrix_aligned);
#pragma unroll
    for (int i = 0; i < LOADED_OF_TILE; i++)
        tile->matrix[line][first + i] = experts.values[i];
}

template <typename T>
__global__ void __launch_bounds__(TILE_THREADS)
    gate_tiles_kernel(Gate gate, const T *__restrict__ x, const T *__restrict__ parameters, T *__restrict__ rows,
                      Record *__restrict__ records)
{
    __shared__ Moments moments[TILE_TOKENS];
    __shared__ GateTile tile;
    __shared__ float logits[TILE_TOKENS][FEW_EXPERTS + 1];
    uint64_t first_token = static_cast<uint64_t>(blockIdx.x) * TILE_TOKENS;
    uint32_t own = threadIdx.x / WARP * EACH_TOKENS, lane = threadIdx.x % WARP;
    float sums[EACH_TOKENS][EACH_EXPERTS] = {};
    for (uint32_t t = own; t < own + EACH_TOKENS; t++) {
        uint64_t token = first_token + t < gate.dims.tokens ? first_token + t : gate.dims.tokens - 1;
        Moments found = warp_moments_of(x + token * gate.hidden, gate.hidden, gate.aligned);
        if (lane == 0)
            moments[t] = found;
    }
    for (uint64_t depth = 0; depth < gate.hidden; depth += TILE_DEPTH) {
        __syncthreads(); // moments are there, and the slice before is used up
        load_gate_tile(gate, x, parameters, moments, first_token, depth, rows, &tile);
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < TILE_DEPTH; k++) {
            alignas(16) float tokens[EACH_TOKENS];
            *reinterpret_cast<float4 *>(tokens) = *reinterpret_cast<const float4 *>(&tile.tokens[k][own]);
            *reinterpret_cast<float4 *>(tokens + 4) = *reinterpret_cast<const float4 *>(&tile.tokens[k][own + 4]);
#pragma unroll
            for (int e = 0; e < EACH_EXPERTS; e++) {
                float factor = tile.matrix[k][e * WARP + lane];
#pragma unroll
                for (int t = 0; t < EACH_TOKENS; t++)
                    sums[t][e] += tokens[t] * factor;
            }
        }
    }
#pragma unroll
    for (int t = 0; t < EACH_TOKENS; t++)
#pragma unroll
        for (int e = 0; e < EACH_EXPERTS; e++)
            logits[own + t][e * WARP + lane] = sums[t][e];
    __syncwarp();
    for (uint32_t t = own; t < own + EACH_TOKENS && first_token + t < gate.dims.tokens; t++)
        choose(gate.dims, gate.routing, first_token + t, logits[t], records + (first_token + t) * gate.dims.top_k,
               gate.weigh);
}

template <typename T>
cudaError_t gate_few(cudaStream_t stream, Gate gate, Tensor x, Tensor router, Tensor rows, Tensor records)
{
    const T *parameters = static_cast<const T *>(router.data);
    gate.aligned = is_aligned<T>(x.data, gate.hidden) && is_aligned<T>(parameters, 0) && is_aligned<T>(rows.data, 0);
    gate.matrix_aligned = is_aligned<T>(parameters + 2 * gate.hidden, gate.dims.experts);
    if (gate.dims.experts > VERY_FEW_EXPERTS)
        return launch(stream, static_cast<unsigned>(blocks_for(gate.dims.tokens, TILE_TOKENS)), TILE_THREADS, 0,
                      gate_tiles_kernel<T>, gate, static_cast<const T *>(x.data), parameters,
                      static_cast<T *>(rows.data), static_cast<Record *>(records.data));
    return launch(stream, static_cast<unsigned>(blocks_for(gate.dims.tokens, GATE_TOKENS)), GATE_THREADS, 0,
                  gate_kernel<T>, gate, static_cast<const T *>(x.data), parameters, static_cast<T *>(rows.data),
                  static_cast<Record *>(records.data));
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

// The router's matrix in f32.
cudaError_t load_router(cudaStream_t stream, const ModelDims *dims, Tensor router, const CudaGate &work,
                        const float **matrix)
{
    const void *stored = element_at(router.data, router.dtype, 2ull * dims->hidden);
    *matrix = router.dtype == DTYPE_F32 ? static_cast<const float *>(stored) : work.weights;
    if (router.dtype == DTYPE_F32)
        return cudaSuccess;
    return convert(stream, stored, router.dtype, work.weights, DTYPE_F32,
                   static_cast<uint64_t>(dims->hidden) * dims->experts);
}

cudaError_t multiply_logits(const CudaQueue *queue, const ModelDims *dims, const CudaGate &work, const float *matrix,
                            uint64_t tokens)
{
    return matrix_multiply(queue, tokens, dims->experts, dims->hidden, 1,
                           matrix_of(work.exact, DTYPE_F32, dims->hidden), matrix_of(matrix, DTYPE_F32, dims->experts),
                           0, matrix_of(work.logits, DTYPE_F32, dims->experts));
}

GateDims dims_of(const ModelDims *dims, uint64_t tokens)
{
    uint32_t group_experts = model_limits_groups(dims) ? dims->experts / dims->groups : 0;
    return {tokens, dims->experts, dims->top_k, group_experts, dims->group_top_k};
}

cudaError_t drop_late(cudaStream_t stream, const GateDims &dims, uint64_t capacity_rows, const CudaGate &work,
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

cudaError_t cuda_gate(const CudaQueue *queue, const ModelDims *dims, Routing routing, uint64_t capacity_rows, Tensor x,
                      Tensor router, Tensor rows, Tensor records)
{
    CudaScratch scratch = scratch_of(queue);
    CudaGate work = cuda_gate_take(&scratch, dims, router.dtype, x.rows, false);
    GateDims sizes = dims_of(dims, x.rows);
    if (x.rows == 0)
        return cudaSuccess;
    Record *out = static_cast<Record *>(records.data);
    if (dims->experts <= FEW_EXPERTS) {
        Gate gate = {sizes, routing, dims->hidden, capacity_rows == 0, false, false};
        TRY(BY_DTYPE(router.dtype, gate_few, queue->stream, gate, x, router, rows, records));
    } else {
        const float *matrix;
        TRY(load_router(queue->stream, dims, router, work, &matrix));
        TRY(norm_rows(queue->stream, x.data, x.dtype, x.rows, dims->hidden, router.data, rows.data, work.exact));
        TRY(multiply_logits(queue, dims, work, matrix, x.rows));
        TRY(launch(queue->stream, static_cast<unsigned>(blocks_for(x.rows, BLOCK_THREADS / WARP)), BLOCK_THREADS, 0,
                   choose_kernel, sizes, routing, work.logits, out, capacity_rows == 0));
    }
    return capacity_rows == 0 ? cudaSuccess : drop_late(queue->stream, sizes, capacity_rows, work, out);
}

cudaError_t cuda_gate_backward(const CudaQueue *queue, const ModelDims *dims, float balance, Tensor x, Tensor records,
                               Tensor drows, Tensor drecords, Tensor dshared, Tensor router, Tensor dx, Tensor drouter)
{
    CudaScratch scratch = scratch_of(queue);
    uint64_t tokens = x.rows, hidden = dims->hidden, experts = dims->experts;
    CudaGate work = cuda_gate_take(&scratch, dims, router.dtype, tokens, true);
    GateDims sizes = dims_of(dims, tokens);
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
