// Iterations of several micro-batches. A plan states the steps of one; which of them run in every micro-batch, and
// which in the first or the last alone, of the iteration or of a lap, each step says (`when`). The order they run in:
//
//   a segment is a run of steps that name the same layer, or none: a layer's forward pass, its backward pass, the loss;
//   a phase of a segment ends where computation follows an exchange;
//   for every lap of so many micro-batches, which is all of them where the plan does not say:
//       for every segment, in the order of the plan:
//           for every so many micro-batches of the lap as go abreast, one where the plan does not say:
//               for every phase of the segment, and each of these micro-batches: the steps of the phase that run in it,
//               in the order of the plan
//
// so that what a layer's weights are gathered into once per lap serves all micro-batches of the lap, and what their
// gradients add up to returns once, after them; and so that of two micro-batches abreast one's rows are exchanged while
// the other's are computed.
//
// Waits. `after` names steps of other streams. Step b waits for the execution of step a in its own micro-batch, where
// both are of one segment and a comes first; a step with an index that is not smaller is that of the micro-batch
// before, or, of several abreast, of the one in the same place of those before. Otherwise it waits for the latest
// execution of a that comes before b in that order, which may be in the lap before; where there is none, for nothing.
//
// Unrolling writes every execution down as a step of its own, and every value of a buffer as a buffer of its own. What
// orders, times, verifies or executes steps walks an unrolled plan; there is one statement of the loop, which is here.
#ifndef HEP_UNROLL_H
#define HEP_UNROLL_H

#include "ir/plan.h"

enum {
    PLAN_MICRO_BATCHES_MAX = 4096,
    PLAN_UNROLLED_STEPS_MAX = 1 << 22,
    PLAN_ABREAST_MAX = 16,
    // Laps, and times so many micro-batches of each as go abreast, after which nothing new happens: docs/ir.md,
    // "Micro-batches".
    UNROLL_ENOUGH = 4,
};

// So many laps of so many micro-batches.
typedef struct {
    uint32_t count, each;
} Laps;

Laps plan_laps(const Plan *plan);
uint32_t plan_abreast(const Plan *plan);                 // at least 1
Laps plan_laps_at_most(const Plan *plan, uint32_t most); // no more laps, and no more times those that go abreast
// Are there several laps of several micro-batches? Otherwise steps and buffers have no need to speak of laps.
bool plan_has_laps(const Plan *plan);

// [end - first]: the phase of each step of the segment, from 0 on. Returns how many there are.
uint32_t plan_phases(const Plan *plan, uint32_t first, uint32_t end, uint32_t *phases);

// The plan with so many laps, at least one of one, unrolled; itself where it has one micro-batch and is not to be
// changed, or is unrolled. It shares cluster, model, choices and names with `plan`, which must live as long; the rest
// is the arena's. With one micro-batch steps and buffers keep their indices.
const Plan *plan_unroll(const Plan *plan, Laps laps, Arena *arena);
const Plan *plan_unroll_all(const Plan *plan, Arena *arena); // with as many as it has

// [plan->buffer_count + 1]: the index of each buffer's first value among the buffers of the unrolled plan.
const uint32_t *plan_first_values(const Plan *plan, Laps laps, Arena *arena);

// The same, but that steps name the buffers of the plan as written: what is alike in all micro-batches is one buffer.
const Plan *plan_unroll_steps(const Plan *plan, Laps laps, Arena *arena);

// A lap of two micro-batches, or twice those that go abreast, which shows when buffers of any lap are in use: where
// there are others before and after it, what runs once per iteration is skipped, since most laps have none of it. The
// same with the steps of the plan's own buffers; and first values as above.
const Plan *plan_unroll_lap(const Plan *plan, Arena *arena);
const Plan *plan_unroll_lap_steps(const Plan *plan, Arena *arena);
const uint32_t *plan_lap_values(const Plan *plan, Arena *arena);

// One past the last step of the segment that begins with step `first`.
uint32_t plan_segment_end(const Plan *plan, uint32_t first);
// Does a step run in micro-batch `index` of the iteration?
bool step_runs(const Step *step, uint32_t index, Laps laps);
// Is it executed more than once in an iteration of several laps of several micro-batches?
bool step_repeats(const Step *step);
// How often an iteration executes the step, and how many values of the buffer the arena holds.
uint32_t plan_step_runs(const Plan *plan, const Step *step);
uint64_t plan_executions(const Plan *plan); // of all steps together
uint32_t plan_buffer_values(const Plan *plan, const Buffer *buffer);
// What the buffer takes of the arena: all its values, each aligned. False when that exceeds 63 bits.
MUST_CHECK bool plan_buffer_bytes(const Plan *plan, const Buffer *buffer, uint64_t *out);

#endif
