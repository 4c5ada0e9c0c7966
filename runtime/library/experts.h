// What experts.c and jobs.c (who may call what, threads, slots) ask of experts_move.c (one layer's weights on their
// way).
#ifndef HEP_LIBRARY_EXPERTS_H
#define HEP_LIBRARY_EXPERTS_H

#include "runtime/library/weights.h"

// A layer's experts into its `full` tensors, from what is kept of them on. Collective.
bool experts_gather(hep_context *context, uint32_t layer, Fault *fault) MUST_CHECK;
// A layer's gradients to its `grads`. Collective.
bool experts_return(hep_context *context, const Job *job, Fault *fault) MUST_CHECK;

#endif
