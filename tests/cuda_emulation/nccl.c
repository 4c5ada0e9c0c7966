// A double of NCCL for tests without a GPU: what hep calls of it, moving bytes between processes of this machine over
// Unix sockets when the stream gets there. It keeps NCCL's contract where a mistake would show: calls of a group
// proceed together, messages between two ranks meet in the order of the calls, and must be as long on both sides.
#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 96, POLL_MS = 20, SPLIT_S = 60 };

typedef struct {
    uint64_t sequence, bytes;
} MessageHeader;

// One way between this rank and a peer.
typedef struct {
    int socket; // -1 while not connected
    uint64_t sequence;
} Way;

struct ncclComm {
    struct ncclComm *next; // all that were made: an asynchronous call may outlive its communicator's end
    char name[NAME_MAX_BYTES];
    int rank, size, listener;
    Way *out, *in; // [size]
    int splits;
    _Atomic int state; // ncclResult_t
    atomic_bool aborted;
    char error[256];
};

typedef enum { SENDS, RECEIVES, COPIES } CallKind;

typedef struct {
    CallKind kind;
    const char *from;
    char *to;
    uint64_t bytes;
    int peer;
    struct ncclComm *comm;
    cudaStream_t stream;
    // While it runs:
    MessageHeader header;
    uint64_t moved; // of header and bytes
} Call;

typedef struct Batch {
    struct Batch *next; // all that were made: graphs may run them again
    Call *calls;
    uint32_t count;
} Batch;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ncclComm *comms;
static Batch *batches;
static _Thread_local struct {
    int depth;
    Call *calls;
    uint32_t count, capacity;
} group;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void comm_fail(struct ncclComm *comm, ncclResult_t result, const char *what, int peer)
{
    int none = ncclSuccess;
    if (atomic_compare_exchange_strong(&comm->state, &none, (int)result))
        snprintf(comm->error, sizeof(comm->error), "emulated NCCL: %s, rank %d of %s with rank %d", what, comm->rank,
                 comm->name, peer);
}

static int is_over(struct ncclComm *comm)
{
    return atomic_load(&comm->aborted) || atomic_load(&comm->state) != ncclSuccess;
}

// ---- connections ---------------------------------------------------------------------------------

static socklen_t address_of(const char *name, int rank, struct sockaddr_un *address)
{
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX; // a name that starts with 0 is in no file system
    int length = snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "%s/%d", name, rank);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static struct ncclComm *comm_create(const char *name, int rank, int size)
{
    struct ncclComm *comm = calloc(1, sizeof(*comm));
    struct sockaddr_un address;
    snprintf(comm->name, sizeof(comm->name), "%s", name);
    comm->rank = rank;
    comm->size = size;
    comm->out = malloc((size_t)size * sizeof(Way));
    comm->in = malloc((size_t)size * sizeof(Way));
    for (int r = 0; r < size; r++)
        comm->out[r] = comm->in[r] = (Way){.socket = -1};
    comm->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t length = address_of(name, rank, &address);
    if (comm->listener < 0 || bind(comm->listener, (struct sockaddr *)&address, length) != 0 ||
        listen(comm->listener, 256) != 0)
        comm_fail(comm, ncclSystemError, strerror(errno), rank);
    pthread_mutex_lock(&lock);
    comm->next = comms;
    comms = comm;
    pthread_mutex_unlock(&lock);
    return comm;
}

// The peer may not have come yet: false until it has.
static int connect_out(struct ncclComm *comm, int peer)
{
    struct sockaddr_un address;
    socklen_t length = address_of(comm->name, peer, &address);
    int32_t own = comm->rank;
    if (comm->out[peer].socket >= 0)
        return 1;
    int out = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(out, (struct sockaddr *)&address, length) != 0 || send(out, &own, sizeof(own), MSG_NOSIGNAL) < 0) {
        close(out);
        return 0;
    }
    fcntl(out, F_SETFL, O_NONBLOCK);
    comm->out[peer].socket = out;
    return 1;
}

