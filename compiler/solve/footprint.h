// The memory of a rank as a sum: what every MoE layer adds under its configuration, and what the layers
// use in turn. Measured by lowering, which has the last word on every plan.
#ifndef HEP_FOOTPRINT_H
#define HEP_FOOTPRINT_H

#include "compiler/model/iteration.h"

// Memory of a mix = sum of the per-layer parts + the largest shared part.
typedef struct {
    double per_layer_bytes, shared_bytes;
} Footprint;

// One configuration for all layers: exact for small models, extrapolated from two prefixes of a deep
// one, since beyond its first layers every period of `every` layers adds the same. 0 for abstract workloads.
Footprint footprint_measure(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch);

// What a rank needs according to the lowering, which has the last word.
double footprint_lowered(const Workload *work, const Mix *mix, Dispatch dispatch);

// What a rank needs with that configuration in all layers, bytes.
double footprint_total(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch);

#endif
