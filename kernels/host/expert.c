// Routed experts and their gradients: the (row, record) pairs are sorted by expert, each held expert computes its rows
// in blocks, and weighted results are summed in f32.
#include "kernels/host/internal.h"

typedef struct {
    uint32_t *ends;  // [experts + 1]: the pairs of slot s are pairs[ends[s - 1] .. ends[s])
    uint32_t *pairs; // indices into records, ascending within a slot
} Sorted;

// The place of a record's expert, -1 for a padding record; *missing counts experts not held.
static int32_t slot_of(const ModelDims *dims, const int32_t *slot_of_expert, const Record *record, uint64_t *missing)
{
    if (record->expert < 0)
        return -1;
    int32_t slot = (uint32_t)record->expert < dims->experts ? slot_of_expert[record->expert] : -1;
    *missing += slot < 0;
    return slot;
}

// Counting sort. Returns the number of records whose expert is not held; they are left out.
static uint64_t sort_pairs(const ModelDims *dims, const int32_t *slot_of_expert, const Record *records, uint64_t count,
                           Sorted *sorted)
{
    uint64_t missing = 0, ignored = 0;
    memset(sorted->ends, 0, (dims->experts + 1ull) * sizeof(*sorted->ends));
    for (uint64_t i = 0; i < count; i++) {
        int32_t slot = slot_of(dims, slot_of_expert, &records[i], &missing);
        if (slot >= 0)
            sorted->ends[slot + 1]++;
    }
    for (uint64_t slot = 0; slot < dims->experts; slot++)
        sorted->ends[slot + 1] += sorted->ends[slot];
    for (uint64_t i = 0; i < count; i++) {
        int32_t slot = slot_of(dims, slot_of_expert, &records[i], &ignored);
        if (slot >= 0)
            sorted->pairs[sorted->ends[slot]++] = (uint32_t)i;
    }
    return missing;
}

typedef struct {
    FeedForward ff;
    const Record *records;
    uint64_t pairs_per_row; // records a row x fanout: pair / this = row
    Tensor rows;
    float *sums; // [rows][hidden]
} ExpertBatch;

static void gather_rows(const ExpertBatch *batch, const uint32_t *pairs, uint64_t count)
{
    uint64_t hidden = batch->ff.dims->hidden;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t row = pairs[i] / batch->pairs_per_row;
        host_to_f32(element_at(batch->rows.data, batch->rows.dtype, row * hidden), batch->rows.dtype,
                    batch->ff.in + i * hidden, hidden);
    }
}

static void add_results(const ExpertBatch *batch, const uint32_t *pairs, uint64_t count)
{
    uint64_t hidden = batch->ff.dims->hidden;
    for (uint64_t i = 0; i < count; i++) {
        float weight = batch->records[pairs[i]].weight;
        float *restrict sum = batch->sums + pairs[i] / batch->pairs_per_row * hidden;
        const float *restrict result = batch->ff.out + i * hidden;
        for (uint64_t h = 0; h < hidden; h++)
            sum[h] += weight * result[h];
    }
}

static void run_slot(const ExpertBatch *batch, const void *weights, const uint32_t *pairs, uint64_t count)
{
    for (uint64_t first = 0; first < count; first += SCRATCH_ROWS) {
        uint64_t block = smaller(SCRATCH_ROWS, count - first);
        gather_rows(batch, pairs + first, block);
        feed_forward_run(&batch->ff, weights, batch->ff.in, block, batch->ff.out);
        add_results(batch, pairs + first, block);
    }
}

uint64_t host_expert(const ModelDims *dims, const int32_t *slot_of_expert, uint64_t row_count, uint32_t fanout,
                     Tensor rows, Tensor records, Tensor experts, Tensor results, Tensor work)
{
    uint64_t hidden = dims->hidden, per_record_row = records.cols / 2, pairs = row_count * per_record_row;
    uint64_t result_rows = row_count / fanout;
    assert(pairs <= UINT32_MAX && row_count <= records.rows && result_rows <= results.rows);
    Scratch scratch = scratch_begin(work);
    Sorted sorted;
    sorted.ends = (uint32_t *)scratch_take(&scratch, 1, dims->experts + 1ull);
    sorted.pairs = (uint32_t *)scratch_take(&scratch, 1, pairs);
    ExpertBatch batch = {.records = records.data, .pairs_per_row = per_record_row * fanout, .rows = rows};
    batch.sums = results.dtype == DTYPE_F32 ? results.data : scratch_take(&scratch, result_rows, hidden);
    batch.ff = feed_forward_begin(dims, experts.dtype, dims->inner, smaller(pairs, SCRATCH_ROWS), &scratch);

    uint64_t missing = sort_pairs(dims, slot_of_expert, batch.records, pairs, &sorted);
    if (result_rows > 0)
        memset(batch.sums, 0, result_rows * hidden * sizeof(*batch.sums));
    for (uint64_t slot = 0, begin = 0; slot < dims->experts; begin = sorted.ends[slot++])
        run_slot(&batch, element_at(experts.data, experts.dtype, slot * model_expert_elements(dims)),
                 sorted.pairs + begin, sorted.ends[slot] - begin);
    if (results.dtype != DTYPE_F32)
        host_from_f32(batch.sums, results.data, results.dtype, result_rows * hidden);
    return missing;
}

