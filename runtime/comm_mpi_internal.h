// What the parts of the MPI communicator share: the world and its channels. Included by comm_mpi*.c alone.
#ifndef HEP_COMM_MPI_INTERNAL_H
#define HEP_COMM_MPI_INTERNAL_H

#include <mpi.h>
#include <pthread.h>

#include "runtime/comm_common.h"
#include "runtime/comm_mpi.h"

enum { CHUNK_BYTES = 16 << 20, CHUNK_BYTES_MAX = 1 << 30, SLOTS = 2, REDUCE_COUNT_MAX = 64 };

// What passes between this member and one peer in a call. Receiving follows sending; half the number is the tag.
typedef enum { SEND_COUNT, RECEIVE_COUNT, SEND_ROWS, RECEIVE_ROWS, SEND_RECORDS, RECEIVE_RECORDS, FLOW_KINDS } FlowKind;

typedef struct {
    char *at;      // next chunk
    uint64_t left; // bytes not yet posted
    int expected[SLOTS];
} Flow;

typedef struct {
    Group group;
    Stream stream;
    MPI_Comm mpi;
    uint32_t member_count, own;
    uint64_t *ranks;           // [members]
    uint32_t *levels;          // [members]
    Flow *flows;               // [members][FLOW_KINDS]
    MPI_Request *requests;     // [members][FLOW_KINDS][SLOTS]
    int *finished;             // [members * FLOW_KINDS * SLOTS], scratch of MPI_Testsome
    MPI_Status *statuses;      // likewise
    uint32_t open[FLOW_KINDS]; // requests under way
} Channel;

struct MpiWorld {
    Comm comm; // first: a Comm * of this kind is an MpiWorld *
    MpiWorldOptions options;
    MPI_Comm world, control, calls; // barrier and reductions; faults; parent of the channels
    uint64_t process;               // this one's number in them; the plan's rank where the cluster has no ports
    Channel **channels;
    uint32_t channel_count;
    CommCounters counters[LEVELS_MAX];
    double *gathered; // [ranks][REDUCE_COUNT_MAX]
    _Atomic double progress_s;
    MPI_Request alive; // the latest sign of life sent
    pthread_t listener;
    bool listens;
    atomic_bool quit;
    pthread_mutex_t end_mutex; // kept by whoever ends the world
};

// Records a fault unless `error` is MPI_SUCCESS.
bool mpi_check(int error, const char *what, Fault *fault) MUST_CHECK;
// Sleeps an eighth of what was waited so far: little delay after short waits, little work during long ones.
void mpi_wait_a_while(double since_s);

// CommOps.open, exchange and all_gather: comm_mpi_calls.c.
int mpi_open(Comm *base, const Group *group, Stream stream, Fault *fault);
bool mpi_exchange(Comm *base, int channel, const Exchange *exchange, Fault *fault);
bool mpi_all_gather(Comm *base, int channel, const void *shard, void *gathered, uint64_t bytes, Fault *fault);
void mpi_channels_close(MpiWorld *world); // collective

// CommOps.abort, and the thread that listens: comm_mpi_watch.c.
void mpi_abort(Comm *base, const Fault *cause);
void mpi_listener_start(MpiWorld *world);
void mpi_listener_stop(MpiWorld *world); // collective; no rank is inside a call

#endif
