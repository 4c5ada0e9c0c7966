// The threads communicator: every rank of a plan is a set of threads of this process, and members
// of a group pull their rows straight out of each other's buffers. With a link emulation, pulling
// is paced by the emulated ports. Blocking waits only, no spinning.
#ifndef HEP_COMM_THREADS_H
#define HEP_COMM_THREADS_H

#include "runtime/comm/comm.h"
#include "runtime/comm/links.h"

typedef struct ThreadWorld ThreadWorld;

// One communicator per rank of `cluster`. `links` may be NULL (as fast as memory copies go) and must
// outlive the world. A collective fails when a peer is missing and no rank of the world has moved
// anything for `timeout_s`. Returns NULL when memory is exhausted.
ThreadWorld *thread_world_create(const Cluster *cluster, LinkEmulation *links, double timeout_s);
void thread_world_destroy(ThreadWorld *world); // takes NULL; no rank may be inside a call

Comm *thread_world_comm(ThreadWorld *world, uint64_t rank);
// The first cause given to `abort`; of kind FAULT_NONE when there was none.
Fault thread_world_cause(ThreadWorld *world);

#endif
