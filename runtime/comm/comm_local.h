// The local communicator: ranks of a plan that share one GPU in one process, each a set of threads. They meet by the
// threads communicator, then each enqueues copies out of its peers' device memory: the GPU counterpart of
// comm_threads.h, for development and for checking any plan on one GPU.
#ifndef HEP_COMM_LOCAL_H
#define HEP_COMM_LOCAL_H

#include "runtime/comm/comm_threads.h"

// The rank's, over its communicator of `world`, which outlives it. NULL and a fault on failure.
Comm *local_comm_create(ThreadWorld *world, uint64_t rank, Fault *fault) MUST_CHECK;
void local_comm_destroy(Comm *comm); // takes NULL

#endif
