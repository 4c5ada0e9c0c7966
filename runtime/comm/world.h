// The world of processes that this one is part of, whichever communicator joins them. {0}: there is none, all ranks are
// threads of this process.
#ifndef HEP_WORLD_H
#define HEP_WORLD_H

#include "runtime/comm/comm_mpi.h"
#include "runtime/comm/comm_nccl.h"

typedef struct {
    MpiWorld *mpi; // at most one of them
    NcclWorld *nccl;
    const NcclWorldOps *nccl_ops; // its functions
} World;

// This process's rank, NULL without a world; see mpi_world_comm.
Comm *world_comm(const World *world, const Cluster *cluster);
bool world_is_first(const World *world); // also without a world
// Rank 0's code and bytes to every rank; see mpi_world_share.
bool world_share(const World *world, int *code, char **data, size_t *length, Fault *fault) MUST_CHECK;
// After a failed run: leaves the fault's message where this process is the one that reports it.
void world_settle(const World *world, Fault *fault);
void world_destroy(World *world);

#endif
