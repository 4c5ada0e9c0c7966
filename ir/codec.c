// See codec.h. Pure functions; ratios come from files and may be anything.
#include "ir/codec.h"

static const CodecInfo infos[CODEC_COUNT + 1] = {
    [CODEC_DENSE] = {false},
    [CODEC_SR] = {.encodes = true, .has_mean = true},
    [CODEC_DELTA] = {.encodes = true, .remembers = true},
    [CODEC_SIGN] = {.encodes = true, .remembers = true, .form = PACKET_SIGN},
    [CODEC_Q4] = {.encodes = true, .remembers = true, .form = PACKET_Q4},
    [CODEC_COUNT] = {.encodes = true}, // not decided yet
};

const CodecInfo *codec_info(Codec codec)
{
    return &infos[codec];
}

// The fewer elements travel, the more of them are worth than their last bits.
static Packing with_ratio(PacketForm form, double ratio)
{
    return (Packing){form == PACKET_LARGEST && ratio > CODEC_SHORT_ABOVE ? PACKET_SHORT : form, ratio};
}

Packing codec_packing(Codec codec, double ratio)
{
    return with_ratio(codec_info(codec)->form, ratio);
}

Packing gradient_packing(GradientReturn gradient, double ratio)
{
    static const PacketForm forms[GRADIENT_COUNT] = {
        [GRADIENT_TOPK] = PACKET_LARGEST, [GRADIENT_Q4] = PACKET_Q4, [GRADIENT_TERNARY] = PACKET_TERNARY};
    return with_ratio(forms[gradient], ratio);
}

Packing coding_packing(const Coding *coding)
{
    return codec_packing(coding->codec, coding->ratio);
}

Packing coding_gradient_packing(const Coding *coding)
{
    return gradient_packing(coding->gradient, coding->gradient_ratio);
}

uint32_t coding_levels(const Coding *coding, uint32_t level_count)
{
    return level_count - coding->whole_levels;
}

bool coding_encodes(const Coding *coding)
{
    return codec_info(coding->codec)->encodes || coding->gradient != GRADIENT_DENSE;
}

bool packet_has_ratio(PacketForm form)
{
    return form == PACKET_LARGEST || form == PACKET_SHORT;
}

double packing_ratio(Packing packing, Dtype dtype)
{
    if (packet_has_ratio(packing.form))
        return packing.ratio;
    return (double)CODEC_BLOCK * dtype_bytes(dtype) / packing_block_bytes(packing, CODEC_BLOCK, dtype);
}

uint32_t packing_kept(Packing packing, uint64_t elements, Dtype dtype)
{
    double bytes = (double)elements * dtype_bytes(dtype) / packing.ratio;
    double kept =
        packing.form == PACKET_SHORT ? (bytes - CODEC_SCALE_BYTES) / CODEC_SHORT_BYTES : bytes / CODEC_ELEMENT_BYTES;
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

// A scale for every group; of each, short or not, as many elements to a byte as `each`.
static uint32_t groups_bytes(uint64_t elements, uint32_t each)
{
    uint32_t whole = CODEC_SCALE_BYTES + (CODEC_GROUP + each - 1) / each, rest = (uint32_t)(elements % CODEC_GROUP);
    uint32_t last = rest > 0 ? CODEC_SCALE_BYTES + (rest + each - 1) / each : 0;
    return (uint32_t)(elements / CODEC_GROUP) * whole + last;
}

uint32_t packing_block_bytes(Packing packing, uint64_t elements, Dtype dtype)
{
    if (elements == 0)
        return 0;
    switch (packing.form) {
    case PACKET_LARGEST:
        return packing_kept(packing, elements, dtype) * CODEC_ELEMENT_BYTES;
    case PACKET_SHORT:
        return CODEC_SCALE_BYTES + packing_kept(packing, elements, dtype) * CODEC_SHORT_BYTES;
    case PACKET_Q4:
        return groups_bytes(elements, 2);
    case PACKET_TERNARY:
        return groups_bytes(elements, 5);
    case PACKET_WHOLE:
        return (uint32_t)elements * dtype_bytes(dtype);
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
