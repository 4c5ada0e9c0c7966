// Handles of communicators, and those whose ranks are threads of the process.
#include "runtime/library/links.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "runtime/library/device.h"

static const double timeout_default_s = 300;

bool link_options(const hep_comm_options *from, hep_comm_options *options, bool of_device, Fault *fault)
{
    if (!library_take(options, from, sizeof(*options), fault))
        return false;
    if (!from)
        options->device = -1;
    if (options->timeout_s == 0)
        options->timeout_s = timeout_default_s;
    if (!(options->timeout_s > 0) || !isfinite(options->timeout_s))
        return fault_set(fault, FAULT_USAGE, "a time-out of %g s: expected more than 0", options->timeout_s);
    if (options->device >= 0 && !of_device)
        return fault_set(fault, FAULT_INFEASIBLE,
                         "this communicator moves host memory alone: 'device' is to be -1, or tensors of GPU %d travel "
                         "over NCCL (hep_comm_nccl)",
                         options->device);
    return true;
}

void link_drop(hep_comm *handle)
{
    if (handle && atomic_fetch_sub(&handle->references, 1) == 1)
        handle->ops->destroy(handle);
}

void hep_comm_free(hep_comm *comm)
{
    link_drop(comm);
}

// ---- threads ---------------------------------------------------------------------------------------

// The world of the contexts that all ranks create as their n-th.
typedef struct Meetup {
    struct Meetup *next;
    uint64_t number, digest;
    hep_plan *plan;     // whose cluster the world refers to
    ThreadWorld *world; // NULL while nobody has joined
    Fault refused;      // a rank did not join
    int left;
} Meetup;

typedef struct {
    pthread_mutex_t mutex;
    int references, ranks;
    Meetup *meetups;
} Board;

typedef struct {
    hep_comm handle; // first
    Board *board;
    uint64_t joined;
    const LibraryDevice *device; // of a GPU that all ranks share, or NULL
    int device_index;
} ThreadLink;

static void meetup_free(Meetup *meetup)
{
    thread_world_destroy(meetup->world);
    hep_plan_free(meetup->plan);
    free(meetup);
}

static void board_drop(Board *board)
{
    pthread_mutex_lock(&board->mutex);
    bool last = --board->references == 0;
    pthread_mutex_unlock(&board->mutex);
    if (!last)
        return;
    while (board->meetups) {
        Meetup *meetup = board->meetups;
        board->meetups = meetup->next;
        meetup_free(meetup);
    }
    pthread_mutex_destroy(&board->mutex);
    free(board);
}

// Finds it or makes it; the board's mutex is held. NULL: no memory.
static Meetup *find_meetup(ThreadLink *link)
{
    Board *board = link->board;
    uint64_t number = link->joined++;
    for (Meetup *meetup = board->meetups; meetup; meetup = meetup->next)
        if (meetup->number == number)
            return meetup;
    Meetup *meetup = calloc(1, sizeof(*meetup));
    if (!meetup)
        return NULL;
    *meetup = (Meetup){.next = board->meetups, .number = number};
    board->meetups = meetup;
    return meetup;
}

static void enter_meetup(const ThreadLink *link, const hep_plan *plan, Meetup *meetup, Fault *fault)
{
    if (meetup->refused.kind != FAULT_NONE) {
        *fault = meetup->refused;
        return;
    }
    if (meetup->world)
        return;
    meetup->world = thread_world_create(&plan->plan->cluster, NULL, link->handle.timeout_s);
    if (!meetup->world) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a communicator");
        return;
    }
    meetup->digest = plan->digest;
    meetup->plan = plan_keep(plan);
}

