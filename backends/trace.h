// The simulated run as Chrome trace events, for Perfetto (ui.perfetto.dev) and chrome://tracing.
#ifndef HEP_TRACE_H
#define HEP_TRACE_H

#include "ir/timeline.h"

// A file that hep-run wrote of a run of the same plan.
typedef struct {
    const char *text;
    size_t length;
} TraceRun;

// One process "predicted": a thread per stream with one complete event per step, flow arrows for
// `after` edges that made a step wait, a counter per level's port and one for live memory.
// With a `run` (or NULL) its ranks follow as further processes; false where it is not of this plan.
bool trace_print(const Plan *plan, const TraceRun *run, Text *out, Fault *fault) MUST_CHECK;

#endif
