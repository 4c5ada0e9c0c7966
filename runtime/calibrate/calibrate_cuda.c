// Calibration of GPUs: the same measures as on hosts, with device memory, the engine's kernels and the communicator
// that its plans use. A sample ends when the device is through; the host looks after it meanwhile, as a plan's would.
#include <stdlib.h>

#include "engines/cuda_step.h"
#include "ir/codec.h"
#include "kernels/cuda/kernels.h"
#include "runtime/base/clock.h"
#include "runtime/base/cuda_check.h"
#include "runtime/calibrate/calibrate_internal.h"
#include "runtime/comm/comm_common.h"
#include "runtime/comm/comm_local.h"
#include "runtime/engine/engine.h"
#include "runtime/training/weights.h"

enum { COPIED_BYTES = 256 << 20, HELD = 4 }; // HELD: experts that are decoded, one of them the rank's own
static const double look_s = 20e-6;

static bool await(Comm *comm, cudaStream_t stream, Fault *fault)
{
    double began_s = clock_now_s();
    for (;;) {
        cudaError_t error = cudaStreamQuery(stream);
        if (error != cudaErrorNotReady)
            return cuda_check(error, "measure on the GPU", fault);
        if (!comm->device->poll(comm, fault))
            return false;
        if (comm->timeout_s > 0 && clock_now_s() - began_s > comm->timeout_s)
            return fault_set(fault, FAULT_RUN, "a rank did not take part: nothing moved for %g s", comm->timeout_s);
        clock_sleep_until(clock_now_s() + look_s);
    }
}

static uint64_t device_free_bytes(const Comm *comm)
{
    size_t available, total;
    if (cudaSetDevice(comm->device_index) != cudaSuccess || cudaMemGetInfo(&available, &total) != cudaSuccess)
        return 0;
    return available;
}

static void *device_allocate(const Comm *comm, uint64_t bytes)
{
    void *memory = NULL;
    if (cudaSetDevice(comm->device_index) != cudaSuccess || cudaMalloc(&memory, bytes) != cudaSuccess)
        return NULL;
    return cudaMemset(memory, 0, bytes) == cudaSuccess && cudaStreamSynchronize(NULL) == cudaSuccess ? memory : NULL;
}

static void device_release(void *memory)
{
    cudaFree(memory);
}

// ---- levels ----------------------------------------------------------------------------------

// A level's exchanges of one rank.
typedef struct {
    Comm *comm;
    cudaStream_t stream;
} DeviceLevel;

static void level_end(void *context)
{
    DeviceLevel *level = context;
    if (!level)
        return;
    if (level->stream)
        cudaStreamDestroy(level->stream);
    free(level);
}

static void *level_begin(Comm *comm, uint32_t members, uint32_t own, Fault *fault)
{
    (void)members;
    (void)own;
    DeviceLevel *level = calloc(1, sizeof(*level));
    bool ok = level || fault_set(fault, FAULT_MEMORY, "out of memory");
    if (ok)
        level->comm = comm;
    ok = ok && cuda_check(cudaSetDevice(comm->device_index), "use the GPU", fault) &&
         cuda_check(cudaStreamCreateWithFlags(&level->stream, cudaStreamNonBlocking), "create a stream", fault);
    if (ok)
        return level;
    level_end(level);
    return NULL;
}

static bool level_exchange_on_device(void *context, int channel, const Exchange *exchange, Fault *fault)
{
    DeviceLevel *level = context;
    Comm *comm = level->comm;
    return cuda_check(cudaSetDevice(comm->device_index), "use the GPU", fault) &&
           comm->device->exchange(comm, channel, exchange, level->stream, fault) && await(comm, level->stream, fault);
}

// ---- the device ------------------------------------------------------------------------------

// What kernels are measured with.
typedef struct {
    Comm *comm;
    ModelDims dims;
    CudaQueue queue;
    void *work;
    char *memory;           // weights, mean, rows, results, packets, experts
    const CodecInfo *codec; // what is measured now
    Packing packing;
    Tensor weights, mean, rows, results, packet, gathered, experts; // mean: also what was sent
    Tensor dresults, drows, dweights;
    uint32_t repeats;
    uint64_t copied_bytes;
} DeviceRun;

