// Measures what a rank computes and moves in memory while all ranks of its machine do the same: that is how a plan's
// steps find it.
#include <stdlib.h>

#include "engines/host_scratch.h"
#include "kernels/host/kernels.h"
#include "runtime/calibrate/calibrate_internal.h"

enum { STREAMED_BYTES = 48 << 20 };

const uint32_t calibrate_row_counts[MATRIX_SIZES] = {4, 16, 64, 256, 1024};
const uint32_t calibrate_backward_counts[BACKWARD_SIZES] = {64, 1024};

// ---- matrix products -------------------------------------------------------------------------

// An expert, computed for a number of rows.
typedef struct {
    ModelDims dims;
    Tensor rows, weights, results, work;
    Tensor dresults, drows, dweights;
    uint32_t repeats;
} ExpertRun;

static bool compute_once(void *context, Fault *fault)
{
    ExpertRun *run = context;
    (void)fault;
    for (uint32_t i = 0; i < run->repeats; i++)
        host_shared_expert(&run->dims, run->rows, run->weights, run->results, run->work);
    return true;
}

static bool compute_backward(void *context, Fault *fault)
{
    ExpertRun *run = context;
    (void)fault;
    for (uint32_t i = 0; i < run->repeats; i++)
        host_shared_expert_backward(&run->dims, run->rows, run->weights, run->dresults, run->drows, run->dweights,
                                    run->work);
    return true;
}

static Tensor tensor_create(uint64_t rows, uint64_t cols, Dtype dtype)
{
    return (Tensor){.data = calloc(rows * cols, dtype_bytes(dtype)), .dtype = dtype, .rows = rows, .cols = cols};
}

// Values of the order of one; zeros and denormal numbers have speeds of their own.
static bool tensor_fill(const Tensor *tensor)
{
    float values[256];
    uint64_t count = tensor->rows * tensor->cols;
    for (uint64_t i = 0; i < COUNT_OF(values); i++)
        values[i] = (float)(i % 17) / 16 - 0.5f;
    for (uint64_t first = 0; tensor->data && first < count; first += COUNT_OF(values))
        host_from_f32(values, (char *)tensor->data + first * dtype_bytes(tensor->dtype), tensor->dtype,
                      count - first < COUNT_OF(values) ? count - first : COUNT_OF(values));
    return tensor->data;
}

static void expert_free(ExpertRun *run)
{
    free(run->rows.data);
    free(run->weights.data);
    free(run->results.data);
    free(run->work.data);
    free(run->dresults.data);
    free(run->drows.data);
    free(run->dweights.data);
}

static bool expert_create(const ModelDims *dims, ExpertRun *run)
{
    uint64_t most = calibrate_row_counts[MATRIX_SIZES - 1];
    run->dims = *dims;
    run->dims.shared_experts = 1;
    run->weights =
        tensor_create(activation_matrices(dims->activation), (uint64_t)dims->hidden * dims->inner, dims->dtype);
    run->rows = tensor_create(most, dims->hidden, dims->dtype);
    run->results = tensor_create(most, dims->hidden, dims->dtype);
    run->dresults = tensor_create(most, dims->hidden, dims->dtype);
    run->drows = tensor_create(most, dims->hidden, dims->dtype);
    run->dweights = tensor_create(run->weights.rows, run->weights.cols, dims->dtype);
    uint64_t forward = host_scratch_elements(&run->dims, OP_SHARED_EXPERT, most, 1, 1);
    uint64_t backward = host_scratch_elements(&run->dims, OP_SHARED_EXPERT_BACKWARD, most, 1, 1);
    run->work = tensor_create(1, forward > backward ? forward : backward, DTYPE_F32);
    return tensor_fill(&run->weights) && tensor_fill(&run->rows) && tensor_fill(&run->dresults) && run->results.data &&
           run->drows.data && run->dweights.data && run->work.data;
}

static bool measure_rows(CalibrateRank *rank, ExpertRun *run, MatrixMeasure *measure)
{
    run->rows.rows = measure->rows;
    double flops = 2.0 * measure->rows * activation_matrices(run->dims.activation) * run->dims.hidden * run->dims.inner;
    return calibrate_repeated(rank, compute_once, run, &run->repeats, flops, &measure->flops);
}

double calibrate_backward_amount(const ModelDims *dims, double rows)
{
    double matrices = activation_matrices(dims->activation);
    return 2 * rows * (3 * matrices - 1) * dims->hidden * dims->inner;
}

