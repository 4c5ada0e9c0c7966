// The memory of a rank as a sum: what every MoE layer adds under its configuration, and what the layers
// use in turn. Measured by lowering a few layers; lowering the whole plan has the last word.
#ifndef HEP_FOOTPRINT_H
#define HEP_FOOTPRINT_H

#include "compiler/model/iteration.h"

// Memory of a mix = sum of the per-layer parts + the largest shared part.
typedef struct {
    double per_layer_bytes, shared_bytes;
} Footprint;

// One configuration for all layers. A deep model is lowered with a few of the layers that repeat; what the others add
// is the sum of the buffers that a layer keeps while others are passed through. Exact but for how buffers pack, within
// one per cent. 0 for abstract workloads.
// What `spec.footprints` has is not measured again.
Footprint footprint_measure(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch);

// Remembers, in the arena, what is measured of specs that carry it and of all copies of theirs, whatever becomes of
// these: bandwidths and the device's memory may change, for all else it measures again.
typedef struct FootprintTable FootprintTable;

FootprintTable *footprint_table_create(Arena *arena);
// An empty one that also knows what `outer` knows, which must not change meanwhile: one for every thread.
FootprintTable *footprint_table_beside(const FootprintTable *outer, Arena *arena);

// What a rank needs according to the lowering, which has the last word.
double footprint_lowered(const Workload *work, const Mix *mix, Dispatch dispatch);

// What a rank needs with that configuration in all layers, bytes: estimated, and according to the lowering.
double footprint_total(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch);
double footprint_exact(const Workload *work, const Config *config, uint32_t prefetch, Dispatch dispatch);
// Does the mix fit the device? By estimate; where that exceeds it by little, lowering decides.
bool footprint_mix_fits(const Workload *work, const Mix *mix);

#endif