static bool expert_once(void *context, Fault *fault)
{
    DeviceRun *run = context;
    cudaError_t error = cudaSuccess;
    for (uint32_t i = 0; i < run->repeats && error == cudaSuccess; i++)
        error = cuda_shared_expert(&run->queue, &run->dims, run->rows, run->weights, run->results);
    return cuda_check(error, "compute an expert", fault) && await(run->comm, run->queue.stream, fault);
}

static bool backward_once(void *context, Fault *fault)
{
    DeviceRun *run = context;
    cudaError_t error = cudaSuccess;
    for (uint32_t i = 0; i < run->repeats && error == cudaSuccess; i++)
        error = cuda_shared_expert_backward(&run->queue, &run->dims, run->rows, run->weights, run->dresults, run->drows,
                                            run->dweights);
    return cuda_check(error, "compute gradients of an expert", fault) && await(run->comm, run->queue.stream, fault);
}

// Reads and writes as many bytes.
static bool copy_once(void *context, Fault *fault)
{
    DeviceRun *run = context;
    cudaError_t error = cudaSuccess;
    for (uint32_t i = 0; i < run->repeats && error == cudaSuccess; i++)
        error = cudaMemcpyAsync(run->memory + run->copied_bytes, run->memory, run->copied_bytes,
                                cudaMemcpyDeviceToDevice, run->queue.stream);
    return cuda_check(error, "copy on the GPU", fault) && await(run->comm, run->queue.stream, fault);
}

static bool encode_once(void *context, Fault *fault)
{
    DeviceRun *run = context;
    cudaError_t error = cudaSuccess;
    for (uint32_t i = 0; i < run->repeats && error == cudaSuccess; i++)
        error = cuda_encode(&run->queue, run->codec, run->packing, run->weights, run->mean, run->packet);
    return cuda_check(error, "encode an expert", fault) && await(run->comm, run->queue.stream, fault);
}

static bool decode_once(void *context, Fault *fault)
{
    DeviceRun *run = context;
    cudaError_t error = cudaSuccess;
    for (uint32_t i = 0; i < run->repeats && error == cudaSuccess; i++)
        error = cuda_decode(&run->queue, run->codec, run->packing, 0, run->gathered, run->weights,
                            run->codec->remembers ? (Tensor){0} : run->mean, run->experts);
    return cuda_check(error, "decode experts", fault) && await(run->comm, run->queue.stream, fault);
}

static void run_destroy(DeviceRun *run)
{
    cudaStream_t stream = run->queue.stream;
    cuda_queue_destroy(&run->queue);
    if (stream)
        cudaStreamDestroy(stream);
    cudaFree(run->work);
    cudaFree(run->memory);
}

