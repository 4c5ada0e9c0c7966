// The NCCL communicator: every rank of a plan is a process with a GPU of its own, started by torchrun, mpirun or srun.
// Rows go by NCCL; the plan, barriers, reductions and causes of failure by the rendezvous, so that no MPI is needed.
// It is part of the CUDA plug-in (runtime/plugin/plugin.h), which hands its functions over.
#ifndef HEP_COMM_NCCL_H
#define HEP_COMM_NCCL_H

#include "runtime/comm/rendezvous.h"
#include "runtime/comm/world.h"

// Of the plug-in. `create` joins the processes that the launcher started.
extern const WorldOps nccl_world_ops;

#endif
