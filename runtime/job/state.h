// Where a rank stands while it runs: the step of each of its streams, since when, and what it waits for.
#ifndef HEP_STATE_H
#define HEP_STATE_H

#include "ir/base/text.h"
#include "runtime/engine/interpreter.h"

// What happened, on which rank, in which step, and where the peer stood, if it told: one line. `plan` may be NULL.
void state_append_fault(const Plan *plan, const Fault *fault, Text *out);

// Appends one line per stream that is inside an iteration, or one line that says none is. `interpreter` NULL: the
// rank is not prepared yet. `now_s` is CLOCK_MONOTONIC. The rank need not stop for it.
void state_append(const Plan *plan, uint64_t rank, const Interpreter *interpreter, double now_s, Text *out);

#endif
