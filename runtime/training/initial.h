// What the buffers of a plan hold before the first iteration, made of a seed: every rank makes its own, so that nothing
// has to travel, and senders and receivers of codecs agree.
#ifndef HEP_INITIAL_H
#define HEP_INITIAL_H

#include "ir/plan.h"
#include "kernels/host/kernels.h"

// Whose: the context of EngineOptions.fill.
typedef struct {
    const Plan *plan;
    uint64_t seed, rank;
} Initial;

// EngineOptions.fill: the weights of that kind, or what codecs remember of a layer's experts, as `initial`'s rank has
// them; `layer`: NONE for weights of the network. False for WEIGHT_NONE.
bool initial_fill(const void *initial, WeightKind kind, int32_t layer, Tensor out);

#endif
