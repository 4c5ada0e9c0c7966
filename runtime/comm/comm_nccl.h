// The NCCL communicator: every rank of a plan is a process with a GPU of its own, started by torchrun, mpirun or srun.
// Rows go by NCCL; the plan, barriers, reductions and causes of failure by the rendezvous, so that no MPI is needed.
// Without CUDA and NCCL at build time comm_nccl_none.c stands in: there is never a world to create.
#ifndef HEP_COMM_NCCL_H
#define HEP_COMM_NCCL_H

#include "runtime/comm/comm.h"
#include "runtime/comm/rendezvous.h"

typedef struct NcclWorld NcclWorld;

// Joins the processes that `launch` speaks of; one world per process. A collective fails when a peer is missing and
// nothing moves for `timeout_s`. NULL and a fault on failure; the message is left to one process.
NcclWorld *nccl_world_create(const Launch *launch, double timeout_s, Fault *fault) MUST_CHECK;
void nccl_world_destroy(NcclWorld *world); // takes NULL; no rank may be inside a call

// As mpi_world_comm and mpi_world_share.
Comm *nccl_world_comm(NcclWorld *world, const Cluster *cluster);
bool nccl_world_share(NcclWorld *world, int *code, char **data, size_t *length, Fault *fault) MUST_CHECK;
// After a failure: as rendezvous_settle.
void nccl_world_settle(NcclWorld *world, Fault *fault);

#endif
