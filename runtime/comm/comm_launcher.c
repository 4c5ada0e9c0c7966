// See comm_launcher.h; and what of it the MPI communicator asks for.
#include "runtime/comm/comm_launcher.h"

#include <stdlib.h>

#include "runtime/comm/comm_mpi.h"

static const Launcher launchers[] = {
    {"torchrun", "WORLD_SIZE", "RANK", "LOCAL_RANK", false},
    {"mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", true},
    {"a PMI launcher", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", true},
    {"srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", true},
};

const Launcher *launcher_find(bool starts_mpi)
{
    for (size_t l = 0; l < COUNT_OF(launchers); l++) {
        const char *size = getenv(launchers[l].size);
        // A shell inside a Slurm allocation is a step of one task.
        bool is_step = l == COUNT_OF(launchers) - 1;
        if ((launchers[l].starts_mpi || !starts_mpi) && size && strtoull(size, NULL, 10) > (is_step ? 1 : 0))
            return &launchers[l];
    }
    return NULL;
}

uint64_t launcher_rank(void)
{
    const Launcher *launcher = launcher_find(false);
    const char *rank = launcher ? getenv(launcher->rank) : NULL;
    return rank ? strtoull(rank, NULL, 10) : 0;
}

bool launcher_is_hasty(void)
{
    return getenv("PRTE_LAUNCHED") != NULL;
}

const char *launcher_name(void)
{
    const Launcher *launcher = launcher_find(false);
    return launcher ? launcher->name : NULL;
}

const char *mpi_launcher(void)
{
    const Launcher *launcher = launcher_find(true);
    return launcher ? launcher->name : NULL;
}

uint64_t mpi_launcher_size(void)
{
    for (size_t l = 0; l < COUNT_OF(launchers); l++) {
        const char *size = getenv(launchers[l].size);
        if (launchers[l].starts_mpi && size)
            return strtoull(size, NULL, 10);
    }
    return 0;
}

uint64_t mpi_launcher_rank(void)
{
    for (size_t l = 0; l < COUNT_OF(launchers); l++) {
        const char *rank = getenv(launchers[l].rank);
        if (launchers[l].starts_mpi && getenv(launchers[l].size) && rank)
            return strtoull(rank, NULL, 10);
    }
    return 0;
}
