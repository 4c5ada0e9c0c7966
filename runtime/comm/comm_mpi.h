// The MPI communicator: every rank of a plan is a process, started by mpirun or srun. Members of a group send
// straight to each other; every group of every stream has an MPI communicator of its own, so that streams do not
// wait for one another. Waiting sleeps in growing steps and leaves the processor to others.
// Without MPI at build time comm_mpi_none.c stands in: there is never a world to create.
#ifndef HEP_COMM_MPI_H
#define HEP_COMM_MPI_H

#include <stdatomic.h>

#include "runtime/comm/comm.h"

typedef struct MpiWorld MpiWorld;

typedef struct {
    // A collective fails when a peer is missing that makes no progress for so long, nor whom it waits for; any call
    // fails when a process is silent for so long.
    double timeout_s;
    uint64_t chunk_bytes; // largest message; 0: the default
    // Called in the process of rank 0, or of the failed rank if that one does not answer, with the cause that was
    // given to CommOps.abort first, before all processes are ended.
    void (*report)(void *context, const Fault *cause);
    void *report_context;
    // Ends this process with the exit code of that kind, after all others by mpi_end_all if they are to end with it.
    __attribute__((noreturn)) void (*end)(FaultKind kind, bool all);
    const atomic_int *interrupted; // set when this process was told to end; may be NULL
} MpiWorldOptions;

bool mpi_available(void);         // built with MPI
const char *mpi_launcher(void);   // what started this process as one of several; NULL: nothing did
uint64_t mpi_launcher_rank(void); // the rank it gave, 0 when unknown
uint64_t mpi_launcher_size(void); // how many it started, 0 when unknown

// Initialises MPI; one world per process, once. NULL and a fault when MPI cannot serve several threads.
MpiWorld *mpi_world_create(const MpiWorldOptions *options, Fault *fault) MUST_CHECK;
// Collective; takes NULL. No rank may be inside a call.
void mpi_world_destroy(MpiWorld *world);

// This process's rank. The cluster must outlive the world, or the next call; it may differ in size from the world until
// a channel is opened. With a cluster all processes call it together: channels that were opened before are closed.
Comm *mpi_world_comm(MpiWorld *world, const Cluster *cluster);
// What `end` of the options calls before it ends its process: the launcher ends those of the world.
void mpi_end_all(int exit_code);
// Rank 0's code and bytes to every rank; `*data` of the others is allocated, NULL if rank 0 has none. Collective.
bool mpi_world_share(MpiWorld *world, int *code, char **data, size_t *length, Fault *fault) MUST_CHECK;

#endif
