// The planner's choice stated as a mixed-integer programme: one binary per MoE layer and
// configuration, one time per event, one row per precedence. Minimising it is minimising cost_mix.
#ifndef HEP_FORMULATE_H
#define HEP_FORMULATE_H

#include "compiler/solve/footprint.h"
#include "compiler/solve/milp.h"

typedef struct {
    const Workload *work;
    const Config *configs;
    const Footprint *footprints;
    uint32_t count;
    const bool *useful; // [moe_count x count], which binaries to write; NULL: all
    uint32_t prefetch;
    Dispatch dispatch;
    double horizon_s; // no iteration of interest is longer
} Programme;

typedef struct {
    Milp *milp;
    int *binary;   // [moe_count x count]: column, or -1
    double unit_s; // of its times, which lie between 1 and 1000
} Formulated;

// The binaries live in the arena, the Milp until milp_destroy.
Formulated formulate(const Programme *programme, Arena *arena);

#endif
