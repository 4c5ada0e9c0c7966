// Stands in for comm_mpi.c where MPI was not found or not wanted: there is never a world to create.
#include "runtime/comm/comm_mpi.h"

const WorldOps mpi_world_ops = {.communicator = COMMUNICATOR_mpi};

void mpi_end_all(int exit_code)
{
    (void)exit_code;
}