static Comm *threads_join(hep_comm *handle, const hep_plan *plan, void **state, Fault *fault)
{
    ThreadLink *link = (ThreadLink *)handle;
    pthread_mutex_lock(&link->board->mutex);
    Meetup *meetup = find_meetup(link);
    if (meetup)
        enter_meetup(link, plan, meetup, fault);
    else
        fault_set(fault, FAULT_MEMORY, "out of memory for a communicator");
    pthread_mutex_unlock(&link->board->mutex);
    *state = meetup;
    if (fault->kind != FAULT_NONE)
        return NULL;
    uint64_t rank = cluster_rank_of_process(&meetup->plan->plan->cluster, (uint64_t)handle->rank);
    Comm *comm = thread_world_comm(meetup->world, rank), *joined = comm;
    if (meetup->digest != plan->digest)
        fault_set(fault, FAULT_INPUT, "rank %d has another plan than other ranks", handle->rank);
    else if (link->device)
        joined = link->device->open(meetup->world, rank, link->device_index, fault);
    if (fault->kind == FAULT_NONE)
        return joined;
    comm->ops->abort(comm, fault);
    return NULL;
}

static void threads_leave(hep_comm *handle, Comm *comm, void *state)
{
    const LibraryDevice *device = ((ThreadLink *)handle)->device;
    Meetup *meetup = state, **at;
    if (device && comm && comm->device) // else of one that was refused
        device->close(comm);
    Board *board = ((ThreadLink *)handle)->board;
    if (!meetup)
        return;
    pthread_mutex_lock(&board->mutex);
    bool last = ++meetup->left == board->ranks;
    for (at = &board->meetups; last && *at != meetup; at = &(*at)->next)
        continue;
    if (last)
        *at = meetup->next;
    pthread_mutex_unlock(&board->mutex);
    if (last)
        meetup_free(meetup);
}

static void threads_refuse(hep_comm *handle, const Fault *fault)
{
    ThreadLink *link = (ThreadLink *)handle;
    pthread_mutex_lock(&link->board->mutex);
    Meetup *meetup = find_meetup(link);
    if (meetup && meetup->refused.kind == FAULT_NONE) {
        meetup->refused = *fault;
        meetup->refused.rank = handle->rank;
    }
    Comm *comm = meetup && meetup->world ? thread_world_comm(meetup->world, 0) : NULL;
    if (comm)
        comm->ops->abort(comm, fault);
    pthread_mutex_unlock(&link->board->mutex);
    threads_leave(handle, comm, meetup);
}

static void threads_destroy(hep_comm *handle)
{
    board_drop(((ThreadLink *)handle)->board);
    free(handle);
}

static const LinkOps thread_link_ops = {
    .join = threads_join, .refuse = threads_refuse, .leave = threads_leave, .destroy = threads_destroy};

static bool make_threads(int ranks, const hep_comm_options *given, hep_comm *comms[], Fault *fault)
{
    hep_comm_options options;
    if (!library_given(comms, "comms", fault) || !link_options(given, &options, true, fault))
        return false;
    if (ranks < 1)
        return fault_set(fault, FAULT_USAGE, "%d ranks: expected 1 or more", ranks);
    for (int r = 0; r < ranks; r++)
        comms[r] = NULL;
    const LibraryDevice *device = options.device >= 0 ? library_device(fault) : NULL;
    if (options.device >= 0 && (!device || !device->check(options.device, fault)))
        return false;
    Board *board = calloc(1, sizeof(*board));
    bool ok = board;
    for (int r = 0; r < ranks && ok; r++) {
        ThreadLink *link = calloc(1, sizeof(*link));
        ok = link;
        if (!link)
            break;
        link->board = board;
        link->device = device;
        link->device_index = options.device;
        link->handle = (hep_comm){.ops = &thread_link_ops,
                                  .rank = r,
                                  .ranks = ranks,
                                  .timeout_s = options.timeout_s,
                                  .one_thread = device,
                                  .device = device ? device->mover : NULL};
        atomic_init(&link->handle.references, 1);
        comms[r] = &link->handle;
    }
    if (ok) {
        board->ranks = board->references = ranks;
        pthread_mutex_init(&board->mutex, NULL);
        return true;
    }
    for (int r = 0; r < ranks; r++) {
        free(comms[r]);
        comms[r] = NULL;
    }
    free(board);
    return fault_set(fault, FAULT_MEMORY, "out of memory for %d communicators", ranks);
}

hep_status hep_comm_threads(int ranks, const hep_comm_options *options, hep_comm *comms[])
{
    Fault fault = {0};
    (void)make_threads(ranks, options, comms, &fault);
    return library_end(&fault);
}
