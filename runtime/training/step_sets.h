// Sets of a plan's steps that an iteration can be cut into: what evaluating the loss takes, and what comes before and
// with the update of the weights. Functions of the plan alone, so that all ranks skip the same steps.
#ifndef HEP_STEP_SETS_H
#define HEP_STEP_SETS_H

#include "ir/plan.h"

// skipped_steps [step]: all but the steps whose results the loss depends on. False and a plan without a loss.
bool step_sets_evaluation(const Plan *plan, bool skipped_steps[]) MUST_CHECK;

// first [step]: what to skip so that everything runs but the optimizer and what follows from updated weights;
// second [step]: what to skip to run the rest afterwards. False where the plan uses memory again that the rest
// still needs.
bool step_sets_update(const Plan *plan, bool first[], bool second[]) MUST_CHECK;

// buffers [buffer]: those that outlive an iteration and that a step which is not left out writes. False when memory
// runs out.
bool step_sets_written(const Plan *plan, const bool skipped_steps[], bool buffers[]) MUST_CHECK;

#endif
