// See codec.h. Pure functions; ratios come from files and may be anything.
#include "ir/codec.h"

static const CodecInfo infos[CODEC_COUNT + 1] = {
    [CODEC_DENSE] = {false},
    [CODEC_SR] = {.encodes = true, .has_mean = true},
    [CODEC_DELTA] = {.encodes = true, .remembers = true},
    [CODEC_SIGN] = {.encodes = true, .remembers = true, .form = PACKET_SIGN},
    [CODEC_COUNT] = {.encodes = true}, // not decided yet
};

const CodecInfo *codec_info(Codec codec)
{
    return &infos[codec];
}

Packing codec_packing(Codec codec, double ratio)
{
    return (Packing){codec_info(codec)->form, ratio};
}

Packing gradient_packing(GradientReturn gradient, double ratio)
{
    static const PacketForm forms[GRADIENT_COUNT] = {[GRADIENT_TOPK] = PACKET_LARGEST};
    return (Packing){forms[gradient], ratio};
}

bool packet_has_ratio(PacketForm form)
{
    return form == PACKET_LARGEST;
}

double packing_ratio(Packing packing, Dtype dtype)
{
    if (packet_has_ratio(packing.form))
        return packing.ratio;
    return (double)CODEC_BLOCK * dtype_bytes(dtype) / packing_block_bytes(packing, CODEC_BLOCK, dtype);
}

uint32_t packing_kept(Packing packing, uint64_t elements, Dtype dtype)
{
    double kept = (double)elements * dtype_bytes(dtype) / packing.ratio / CODEC_ELEMENT_BYTES;
    if (elements == 0)
        return 0;
    if (kept >= (double)elements || !packet_has_ratio(packing.form))
        return (uint32_t)elements;
    return kept >= 1 ? (uint32_t)kept : 1; // also for a ratio that is no number
}

uint32_t packing_sign_words(uint32_t elements)
{
    return (elements + 31) / 32;
}

uint32_t packing_block_bytes(Packing packing, uint64_t elements, Dtype dtype)
{
    if (elements == 0)
        return 0;
    switch (packing.form) {
    case PACKET_LARGEST:
        return packing_kept(packing, elements, dtype) * CODEC_ELEMENT_BYTES;
    case PACKET_SIGN:
        return CODEC_SCALE_BYTES + packing_sign_words((uint32_t)elements) * (uint32_t)sizeof(uint32_t);
    }
    return 0;
}

uint64_t codec_blocks(uint64_t elements)
{
    return elements / CODEC_BLOCK + (elements % CODEC_BLOCK != 0);
}

uint64_t packing_bytes(Packing packing, uint64_t elements, Dtype dtype)
{
    if (elements > UINT64_MAX / CODEC_ELEMENT_BYTES)
        return UINT64_MAX;
    uint64_t bytes = elements / CODEC_BLOCK * packing_block_bytes(packing, CODEC_BLOCK, dtype) +
                     packing_block_bytes(packing, elements % CODEC_BLOCK, dtype);
    return (bytes + 3) / 4 * 4;
}
