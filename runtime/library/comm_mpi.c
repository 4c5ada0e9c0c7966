// Communicators over MPI: a carrier of our own. Messages are chunks that are posted at once and looked after until they
// have arrived, or nothing has for too long. A rank that fails tells the others as with every carrier.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/library/carrier.h"

enum { CHUNK_BYTES = 16 << 20, CHANNELS_MAX = 4096 /* tags that every MPI has */ };

typedef struct {
    MPI_Comm comm;
    int tag, members;
    int32_t *ranks;
    MPI_Request *requests; // of the call under way
    int *finished;
    int space, count;
} MpiChannel;

typedef struct {
    MPI_Comm comm; // a duplicate of the caller's
    double timeout_s;
    MpiChannel *channels[CHANNELS_MAX];
} MpiLink;

static _Thread_local char why[MPI_MAX_ERROR_STRING + 64];

static int mpi_code(int error, const char *what)
{
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (error == MPI_SUCCESS)
        return 0;
    MPI_Error_string(error, text, &length);
    snprintf(why, sizeof(why), "%s: %.*s", what, length, text);
    return HEP_COMM;
}

static const char *mpi_why(void *user)
{
    (void)user;
    return why[0] ? why : NULL;
}

// ---- channels --------------------------------------------------------------------------------------

// A channel is a tag: opening it meets nobody. Every rank opens one channel of each formula of groups, in one order, so
// that it has the same number everywhere.
static int mpi_open(void *user, int number, const int32_t *ranks, int count, int own)
{
    (void)own;
    MpiLink *link = user;
    MpiChannel *channel = number < CHANNELS_MAX ? calloc(1, sizeof(*channel)) : NULL;
    int32_t *copy = channel ? malloc((size_t)count * sizeof(*copy)) : NULL;
    if (!copy) {
        free(channel);
        return HEP_NO_MEMORY;
    }
    memcpy(copy, ranks, (size_t)count * sizeof(*copy));
    *channel = (MpiChannel){.comm = link->comm, .tag = number, .members = count, .ranks = copy};
    link->channels[number] = channel;
    return 0;
}

static bool reserve(MpiChannel *channel, int64_t requests)
{
    channel->count = 0;
    if (requests <= channel->space)
        return true;
    free(channel->requests);
    free(channel->finished);
    channel->requests = malloc((size_t)requests * sizeof(*channel->requests));
    channel->finished = malloc((size_t)requests * sizeof(*channel->finished));
    channel->space = channel->requests && channel->finished ? (int)requests : 0;
    return channel->space > 0;
}

static int64_t count_chunks(int members, const int64_t *bytes)
{
    int64_t chunks = 0;
    for (int m = 0; m < members; m++)
        chunks += (bytes[m] + CHUNK_BYTES - 1) / CHUNK_BYTES;
    return chunks;
}

// ---- exchanges -------------------------------------------------------------------------------------

static int post(MpiChannel *channel, bool sends, int member, char *at, int64_t bytes)
{
    int rank = channel->ranks[member];
    for (int64_t done = 0; done < bytes; done += CHUNK_BYTES) {
        int count = (int)(bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES);
        MPI_Request *request = &channel->requests[channel->count];
        int error = sends ? MPI_Isend(at + done, count, MPI_BYTE, rank, channel->tag, channel->comm, request)
                          : MPI_Irecv(at + done, count, MPI_BYTE, rank, channel->tag, channel->comm, request);
        if (error != MPI_SUCCESS)
            return mpi_code(error, sends ? "a message to be sent" : "a message to be received");
        channel->count++;
    }
    return 0;
}

static int post_all(MpiChannel *channel, bool sends, char *at, const int64_t *bytes)
{
    int code = 0;
    for (int m = 0; m < channel->members && code == 0; at += bytes[m++])
        code = post(channel, sends, m, at, bytes[m]);
    return code;
}

// Receives are taken back, so that nothing is written to the caller's memory later.
static void take_back(MpiChannel *channel)
{
    for (int r = 0; r < channel->count; r++)
        if (channel->requests[r] != MPI_REQUEST_NULL) {
            MPI_Cancel(&channel->requests[r]);
            MPI_Request_free(&channel->requests[r]);
        }
    channel->count = 0;
}