static int accept_in(struct ncclComm *comm, int peer)
{
    int32_t rank;
    while (comm->in[peer].socket < 0) {
        int in = accept4(comm->listener, NULL, NULL, SOCK_CLOEXEC);
        if (in < 0)
            return 0;
        if (recv(in, &rank, sizeof(rank), MSG_WAITALL) != sizeof(rank) || rank < 0 || rank >= comm->size) {
            close(in);
            continue;
        }
        fcntl(in, F_SETFL, O_NONBLOCK);
        comm->in[rank].socket = in;
    }
    return 1;
}

// ---- moving bytes --------------------------------------------------------------------------------

static uint64_t call_total(const Call *call)
{
    return sizeof(MessageHeader) + call->bytes;
}

// The piece of header or bytes that is next.
static char *call_piece(Call *call, uint64_t *left)
{
    int in_header = call->moved < sizeof(MessageHeader);
    *left = (in_header ? sizeof(MessageHeader) : call_total(call)) - call->moved;
    if (in_header)
        return (char *)&call->header + call->moved;
    uint64_t at = call->moved - sizeof(MessageHeader);
    return call->kind == SENDS ? (char *)(uintptr_t)call->from + at : call->to + at;
}

static void header_check(Call *call)
{
    Way *way = &call->comm->in[call->peer];
    if (call->header.sequence != way->sequence)
        comm_fail(call->comm, ncclInternalError, "messages out of order", call->peer);
    if (call->header.bytes != call->bytes)
        comm_fail(call->comm, ncclInvalidArgument, "a message is not as long as its receiver expects", call->peer);
}

