// Stands in for comm_mpi.c where MPI was not found or not wanted.
#include "runtime/comm/comm_mpi.h"

bool mpi_available(void)
{
    return false;
}

MpiWorld *mpi_world_create(const MpiWorldOptions *options, Fault *fault)
{
    (void)options;
    fault_set(fault, FAULT_RUN, "built without MPI: the communicator 'mpi' is not there");
    return NULL;
}

void mpi_world_destroy(MpiWorld *world)
{
    (void)world;
}

Comm *mpi_world_comm(MpiWorld *world, const Cluster *cluster)
{
    (void)world;
    (void)cluster;
    return NULL;
}

void mpi_end_all(int exit_code)
{
    (void)exit_code;
}

bool mpi_world_share(MpiWorld *world, int *code, char **data, size_t *length, Fault *fault)
{
    (void)world;
    (void)code;
    (void)data;
    (void)length;
    return fault_set(fault, FAULT_RUN, "built without MPI: the communicator 'mpi' is not there");
}
