// Measures how fast a rank encodes and decodes experts while all ranks of its machine do the same.
#include <stdlib.h>
#include <string.h>

#include "ir/codec.h"
#include "kernels/host/kernels.h"
#include "runtime/calibrate/calibrate_internal.h"
#include "runtime/training/weights.h"

enum { HELD = 4 }; // experts that are decoded, one of them the rank's own

const CalibrateCodec calibrate_codecs[CALIBRATE_CODECS] = {{CODEC_SR, 50}, {CODEC_SIGN, 1}};

// Real weights: how fast the largest of them are found depends on how they are spread.
typedef struct {
    const CodecInfo *codec;
    Packing packing;
    Tensor own, base, packet, gathered, experts; // base: the mean, or what was sent
    uint32_t repeats;
} CodecRun;

static Tensor tensor_create(uint64_t rows, uint64_t cols, Dtype dtype)
{
    return (Tensor){.data = calloc(rows * cols, dtype_bytes(dtype)), .dtype = dtype, .rows = rows, .cols = cols};
}

static bool codec_create(const ModelDims *dims, CodecRun *run)
{
    uint64_t elements = model_expert_elements(dims), bytes = packing_bytes(run->packing, elements, dims->dtype);
    run->own = tensor_create(1, elements, dims->dtype);
    run->base = tensor_create(1, elements, dims->dtype);
    run->packet = tensor_create(1, bytes, DTYPE_U8);
    run->gathered = tensor_create(HELD, bytes, DTYPE_U8);
    run->experts = tensor_create(HELD, elements, dims->dtype);
    if (!run->own.data || !run->base.data || !run->packet.data || !run->gathered.data || !run->experts.data)
        return false;
    weights_fill_experts(dims, 0, 0, 0, 1, run->own);
    weights_fill_experts(dims, 0, 0, 1, 1, run->base);
    host_encode(run->codec, run->packing, run->own, run->base, run->packet);
    for (uint64_t row = 0; row < HELD; row++)
        memcpy((char *)run->gathered.data + row * bytes, run->packet.data, bytes);
    return true;
}

static void codec_free(CodecRun *run)
{
    free(run->own.data);
    free(run->base.data);
    free(run->packet.data);
    free(run->gathered.data);
    free(run->experts.data);
}

static bool encode_once(void *context, Fault *fault)
{
    CodecRun *run = context;
    (void)fault;
    for (uint32_t i = 0; i < run->repeats; i++)
        host_encode(run->codec, run->packing, run->own, run->base, run->packet);
    return true;
}

static bool decode_once(void *context, Fault *fault)
{
    CodecRun *run = context;
    (void)fault;
    for (uint32_t i = 0; i < run->repeats; i++)
        host_decode(run->codec, run->packing, 0, run->gathered, run->own,
                    run->codec->remembers ? (Tensor){0} : run->base, run->experts);
    return true;
}

static bool measure_codec(CalibrateRank *rank, Codec codec, double ratio, Spread *encoded, Spread *decoded)
{
    CodecRun run = {.codec = codec_info(codec), .packing = codec_packing(codec, ratio)};
    bool ok = codec_create(rank->options->dims, &run) ||
              fault_set(rank->fault, FAULT_MEMORY, "out of memory for experts to encode");
    double bytes = (double)run.own.cols * dtype_bytes(run.own.dtype);
    ok = ok && calibrate_repeated(rank, encode_once, &run, &run.repeats, bytes, encoded) &&
         calibrate_repeated(rank, decode_once, &run, &run.repeats, HELD * bytes, decoded);
    codec_free(&run);
    return ok;
}

bool calibrate_codec(CalibrateRank *rank)
{
    Calibration *out = rank->calibration;
    Spread *encoded[] = {&out->encode_bandwidth, &out->quantize_bandwidth};
    Spread *decoded[] = {&out->decode_bandwidth, &out->dequantize_bandwidth};
    calibrate_say(rank, "encoding and decoding");
    for (size_t i = 0; i < CALIBRATE_CODECS; i++)
        if (!measure_codec(rank, calibrate_codecs[i].codec, calibrate_codecs[i].ratio, encoded[i], decoded[i]))
            return false;
    return true;
}
