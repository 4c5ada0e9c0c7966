// The simulated run as Chrome trace events, for Perfetto (ui.perfetto.dev) and chrome://tracing.
#ifndef HEP_TRACE_H
#define HEP_TRACE_H

#include "ir/base/text.h"
#include "ir/plan.h"

// One process "predicted": a thread per stream with one complete event per step, flow arrows for
// `after` edges that made a step wait, a counter per level's port and one for live memory.
void trace_print(const Plan *plan, Text *out);

#endif
