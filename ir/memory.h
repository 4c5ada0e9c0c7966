// Buffer planning: one offset per buffer in the arena that every rank allocates. Requires known
// ops and valid operand indices and edges; provides `offset` of every buffer and `arena_bytes`.
#ifndef HEP_MEMORY_H
#define HEP_MEMORY_H

#include "ir/plan.h"

// Buffers share memory only where their lifetimes (order.h) are disjoint. `scratch` holds working
// memory. False, with the plan's offsets meaningless, when sizes exceed 63 bits.
MUST_CHECK bool memory_plan(Plan *plan, Arena *scratch);

// The same with no buffer sharing memory with another.
MUST_CHECK bool memory_plan_apart(Plan *plan);

// What the arena would be if no buffer shared memory with another; UINT64_MAX when it overflows.
uint64_t memory_bytes_without_reuse(const Plan *plan);

#endif