static Tensor tensor_take(uint64_t *used, char *memory, uint64_t rows, uint64_t cols, Dtype dtype)
{
    Tensor tensor = {.data = memory ? memory + *used : NULL, .dtype = dtype, .rows = rows, .cols = cols};
    *used += (rows * cols * dtype_bytes(dtype) + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
    return tensor;
}

// Without memory yet, says how much there is to be.
static uint64_t run_lay_out(DeviceRun *run)
{
    const ModelDims *dims = &run->dims;
    uint64_t used = 0, elements = model_expert_elements(dims), most = calibrate_row_counts[MATRIX_SIZES - 1];
    uint64_t packet = 0;
    for (size_t i = 0; i < CALIBRATE_CODECS; i++) {
        uint64_t bytes =
            packing_bytes(codec_packing(calibrate_codecs[i].codec, calibrate_codecs[i].ratio), elements, dims->dtype);
        packet = bytes > packet ? bytes : packet;
    }
    run->weights = tensor_take(&used, run->memory, 1, elements, dims->dtype);
    run->mean = tensor_take(&used, run->memory, 1, elements, dims->dtype);
    run->rows = tensor_take(&used, run->memory, most, dims->hidden, dims->dtype);
    run->results = tensor_take(&used, run->memory, most, dims->hidden, dims->dtype);
    run->packet = tensor_take(&used, run->memory, 1, packet, DTYPE_U8);
    run->gathered = tensor_take(&used, run->memory, HELD, packet, DTYPE_U8);
    run->experts = tensor_take(&used, run->memory, HELD, elements, dims->dtype);
    run->dresults = tensor_take(&used, run->memory, most, dims->hidden, dims->dtype);
    run->drows = tensor_take(&used, run->memory, most, dims->hidden, dims->dtype);
    run->dweights = tensor_take(&used, run->memory, 1, elements, dims->dtype);
    return used;
}

static uint64_t run_work_bytes(const DeviceRun *run)
{
    StepTensors expert = {.shared_expert = {.rows = run->rows, .dense = run->weights, .results = run->results}};
    StepTensors backward = {.shared_expert_backward = {.rows = run->rows,
                                                       .dense = run->weights,
                                                       .dx = run->dresults,
                                                       .drows = run->drows,
                                                       .ddense = run->dweights}};
    StepTensors encode = {.encode = {.own = run->weights, .mean = run->mean, .packet = run->packet}};
    StepTensors decode = {
        .decode = {.packet = run->gathered, .own = run->weights, .mean = run->mean, .gathered = run->experts}};
    uint64_t bytes[] = {cuda_op_scratch(&run->dims, OP_SHARED_EXPERT, &expert, 1),
                        cuda_op_scratch(&run->dims, OP_SHARED_EXPERT_BACKWARD, &backward, 1),
                        cuda_op_scratch(&run->dims, OP_ENCODE, &encode, 1),
                        cuda_op_scratch(&run->dims, OP_DECODE, &decode, 1)};
    uint64_t most = 0;
    for (size_t i = 0; i < COUNT_OF(bytes); i++)
        most = bytes[i] > most ? bytes[i] : most;
    return most + CUDA_BLAS_BYTES;
}

// Real weights: how fast they are multiplied and encoded depends on them.
static bool weights_upload(const Tensor *to, uint32_t expert, const ModelDims *dims, Fault *fault)
{
    uint64_t bytes = to->rows * to->cols * dtype_bytes(to->dtype);
    Tensor staging = *to;
    staging.data = malloc(bytes);
    if (!staging.data)
        return fault_set(fault, FAULT_MEMORY, "out of memory for an expert");
    weights_fill_experts(dims, 0, 0, expert, 1, staging);
    cudaError_t error = cudaMemcpy(to->data, staging.data, bytes, cudaMemcpyHostToDevice);
    free(staging.data);
    return cuda_check_settled(error, "copy weights", fault);
}

static bool run_create(CalibrateRank *rank, Dtype dtype, DeviceRun *run)
{
    cudaStream_t stream = NULL;
    run->comm = rank->comm;
    run->dims = *rank->options->dims;
    run->dims.dtype = dtype;
    run->dims.shared_experts = 1;
    uint64_t bytes = run_lay_out(run), copied = rank->bytes_max < COPIED_BYTES ? rank->bytes_max : COPIED_BYTES;
    run->copied_bytes = copied / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
    bytes = bytes > 2 * run->copied_bytes ? bytes : 2 * run->copied_bytes;
    uint64_t work_bytes = run_work_bytes(run);
    if (!cuda_check(cudaSetDevice(rank->comm->device_index), "use the GPU", rank->fault) ||
        !cuda_check(cudaMalloc((void **)&run->memory, bytes), "allocate an expert on the GPU", rank->fault) ||
        !cuda_check(cudaMalloc(&run->work, work_bytes), "allocate scratch on the GPU", rank->fault) ||
        !cuda_check_settled(cudaMemset(run->memory, 0, bytes), "fill the GPU's memory", rank->fault) ||
        !cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream", rank->fault))
        return false;
    run_lay_out(run);
    run->queue.stream = stream;
    return cuda_check(cuda_queue_create(&run->queue, stream, true, run->work, work_bytes), "prepare matrix products",
                      rank->fault) &&
           weights_upload(&run->weights, 0, &run->dims, rank->fault) &&
           weights_upload(&run->mean, 1, &run->dims, rank->fault) &&
           cuda_check_settled(cudaMemcpy(run->rows.data, run->weights.data,
                                         run->weights.cols < run->rows.rows * run->rows.cols
                                             ? run->weights.cols * dtype_bytes(run->weights.dtype)
                                             : run->rows.rows * run->rows.cols * dtype_bytes(run->rows.dtype),
                                         cudaMemcpyDeviceToDevice),
                              "fill rows", rank->fault);
}

static bool measure_rows(CalibrateRank *rank, DeviceRun *run, uint32_t rows, Spread *flops)
{
    double amount = 2.0 * (double)model_expert_elements(&run->dims) * rows;
    run->rows.rows = run->results.rows = rows;
    return calibrate_repeated(rank, expert_once, run, &run->repeats, amount, flops);
}

static bool measure_backward(CalibrateRank *rank, DeviceRun *run)
{
    for (uint32_t m = 0; m < BACKWARD_SIZES; m++) {
        MatrixMeasure *measure = &rank->calibration->backward[m];
        measure->rows = calibrate_backward_counts[m];
        run->rows.rows = run->dresults.rows = run->drows.rows = measure->rows;
        calibrate_say(rank, "gradients of an expert, %u rows", measure->rows);
        if (!calibrate_repeated(rank, backward_once, run, &run->repeats,
                                calibrate_backward_amount(&run->dims, measure->rows), &measure->flops))
            return false;
    }
    calibrate_fit_backward(rank->calibration);
    return true;
}

static bool measure_codec(CalibrateRank *rank, DeviceRun *run, Spread *encoded, Spread *decoded)
{
    double dense = (double)model_expert_elements(&run->dims) * dtype_bytes(run->dims.dtype);
    uint64_t bytes = packing_bytes(run->packing, run->weights.cols, run->dims.dtype);
    run->packet.cols = run->gathered.cols = bytes;
    if (!calibrate_repeated(rank, encode_once, run, &run->repeats, dense, encoded))
        return false;
    for (uint64_t row = 0; row < HELD; row++)
        if (!cuda_check_settled(
                cudaMemcpy((char *)run->gathered.data + row * bytes, run->packet.data, bytes, cudaMemcpyDeviceToDevice),
                "copy packets", rank->fault))
            return false;
    return calibrate_repeated(rank, decode_once, run, &run->repeats, HELD * dense, decoded);
}

static bool measure_all(CalibrateRank *rank, DeviceRun *run)
{
    Calibration *out = rank->calibration;
    for (uint32_t m = 0; m < MATRIX_SIZES; m++) {
        out->matrices[m].rows = calibrate_row_counts[m];
        calibrate_say(rank, "an expert, %u rows", calibrate_row_counts[m]);
        if (!measure_rows(rank, run, calibrate_row_counts[m], &out->matrices[m].flops))
            return false;
    }
    calibrate_fit_rate(out);
    if (!measure_backward(rank, run))
        return false;
    calibrate_say(rank, "encoding, decoding and copies");
    Spread *encoded[] = {&out->encode_bandwidth, &out->quantize_bandwidth};
    Spread *decoded[] = {&out->decode_bandwidth, &out->dequantize_bandwidth};
    for (size_t i = 0; i < CALIBRATE_CODECS; i++) {
        run->codec = codec_info(calibrate_codecs[i].codec);
        run->packing = codec_packing(calibrate_codecs[i].codec, calibrate_codecs[i].ratio);
        if (!measure_codec(rank, run, encoded[i], decoded[i]))
            return false;
    }
    return calibrate_repeated(rank, copy_once, run, &run->repeats, 2.0 * (double)run->copied_bytes,
                              &out->memory_bandwidth);
}

// What the same expert would take in another dtype: a GPU's rate hangs on that by an order of magnitude.
static bool measure_other_dtypes(CalibrateRank *rank)
{
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    bool ok = true;
    for (size_t d = 0; d < COUNT_OF(dtypes) && ok; d++) {
        DeviceRun run = {0};
        if (dtypes[d] == rank->options->dims->dtype)
            continue;
        calibrate_say(rank, "an expert in %s", dtype_name(dtypes[d]));
        ok = run_create(rank, dtypes[d], &run) && measure_rows(rank, &run, calibrate_row_counts[MATRIX_SIZES - 1],
                                                               &rank->calibration->dtype_flops[dtypes[d]]);
        run_destroy(&run);
    }
    return ok;
}

static bool device_measure(CalibrateRank *rank)
{
    DeviceRun run = {0};
    bool ok = run_create(rank, rank->options->dims->dtype, &run) && measure_all(rank, &run);
    run_destroy(&run);
    return ok && measure_other_dtypes(rank);
}

const CalibrateDevice cuda_calibrate = {
    .join = local_comm_create,
    .leave = local_comm_destroy,
    .free_bytes = device_free_bytes,
    .allocate = device_allocate,
    .release = device_release,
    .level_begin = level_begin,
    .level_end = level_end,
    .exchange = level_exchange_on_device,
    .measure = device_measure,
    .memory_words = "Memory, copied on the GPU",
};
