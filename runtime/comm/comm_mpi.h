// The MPI communicator: every rank of a plan is a process, started by mpirun or srun. Members of a group send
// straight to each other; every group of every stream has an MPI communicator of its own, so that streams do not
// wait for one another. Waiting sleeps in growing steps and leaves the processor to others.
// Without MPI at build time comm_mpi_none.c stands in: there is never a world to create.
#ifndef HEP_COMM_MPI_H
#define HEP_COMM_MPI_H

#include "runtime/comm/world.h"

const char *mpi_launcher(void);   // what started this process as one of several; NULL: nothing did
uint64_t mpi_launcher_rank(void); // the rank it gave, 0 when unknown
uint64_t mpi_launcher_size(void); // how many it started, 0 when unknown

// What `end` of the options calls before it ends its process: the launcher ends those of the world.
void mpi_end_all(int exit_code);

#endif
