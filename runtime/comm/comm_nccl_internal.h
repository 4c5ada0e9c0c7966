// What the parts of the NCCL communicator share: the world and its channels. Included by comm_nccl*.c alone.
//
// NCCL's communicators do not block: what they are doing is asked for, so that a failed peer cannot hold a thread.
// `lock` is held for reading inside every call of NCCL on a communicator, for writing by who aborts them all: after
// that they are gone. A channel's lock is held by the thread that uses its communicator: asking one for errors frees
// what its last launch left, so that two threads may not ask at once. The engine calls collectives one after another
// (DeviceCommOps.ordered), and NCCL_LAUNCH_ORDER_IMPLICIT keeps the device to that order.
#ifndef HEP_COMM_NCCL_INTERNAL_H
#define HEP_COMM_NCCL_INTERNAL_H

#include <nccl.h>
#include <pthread.h>

#include "runtime/base/cuda_check.h"
#include "runtime/comm/comm_common.h"
#include "runtime/comm/comm_nccl.h"
#include "runtime/comm/rendezvous.h"
#include "runtime/comm/world.h"

typedef struct {
    pthread_mutex_t lock;
    Group group;
    uint32_t own, member_count;
    uint64_t *ranks;  // [member_count]
    uint32_t *levels; // [member_count] outermost level at which the member's rank differs
    ncclComm_t nccl;  // NULL where there is one member; its ranks are the members, in their order
    void *registered; // handle of the memory attached to it, or NULL
} NcclChannel;

typedef struct {
    Comm comm; // first: a Comm * of this kind is an NcclWorld *
    Launch launch;
    Rendezvous *rendezvous; // of a plan's: that of all
    bool is_of_plan;        // nccl and rendezvous are others'
    pthread_rwlock_t lock;
    bool dead;       // all communicators were aborted
    ncclComm_t nccl; // of all processes, by their numbers
    NcclChannel **channels;
    uint32_t channel_count;
    DeviceUse use; // memory NULL where nothing is attached
    CommCounters counters[LEVELS_MAX];
    double *gathered;    // [size][REDUCE_COUNT_MAX]
    cudaStream_t stream; // of what is done when channels are opened
} NcclWorld;

enum { REDUCE_COUNT_MAX = 1024 }; // values reduced at once

// comm_nccl_settle.c. Between these NCCL may be called. False, with the lock not held, once the communicators are gone.
bool nccl_enter(NcclWorld *world, Fault *fault) MUST_CHECK;
void nccl_leave(NcclWorld *world);
// Inside: waits until the communicator has done what was asked of it; `result` is what that call returned.
bool nccl_settle(NcclWorld *world, ncclComm_t nccl, ncclResult_t result, const char *what, Fault *fault) MUST_CHECK;

// NCCL may notice a dead peer before the rendezvous does, and cannot say which: true, with the cause as the fault,
// where that is known or soon will be.
bool nccl_await_cause(NcclWorld *world, ncclResult_t result, Fault *fault) MUST_CHECK;

// False, with the reason as the fault. `nccl`: whose last error is asked for, or NULL.
bool nccl_failed(ncclComm_t nccl, ncclResult_t result, const char *what, Fault *fault);

// How many blocks each of the device's collectives may run: all that can be under way at once fit on a quarter of its
// multiprocessors, and products have the rest. NCCL_MAX_CTAS in the environment goes before it.
int nccl_block_limit(int multiprocessors);

// CommOps.open and the functions of DeviceCommOps: comm_nccl_calls.c.
int nccl_open(Comm *comm, const Group *group, Stream stream, Fault *fault);
bool nccl_exchange(Comm *comm, int channel, const Exchange *exchange, void *stream, Fault *fault);
bool nccl_all_gather(Comm *comm, int channel, const void *shard, void *gathered, uint64_t bytes, void *stream,
                     Fault *fault);
bool nccl_poll(Comm *comm, Fault *fault);
bool nccl_allocate(Comm *comm, uint64_t bytes, void **memory, Fault *fault);
void nccl_release(Comm *comm, void *memory);
bool nccl_attach(Comm *comm, const DeviceUse *use, Fault *fault);
void nccl_detach(Comm *comm);
void nccl_channels_close(NcclWorld *world);

#endif
