// Whether a job can be started, asked before anything is allocated; in a world of processes by all of them together.
#ifndef HEP_PREFLIGHT_H
#define HEP_PREFLIGHT_H

#include "runtime/job.h"

EngineOptions preflight_engine_options(const JobOptions *options);

// `samples`: iterations whose step times are kept. Collective in a world of processes. False and a fault, told by one
// rank alone, when the job cannot be started.
bool preflight_run(const Plan *plan, const JobOptions *options, uint32_t samples, Fault *fault) MUST_CHECK;

// In a world of processes all go on or none: true when no rank has a fault. Otherwise the first rank that has one
// tells it, the others fail with its code and no message. Without a world (`comm` NULL) returns `ok`. Collective.
bool preflight_agree(Comm *comm, bool ok, Fault *fault) MUST_CHECK;

#endif
