// A run-time error: what happened, where, to whom. Filled in where it is noticed, carried up to
// main, printed there once.
#ifndef HEP_FAULT_H
#define HEP_FAULT_H

#include "ir/base/base.h"
#include "ir/base/exit_codes.h"
#include "ir/plan.h"

// Where a stream of a rank stands.
typedef struct {
    int64_t step;    // that the stream is at, -1 between iterations
    int64_t awaited; // step of another stream that it waits for first, or -1
    double since_s;  // CLOCK_MONOTONIC, of the wait or of the step's start
} StreamPoint;

// Where a rank's device was last seen. Holds no pointer: it travels between processes.
typedef struct {
    uint64_t iteration;       // that it is in, from 1; 0: none yet
    int64_t at[STREAM_COUNT]; // step that each stream was at, -1: behind its last
    double still_s;           // for how long it had not moved
} Standing;

// Holds no pointer: it travels between processes.
typedef struct {
    ExitCode code;       // EXIT_DONE while nothing has happened
    int64_t rank;        // -1: unknown or all
    int64_t step;        // index in the plan, -1: outside the schedule
    int64_t peer;        // the rank that was waited for, -1: none
    bool peer_told;      // the peer said where it stands:
    Stream peer_stream;  // its stream of the same kind,
    StreamPoint peer_at; // the point of that (since_s is not kept)
    double peer_for_s;   // and for how long
    char message[480];   // empty when another rank tells it
} Fault;

// Records a fault unless one is recorded already (the first cause wins). Always returns false, so
// that `return fault_set(...)` leaves a function. Sets rank, step and peer to -1: who knows them fills them
// in afterwards.
bool fault_set(Fault *fault, ExitCode code, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