// As far as it goes now. True when the call is done.
static int call_move(Call *call)
{
    struct ncclComm *comm = call->comm;
    int sends = call->kind == SENDS;
    Way *way = sends ? &comm->out[call->peer] : &comm->in[call->peer];
    if (!(sends ? connect_out(comm, call->peer) : accept_in(comm, call->peer)))
        return 0;
    if (call->moved == 0 && sends)
        call->header = (MessageHeader){way->sequence, call->bytes};
    while (call->moved < call_total(call) && !is_over(comm)) {
        uint64_t left;
        char *piece = call_piece(call, &left);
        ssize_t moved = sends ? send(way->socket, piece, left, MSG_NOSIGNAL) : recv(way->socket, piece, left, 0);
        if (moved < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (moved <= 0) {
            comm_fail(comm, ncclRemoteError, "the connection ended", call->peer);
            return 0;
        }
        call->moved += (uint64_t)moved;
        if (!sends && call->moved == sizeof(MessageHeader))
            header_check(call);
    }
    if (call->moved < call_total(call))
        return 0;
    way->sequence++;
    return 1;
}

// Is there an earlier one with the same peer, in the same direction, that is not done?
static int call_waits(const Batch *batch, const uint8_t *done, uint32_t index)
{
    const Call *call = &batch->calls[index];
    for (uint32_t c = 0; c < index; c++) {
        const Call *other = &batch->calls[c];
        if (!done[c] && other->kind == call->kind && other->peer == call->peer && other->comm == call->comm)
            return 1;
    }
    return 0;
}

static void batch_wait(const Batch *batch, const uint8_t *done)
{
    struct pollfd *polled = calloc(batch->count + 1, sizeof(*polled));
    uint32_t count = 0;
    for (uint32_t c = 0; c < batch->count; c++) {
        const Call *call = &batch->calls[c];
        if (done[c] || call->kind == COPIES)
            continue;
        int sends = call->kind == SENDS;
        int socket = sends ? call->comm->out[call->peer].socket : call->comm->in[call->peer].socket;
        polled[count++] = (struct pollfd){.fd = socket >= 0 || sends ? socket : call->comm->listener,
                                          .events = sends ? POLLOUT : POLLIN};
    }
    poll(polled, count, POLL_MS);
    free(polled);
}

// What the stream runs.
static void batch_run(void *argument)
{
    Batch *batch = argument;
    uint8_t *done = calloc(batch->count + 1, 1);
    uint32_t left = batch->count;
    for (uint32_t c = 0; c < batch->count; c++)
        batch->calls[c].moved = 0;
    while (left > 0 && !is_over(batch->calls[0].comm)) {
        uint32_t before = left;
        for (uint32_t c = 0; c < batch->count; c++) {
            Call *call = &batch->calls[c];
            if (done[c] || (call->kind != COPIES && call_waits(batch, done, c)))
                continue;
            if (call->kind == COPIES && call->to != call->from)
                memmove(call->to, call->from, call->bytes);
            done[c] = call->kind == COPIES || call_move(call);
            left -= done[c];
        }
        if (left == before)
            batch_wait(batch, done);
    }
    free(done);
}

static ncclResult_t batch_submit(const Call *calls, uint32_t count)
{
    Batch *batch = calloc(1, sizeof(*batch));
    batch->calls = malloc(count * sizeof(*calls));
    memcpy(batch->calls, calls, count * sizeof(*calls));
    batch->count = count;
    pthread_mutex_lock(&lock);
    batch->next = batches;
    batches = batch;
    pthread_mutex_unlock(&lock);
    if (cudaLaunchHostFunc(calls[0].stream, batch_run, batch) != cudaSuccess)
        return ncclUnhandledCudaError;
    return ncclSuccess;
}

// ---- calls ---------------------------------------------------------------------------------------

static ncclResult_t call_add(Call call)
{
    if (call.peer < 0 || call.peer >= call.comm->size) {
        comm_fail(call.comm, ncclInvalidArgument, "no such peer", call.peer);
        return ncclInvalidArgument;
    }
    if (group.count == group.capacity) {
        group.capacity = group.capacity * 2 + 16;
        group.calls = realloc(group.calls, group.capacity * sizeof(*group.calls));
    }
    group.calls[group.count++] = call;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    group.depth++;
    return ncclSuccess;
}

// The calls of one communicator proceed together, in one piece of work of its stream.
ncclResult_t ncclGroupEnd(void)
{
    ncclResult_t result = ncclSuccess;
    if (--group.depth > 0)
        return ncclSuccess;
    for (uint32_t first = 0; first < group.count && result == ncclSuccess; first++) {
        Call *calls = malloc(group.count * sizeof(*calls));
        uint32_t count = 0;
        struct ncclComm *comm = group.calls[first].comm;
        for (uint32_t c = first; comm && c < group.count; c++) {
            if (group.calls[c].comm != comm)
                continue;
            if (group.calls[c].stream != group.calls[first].stream)
                result = ncclInvalidUsage;
            calls[count++] = group.calls[c];
            group.calls[c].comm = NULL;
        }
        if (count > 0 && result == ncclSuccess)
            result = batch_submit(calls, count);
        free(calls);
    }
    free(group.calls);
    group.calls = NULL;
    group.count = group.capacity = 0;
    return result;
}

static size_t type_bytes(ncclDataType_t type)
{
    static const size_t bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return bytes[type];
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    ncclGroupStart();
    ncclResult_t result = call_add((Call){
        .kind = SENDS, .from = from, .bytes = count * type_bytes(type), .peer = peer, .comm = comm, .stream = stream});
    ncclResult_t ended = ncclGroupEnd();
    return result == ncclSuccess ? ended : result;
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    ncclGroupStart();
    ncclResult_t result = call_add((Call){
        .kind = RECEIVES, .to = to, .bytes = count * type_bytes(type), .peer = peer, .comm = comm, .stream = stream});
    ncclResult_t ended = ncclGroupEnd();
    return result == ncclSuccess ? ended : result;
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream)
{
    size_t bytes = count * type_bytes(type);
    ncclGroupStart();
    ncclResult_t result = ncclSuccess;
    for (int peer = 0; peer < comm->size && result == ncclSuccess; peer++) {
        char *place = (char *)to + (size_t)peer * bytes;
        if (peer == comm->rank)
            result = call_add((Call){.kind = COPIES,
                                     .from = from,
                                     .to = place,
                                     .bytes = bytes,
                                     .peer = peer,
                                     .comm = comm,
                                     .stream = stream});
        else if ((result = ncclSend(from, count, type, peer, comm, stream)) == ncclSuccess)
            result = ncclRecv(place, count, type, peer, comm, stream);
    }
    ncclResult_t ended = ncclGroupEnd();
    return result == ncclSuccess ? ended : result;
}

// ---- communicators -------------------------------------------------------------------------------

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 0, sizeof(*id));
    snprintf(id->internal, sizeof(id->internal), "hep-nccl-%d-%.0f", (int)getpid(), now_s() * 1e9);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    (void)config;
    id.internal[sizeof(id.internal) - 1] = '\0';
    *comm = comm_create(id.internal, rank, size);
    return ncclSuccess;
}

