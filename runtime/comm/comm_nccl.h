// The NCCL communicator: every rank of a plan is a process with a GPU of its own, started by torchrun, mpirun or srun.
// Rows go by NCCL; the plan, barriers, reductions and causes of failure by the rendezvous, so that no MPI is needed.
// It is part of the CUDA plug-in (runtime/plugin/plugin.h), which hands its functions over as a table.
#ifndef HEP_COMM_NCCL_H
#define HEP_COMM_NCCL_H

#include "runtime/comm/comm.h"
#include "runtime/comm/rendezvous.h"

typedef struct NcclWorld NcclWorld;

typedef struct {
    // Joins the processes that `launch` speaks of; one world per process. A collective fails when a peer is missing and
    // nothing moves for `timeout_s`. NULL and a fault on failure; the message is left to one process.
    NcclWorld *(*create)(const Launch *launch, double timeout_s, Fault *fault);
    void (*destroy)(NcclWorld *world); // takes NULL; no rank may be inside a call
    // As mpi_world_comm and mpi_world_share.
    Comm *(*comm)(NcclWorld *world, const Cluster *cluster);
    bool (*share)(NcclWorld *world, int *code, char **data, size_t *length, Fault *fault);
    // After a failure: as rendezvous_settle.
    void (*settle)(NcclWorld *world, Fault *fault);
} NcclWorldOps;

extern const NcclWorldOps nccl_world_ops; // of the plug-in

#endif
