// Iterations of several micro-batches. A plan states the steps of one; which of them run in every micro-batch, and
// which in the first or the last alone, each step says (`when`). The order they run in:
//
//   a segment is a run of steps that name the same layer, or none: a layer's forward pass, its backward pass, the loss;
//   for every segment, in the order of the plan:
//       for every micro-batch: the steps of the segment that run in it, in the order of the plan
//
// so that the weights of a layer are gathered once, before all micro-batches, and the sum of their gradients
// returns once, after all of them.
//
// Waits. `after` names steps of other streams. Step b waits for the latest execution of step a that comes before b in
// that order; where none does, it waits for nothing. A step of the same segment with an index that is not smaller is
// that of the micro-batch before.
//
// Unrolling writes every execution down as a step of its own, and every value of a buffer as a buffer of its own. What
// orders, times, verifies or executes steps walks an unrolled plan; there is one statement of the loop, which is here.
#ifndef HEP_UNROLL_H
#define HEP_UNROLL_H

#include "ir/plan.h"

enum {
    PLAN_MICRO_BATCHES_MAX = 4096,
    PLAN_UNROLLED_STEPS_MAX = 1 << 22,
    UNROLL_ENOUGH = 4, // micro-batches after which nothing new happens: docs/ir.md, "Micro-batches"
};

// The plan with that many micro-batches, at least 1, unrolled; itself where it has one and is not to be changed, or is
// unrolled. It shares cluster, model, choices and names with `plan`, which must live as long; the rest is the arena's.
// With one micro-batch steps and buffers keep their indices.
const Plan *plan_unroll(const Plan *plan, uint32_t micro_batches, Arena *arena);
const Plan *plan_unroll_all(const Plan *plan, Arena *arena); // with as many as it has

// [plan->buffer_count + 1]: the index of each buffer's first value among the buffers of the unrolled plan.
const uint32_t *plan_first_values(const Plan *plan, uint32_t micro_batches, Arena *arena);

// The same, but that steps name the buffers of the plan as written: what is alike in all micro-batches is one buffer.
const Plan *plan_unroll_steps(const Plan *plan, uint32_t micro_batches, Arena *arena);

// One past the last step of the segment that begins with step `first`.
uint32_t plan_segment_end(const Plan *plan, uint32_t first);
// Does a step run in micro-batch `index` of `count`?
bool step_runs(const Step *step, uint32_t index, uint32_t count);
// How often an iteration executes the step, and how many values of the buffer the arena holds.
uint32_t plan_step_runs(const Plan *plan, const Step *step);
uint64_t plan_executions(const Plan *plan); // of all steps together
uint32_t plan_buffer_values(const Plan *plan, const Buffer *buffer);
// What the buffer takes of the arena: all its values, each aligned. False when that exceeds 63 bits.
MUST_CHECK bool plan_buffer_bytes(const Plan *plan, const Buffer *buffer, uint64_t *out);

#endif