// ---- backward ------------------------------------------------------------------------------------

typedef struct {
    FeedForwardBackward ff;
    const Record *records;
    uint64_t pairs_per_row; // records a row x fanout: pair / this = row
    Tensor rows, dresults;
    float *sums;               // [rows][hidden]: gradients of rows
    float *drecords;           // one per pair
    float *weights, *dweights; // [block]
} ExpertGradients;

static void gather_pairs(const ExpertGradients *g, const uint32_t *pairs, uint64_t count)
{
    uint64_t hidden = g->ff.dims->hidden;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = pairs[i] / g->pairs_per_row * hidden;
        host_to_f32(element_at(g->rows.data, g->rows.dtype, at), g->rows.dtype, g->ff.in + i * hidden, hidden);
        host_to_f32(element_at(g->dresults.data, g->dresults.dtype, at), g->dresults.dtype, g->ff.dout + i * hidden,
                    hidden);
        g->weights[i] = g->records[pairs[i]].weight;
        g->dweights[i] = 0;
    }
}

static void add_gradients(const ExpertGradients *g, const uint32_t *pairs, uint64_t count)
{
    uint64_t hidden = g->ff.dims->hidden;
    for (uint64_t i = 0; i < count; i++) {
        float *restrict sum = g->sums + pairs[i] / g->pairs_per_row * hidden;
        const float *restrict din = g->ff.din + i * hidden;
        for (uint64_t h = 0; h < hidden; h++)
            sum[h] += din[h];
        g->drecords[pairs[i]] = g->dweights[i];
    }
}

static void run_slot_backward(const ExpertGradients *g, const void *weights, const uint32_t *pairs, uint64_t count)
{
    for (uint64_t first = 0; first < count; first += SCRATCH_ROWS) {
        uint64_t block = smaller(SCRATCH_ROWS, count - first);
        gather_pairs(g, pairs + first, block);
        feed_forward_backward_run(&g->ff, weights, block, g->weights, g->dweights);
        add_gradients(g, pairs + first, block);
    }
}

uint64_t host_expert_backward(const ModelDims *dims, const int32_t *slot_of_expert, uint64_t row_count, uint32_t fanout,
                              Tensor rows, Tensor records, Tensor experts, Tensor dresults, Tensor drows,
                              Tensor drecords, Tensor dexperts, Tensor work)
{
    uint64_t hidden = dims->hidden, per_record_row = records.cols / 2, pairs = row_count * per_record_row;
    uint64_t hidden_rows = row_count / fanout, elements = model_expert_elements(dims);
    assert(pairs <= UINT32_MAX && row_count <= records.rows && hidden_rows <= drows.rows);
    assert(drecords.dtype == DTYPE_F32 && drecords.rows * drecords.cols >= pairs);
    assert(dexperts.dtype == experts.dtype && dexperts.rows * dexperts.cols >= experts.rows * elements);
    Scratch scratch = scratch_begin(work);
    Sorted sorted;
    sorted.ends = (uint32_t *)scratch_take(&scratch, 1, dims->experts + 1ull);
    sorted.pairs = (uint32_t *)scratch_take(&scratch, 1, pairs);
    ExpertGradients g = {.records = records.data,
                         .pairs_per_row = per_record_row * fanout,
                         .rows = rows,
                         .dresults = dresults,
                         .drecords = drecords.data};
    g.sums = drows.dtype == DTYPE_F32 ? drows.data : scratch_take(&scratch, hidden_rows, hidden);
    g.weights = scratch_take(&scratch, 1, smaller(pairs, SCRATCH_ROWS));
    g.dweights = scratch_take(&scratch, 1, smaller(pairs, SCRATCH_ROWS));
    float *gradient = scratch_panel(&scratch, experts.dtype, 1, elements);
    g.ff = feed_forward_backward_begin(dims, experts.dtype, dims->inner, smaller(pairs, SCRATCH_ROWS), &scratch);

    uint64_t missing = sort_pairs(dims, slot_of_expert, g.records, pairs, &sorted);
    if (hidden_rows > 0)
        memset(g.sums, 0, hidden_rows * hidden * sizeof(*g.sums));
    if (pairs > 0)
        memset(g.drecords, 0, pairs * sizeof(*g.drecords)); // padding has none
    for (uint64_t slot = 0, begin = 0; slot < experts.rows; begin = sorted.ends[slot++]) {
        g.ff.gradient = gradient ? gradient : (float *)dexperts.data + slot * elements;
        memset(g.ff.gradient, 0, elements * sizeof(*g.ff.gradient));
        run_slot_backward(&g, element_at(experts.data, experts.dtype, slot * elements), sorted.pairs + begin,
                          sorted.ends[slot] - begin);
        gradient_store(g.ff.gradient, dexperts, slot * elements, elements);
    }
    uint64_t used = experts.rows * elements, all = dexperts.rows * dexperts.cols;
    memset(element_in(dexperts.data, dexperts.dtype, used), 0, (all - used) * dtype_bytes(dexperts.dtype));
    if (drows.dtype != DTYPE_F32)
        host_from_f32(g.sums, drows.data, drows.dtype, hidden_rows * hidden);
    return missing;
}
