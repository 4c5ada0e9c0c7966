// A double of NCCL for tests without a GPU: what hep calls of it, moving bytes between processes of this machine over
// Unix sockets when the stream gets there. It is as strict as NCCL 2.28, and stricter where that would hang, or would
// on some machines only:
//   calls of a group proceed together, others one after another, and a send is done when its receiver has all of it;
//   messages between two ranks meet in the order of the calls, and must be as long on both sides;
//   a communicator that does not block launches after ncclGroupEnd has returned, and is used again only when it has;
//   one launch at a time on a device, and launches of several communicators in one order on all ranks they share;
//   no kernel is launched for the first time while collectives are under way: it is loaded then;
//   one thread at a time asks for errors of a communicator whose launch is under way;
//   what ends a communicator waits for the work of its streams and for graphs that hold calls of it: outside of a group
//   before the next one is told to end;
//   registered memory stays until it is deregistered, and memory of ncclMemAlloc is freed by ncclMemFree.
// A violation that leaves NCCL a return value is one here; where NCCL would hang or corrupt memory, the process ends
// with a line that says what was done.
#include "doubles.h"

#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 96, POLL_MS = 20, SPLIT_S = 60, ORDERED_MAX = 24, DEVICES_MAX = 16, QUERY_US = 20 };

// How often a communicator of the process had launched when another one did.
typedef struct {
    uint64_t name, launches;
} Launched;

typedef struct {
    uint64_t sequence, bytes;
    Launched before[ORDERED_MAX];
} MessageHeader;

// One way between this rank and a peer.
typedef struct {
    int socket; // -1 while not connected
    uint64_t sequence;
} Way;

typedef struct Registration {
    struct Registration *next;
    char *memory;
    size_t bytes;
} Registration;

struct ncclComm {
    struct ncclComm *next; // all that were made: an asynchronous call may outlive its communicator's end
    char name[NAME_MAX_BYTES];
    int rank, size, listener, device, blocks;
    Way *out, *in; // [size]
    int splits;
    uint64_t launches;           // guarded by lock
    struct Batch *launching;     // of the last group, until an error query launches it
    _Atomic int queries;         // threads that ask for errors now
    _Atomic int pending, graphs; // batches that streams hold, and that graphs do
    atomic_bool ended;           // destroyed or aborted: not to be used again
    Registration *registered;    // guarded by lock
    _Atomic int state;           // ncclResult_t
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
    uint64_t moved; // of header, bytes and what says that they came
    char came;
} Call;

// Calls of one communicator that proceed together. Lives as long as a stream or a graph may run it.
typedef struct Batch {
    struct ncclComm *comm;
    Call *calls;
    uint32_t count;
    int captured;
    Launched before[ORDERED_MAX];
} Batch;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ncclComm *comms;
static struct ncclComm *launcher[DEVICES_MAX]; // whose launch is under way; guarded by lock
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

// HEP_EMULATION_PATIENCE: seconds after which what does not end counts as hanging.
static double patience_s(void)
{
    const char *value = getenv("HEP_EMULATION_PATIENCE");
    return value ? atof(value) : 20;
}

