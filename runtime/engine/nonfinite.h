// Where a number that is not finite came from: looked for once a loss is not, in what the steps of the forward pass
// left behind.
#ifndef HEP_NONFINITE_H
#define HEP_NONFINITE_H

#include "runtime/engine/engine.h"

// The first step, in the plan's order, whose output has a value that is not finite; -1 when none is found. `at`: the
// step that the compute stream is at, whose output is there, or the number of steps after an iteration. Outputs whose
// memory was, or may have been, written again are not looked at, nor rows that nothing was written to.
int64_t nonfinite_step(const Plan *plan, const EngineOps *ops, const Engine *engine, uint32_t at);

// Whether every gradient that a weight buffer would be updated by is finite.
bool nonfinite_free_gradients(const Plan *plan, const EngineOps *ops, const Engine *engine);

// Whether one of `count` values, of a floating dtype, is not finite.
bool nonfinite_among(const void *values, Dtype dtype, uint64_t count);

#endif
