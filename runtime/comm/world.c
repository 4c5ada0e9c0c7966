// See world.h. Owns nothing but the choice between the two.
#include "runtime/comm/world.h"

Comm *world_comm(const World *world, const Cluster *cluster)
{
    if (world->mpi)
        return mpi_world_comm(world->mpi, cluster);
    return world->nccl ? world->nccl_ops->comm(world->nccl, cluster) : NULL;
}

bool world_is_first(const World *world)
{
    Comm *comm = world_comm(world, NULL);
    return !comm || comm->rank == 0;
}

bool world_share(const World *world, int *code, char **data, size_t *length, Fault *fault)
{
    if (world->mpi)
        return mpi_world_share(world->mpi, code, data, length, fault);
    return !world->nccl || world->nccl_ops->share(world->nccl, code, data, length, fault);
}

void world_settle(const World *world, Fault *fault)
{
    if (world->nccl) // a failed world of MPI does not come back here
        world->nccl_ops->settle(world->nccl, fault);
}

void world_destroy(World *world)
{
    mpi_world_destroy(world->mpi);
    if (world->nccl)
        world->nccl_ops->destroy(world->nccl);
    *world = (World){0};
}
