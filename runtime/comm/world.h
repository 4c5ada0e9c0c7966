// The world of processes that this one is part of, whichever communicator joins them. {0}: there is none, all ranks are
// threads of this process.
#ifndef HEP_WORLD_H
#define HEP_WORLD_H

#include <stdatomic.h>

#include "runtime/comm/comm.h"

typedef struct {
    // A collective fails when a peer is missing that makes no progress for so long, nor whom it waits for; any call
    // fails when a process is silent for so long.
    double timeout_s;
    uint64_t chunk_bytes; // largest message, where the communicator divides them; 0: the default
    // Where a failed rank ends its process instead of returning from the call: called in the process of rank 0, or of
    // the failed rank if that one does not answer, with the cause that was given to CommOps.abort first, before all
    // processes are ended.
    void (*report)(void *context, const Fault *cause);
    void *report_context;
    // Ends this process with the exit code of that kind, after all others if they are to end with it.
    __attribute__((noreturn)) void (*end)(FaultKind kind, bool all);
    const atomic_int *interrupted; // set once this process is asked to end; may be NULL
} WorldOptions;

// How the processes of one communicator join: one table per kind of them. A world is known by its Comm, that of this
// process's rank.
typedef struct {
    CommunicatorId communicator;
    // Joins the processes, once. NULL and a fault on failure, whose message is left to one process. No function here:
    // built without its library.
    Comm *(*create)(const WorldOptions *options, Fault *fault);
    void (*destroy)(Comm *comm); // collective, unless a process has failed; no rank may be inside a call
    // The cluster must outlive the world, or the next call; it may differ in size from the world until a channel is
    // opened; NULL: none yet. With a cluster all processes call it together: channels that were opened before are
    // closed.
    void (*place)(Comm *comm, const Cluster *cluster);
    // Rank 0's code and bytes to every rank; `*data` of the others is allocated, NULL if rank 0 has none. Collective.
    bool (*share)(Comm *comm, int *code, char **data, size_t *length, Fault *fault);
    // After a failure: leaves the message where this process is the one that reports it. NULL: a failed world does
    // not come back from the call.
    void (*settle)(Comm *comm, Fault *fault);
} WorldOps;

// mpi_world_ops, nccl_world_ops: of all communicators of processes; those of devices are their plug-in's.
#define WORLD_OF_HOST_THREADS(name)
#define WORLD_OF_HOST_PROCESSES(name) extern const WorldOps name##_world_ops;
#define WORLD_OF_DEVICE_THREADS(name)
#define WORLD_OF_DEVICE_PROCESSES(name)   extern const WorldOps name##_world_ops;
#define HEP_COMMUNICATOR(name, KIND, ...) WORLD_OF_##KIND(name)
#include "runtime/comm/communicators.def"
#undef WORLD_OF_HOST_THREADS
#undef WORLD_OF_HOST_PROCESSES
#undef WORLD_OF_DEVICE_THREADS
#undef WORLD_OF_DEVICE_PROCESSES

typedef struct {
    const WorldOps *ops; // NULL: there is none
    Comm *comm;
} World;

// Joins by the communicator, if that is one of processes. `more`: worlds of a plug-in, up to a NULL, or NULL. False and
// a fault, whose message is left to one process, when it cannot be had.
bool world_join(const Communicator *communicator, const WorldOps *const *more, const WorldOptions *options,
                World *world, Fault *fault) MUST_CHECK;

// This process's rank, NULL without a world; see WorldOps.place.
Comm *world_comm(const World *world, const Cluster *cluster);
bool world_is_first(const World *world); // also without a world
// See WorldOps.share.
bool world_share(const World *world, int *code, char **data, size_t *length, Fault *fault) MUST_CHECK;
// After a failed run: leaves the fault's message where this process is the one that reports it.
void world_settle(const World *world, Fault *fault);
void world_destroy(World *world);

#endif
