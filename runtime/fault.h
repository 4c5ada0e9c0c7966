// A run-time error: what happened, where, to whom. Filled in where it is noticed, carried up to
// main, printed there once.
#ifndef HEP_FAULT_H
#define HEP_FAULT_H

#include "ir/base/base.h"
#include "ir/base/exit_codes.h"

typedef struct {
    ExitCode code;     // EXIT_DONE while nothing has happened
    int64_t rank;      // -1: unknown or all
    int64_t step;      // index in the plan, -1: outside the schedule
    int64_t peer;      // the rank that was waited for, -1: none
    const char *op;    // NULL outside the schedule
    char message[400]; // empty when another rank tells it
} Fault;

// Records a fault unless one is recorded already (the first cause wins). Always returns false, so
// that `return fault_set(...)` leaves a function. Sets rank, step and peer to -1 and op to NULL: who knows
// them fills them in afterwards.
bool fault_set(Fault *fault, ExitCode code, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
