// What the reference of `--check` knows of codecs: which experts a rank's tokens meet decoded, and what those are.
#ifndef HEP_REFERENCE_CODEC_H
#define HEP_REFERENCE_CODEC_H

#include "ir/plan.h"
#include "kernels/host/kernels.h"

// Whether the experts of a plan's first iteration differ from the weights where they are decoded: those of `sr` do,
// unless they travel whole at first; replicas of `delta` begin as the weights.
bool reference_approximates(const Plan *plan);

// Whether what computes `expert` for the tokens of `rank` is a rank that gathered it, not its owner.
bool reference_is_decoded(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint64_t rank, uint32_t expert);

// expert [1][elements]: from the weights to what receivers make of its packet. mean [1][elements]: the shared expert;
// its data is NULL where the plan has none.
void reference_decode(const Plan *plan, Tensor mean, Tensor expert);

#endif
