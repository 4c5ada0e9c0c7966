// What the parts of choose.h share. Each takes a Planned whose spec is set, and leaves there the fastest that it found.
#ifndef HEP_CHOOSING_H
#define HEP_CHOOSING_H

#include "compiler/choose/choose.h"

typedef struct {
    PlannerOptions options;
    double share;   // of the time limit
    double known_s; // what is no faster is of no interest; 0: everything is
    Arena *arena;
} Attempt;

// A copy in the arena, to be changed.
Spec *spec_copy(const Spec *spec, Arena *arena);
// See planner_estimate; what it takes is not kept.
Estimate estimate_spec(const Spec *spec, bool exactly, bool *unfit);

// The spec as it is.
FaultKind plan_spec(const Attempt *attempt, Diag *diag, Planned *out);
// In the way of saving memory that is fastest; where none fits, the one that takes least says why.
FaultKind choose_way(const Attempt *attempt, Diag *diag, Planned *out);
// In laps of all micro-batches, or of fewer; where none fits, the one that misses least says why.
FaultKind choose_lap(const Attempt *attempt, Diag *diag, Planned *out);

// The same spec with experts in that codec.
const Spec *with_codec(const Spec *request, Codec codec, Arena *arena);
// Where the codec is left open: the fastest, of equals the one that comes first. Those not taken are part of the
// comparison. Where none fits, dense says why.
FaultKind choose_codec(const Attempt *attempt, Diag *diag, Chosen *out);

// Are choices left open within a price? The fastest of the combinations within it. The first, in which all that is open
// is exact, is part of the comparison where it is not taken, and says why nothing fits where that is so for all.
bool priced_is_open(const Spec *spec);
FaultKind choose_priced(const Attempt *attempt, Diag *diag, Chosen *out);

// What was found, with weights in buckets where that is faster.
void choose_bucket(const Attempt *attempt, Planned *out);

#endif
