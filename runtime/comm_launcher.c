// Which launcher started this process as one of several: told by the variables it sets.
#include <stdlib.h>

#include "runtime/comm_mpi.h"

static const struct {
    const char *name, *size, *rank;
} launchers[] = {
    {"mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
    {"a PMI launcher", "PMI_SIZE", "PMI_RANK"},
    {"srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
};

const char *mpi_launcher(void)
{
    for (size_t l = 0; l < COUNT_OF(launchers); l++) {
        const char *size = getenv(launchers[l].size);
        // A shell inside a Slurm allocation is a step of one task.
        bool is_step = l == COUNT_OF(launchers) - 1;
        if (size && strtoull(size, NULL, 10) > (is_step ? 1 : 0))
            return launchers[l].name;
    }
    return NULL;
}

uint64_t mpi_launcher_size(void)
{
    for (size_t l = 0; l < COUNT_OF(launchers); l++) {
        const char *size = getenv(launchers[l].size);
        if (size)
            return strtoull(size, NULL, 10);
    }
    return 0;
}

uint64_t mpi_launcher_rank(void)
{
    for (size_t l = 0; l < COUNT_OF(launchers); l++) {
        const char *rank = getenv(launchers[l].rank);
        if (getenv(launchers[l].size) && rank)
            return strtoull(rank, NULL, 10);
    }
    return 0;
}
