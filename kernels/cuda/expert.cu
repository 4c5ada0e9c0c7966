// Routed experts and their gradients: pairs of row and record are sorted by expert on the device (ranking.h), each
// expert's rows are multiplied where they lie (grouped.h), and every row's weighted results are summed in the order of
// its records.
#include "kernels/cuda/grouped.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/ranking.h"
#include "kernels/cuda/sum_rows.h"

namespace
{

constexpr uint32_t ABSENT = 0xFFFFFFFFu; // place of a pair whose expert is not here

struct SlotKeys {
    CudaRows present; // record rows
    const Record *records;
    const int32_t *slot_of_expert;
    uint32_t experts, held, per_row;
    uint32_t per_item; // 1: a pair names one slot

    __device__ uint64_t items(uint64_t *shared) const
    {
        return present_rows_shared(present, shared) * per_row;
    }

    __device__ int32_t key(uint64_t pair, uint32_t) const
    {
        int32_t expert = records[pair].expert;
        if (expert < 0 || static_cast<uint32_t>(expert) >= experts)
            return -1;
        int32_t slot = slot_of_expert[expert];
        return slot < 0 || static_cast<uint32_t>(slot) >= held ? -1 : slot;
    }
};

struct PlacePairs {
    const uint32_t *begins;
    uint32_t *pairs, *rows, *places;
    uint32_t pairs_per_row;
    uint64_t bound;
    unsigned long long *lost;

    __device__ void operator()(uint64_t pair, uint32_t slot, uint32_t rank) const
    {
        uint32_t place = begins[slot] + rank;
        if (place >= bound) {
            places[pair] = ABSENT;
            atomicAdd(lost, 1ull);
            return;
        }
        pairs[place] = static_cast<uint32_t>(pair);
        rows[place] = static_cast<uint32_t>(pair) / pairs_per_row;
        places[pair] = place;
    }
};

// Pairs without a place: padding, and records whose expert is not held, which are counted.
__global__ void mark_absent_kernel(SlotKeys keys, uint32_t *__restrict__ places, unsigned long long *lost)
{
    __shared__ uint64_t present;
    uint64_t items = keys.items(&present);
    uint64_t pair = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (pair >= items || keys.key(pair, 0) >= 0)
        return;
    places[pair] = ABSENT;
    if (keys.records[pair].expert >= 0)
        atomicAdd(lost, 1ull);
}

// tiles: slot by slot, every GROUPED_TILE rows of one; slots end where places do. One block.
__global__ void plan_tiles_kernel(uint32_t *__restrict__ begins, uint32_t held, uint64_t place_bound,
                                  uint32_t *__restrict__ tile_begins, uint2 *__restrict__ tiles)
{
    for (uint32_t slot = threadIdx.x; slot <= held; slot += blockDim.x)
        if (begins[slot] > place_bound)
            begins[slot] = static_cast<uint32_t>(place_bound);
    __syncthreads();
    if (threadIdx.x < WARP) {
        uint32_t before = 0;
        for (uint32_t first = 0; first < held; first += WARP) {
            uint32_t slot = first + threadIdx.x;
            uint32_t rows = slot < held ? begins[slot + 1] - begins[slot] : 0;
            uint32_t count = (rows + GROUPED_TILE - 1) / GROUPED_TILE, sum = warp_scan(count);
            if (slot < held)
                tile_begins[slot] = before + sum - count;
            before += __shfl_sync(WHOLE_WARP, sum, WARP - 1);
        }
        if (threadIdx.x == 0)
            tile_begins[held] = before;
    }
    __syncthreads();
    for (uint32_t slot = threadIdx.x; slot < held; slot += blockDim.x)
        for (uint32_t t = tile_begins[slot]; t < tile_begins[slot + 1]; t++)
            tiles[t] = {slot, begins[slot] + (t - tile_begins[slot]) * GROUPED_TILE};
}

// What became of the pairs of one row.
template <typename T> struct PairSources {
    const uint32_t *places; // by pair
    const Record *records;  // by pair; NULL: all weigh 1
    const T *results;       // by place
    uint64_t cols, first_pair;
    uint32_t pairs_per_row;

    __device__ uint32_t count() const
    {
        return pairs_per_row;
    }

    __device__ Source<T> at(uint32_t j) const
    {
        uint32_t place = places[first_pair + j];
        if (place == ABSENT)
            return {nullptr, 0};
        return {results + place * cols, records ? records[first_pair + j].weight : 1.0f};
    }
};

template <typename T>
__global__ void __launch_bounds__(SUM_THREADS)
    sum_pairs_kernel(PairSources<T> sources, CudaRows present, uint32_t fanout, T *__restrict__ out, bool aligned)
{
    __shared__ uint64_t shared;
    uint64_t row = blockIdx.x, cols = sources.cols;
    if (row >= present_rows_shared(present, &shared) / fanout)
        return;
    sources.first_pair = row * sources.pairs_per_row;
    for (uint64_t at = threadIdx.x * Piece<T>::LENGTH; at < cols; at += SUM_THREADS * Piece<T>::LENGTH) {
        Piece<T> sum = sum_of_sources<T>(sources, at, cols, aligned);
        sum.store(out + row * cols, at, cols, aligned);
    }
}

// One step's operands and what was made of them.
struct ExpertStep {
    const CudaQueue *queue;
    const ModelDims *dims;
    Dtype dtype;
    CudaRows present;
    uint32_t fanout, per_row; // record rows a row, records a record row
    uint64_t pair_bound, held;
    const Record *records;
    CudaExpert work;
    SortedRows sorted;

