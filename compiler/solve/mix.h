// The best configuration for every MoE layer of all those that fit the memory: the exact search on one problem for
// every prefetch depth and size of the memory's shared part, then GLPK on what that leaves open. Private to planner.c,
// mix.c and close.c.
#ifndef HEP_MIX_H
#define HEP_MIX_H

#include "compiler/solve/planner.h"

enum { PREFETCH_DEPTHS = 6 };

// Depths worth trying, deepest first. Zero: a gather begins when the experts before were read.
extern const uint32_t mix_prefetches[PREFETCH_DEPTHS];

// What is known of the mixes of one prefetch depth.
typedef struct {
    uint32_t prefetch;
    double bound_s; // none of them is faster; without `bounded` it may be loose
    bool bounded;   // a good bound is asked for
    bool binds;     // the memory, at all
    bool *useful;   // [moe_count x candidates]: what one that is faster than the best known may consist of
} MixDepth;

typedef struct {
    const Workload *work;
    const PlannerOptions *options;
    Arena *arena;
    Solution *solution;  // its candidates, and the best single one
    double memory_bytes; // the device's, less what lowering showed to be missing
    bool found;
    MixDepth depths[PREFETCH_DEPTHS];
    uint32_t depth_count;
    Footprint *footprints; // of the prefetch that is being looked at
} Choosing;

// Do gathers wait for anything under a depth that they do not wait for without limit?
bool mix_depth_differs(const Workload *work, uint32_t prefetch);

// Sets mix, objective, bound, memory and the solver's name.
void mix_choose(Choosing *choosing, Diag *diag);

// close.c. What there is to beat: the best mix known, or the best single configuration, or what the caller has.
double mix_known_s(const Choosing *choosing);
bool mix_is_open(const Choosing *choosing, const MixDepth *depth);
void mix_measure(Choosing *choosing, uint32_t prefetch); // fills footprints

// Lets GLPK solve what the search left of the depths that are open. Returns whether it proved or found
// anything.
bool mix_close(Choosing *choosing, Diag *diag);
// Lets GLPK solve what is left of the programme of the mix that was chosen, as a check by other means.
bool mix_confirm(Choosing *choosing);

#endif
