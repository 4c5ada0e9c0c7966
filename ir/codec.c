// See codec.h. Pure functions; ratios come from files and may be anything.
#include "ir/codec.h"

static const CodecInfo infos[CODEC_COUNT + 1] = {
    [CODEC_DENSE] = {false},
    [CODEC_SR] = {.encodes = true, .has_mean = true},
    [CODEC_DELTA] = {.encodes = true, .remembers = true},
    [CODEC_COUNT] = {.encodes = true}, // not decided yet
};

const CodecInfo *codec_info(Codec codec)
{
    return &infos[codec];
}

uint32_t codec_kept(uint64_t elements, Dtype dtype, double ratio)
{
    double kept = (double)elements * dtype_bytes(dtype) / ratio / CODEC_ELEMENT_BYTES;
    if (elements == 0)
        return 0;
    if (kept >= (double)elements)
        return (uint32_t)elements;
    return kept >= 1 ? (uint32_t)kept : 1; // also for a ratio that is no number
}

uint64_t codec_blocks(uint64_t elements)
{
    return elements / CODEC_BLOCK + (elements % CODEC_BLOCK != 0);
}

uint64_t codec_packet_bytes(uint64_t elements, Dtype dtype, double ratio)
{
    if (elements > UINT64_MAX / CODEC_ELEMENT_BYTES)
        return UINT64_MAX;
    uint64_t kept = elements / CODEC_BLOCK * codec_kept(CODEC_BLOCK, dtype, ratio);
    return (kept + codec_kept(elements % CODEC_BLOCK, dtype, ratio)) * CODEC_ELEMENT_BYTES;
}
