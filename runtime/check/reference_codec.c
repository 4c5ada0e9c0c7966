// See reference_codec.h. Sorts where the kernels select, and shares with them the sizes of packets alone.
#include "runtime/check/reference_codec.h"

#include <math.h>
#include <stdlib.h>

#include "ir/codec.h"

bool reference_approximates(const Plan *plan)
{
    const CodecInfo *codec = codec_info(plan->experts.codec);
    return codec->encodes && !codec->remembers && plan->whole_iterations == 0;
}

// A row comes to the member at its own offset of the domain that holds the expert: the owner has the same offsets.
bool reference_is_decoded(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint64_t rank, uint32_t expert)
{
    ExpertShares shares = plan_expert_shares(plan, domain);
    uint64_t members = plan_coded_members(plan, domain); // inside, what was decoded travels whole
    return expert % shares.block_experts / shares.rows % members != share_slot(&shares, rank) % members;
}

typedef struct {
    float value;
    uint32_t index;
} Part;

static int compare(const void *a, const void *b)
{
    const Part *x = a, *y = b;
    if (fabsf(x->value) != fabsf(y->value))
        return fabsf(x->value) < fabsf(y->value) ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static float rounded_bf16(float value)
{
    uint16_t stored;
    host_from_f32(&value, &stored, DTYPE_BF16, 1);
    host_to_f32(&stored, DTYPE_BF16, &value, 1);
    return value;
}

// The nearest of 15 multiples of `step`.
static float in_steps(float value, float step)
{
    float inverse = step > 0 ? 1 / step : 0;
    return step * fminf(fmaxf(rintf(value * inverse), -7), 7);
}

void reference_decode(const Plan *plan, Tensor mean, Tensor expert)
{
    Part parts[CODEC_BLOCK];
    Packing packing = coding_packing(&plan->experts);
    float weights[CODEC_BLOCK], base[CODEC_BLOCK] = {0};
    uint64_t size = dtype_bytes(expert.dtype);
    for (uint64_t first = 0; first < expert.cols; first += CODEC_BLOCK) {
        uint32_t count = (uint32_t)fmin(CODEC_BLOCK, (double)(expert.cols - first));
        char *stored = (char *)expert.data + first * size;
        host_to_f32(stored, expert.dtype, weights, count);
        if (mean.data)
            host_to_f32((const char *)mean.data + first * size, mean.dtype, base, count);
        for (uint32_t i = 0; i < count; i++)
            parts[i] = (Part){weights[i] - base[i], i};
        qsort(parts, count, sizeof(*parts), compare);
        float step = rounded_bf16(fabsf(parts[0].value) / 7);
        for (uint32_t k = 0; k < packing_kept(packing, count, expert.dtype); k++)
            base[parts[k].index] +=
                packing.form == PACKET_SHORT ? in_steps(parts[k].value, step) : rounded_bf16(parts[k].value);
        host_from_f32(base, stored, expert.dtype, count);
        for (uint32_t i = 0; i < count; i++)
            base[i] = 0;
    }
}
