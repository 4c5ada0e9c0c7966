// What repeating a plan's steps for every micro-batch (ir/unroll.h) adds to a lowering, which states them once.
#ifndef HEP_LOOP_H
#define HEP_LOOP_H

#include "ir/plan.h"

// Sets when steps run that do not say so: what migrates weights before all micro-batches, what sends gradients home and
// what updates after them. Then the span of every buffer, and the waits of steps for those of the micro-batch before:
// what is written again was read, what is read was written. Requires the waits within a micro-batch. Nothing to do
// where an iteration is one micro-batch.
void loop_complete(Plan *plan, Arena *scratch);

#endif
