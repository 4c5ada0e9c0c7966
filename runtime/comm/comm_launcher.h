// What started this process as one of several: known from the variables it sets.
#ifndef HEP_COMM_LAUNCHER_H
#define HEP_COMM_LAUNCHER_H

#include "ir/base/base.h"

typedef struct {
    const char *name;
    const char *size, *rank, *local_rank; // variables; local_rank: among the processes of this machine
    bool starts_mpi;
} Launcher;

// The one that started this process, NULL if none did. `starts_mpi`: only those that MPI programs are started with.
const Launcher *launcher_find(bool starts_mpi);

// Its name; NULL if none did.
const char *launcher_name(void);
// The number it gave this process, 0 when unknown.
uint64_t launcher_rank(void);

// mpirun since Open MPI 5 (PRRTE): from when it begins to end a job it no longer reads what processes write, and it
// kills a quarter of a second after it has asked them to end; others take a second.
bool launcher_is_hasty(void);

// Hands text to such a launcher through PMIx, which it serves until the end; of a job it prints the first text alone.
// False where there is no such launcher, standard error leads elsewhere, or it does not answer in time: then the caller
// writes to standard error itself.
bool launcher_print(const char *text);

#endif
