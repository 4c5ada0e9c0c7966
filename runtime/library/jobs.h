// What moves weights in the background, one transfer after another in the order of calls: gradients of experts,
// and dense bundles either way. A thread of its own, or where the communicator wants one alone, the caller's.
#ifndef HEP_LIBRARY_JOBS_H
#define HEP_LIBRARY_JOBS_H

#include "runtime/library/context.h"

bool jobs_start(hep_context *context, Fault *fault) MUST_CHECK;
void jobs_stop(hep_context *context);
// Takes a copy. Inside a call of the context; the mutex is not held.
bool jobs_add(hep_context *context, const Job *job, Fault *fault) MUST_CHECK;
// Until all that was added is done, or `bundle` no longer moves.
bool jobs_wait(hep_context *context, const Bundle *bundle, Fault *fault) MUST_CHECK;

#endif
