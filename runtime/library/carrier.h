// Communicators made of functions, the caller's or our own over MPI.
#ifndef HEP_LIBRARY_CARRIER_H
#define HEP_LIBRARY_CARRIER_H

#include "runtime/library/context.h"

typedef struct {
    hep_comm handle; // first
    hep_carrier carrier;
    void *user;
    void (*release)(void *user); // of our own; or NULL
    int channels;                // opened by all contexts
    atomic_bool broken;          // a function has failed: none is called again
} CarrierLink;

hep_comm *carrier_make(int rank, int ranks, const hep_carrier *carrier, void *user, const hep_comm_options *options,
                       Fault *fault) MUST_CHECK;
// See LinkOps.tell.
void carrier_tell(Comm *base, uint32_t streams, const int *first, uint32_t count);

#endif
