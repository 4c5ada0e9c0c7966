// What the parts of libhep share: its handles, and how a fault becomes what callers see. Inside the library everything
// fails as everywhere, by a Fault; public functions alone turn it into a status (`library_end`).
#ifndef HEP_LIBRARY_H
#define HEP_LIBRARY_H

#include <stdatomic.h>

#include "ir/plan.h"
#include "runtime/hep.h"

struct hep_plan {
    atomic_uint references; // the caller's, and one of every context
    Plan *plan;
    uint64_t digest;
};

hep_plan *plan_keep(const hep_plan *plan);

// Kinds of faults, as the library uses them, become statuses: USAGE bad argument, INPUT bad plan, MISMATCH bad call,
// INFEASIBLE unsupported, RUN communication or time-out, INTERRUPTED aborted.
hep_status library_status(const Fault *fault);
// Ends a public function that takes no context: leaves the fault where hep_last_error(NULL) finds it.
hep_status library_end(const Fault *fault);
const Fault *library_last(void);
void library_describe(const Fault *fault, hep_error *error);

// Fills a caller's struct as far as the caller knows it. False and a fault: `struct_bytes` was not set.
bool library_give(void *out, const void *filled, size_t bytes, Fault *fault) MUST_CHECK;
// The reverse, of options: what the caller does not know is 0. `from` may be NULL.
bool library_take(void *options, const void *from, size_t bytes, Fault *fault) MUST_CHECK;

static inline MUST_CHECK bool library_given(const void *argument, const char *name, Fault *fault)
{
    return argument || fault_set(fault, FAULT_USAGE, "'%s' is NULL", name);
}

// The choice of an MoE layer, counted from 0; NULL and a fault for others.
const Choice *library_choice(const Plan *plan, int moe_layer, Fault *fault) MUST_CHECK;

#endif
