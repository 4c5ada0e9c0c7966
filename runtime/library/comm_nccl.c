// Communicators over NCCL: processes with a GPU each, which find each other as hep-run's do (rendezvous.h): by their
// launcher's environment, or by an id that says where rank 0 listens and what they recognise each other by. All that
// knows NCCL is in the plug-in.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/library/device.h"
#include "runtime/library/links.h"

enum { ID_BYTES = 128, ID_HOST_BYTES = 80 };

// What an id holds.
typedef struct {
    char magic[8];
    unsigned char secret[SECRET_BYTES];
    uint16_t port;
    char host[ID_HOST_BYTES];
    char unused[ID_BYTES - 8 - SECRET_BYTES - 2 - ID_HOST_BYTES];
} Id;

_Static_assert(sizeof(Id) == ID_BYTES, "an id is not as long as hep.h says");

static const char magic[8] = "hepnccl";

typedef struct {
    hep_comm handle; // first
    const DeviceProcesses *nccl;
    Comm *all;
} NcclLink;

// ---- handles ---------------------------------------------------------------------------------------

static Comm *nccl_link_join(hep_comm *handle, const hep_plan *plan, void **state, Fault *fault)
{
    const NcclLink *link = (const NcclLink *)handle;
    *state = NULL;
    return link->nccl->open(link->all, &plan->plan->cluster, fault);
}

static void nccl_link_leave(hep_comm *handle, Comm *comm, void *state)
{
    (void)state;
    ((NcclLink *)handle)->nccl->close(comm);
}

static void nccl_link_destroy(hep_comm *handle)
{
    NcclLink *link = (NcclLink *)handle;
    link->nccl->part(link->all);
    free(link);
}

static const LinkOps nccl_link_ops = {.join = nccl_link_join, .leave = nccl_link_leave, .destroy = nccl_link_destroy};

static hep_comm *make(const Launch *launch, const hep_comm_options *options, Fault *fault)
{
    const LibraryDevice *device = library_device(fault);
    if (!device)
        return NULL;
    if (!device->nccl) {
        fault_set(fault, FAULT_INFEASIBLE, "the library's plug-in for CUDA was built without NCCL");
        return NULL;
    }
    NcclLink *link = calloc(1, sizeof(*link));
    if (!link) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a communicator");
        return NULL;
    }
    link->nccl = device->nccl;
    link->handle = (hep_comm){.ops = &nccl_link_ops,
                              .rank = (int)launch->rank,
                              .ranks = (int)launch->size,
                              .timeout_s = options->timeout_s,
                              .one_thread = true,
                              .device = device->mover};
    atomic_init(&link->handle.references, 1);
    link->all = device->nccl->join(launch, options->device, options->timeout_s, fault);
    if (link->all)
        return &link->handle;
    free(link);
    return NULL;
}

// ---- where ranks meet ------------------------------------------------------------------------------

// The address by which this machine reaches others, or its own alone where it reaches none.
static void find_host(char host[ID_HOST_BYTES])
{
    struct sockaddr_in far = {.sin_family = AF_INET, .sin_port = htons(9)}, own = {0};
    socklen_t length = sizeof(own);
    inet_pton(AF_INET, "192.0.2.1", &far.sin_addr);            // of no machine: RFC 5737
    int probe = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); // sends nothing
    bool found = probe >= 0 && connect(probe, (struct sockaddr *)&far, sizeof(far)) == 0 &&
                 getsockname(probe, (struct sockaddr *)&own, &length) == 0 &&
                 inet_ntop(AF_INET, &own.sin_addr, host, ID_HOST_BYTES);
    if (probe >= 0)
        close(probe);
    if (!found)
        snprintf(host, ID_HOST_BYTES, "127.0.0.1");
}

// One that nobody uses now.
static bool find_port(uint16_t *port, Fault *fault)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    socklen_t length = sizeof(any);
    int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool found = probe >= 0 && bind(probe, (struct sockaddr *)&any, sizeof(any)) == 0 &&
                 getsockname(probe, (struct sockaddr *)&any, &length) == 0;
    if (probe >= 0)
        close(probe);
    *port = ntohs(any.sin_port);
    return found || fault_set(fault, FAULT_RUN, "no port to listen at");
}

hep_status hep_nccl_id(uint8_t id[128])
{
    Fault fault = {0};
    Id made = {0};
    if (library_given(id, "id", &fault) && job_secret_challenge(made.secret, &fault) && find_port(&made.port, &fault)) {
        memcpy(made.magic, magic, sizeof(magic));
        find_host(made.host);
        memcpy(id, &made, sizeof(made));
    }
    return library_end(&fault);
}

static bool take_id(int rank, int ranks, const uint8_t *id, Launch *launch, Fault *fault)
{
    Id taken;
    if (!library_given(id, "id", fault))
        return false;
    memcpy(&taken, id, sizeof(taken));
    if (memcmp(taken.magic, magic, sizeof(magic)) != 0 || !memchr(taken.host, '\0', sizeof(taken.host)))
        return fault_set(fault, FAULT_USAGE, "'id' is none of hep_nccl_id");
    if (ranks < 1 || rank < 0 || rank >= ranks)
        return fault_set(fault, FAULT_USAGE, "rank %d of %d", rank, ranks);
    *launch = (Launch){.launcher = "hep_comm_nccl",
                       .rank = (uint64_t)rank,
                       .size = (uint64_t)ranks,
                       .local_rank = (uint64_t)rank,
                       .port = taken.port};
    snprintf(launch->host, sizeof(launch->host), "%s", taken.host);
    memcpy(launch->secret.bytes, taken.secret, SECRET_BYTES);
    return true;
}

// Many parameters because they are what processes have to know to meet: hep.h.
hep_status hep_comm_nccl(int rank, int ranks, const uint8_t id[128], const hep_comm_options *options, hep_comm **comm)
{
    Fault fault = {0};
    hep_comm_options given;
    Launch launch;
    if (library_given(comm, "comm", &fault)) {
        *comm = NULL;
        if (link_options(options, &given, true, &fault) && take_id(rank, ranks, id, &launch, &fault))
            *comm = make(&launch, &given, &fault);
    }
    return library_end(&fault);
}

hep_status hep_comm_nccl_env(const hep_comm_options *options, hep_comm **comm)
{
    Fault fault = {0};
    hep_comm_options given;
    Launch launch;
    if (library_given(comm, "comm", &fault)) {
        *comm = NULL;
        if (link_options(options, &given, true, &fault) && launch_find(&launch, &fault))
            *comm = make(&launch, &given, &fault);
    }
    return library_end(&fault);
}