    uint64_t matrix() const
    {
        return static_cast<uint64_t>(dims->hidden) * dims->inner;
    }

    bool gated() const
    {
        return dims->activation == ACTIVATION_SWIGLU;
    }

    uint64_t down_place() const
    {
        return (gated() ? 2 : 1) * matrix();
    }

    GroupedWeights into(Tensor experts, uint64_t index) const // up or gate
    {
        return {element_at(experts.data, dtype, index * matrix()), dims->inner, model_expert_elements(dims)};
    }

    GroupedWeights down(Tensor experts) const
    {
        return {element_at(experts.data, dtype, down_place()), dims->hidden, model_expert_elements(dims)};
    }

    GroupedRows inner_rows(const void *data) const
    {
        return {data, dims->inner, false};
    }

    GroupedRows hidden_rows(Tensor rows) const
    {
        return {rows.data, dims->hidden, true};
    }
};

ExpertStep step_of(const CudaQueue *queue, const ModelDims *dims, CudaSlots slots, CudaRows present, uint32_t fanout,
                   Tensor records, Tensor experts, bool is_backward)
{
    CudaScratch scratch = scratch_of(queue);
    ExpertStep step = {};
    step.queue = queue;
    step.dims = dims;
    step.dtype = experts.dtype;
    step.present = present;
    step.fanout = fanout;
    step.per_row = static_cast<uint32_t>(records.cols / 2);
    step.pair_bound = present.rows * step.per_row;
    step.held = experts.rows;
    step.records = static_cast<const Record *>(records.data);
    step.work = cuda_expert_take(&scratch, dims, experts, step.pair_bound, slots.held_records, is_backward);
    step.sorted = {step.work.ranking.begins,
                   step.work.rows,
                   reinterpret_cast<const uint2 *>(step.work.tiles),
                   step.work.tile_begins + step.held,
                   step.work.place_bound,
                   step.held,
                   0};
    return step;
}

cudaError_t sort_pairs(const ExpertStep &step, const int32_t *slot_of_expert, uint64_t *lost)
{
    cudaStream_t stream = step.queue->stream;
    const CudaExpert &work = step.work;
    SlotKeys keys = {step.present,
                     step.records,
                     slot_of_expert,
                     step.dims->experts,
                     static_cast<uint32_t>(step.held),
                     step.per_row,
                     1};
    auto *count = reinterpret_cast<unsigned long long *>(lost);
    PlacePairs place = {work.ranking.begins,        work.pairs,       work.rows, work.places,
                        step.per_row * step.fanout, work.place_bound, count};
    TRY(rank_count(stream, keys, work.ranking));
    TRY(rank_place(stream, keys, place, work.ranking));
    if (step.pair_bound > 0)
        TRY(launch(stream, static_cast<unsigned>(blocks_for(step.pair_bound, BLOCK_THREADS)), BLOCK_THREADS, 0,
                   mark_absent_kernel, keys, work.places, count));
    return launch(stream, 1, BLOCK_THREADS, 0, plan_tiles_kernel, work.ranking.begins, static_cast<uint32_t>(step.held),
                  work.place_bound, work.tile_begins, reinterpret_cast<uint2 *>(work.tiles));
}

template <typename T> cudaError_t sum_pairs(const ExpertStep &step, const Record *weights, Tensor out)
{
    PairSources<T> sources = {step.work.places,  weights, static_cast<const T *>(step.work.results),
                              step.dims->hidden, 0,       step.per_row * step.fanout};
    uint64_t rows = step.present.rows / step.fanout;
    if (rows == 0)
        return cudaSuccess;
    return launch(step.queue->stream, static_cast<unsigned>(rows), SUM_THREADS, 0, sum_pairs_kernel<T>, sources,
                  step.present, step.fanout, static_cast<T *>(out.data), is_aligned<T>(out.data, step.dims->hidden));
}

cudaError_t weight_gradients(const ExpertStep &step, Tensor rows, Tensor dresults, Tensor dexperts)
{
    uint64_t hidden = step.dims->hidden, inner = step.dims->inner, slot = model_expert_elements(step.dims);
    const CudaInner &b = step.work.inner;
    GroupedRows in = step.hidden_rows(rows);
    TRY(grouped_gradient(step.queue, step.dtype, step.sorted, inner, hidden, step.inner_rows(b.act),
                         step.hidden_rows(dresults), element_in(dexperts.data, step.dtype, step.down_place()), slot));
    TRY(grouped_gradient(step.queue, step.dtype, step.sorted, hidden, inner, in, step.inner_rows(b.up), dexperts.data,
                         slot));
    if (!step.gated())
        return cudaSuccess;
    return grouped_gradient(step.queue, step.dtype, step.sorted, hidden, inner, in, step.inner_rows(b.gate),
                            element_in(dexperts.data, step.dtype, step.matrix()), slot);
}

} // namespace