// What each rank of `comm` gave, in the order of the ranks; by the caller itself, which waits.
static int gather_now(struct ncclComm *comm, const int own[2], int (*all)[2])
{
    Call *calls = calloc(2 * (size_t)comm->size, sizeof(*calls));
    uint8_t *done = calloc(2 * (size_t)comm->size, 1);
    Batch batch = {.calls = calls};
    double until_s = now_s() + SPLIT_S;
    for (int r = 0; r < comm->size; r++) {
        memcpy(all[r], own, sizeof(all[r]));
        if (r == comm->rank)
            continue;
        calls[batch.count++] =
            (Call){.kind = SENDS, .from = (const char *)own, .bytes = sizeof(all[r]), .peer = r, .comm = comm};
        calls[batch.count++] =
            (Call){.kind = RECEIVES, .to = (char *)all[r], .bytes = sizeof(all[r]), .peer = r, .comm = comm};
    }
    uint32_t left = batch.count;
    while (left > 0 && !is_over(comm) && now_s() < until_s) {
        for (uint32_t c = 0; c < batch.count; c++)
            if (!done[c] && call_move(&calls[c]))
                done[c] = 1, left--;
        if (left > 0)
            batch_wait(&batch, done);
    }
    free(calls);
    free(done);
    return left == 0;
}

ncclResult_t ncclCommSplit(ncclComm_t parent, int color, int key, ncclComm_t *comm, ncclConfig_t *config)
{
    (void)config;
    int own[2] = {color, key}, rank = 0, size = 0;
    int(*all)[2] = calloc((size_t)parent->size, sizeof(*all));
    char name[NAME_MAX_BYTES + 32];
    *comm = NULL;
    if (!gather_now(parent, own, all)) {
        comm_fail(parent, ncclSystemError, "not all ranks split", parent->rank);
        free(all);
        return ncclSystemError;
    }
    for (int r = 0; r < parent->size; r++) {
        size += all[r][0] == color;
        rank += all[r][0] == color && (all[r][1] < key || (all[r][1] == key && r < parent->rank));
    }
    free(all);
    snprintf(name, sizeof(name), "%s-%d.%d", parent->name, parent->splits++, color);
    if (color != NCCL_SPLIT_NOCOLOR)
        *comm = comm_create(name, rank, size);
    return ncclSuccess;
}

static void comm_close(struct ncclComm *comm)
{
    atomic_store(&comm->aborted, 1);
    for (int r = 0; r < comm->size; r++) {
        if (comm->out[r].socket >= 0)
            shutdown(comm->out[r].socket, SHUT_RDWR);
        if (comm->in[r].socket >= 0)
            shutdown(comm->in[r].socket, SHUT_RDWR);
    }
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    (void)comm;
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    comm_close(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm_close(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    *state = (ncclResult_t)atomic_load(&comm->state);
    return ncclSuccess;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *memory, size_t bytes, void **handle)
{
    (void)comm, (void)bytes;
    *handle = memory;
    return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    (void)comm, (void)handle;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const words[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "operation in progress"};
    return words[result];
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return comm ? comm->error : "";
}
