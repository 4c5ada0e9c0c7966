// Buffer planning for plans so large that looking at every pair of buffers would take too long.
#ifndef HEP_MEMORY_LARGE_H
#define HEP_MEMORY_LARGE_H

#include "ir/order.h"

// Places the temporaries from `base` on, in time that hardly grows faster than the steps; returns their end. Buffers
// that different streams write first share no memory, nor do those of one segment of several micro-batches, so the end
// may lie higher than necessary. Sizes are valid. `steps` is the plan itself or its steps unrolled (plan_unroll_steps),
// which order and lifetimes are of.
uint64_t memory_place_in_order(Plan *plan, const Plan *steps, const Order *order, const Lifetimes *lifetimes,
                               uint64_t base, Arena *scratch);

#endif