cudaError_t cuda_expert(const CudaQueue *queue, const ModelDims *dims, CudaSlots slots, CudaRows present,
                        uint32_t fanout, Tensor rows, Tensor records, Tensor experts, Tensor results, uint64_t *lost)
{
    ExpertStep step = step_of(queue, dims, slots, present, fanout, records, experts, false);
    GroupedWeights gate = step.gated() ? step.into(experts, 1) : GroupedWeights{};
    TRY(sort_pairs(step, slots.slot_of_expert, lost));
    TRY(grouped_multiply(queue, step.dtype, step.sorted, dims->inner, dims->hidden, step.hidden_rows(rows),
                         step.into(experts, 0), gate, true, dims->activation, step.work.inner.act));
    TRY(grouped_multiply(queue, step.dtype, step.sorted, dims->hidden, dims->inner,
                         step.inner_rows(step.work.inner.act), step.down(experts), {}, false, dims->activation,
                         step.work.results));
    return BY_DTYPE(step.dtype, sum_pairs, step, step.records, results);
}

cudaError_t cuda_expert_backward(const CudaQueue *queue, const ModelDims *dims, CudaSlots slots, CudaRows present,
                                 uint32_t fanout, Tensor rows, Tensor records, Tensor experts, Tensor dresults,
                                 Tensor drows, Tensor drecords, Tensor dexperts, uint64_t *lost)
{
    ExpertStep step = step_of(queue, dims, slots, present, fanout, records, experts, true);
    cudaStream_t stream = queue->stream;
    const CudaInner &b = step.work.inner;
    uint64_t hidden = dims->hidden, inner = dims->inner;
    GroupedRows in = step.hidden_rows(rows);
    float *dweights = static_cast<float *>(drecords.data);
    TRY(sort_pairs(step, slots.slot_of_expert, lost));
    TRY(cudaMemsetAsync(dweights, 0, step.pair_bound * sizeof(float), stream)); // padding has none
    TRY(grouped_multiply(queue, step.dtype, step.sorted, inner, hidden, in, step.into(experts, 0), {}, false,
                         dims->activation, b.up));
    if (step.gated())
        TRY(grouped_multiply(queue, step.dtype, step.sorted, inner, hidden, in, step.into(experts, 1), {}, false,
                             dims->activation, b.gate));
    TRY(grouped_multiply_transposed(queue, step.dtype, step.sorted, inner, hidden, step.hidden_rows(dresults),
                                    step.down(experts), {}, {}, b.dact));
    ActivationRows activation_rows = {step.sorted.begins + step.held, step.work.pairs, step.records, dweights};
    TRY(activation_backward(stream, dims->activation, step.dtype, activation_rows, b, step.work.place_bound, inner));
    TRY(grouped_multiply_transposed(queue, step.dtype, step.sorted, hidden, inner, step.inner_rows(b.up),
                                    step.into(experts, 0), step.gated() ? step.inner_rows(b.gate) : GroupedRows{},
                                    step.gated() ? step.into(experts, 1) : GroupedWeights{}, step.work.results));
    TRY(BY_DTYPE(step.dtype, sum_pairs, step, nullptr, drows));
    uint64_t used = step.held * model_expert_elements(dims), all = dexperts.rows * dexperts.cols;
    if (all > used)
        TRY(cudaMemsetAsync(element_in(dexperts.data, step.dtype, used), 0, (all - used) * dtype_bytes(step.dtype),
                            stream));
    return weight_gradients(step, rows, dresults, dexperts);
}
