// Measures how fast a rank encodes and decodes experts while all ranks of its machine do the same.
#include <stdlib.h>
#include <string.h>

#include "ir/codec.h"
#include "kernels/host/kernels.h"
#include "runtime/calibrate/calibrate_internal.h"
#include "runtime/training/weights.h"

enum { HELD = 4 }; // experts that are decoded, one of them the rank's own

static const double ratio = 50;

// Real weights: how fast the largest of them are found depends on how they are spread.
typedef struct {
    Tensor own, mean, packet, gathered, experts;
    uint32_t repeats;
} CodecRun;

static Tensor tensor_create(uint64_t rows, uint64_t cols, Dtype dtype)
{
    return (Tensor){.data = calloc(rows * cols, dtype_bytes(dtype)), .dtype = dtype, .rows = rows, .cols = cols};
}

static bool codec_create(const ModelDims *dims, CodecRun *run)
{
    uint64_t elements = model_expert_elements(dims), bytes = codec_packet_bytes(elements, dims->dtype, ratio);
    run->own = tensor_create(1, elements, dims->dtype);
    run->mean = tensor_create(1, elements, dims->dtype);
    run->packet = tensor_create(1, bytes, DTYPE_U8);
    run->gathered = tensor_create(HELD, bytes, DTYPE_U8);
    run->experts = tensor_create(HELD, elements, dims->dtype);
    if (!run->own.data || !run->mean.data || !run->packet.data || !run->gathered.data || !run->experts.data)
        return false;
    weights_fill_experts(dims, 0, 0, 0, 1, run->own);
    weights_fill_experts(dims, 0, 0, 1, 1, run->mean);
    host_encode(codec_info(CODEC_SR), ratio, run->own, run->mean, run->packet);
    for (uint64_t row = 0; row < HELD; row++)
        memcpy((char *)run->gathered.data + row * bytes, run->packet.data, bytes);
    return true;
}

static void codec_free(CodecRun *run)
{
    free(run->own.data);
    free(run->mean.data);
    free(run->packet.data);
    free(run->gathered.data);
    free(run->experts.data);
}

static bool encode_once(void *context, Fault *fault)
{
    CodecRun *run = context;
    (void)fault;
    for (uint32_t i = 0; i < run->repeats; i++)
        host_encode(codec_info(CODEC_SR), ratio, run->own, run->mean, run->packet);
    return true;
}

static bool decode_once(void *context, Fault *fault)
{
    CodecRun *run = context;
    (void)fault;
    for (uint32_t i = 0; i < run->repeats; i++)
        host_decode(codec_info(CODEC_SR), ratio, 0, run->gathered, run->own, run->mean, run->experts);
    return true;
}

bool calibrate_codec(CalibrateRank *rank)
{
    CodecRun run = {0};
    bool ok = codec_create(rank->options->dims, &run) ||
              fault_set(rank->fault, FAULT_MEMORY, "out of memory for experts to encode");
    double bytes = (double)run.own.cols * dtype_bytes(run.own.dtype);
    Calibration *out = rank->calibration;
    calibrate_say(rank, "encoding and decoding");
    ok = ok && calibrate_repeated(rank, encode_once, &run, &run.repeats, bytes, &out->encode_bandwidth) &&
         calibrate_repeated(rank, decode_once, &run, &run.repeats, HELD * bytes, &out->decode_bandwidth);
    codec_free(&run);
    return ok;
}
