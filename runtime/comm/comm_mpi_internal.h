// What the parts of the MPI communicator share: the world and its channels. Included by comm_mpi*.c alone.
#ifndef HEP_COMM_MPI_INTERNAL_H
#define HEP_COMM_MPI_INTERNAL_H

#include <mpi.h>
#include <pthread.h>

#include "runtime/comm/comm_common.h"
#include "runtime/comm/comm_mpi.h"

enum {
    CHUNK_BYTES_MIN = 64 << 10,
    HEAD_BYTES = 1 << 10, // first message of a long flow: it says when the peer came
    HEAD_FROM_BYTES = 64 << 10,
    CHUNK_BYTES = 16 << 20,
    CHUNK_BYTES_MAX = 1 << 30,
    SLOTS = 2,
    REDUCE_COUNT_MAX = 64
};

// What passes between this member and one peer in a call. Receiving follows sending; half the number is the tag.
// FIXED: the third part, that of counts where messages have fixed sizes.
typedef enum {
    SEND_COUNT,
    RECEIVE_COUNT,
    SEND_ROWS,
    RECEIVE_ROWS,
    SEND_RECORDS,
    RECEIVE_RECORDS,
    SEND_FIXED,
    RECEIVE_FIXED,
    FLOW_KINDS
} FlowKind;

typedef struct {
    char *at;      // next chunk
    uint64_t left; // bytes not yet posted
    bool is_first; // nothing was posted yet
    int expected[SLOTS];
} Flow;

typedef struct {
    Group group;
    Stream stream;
    MPI_Comm mpi;
    uint32_t member_count, own;
    uint64_t chunk_bytes;      // largest message; the same for all members
    uint64_t *ranks;           // [members]
    uint32_t *levels;          // [members]
    Flow *flows;               // [members][FLOW_KINDS]
    MPI_Request *requests;     // [members][FLOW_KINDS][SLOTS]
    int *finished;             // [members * FLOW_KINDS * SLOTS], scratch of MPI_Testsome
    MPI_Status *statuses;      // likewise
    uint32_t open[FLOW_KINDS]; // requests under way
    CommTally tally;
    bool *came; // [members] something has arrived from it in the call under way
} Channel;

// Whom a stream waits for inside a collective, and what that rank's process says when asked.
typedef struct {
    const Channel *channel; // NULL: the stream waits for nobody
    uint32_t member;
    int process;
    double life_s;  // when the peer, or whom it waits for itself, was last known to make progress
    double heard_s; // it lived at least then; 0: it has not answered yet
    StreamPoint at; // of its stream of the same kind, as told then
    double for_s;
} Wait;

// Where a process runs.
typedef struct {
    char host[64];
    int64_t pid;
    uint64_t pid_space; // processes of one host and one space see each other
} Place;

typedef struct Listener Listener; // comm_mpi_watch.c

typedef struct {
    Comm comm; // first: a Comm * of this kind is an MpiWorld *
    WorldOptions options;
    MPI_Comm world, control, calls; // barrier and reductions; faults and life; parent of the channels
    uint64_t process;               // this one's number in them; the plan's rank where the cluster has no ports
    Channel **channels;
    uint32_t channel_count;
    CommCounters counters[LEVELS_MAX];
    double *gathered; // [ranks][REDUCE_COUNT_MAX]
    Place *places;    // [processes]
    Listener *listener;
    _Atomic double progress_s;  // when this rank last moved anything
    pthread_mutex_t wait_mutex; // guards watch and waits
    Watch watch;
    Wait waits[STREAM_COUNT];
    atomic_bool over;          // another process has told why all end
    pthread_mutex_t end_mutex; // kept by whoever ends the world
} MpiWorld;

typedef enum { TAG_FAULT, TAG_OVER, TAG_ALIVE, TAG_LAST, TAG_ASK, TAG_ANSWER } ControlTag;

// comm_mpi_common.c. Records a fault unless `error` is MPI_SUCCESS.
bool mpi_check(int error, const char *what, Fault *fault) MUST_CHECK;
// Sleeps an eighth of what was waited so far: little delay after short waits, little work during long ones.
void mpi_wait_a_while(double since_s);
// The plan's rank of a process.
int64_t mpi_rank_of(const MpiWorld *world, int process);

// Takes one message of the kind, if it has come; `message` may be NULL for empty ones. Returns who sent it, or -1.
int mpi_control_receive(const MpiWorld *world, int from, ControlTag tag, void *message, int bytes);
// The channel's stream waits for that member from now on, or still; NULL: for nobody.
void mpi_wait_for(MpiWorld *world, Stream stream, const Channel *channel, uint32_t member);
// What is known of the peer that the stream waits for.
Wait mpi_wait_known(MpiWorld *world, Stream stream);

// CommOps.open and exchange: comm_mpi_calls.c.
int mpi_open(Comm *base, const Group *group, Stream stream, Fault *fault);
bool mpi_exchange(Comm *base, int channel, const Exchange *exchange, Fault *fault);
void mpi_channels_close(MpiWorld *world); // collective

// Who lives and makes progress: comm_mpi_watch.c. False when memory or threads run out.
bool mpi_listener_start(MpiWorld *world, Fault *fault) MUST_CHECK;
void mpi_listener_stop(MpiWorld *world); // collective; no rank is inside a call
// How long a process may be silent between answers.
double mpi_silence_s(const MpiWorld *world);

// How all end when one fails: comm_mpi_end.c. The first is CommOps.abort; neither returns.
void mpi_abort(Comm *base, const Fault *cause);
bool mpi_lost(const Comm *base);                                 // see CommOps
void mpi_end(MpiWorld *world, const Fault *cause);               // as the process that reports the cause
bool mpi_places_learn(MpiWorld *world, Fault *fault) MUST_CHECK; // collective
// Ends this process with a message if mpi_start_seen is not called within the time limit.
void mpi_start_watch(const WorldOptions *options);
void mpi_start_seen(void);

#endif
