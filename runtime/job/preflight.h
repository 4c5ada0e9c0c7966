// Whether a job can be started, asked before anything is allocated; in a world of processes by all of them together.
#ifndef HEP_PREFLIGHT_H
#define HEP_PREFLIGHT_H

#include "runtime/job/job.h"

// Whether all processes are to do the same: run a plan, or, where `calibrates`, measure the plan's levels or those that
// `levels` (may be NULL) names. False and a fault where this one differs from rank 0. Collective; without a world
// (`comm` NULL) true. To be asked before anything else that is collective: that differs, too.
bool preflight_same_work(Comm *comm, bool calibrates, const char *levels, uint64_t until, Fault *fault) MUST_CHECK;

// The plan's settings, or what the user said instead.
TrainingSettings preflight_training(const Plan *plan, const JobOptions *options);
EngineOptions preflight_engine_options(const Plan *plan, const JobOptions *options);

// `samples`: iterations whose step times are kept. Collective in a world of processes. False and a fault, reported by
// one rank alone, when the job cannot be started.
bool preflight_run(const Plan *plan, const JobOptions *options, uint32_t samples, Fault *fault) MUST_CHECK;

// Address space that the ranks of this process leave for matrix products; UINT64_MAX where it has no limit.
uint64_t preflight_product_bytes(const Plan *plan, const JobOptions *options, uint32_t samples);

// In a world of processes all continue or none: true when no rank has a fault. Otherwise the first rank that has one
// reports it, the others fail with its kind and no message. Without a world (`comm` NULL) returns `ok`. Collective.
bool preflight_agree(Comm *comm, bool ok, Fault *fault) MUST_CHECK;

#endif
