// Every codec gets a plan of its own. One whose plans do not fit is none of them. Where GPUs own parts of experts these
// have no mean; in laps nothing is encoded.
#include "compiler/choose/choosing.h"

#include "ir/codec.h"

const Spec *with_codec(const Spec *request, Codec codec, Arena *arena)
{
    Spec *spec = spec_copy(request, arena);
    bool encodes = codec_info(codec)->encodes;
    spec->plan.experts.codec = codec;
    spec->plan.experts.ratio = encodes && packet_has_ratio(codec_info(codec)->form) ? request->plan.experts.ratio : 1;
    if (!encodes && spec->plan.experts.gradient == GRADIENT_DENSE)
        spec->plan.experts.whole_levels = 0;
    return spec;
}

FaultKind choose_codec(const Attempt *attempt, Diag *diag, Chosen *out)
{
    static const double clear = 1e-9;
    const Spec *request = out->best.spec;
    Arena *arena = attempt->arena;
    Attempt each = *attempt;
    each.share /= CODEC_COUNT;
    int taken = NONE;
    for (int codec = 0; codec < CODEC_COUNT; codec++) {
        Planned tried = {.spec = with_codec(request, (Codec)codec, arena)};
        if (!spec_coding_is_possible(tried.spec) || choose_lap(&each, diag_create(arena), &tried) != FAULT_NONE)
            continue;
        Solution *solution = arena_alloc(arena, sizeof(*solution));
        *solution = tried.solution;
        out->codecs[codec] = solution;
        if (taken != NONE && solution->cost.iteration_s >= out->best.solution.cost.iteration_s * (1 - clear))
            continue;
        out->best = tried;
        taken = codec;
    }
    if (taken == NONE) {
        out->best = (Planned){.spec = with_codec(request, CODEC_DENSE, arena)};
        return choose_lap(attempt, diag, &out->best);
    }
    out->codecs[taken] = NULL;
    return FAULT_NONE;
}
