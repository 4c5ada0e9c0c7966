// Communicators as the library's handles: what joins a context to the ranks of its plan.
#ifndef HEP_LIBRARY_LINKS_H
#define HEP_LIBRARY_LINKS_H

#include "runtime/comm/rendezvous.h"
#include "runtime/engine/mover.h"
#include "runtime/library/library.h"

typedef struct {
    // One context's communicator: every rank joins once per context, in the same order. NULL and a fault on failure.
    Comm *(*join)(hep_comm *handle, const hep_plan *plan, void **state, Fault *fault);
    // Instead of joining: ranks that join get the fault. NULL: they find out that this one does not come.
    void (*refuse)(hep_comm *handle, const Fault *fault);
    // A rank that has failed tells those that it would have met, on its channels of the streams (bits), `first` those
    // it would have come to first. Blocks until they come there, or their time is up. NULL: abort has done so.
    void (*tell)(Comm *comm, uint32_t streams, const int *first, uint32_t count);
    // The context's threads are through.
    void (*leave)(hep_comm *handle, Comm *comm, void *state);
    void (*destroy)(hep_comm *handle);
} LinkOps;

struct hep_comm {
    const LinkOps *ops;
    atomic_uint references; // the caller's, and one of every context
    int rank, ranks;
    double timeout_s;
    bool one_thread;        // collectives only inside the caller's calls
    const MoverOps *device; // of tensors in a GPU's memory; NULL: the host's
};

// What a context holds of its communicator.
typedef struct {
    hep_comm *handle; // counted
    void *state;
} Link;

// of_device: tensors may lie in a GPU's memory.
bool link_options(const hep_comm_options *from, hep_comm_options *options, bool of_device, Fault *fault) MUST_CHECK;
void link_drop(hep_comm *handle); // takes NULL

#endif
