// The one error record: what happened, where, to whom. Filled in where it is noticed, carried up to main, printed there
// once. A function that can fail returns a status and takes the record last; lists of findings (Diag, VerifyReport) end
// in it where they leave their layer. Exit codes follow from the kind in the programs alone (exit_codes.h).
#ifndef HEP_FAULT_H
#define HEP_FAULT_H

#include "ir/base/base.h"

typedef enum {
    FAULT_NONE,        // nothing has happened
    FAULT_MISMATCH,    // a result is not as it should be, or two plans differ
    FAULT_USAGE,       // options that do not go with each other, or with the input
    FAULT_INPUT,       // an input is wrong
    FAULT_INFEASIBLE,  // no plan fits
    FAULT_RUN,         // a run failed: a peer, a link, a device
    FAULT_IO,          // a file cannot be read or written
    FAULT_MEMORY,      // memory has run out, of the machine or of a GPU
    FAULT_INTERNAL,    // a mistake of this program
    FAULT_INTERRUPTED, // a signal asked for the end
    FAULT_KIND_COUNT
} FaultKind;

// Where a stream of a rank stands.
typedef struct {
    int64_t step;    // that the stream is at, -1 between iterations
    int64_t awaited; // step of another stream that it waits for first, or -1
    double since_s;  // CLOCK_MONOTONIC, of the wait or of the step's start
} StreamPoint;

// Holds no pointer: it travels between processes.
typedef struct {
    FaultKind kind;       // FAULT_NONE while nothing has happened
    int64_t rank;         // -1: unknown or all
    int64_t step;         // index in the plan, -1: outside the schedule
    int64_t peer;         // the rank that was waited for, -1: none
    bool late;            // it did not come in time
    bool peer_told;       // the peer said where it stands:
    uint32_t peer_stream; // its stream (plan.h) of the same kind,
    StreamPoint peer_at;  // the point of that (since_s is not kept)
    double peer_for_s;    // and for how long
    char message[480];    // empty when it has been reported already, here or by another rank
} Fault;

// Records a fault unless one is recorded already (the first cause wins). Always returns false, so
// that `return fault_set(...)` leaves a function. Sets rank, step and peer to -1: who knows them fills them
// in afterwards.
bool fault_set(Fault *fault, FaultKind kind, const char *format, ...) PRINTF_LIKE(3, 4);

// Records a fault whose cause has been reported, as a list of findings: it has no message. Always returns false.
bool fault_reported(Fault *fault, FaultKind kind);

// Puts "CONTEXT: " before the message of a fault that a callee has just recorded: a file's name, an option. Always
// returns false, too.
bool fault_prefix(Fault *fault, const char *format, ...) PRINTF_LIKE(2, 3);

// What a failed call of the system on a file is, by its errno: memory that has run out is not the file's fault.
FaultKind fault_kind_of(int error);

#endif
