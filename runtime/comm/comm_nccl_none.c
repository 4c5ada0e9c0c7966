// Stands in for the NCCL communicator where CUDA or NCCL was missing when hep-run was built.
#include "runtime/comm/comm_nccl.h"

NcclWorld *nccl_world_create(const Launch *launch, double timeout_s, Fault *fault)
{
    (void)timeout_s;
    fault_set(
        fault, FAULT_RUN,
        "started by %s, but this hep-run was built without NCCL: '--communicator local' runs all ranks on one GPU",
        launch->launcher);
    return NULL;
}

void nccl_world_destroy(NcclWorld *world)
{
    (void)world;
}

Comm *nccl_world_comm(NcclWorld *world, const Cluster *cluster)
{
    (void)world, (void)cluster;
    return NULL;
}

bool nccl_world_share(NcclWorld *world, int *code, char **data, size_t *length, Fault *fault)
{
    (void)world, (void)code, (void)data, (void)length;
    return fault_set(fault, FAULT_INTERNAL, "there is no world");
}

void nccl_world_settle(NcclWorld *world, Fault *fault)
{
    (void)world, (void)fault;
}
