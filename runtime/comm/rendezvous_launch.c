// What the launcher's environment says of this process's place, and where rank 0 listens.
// Owns nothing; connecting is in rendezvous.c.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/comm/comm_launcher.h"
#include "runtime/comm/rendezvous.h"

enum { PORT_FIRST = 20000, PORT_COUNT = 10000 }; // where no port is given: below what systems hand out by themselves

static bool read_number(const char *name, uint64_t limit, const char *what, uint64_t *out, Fault *fault)
{
    const char *text = getenv(name);
    char *end = NULL;
    if (!text)
        return fault_set(fault, FAULT_RUN, "%s is not set: expected %s", name, what);
    *out = strtoull(text, &end, 10);
    return (text[0] >= '0' && text[0] <= '9' && *end == '\0' && *out < limit) ||
           fault_set(fault, FAULT_RUN, "%s is '%s': expected %s, below %" PRIu64, name, text, what, limit);
}

// The first of "node[01-04,7],other", "paris,oslo".
static bool first_host(const char *list, char out[RENDEZVOUS_HOST_MAX])
{
    size_t length = strcspn(list, "[,");
    size_t digits = list[length] == '[' ? strcspn(list + length + 1, "-,]") : 0;
    return length + digits > 0 && snprintf(out, RENDEZVOUS_HOST_MAX, "%.*s%.*s", (int)length, list, (int)digits,
                                           list + length + 1) < RENDEZVOUS_HOST_MAX;
}

// The same on all processes of a job, and most likely another for the next job.
static uint16_t job_port(void)
{
    static const char *const names[] = {"SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"};
    uint32_t digest = 0;
    bool named = false;
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        const char *value = getenv(names[n]);
        named = named || value;
        for (const char *c = value ? value : ""; *c; c++)
            digest = digest * 31 + (unsigned char)*c;
    }
    return (uint16_t)(PORT_FIRST + (named ? digest : (uint32_t)getppid()) % PORT_COUNT);
}

static bool is_one_machine(const Launcher *launcher, const Launch *launch)
{
    const char *local =
        getenv(strcmp(launcher->name, "mpirun") == 0 ? "OMPI_COMM_WORLD_LOCAL_SIZE" : "MPI_LOCALNRANKS");
    return launch->size == 1 || (local && strtoull(local, NULL, 10) == launch->size);
}

static bool read_address(const Launcher *launcher, Launch *launch, Fault *fault)
{
    const char *host = getenv("MASTER_ADDR"), *nodes = getenv("SLURM_STEP_NODELIST");
    bool is_torchrun = strcmp(launcher->name, "torchrun") == 0;
    uint64_t port = job_port();
    size_t length = host ? strlen(host) : 0;                                 // empty: as if it were not set
    bool brackets = length > 2 && host[0] == '[' && host[length - 1] == ']'; // of an IPv6 address, as in URLs
    if (length > 0)
        snprintf(launch->host, sizeof(launch->host), "%.*s", (int)(brackets ? length - 2 : length), host + brackets);
    else if (is_one_machine(launcher, launch))
        snprintf(launch->host, sizeof(launch->host), "127.0.0.1");
    else if (strcmp(launcher->name, "srun") != 0 || !nodes || !first_host(nodes, launch->host))
        return fault_set(fault, FAULT_RUN,
                         "%s started processes on several machines: set MASTER_ADDR to the host of rank 0, and "
                         "MASTER_PORT to a free port there",
                         launcher->name);
    if ((is_torchrun || getenv("MASTER_PORT")) &&
        !read_number("MASTER_PORT", UINT16_MAX, "the port at which rank 0 listens", &port, fault))
        return false;
    if (port == 0)
        return fault_set(fault, FAULT_RUN,
                         "MASTER_PORT is '0': expected the port at which rank 0 listens: a free one that all processes "
                         "are told, from 1 to %d",
                         UINT16_MAX - 1);
    // There torchrun's own store listens.
    const char *store = getenv("TORCHELASTIC_USE_AGENT_STORE");
    launch->port = (uint16_t)(port + (is_torchrun && store && strcmp(store, "True") == 0));
    return true;
}

LaunchState launch_read(Launch *launch, Fault *fault)
{
    const Launcher *launcher = launcher_find(false);
    if (!launcher)
        return LAUNCH_NONE;
    *launch = (Launch){.launcher = launcher->name};
    if (!read_number(launcher->size, UINT32_MAX, "how many processes there are", &launch->size, fault))
        return LAUNCH_WRONG;
    if (launch->size == 0) {
        fault_set(fault, FAULT_RUN, "%s is 0: expected how many processes there are", launcher->size);
        return LAUNCH_WRONG;
    }
    if (!read_number(launcher->rank, launch->size, "this process's number", &launch->rank, fault))
        return LAUNCH_WRONG;
    if (getenv(launcher->local_rank) &&
        !read_number(launcher->local_rank, launch->size, "this process's number on its machine", &launch->local_rank,
                     fault))
        return LAUNCH_WRONG;
    return read_address(launcher, launch, fault) && job_secret_read(&launch->secret, fault) ? LAUNCH_FOUND
                                                                                            : LAUNCH_WRONG;
}

bool launch_find(Launch *launch, Fault *fault)
{
    LaunchState state = launch_read(launch, fault);
    if (state == LAUNCH_NONE)
        fault_set(fault, FAULT_RUN,
                  "no launcher says which process this is: expected torchrun, mpirun or srun, or RANK, WORLD_SIZE, "
                  "MASTER_ADDR and MASTER_PORT");
    return state == LAUNCH_FOUND;
}