// Sleeps longer and longer, up to a millisecond, while nothing arrives.
static int await_all(const MpiLink *link, MpiChannel *channel)
{
    int left = channel->count;
    double moved_s = clock_now_s(), sleep_s = 0;
    while (left > 0) {
        int done = 0;
        int code = mpi_code(
            MPI_Testsome(channel->count, channel->requests, &done, channel->finished, MPI_STATUSES_IGNORE), "messages");
        if (code)
            return code;
        double now_s = clock_now_s();
        if (done > 0) {
            left -= done;
            moved_s = now_s;
            sleep_s = 0;
        } else if (now_s > moved_s + link->timeout_s) {
            snprintf(why, sizeof(why), "a rank did not come for %g s", link->timeout_s);
            return HEP_TIMEOUT;
        } else if (now_s > moved_s + 20e-6) { // short waits are busy ones
            sleep_s = sleep_s < 1e-3 ? sleep_s + 10e-6 : 1e-3;
            clock_sleep_until(now_s + sleep_s);
        }
    }
    return 0;
}

static int mpi_exchange(void *user, int number, const void *send, const int64_t *send_bytes, void *recv,
                        const int64_t *recv_bytes)
{
    MpiLink *link = user;
    MpiChannel *channel = link->channels[number];
    int64_t chunks = count_chunks(channel->members, send_bytes) + count_chunks(channel->members, recv_bytes);
    why[0] = '\0';
    if (chunks > INT32_MAX || !reserve(channel, chunks + 1))
        return HEP_NO_MEMORY;
    int code = post_all(channel, false, recv, recv_bytes);
    code = code ? code : post_all(channel, true, (char *)send, send_bytes); // MPI does not write there
    code = code ? code : await_all(link, channel);
    if (code)
        take_back(channel);
    return code;
}

// ---- handles ---------------------------------------------------------------------------------------

static void mpi_release(void *user)
{
    MpiLink *link = user;
    int finalized = 0;
    MPI_Finalized(&finalized);
    for (int c = 0; c < CHANNELS_MAX; c++) {
        if (!link->channels[c])
            continue; // of one member
        free(link->channels[c]->ranks);
        free(link->channels[c]->requests);
        free(link->channels[c]->finished);
        free(link->channels[c]);
    }
    if (!finalized)
        MPI_Comm_free(&link->comm);
    free(link);
}

// What MPI allows: threads of our own, or none.
static bool check_mpi(bool *one_thread, Fault *fault)
{
    int initialized = 0, finalized = 0, provided = MPI_THREAD_SINGLE;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    if (!initialized || finalized)
        return fault_set(fault, FAULT_MISMATCH, "MPI is not initialized: call MPI_Init_thread first");
    MPI_Query_thread(&provided);
    *one_thread = provided < MPI_THREAD_MULTIPLE;
    return true;
}

static hep_comm *make(int fortran_comm, const hep_comm_options *options, Fault *fault)
{
    hep_carrier carrier = {.open = mpi_open, .exchange = mpi_exchange, .why = mpi_why};
    bool one_thread = true;
    int rank, ranks;
    if (!check_mpi(&one_thread, fault))
        return NULL;
    MpiLink *link = calloc(1, sizeof(*link));
    if (!link) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a communicator");
        return NULL;
    }
    link->timeout_s = options->timeout_s;
    carrier.one_thread = one_thread;
    MPI_Comm given = MPI_Comm_f2c(fortran_comm);
    int error = given == MPI_COMM_NULL ? MPI_ERR_COMM : MPI_Comm_dup(given, &link->comm);
    if (error != MPI_SUCCESS) {
        (void)mpi_code(error, "a duplicate of the communicator");
        fault_set(fault, FAULT_RUN, "%.400s", why);
        free(link);
        return NULL;
    }
    MPI_Comm_set_errhandler(link->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(link->comm, &rank);
    MPI_Comm_size(link->comm, &ranks);
    hep_comm *comm = carrier_make(rank, ranks, &carrier, link, options, fault);
    if (comm)
        ((CarrierLink *)comm)->release = mpi_release;
    else
        mpi_release(link);
    return comm;
}

hep_status hep_comm_mpi(int fortran_comm, const hep_comm_options *options, hep_comm **comm)
{
    Fault fault = {0};
    hep_comm_options given;
    if (library_given(comm, "comm", &fault)) {
        *comm = NULL;
        if (link_options(options, &given, false, &fault))
            *comm = make(fortran_comm, &given, &fault);
    }
    return library_end(&fault);
}

int hep_has_mpi(void)
{
    return 1;
}
