// Lowering: a checked spec and a configuration for every MoE layer become an SPMD schedule (ir/plan.h),
// forward pass or whole training iteration, with buffers placed in the rank's arena.
#ifndef HEP_LOWER_H
#define HEP_LOWER_H

#include "compiler/model/iteration.h"
#include "ir/passes.h"

// A complete plan but for solver, status, gap and strategies, which the caller knows. *bytes: what a rank takes, with
// the engine's own. NULL when the buffers exceed what can be addressed; *bytes then holds the estimate of what they
// need.
Plan *lower(const Workload *work, const Mix *mix, Dispatch dispatch, double *bytes);

// The same with some of the passes skipped.
Plan *lower_with(const Workload *work, const Mix *mix, Dispatch dispatch, PlanPassSet passes, double *bytes);

// As cost_iteration prices it.
Plan *lower_uniform(const Workload *work, const Config *config, Dispatch dispatch, double *bytes);

// What a rank of the first `layers` layers would allocate under this configuration in all of them.
double lower_memory_bytes(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch,
                          uint32_t layers);

#endif
