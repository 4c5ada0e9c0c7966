// Everything that a plan block leaves open besides domains: codecs and formats, within a price or not, ways of saving
// memory, the length of laps, buckets. Each is a spec of its own, planned by the planner; the fastest is taken.
#ifndef HEP_CHOOSE_H
#define HEP_CHOOSE_H

#include "compiler/solve/planner.h"
#include "ir/base/fault.h"
#include "ir/passes.h"

// One spec with nothing left open, and what the planner found for it.
typedef struct {
    const Spec *spec;
    const Workload *work; // with its workers placed, once there is a solution
    Solution solution;
} Planned;

typedef struct {
    Planned best;
    const Solution *codecs[CODEC_COUNT]; // where the codec was left open: of those not taken; NULL: does not fit
    const Solution *exact;               // where choices were open within a price: without them; NULL: does not fit
} Chosen;

// The workload to look at before anything is chosen: of a codec that is left open, without one.
const Workload *choose_begin(const Spec *spec, Arena *arena);

// Why nothing fits, or what else is wrong, is said to `diag`.
FaultKind choose(const Spec *spec, const PlannerOptions *options, Arena *arena, Diag *diag, Chosen *out) MUST_CHECK;

// The plan, lowered, and what a rank of it takes. Running ahead can cost more than it gains, since what runs ahead
// shares ports with what is needed now: passes that were asked for are omitted where the simulated iteration is shorter
// without, unless the time limit has struck or the plan is very large. NULL: too large for any plan.
Plan *choose_passes(const Planned *planned, PlanPassSet asked, PlanPassSet *ran, double *bytes);

#endif