static bool measure_backward(CalibrateRank *rank, ExpertRun *run, MatrixMeasure *measure)
{
    run->rows.rows = run->dresults.rows = run->drows.rows = measure->rows;
    return calibrate_repeated(rank, compute_backward, run, &run->repeats,
                              calibrate_backward_amount(&run->dims, measure->rows), &measure->flops);
}

// As below, with the half-rate rows of the forward pass.
void calibrate_fit_backward(Calibration *calibration)
{
    double aa = 0, a = 0;
    for (uint32_t m = 0; m < BACKWARD_SIZES; m++) {
        const MatrixMeasure *measure = &calibration->backward[m];
        double rate = measure->flops.median * (1 + calibration->half_rate_rows / measure->rows);
        aa += rate * rate;
        a += rate;
    }
    calibration->backward_flops = a > 0 ? aa / a : 0;
}

// The curve that the cost model uses, time per FLOP = (1 + half / rows) / rate, with the least squares of relative
// errors: linear in 1 / rate and half / rate.
void calibrate_fit_rate(Calibration *calibration)
{
    double aa = 0, ab = 0, bb = 0, a = 0, b = 0;
    for (uint32_t m = 0; m < MATRIX_SIZES; m++) {
        double rate = calibration->matrices[m].flops.median, slope = rate / calibration->matrices[m].rows;
        aa += rate * rate;
        ab += rate * slope;
        bb += slope * slope;
        a += rate;
        b += slope;
    }
    double per_flop = (a * bb - b * ab) / (aa * bb - ab * ab), per_row = (b * aa - a * ab) / (aa * bb - ab * ab);
    if (per_row < 0 || per_flop <= 0) { // few rows are no slower
        per_row = 0;
        per_flop = a / aa;
    }
    calibration->compute_flops = 1 / per_flop;
    calibration->half_rate_rows = per_row / per_flop;
}

static bool measure_matrices(CalibrateRank *rank)
{
    ExpertRun run = {0};
    bool ok = expert_create(rank->options->dims, &run) ||
              fault_set(rank->fault, FAULT_MEMORY, "out of memory for an expert of hidden %u, inner %u",
                        rank->options->dims->hidden, rank->options->dims->inner);
    for (uint32_t m = 0; ok && m < MATRIX_SIZES; m++) {
        rank->calibration->matrices[m].rows = calibrate_row_counts[m];
        calibrate_say(rank, "an expert, %u rows", calibrate_row_counts[m]);
        ok = measure_rows(rank, &run, &rank->calibration->matrices[m]);
    }
    for (uint32_t m = 0; ok && m < BACKWARD_SIZES; m++) {
        rank->calibration->backward[m].rows = calibrate_backward_counts[m];
        calibrate_say(rank, "gradients of an expert, %u rows", calibrate_backward_counts[m]);
        ok = measure_backward(rank, &run, &rank->calibration->backward[m]);
    }
    expert_free(&run);
    if (ok)
        calibrate_fit_rate(rank->calibration);
    if (ok)
        calibrate_fit_backward(rank->calibration);
    return ok;
}

// ---- memory ----------------------------------------------------------------------------------

typedef struct {
    float *sum, *a, *b;
    uint64_t count;
} StreamRun;

static bool stream_once(void *context, Fault *fault)
{
    StreamRun *run = context;
    (void)fault;
    for (uint64_t i = 0; i < run->count; i++)
        run->sum[i] = run->a[i] + 0.5f * run->b[i];
    return true;
}

static bool measure_memory(CalibrateRank *rank)
{
    uint64_t bytes = rank->bytes_max < STREAMED_BYTES ? rank->bytes_max : STREAMED_BYTES;
    StreamRun run = {.count = bytes / 3 / sizeof(float)};
    run.sum = calloc(3 * run.count + 1, sizeof(float));
    Spread times;
    double ignored_s;
    calibrate_say(rank, "memory");
    if (!run.sum)
        return fault_set(rank->fault, FAULT_MEMORY, "out of memory for what is streamed");
    run.a = run.sum + run.count;
    run.b = run.a + run.count;
    for (uint64_t i = 0; i < 3 * run.count; i++)
        run.sum[i] = 1;
    bool ok = calibrate_time(rank, stream_once, &run, 0, &ignored_s, 1) &&
              calibrate_sample(rank, stream_once, &run, SAMPLES, &times);
    free(run.sum);
    if (ok)
        rank->calibration->memory_bandwidth = calibrate_rate(times, 3.0 * (double)run.count * sizeof(float));
    return ok;
}

bool calibrate_device(CalibrateRank *rank)
{
    return measure_matrices(rank) && measure_memory(rank) && calibrate_codec(rank);
}
