// Which step of one plan is which of another. A step is known by what it does (op, layer, level) and,
// where a plan repeats that, by its index among those.
#ifndef HEP_DIFF_STEPS_H
#define HEP_DIFF_STEPS_H

#include "ir/plan.h"

typedef struct {
    int32_t other; // the step of the other plan that this one is; NONE if it has none
    bool changed;  // in its group, bytes, time, shapes of operands, or in what it waits for
    bool moved;    // out of the order of its stream: not in a longest run of steps that both have in order
} StepMatch;

// matches[p] has one entry per step of plans[p]; changed and moved are printed for both sides alike.
void diff_match_steps(const Plan *const plans[2], StepMatch *matches[2], Arena *arena);

#endif
