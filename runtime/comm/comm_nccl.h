// The NCCL communicator of somebody else's program, which has as many as it likes: processes join by what they are
// told, and every plan gets a communicator of its own within that. hep-run joins by nccl_world_ops (world.h).
#ifndef HEP_COMM_NCCL_H
#define HEP_COMM_NCCL_H

#include "runtime/comm/comm.h"
#include "runtime/comm/rendezvous.h"

// Joins the processes of a launch. device: a GPU; -1: one by the process's place on its machine. The thread's current
// device is then that one. NULL and a fault.
Comm *nccl_join(const Launch *launch, int device, double timeout_s, Fault *fault) MUST_CHECK;
void nccl_part(Comm *all); // takes NULL; nothing that was opened is left

// Of a plan's ranks, which are those processes: all open them in one order. `cluster` outlives it. What ends one of
// them, or any process, ends all of the launch.
Comm *nccl_open_plan(Comm *all, const Cluster *cluster, Fault *fault) MUST_CHECK;
void nccl_close_plan(Comm *of_plan); // takes NULL

#endif