// Where NCCL would hang, or write to memory that is another's.
__attribute__((format(printf, 1, 2), noreturn)) static void forbidden(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "emulated NCCL: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}

static void comm_check(const struct ncclComm *comm, const char *function)
{
    if (atomic_load(&((struct ncclComm *)(uintptr_t)comm)->ended))
        forbidden("%s on communicator %s, which has been destroyed", function, comm->name);
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

static struct ncclComm *comm_create(const char *name, int rank, int size, const ncclConfig_t *config)
{
    struct ncclComm *comm = calloc(1, sizeof(*comm));
    struct sockaddr_un address;
    snprintf(comm->name, sizeof(comm->name), "%s", name);
    comm->rank = rank;
    comm->size = size;
    comm->blocks = !config || config->blocking != 0;
    cudaGetDevice(&comm->device);
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
    return sizeof(MessageHeader) + call->bytes + 1;
}

// The piece of header, bytes or receipt that is next.
static char *call_piece(Call *call, uint64_t *left)
{
    uint64_t rows_end = sizeof(MessageHeader) + call->bytes;
    if (call->moved < sizeof(MessageHeader)) {
        *left = sizeof(MessageHeader) - call->moved;
        return (char *)&call->header + call->moved;
    }
    if (call->moved == rows_end) {
        *left = 1;
        return &call->came;
    }
    *left = rows_end - call->moved;
    uint64_t at = call->moved - sizeof(MessageHeader);
    return call->kind == SENDS ? (char *)(uintptr_t)call->from + at : call->to + at;
}

// Both have launched what both know of equally often before.
static int same_order(const Launched *own, const Launched *theirs)
{
    for (int i = 0; i < ORDERED_MAX && own[i].name; i++)
        for (int k = 0; k < ORDERED_MAX && theirs[k].name; k++)
            if (own[i].name == theirs[k].name && own[i].launches != theirs[k].launches)
                return 0;
    return 1;
}

static void header_check(Call *call, const Launched *before)
{
    Way *way = &call->comm->in[call->peer];
    if (call->header.sequence != way->sequence)
        comm_fail(call->comm, ncclInternalError, "messages out of order", call->peer);
    if (call->header.bytes != call->bytes)
        comm_fail(call->comm, ncclInvalidArgument, "a message is not as long as its receiver expects", call->peer);
    if (before && !same_order(before, call->header.before))
        comm_fail(call->comm, ncclInvalidUsage, "communicators launch in another order than there", call->peer);
}

// As far as it goes now. True when the call is done. `before`: see Batch, or NULL.
static int call_move(Call *call, const Launched *before)
{
    struct ncclComm *comm = call->comm;
    int sends = call->kind == SENDS;
    Way *way = sends ? &comm->out[call->peer] : &comm->in[call->peer];
    if (!(sends ? connect_out(comm, call->peer) : accept_in(comm, call->peer)))
        return 0;
    if (call->moved == 0 && sends) {
        call->header = (MessageHeader){.sequence = way->sequence, .bytes = call->bytes};
        if (before)
            memcpy(call->header.before, before, sizeof(call->header.before));
    }
    while (call->moved < call_total(call) && !is_over(comm)) {
        uint64_t left;
        char *piece = call_piece(call, &left);
        int gives = sends == (call->moved < call_total(call) - 1); // its receiver gives the receipt
        ssize_t moved = gives ? send(way->socket, piece, left, MSG_NOSIGNAL) : recv(way->socket, piece, left, 0);
        if (moved < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (moved <= 0) {
            comm_fail(comm, ncclRemoteError, "the connection ended", call->peer);
            return 0;
        }
        call->moved += (uint64_t)moved;
        if (!sends && call->moved == sizeof(MessageHeader))
            header_check(call, before);
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
        if (done[c] || call->kind == COPIES || call_waits(batch, done, c))
            continue;
        int sends = call->kind == SENDS, gives = sends == (call->moved < call_total(call) - 1);
        int socket = sends ? call->comm->out[call->peer].socket : call->comm->in[call->peer].socket;
        polled[count++] = (struct pollfd){.fd = socket >= 0 || sends ? socket : call->comm->listener,
                                          .events = gives && socket >= 0 ? POLLOUT : POLLIN};
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
    while (left > 0 && !is_over(batch->comm)) {
        uint32_t before = left;
        for (uint32_t c = 0; c < batch->count; c++) {
            Call *call = &batch->calls[c];
            if (done[c] || (call->kind != COPIES && call_waits(batch, done, c)))
                continue;
            if (call->kind == COPIES && call->to != call->from)
                memmove(call->to, call->from, call->bytes);
            done[c] = call->kind == COPIES || call_move(call, batch->before);
            left -= done[c];
        }
        if (left == before)
            batch_wait(batch, done);
    }
    free(done);
}

// ---- launches ------------------------------------------------------------------------------------

static uint64_t name_digest(const char *name)
{
    uint64_t digest = 14695981039346656037u; // FNV-1a
    for (; *name; name++)
        digest = (digest ^ (unsigned char)*name) * 1099511628211u;
    return digest;
}

static Batch *batch_create(const Call *calls, uint32_t count)
{
    Batch *batch = calloc(1, sizeof(*batch));
    batch->comm = calls[0].comm;
    batch->calls = malloc(count * sizeof(*calls));
    memcpy(batch->calls, calls, count * sizeof(*calls));
    batch->count = count;
    return batch;
}

static _Atomic int under_way[DEVICES_MAX]; // by device: batches of streams, of all communicators that have peers

static int count_under_way(int device)
{
    return atomic_load(&under_way[device % DEVICES_MAX]);
}

// No stream and no graph runs it any more.
static void batch_retire(void *argument)
{
    Batch *batch = argument;
    atomic_fetch_sub(batch->captured ? &batch->comm->graphs : &batch->comm->pending, 1);
    if (!batch->captured && batch->comm->size > 1)
        atomic_fetch_sub(&under_way[batch->comm->device % DEVICES_MAX], 1);
    free(batch->calls);
    free(batch);
}

// One launch at a time on a device: from when a group ends until its communicator says that it has launched.
static ncclResult_t launch_begin(struct ncclComm *comm)
{
    pthread_mutex_lock(&lock);
    struct ncclComm **now = &launcher[comm->device % DEVICES_MAX];
    int races = *now && *now != comm;
    if (!*now)
        *now = comm;
    pthread_mutex_unlock(&lock);
    if (races)
        comm_fail(comm, ncclInvalidUsage, "host threads race to launch on one device", comm->rank);
    return races ? ncclInvalidUsage : ncclSuccess;
}

static ncclResult_t launch_end(Batch *batch)
{
    struct ncclComm *comm = batch->comm;
    int known = 0;
    pthread_mutex_lock(&lock);
    for (struct ncclComm *other = comms; other && known < ORDERED_MAX; other = other->next)
        if (other != comm && other->device == comm->device && !atomic_load(&other->ended))
            batch->before[known++] = (Launched){name_digest(other->name), other->launches};
    comm->launches++;
    launcher[comm->device % DEVICES_MAX] = NULL;
    pthread_mutex_unlock(&lock);
    cudaStream_t stream = batch->calls[0].stream;
    batch->captured = emulation_capturing(stream);
    atomic_fetch_add(batch->captured ? &comm->graphs : &comm->pending, 1);
    if (!batch->captured && comm->size > 1)
        atomic_fetch_add(&under_way[comm->device % DEVICES_MAX], 1);
    emulation_set_collectives_hook(count_under_way);
    return emulation_launch_owned(stream, batch_run, batch, batch_retire) == cudaSuccess ? ncclSuccess
                                                                                         : ncclUnhandledCudaError;
}

// A communicator that blocks launches now, another one when it is asked for errors.
static ncclResult_t batch_submit(const Call *calls, uint32_t count)
{
    struct ncclComm *comm = calls[0].comm;
    ncclResult_t result = launch_begin(comm);
    if (result != ncclSuccess)
        return result;
    Batch *batch = batch_create(calls, count);
    if (comm->blocks)
        return launch_end(batch);
    comm->launching = batch;
    return ncclInProgress;
}

// ---- calls ---------------------------------------------------------------------------------------

static ncclResult_t call_add(Call call)
{
    comm_check(call.comm, "a call");
    if (call.comm->launching) {
        comm_fail(call.comm, ncclInvalidArgument, "used before the previous launch was settled", call.peer);
        return ncclInvalidArgument;
    }
    if (atomic_load(&call.comm->state) != ncclSuccess)
        return (ncclResult_t)atomic_load(&call.comm->state);
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

static int goes_on(ncclResult_t result)
{
    return result == ncclSuccess || result == ncclInProgress;
}

static void comms_end(void);

// The calls of one communicator proceed together, in one piece of work of its stream.
ncclResult_t ncclGroupEnd(void)
{
    ncclResult_t result = ncclSuccess;
    if (group.depth == 0)
        return ncclInvalidUsage;
    if (--group.depth > 0)
        return ncclSuccess;
    comms_end();
    for (uint32_t first = 0; first < group.count && goes_on(result); first++) {
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
        if (count > 0 && goes_on(result))
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
    id.internal[sizeof(id.internal) - 1] = '\0';
    *comm = comm_create(id.internal, rank, size, config);
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
            if (!done[c] && call_move(&calls[c], NULL))
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
    comm_check(parent, "ncclCommSplit");
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
        *comm = comm_create(name, rank, size, config);
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

// As NCCL does when it finalizes, destroys or aborts: for ever, if nobody drops what holds calls of it.
static void comm_await(struct ncclComm *comm, const char *function)
{
    double until_s = now_s() + patience_s();
    while (atomic_load(&comm->pending) > 0 || atomic_load(&comm->graphs) > 0) {
        if (now_s() > until_s)
            forbidden("%s of %s waits for ever: %s", function, comm->name,
                      atomic_load(&comm->graphs) > 0
                          ? "a graph that was not destroyed holds calls of it"
                          : "its work is in a stream behind what does not end; end all communicators in one group");
        poll(NULL, 0, 1);
    }
}

// Those that were told to end in a group that is over now: first all are told, then each is awaited.
static _Thread_local struct {
    struct ncclComm *comms[256];
    const char *functions[256];
    int count;
} ending;

static void comms_end(void)
{
    for (int c = 0; c < ending.count; c++)
        comm_await(ending.comms[c], ending.functions[c]);
    ending.count = 0;
}

static ncclResult_t comm_end(struct ncclComm *comm, int aborts, const char *function)
{
    comm_check(comm, function);
    ncclGroupStart();
    pthread_mutex_lock(&lock);
    if (launcher[comm->device % DEVICES_MAX] == comm)
        launcher[comm->device % DEVICES_MAX] = NULL;
    pthread_mutex_unlock(&lock);
    if (aborts)
        comm_close(comm);
    atomic_store(&comm->ended, 1);
    if (ending.count < (int)(sizeof(ending.comms) / sizeof(ending.comms[0]))) {
        ending.comms[ending.count] = comm;
        ending.functions[ending.count++] = function;
    }
    ncclResult_t result = ncclGroupEnd();
    if (!aborts)
        comm_close(comm);
    return result;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    comm_check(comm, "ncclCommFinalize");
    comm_await(comm, "ncclCommFinalize");
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    return comm_end(comm, 0, "ncclCommDestroy");
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    return comm_end(comm, 1, "ncclCommAbort");
}

// The first to ask after a group joins the thread that launches it, and frees what that was told: two at once do so
// twice.
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    comm_check(comm, "ncclCommGetAsyncError");
    int others = atomic_fetch_add(&comm->queries, 1);
    if (comm->launching) {
        usleep(QUERY_US); // so that two meet
        if (others > 0 || atomic_load(&comm->queries) > 1)
            forbidden("two threads ask for errors of %s while it launches", comm->name);
        ncclResult_t launched = launch_end(comm->launching);
        comm->launching = NULL;
        if (launched != ncclSuccess)
            comm_fail(comm, launched, "cannot launch", comm->rank);
    }
    *state = (ncclResult_t)atomic_load(&comm->state);
    atomic_fetch_sub(&comm->queries, 1);
    return ncclSuccess;
}

// ---- memory --------------------------------------------------------------------------------------

// The lock is not that of communicators' other state alone: frees may come from any thread.
static void memory_check(void *memory, size_t bytes)
{
    pthread_mutex_lock(&lock);
    for (struct ncclComm *comm = comms; comm; comm = comm->next)
        for (const Registration *r = atomic_load(&comm->ended) ? NULL : comm->registered; r; r = r->next)
            if (r->memory < (char *)memory + bytes && (char *)memory < r->memory + r->bytes)
                forbidden("memory is freed that is registered with %s", comm->name);
    pthread_mutex_unlock(&lock);
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *memory, size_t bytes, void **handle)
{
    comm_check(comm, "ncclCommRegister");
    *handle = NULL;
    if (!emulation_is_device_memory(memory, bytes))
        return ncclInvalidArgument;
    Registration *registration = malloc(sizeof(*registration));
    emulation_set_free_hook(memory_check);
    pthread_mutex_lock(&lock);
    *registration = (Registration){comm->registered, memory, bytes};
    comm->registered = registration;
    pthread_mutex_unlock(&lock);
    *handle = registration;
    return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    comm_check(comm, "ncclCommDeregister");
    if (!handle)
        return ncclSuccess;
    pthread_mutex_lock(&lock);
    Registration **at = &comm->registered;
    while (*at && *at != handle)
        at = &(*at)->next;
    Registration *found = *at;
    if (found)
        *at = found->next;
    pthread_mutex_unlock(&lock);
    free(found);
    return found ? ncclSuccess : ncclInvalidUsage;
}

ncclResult_t ncclMemAlloc(void **memory, size_t bytes)
{
    if (cudaMalloc(memory, bytes) != cudaSuccess)
        return ncclUnhandledCudaError;
    emulation_set_owner(*memory, 1);
    return ncclSuccess;
}

ncclResult_t ncclMemFree(void *memory)
{
    if (!memory)
        return ncclSuccess;
    return emulation_set_owner(memory, 0) && cudaFree(memory) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
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
