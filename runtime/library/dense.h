// What jobs.c asks of dense_move.c: one bundle's weights, or their gradients, on their way.
#ifndef HEP_LIBRARY_DENSE_H
#define HEP_LIBRARY_DENSE_H

#include "runtime/library/context.h"

// The bundle's shares into `all`. Collective.
bool dense_gather(hep_context *context, const Job *job, Fault *fault) MUST_CHECK;
// The sum of all ranks' `all`, which is overwritten, is added to `share`. Collective.
bool dense_return(hep_context *context, const Job *job, Fault *fault) MUST_CHECK;

#endif
