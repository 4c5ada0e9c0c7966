// What the parts of the threads communicator share: the world, its channels and their members. Included by
// comm_threads*.c alone.
//
// Locks: world->mutex (list of channels) before a channel's mutex; cause_mutex, watch_mutex and the emulation's are
// taken last.
// Bytes are copied with no lock held.
#ifndef HEP_COMM_THREADS_INTERNAL_H
#define HEP_COMM_THREADS_INTERNAL_H

#include <stdatomic.h>

#include "runtime/comm/comm_common.h"
#include "runtime/comm/comm_threads.h"

// What a member sends in its current call.
typedef struct {
    uint64_t sequence; // calls begun on this channel
    double posted_s;
    uint64_t pending; // receivers that have not taken their share
    bool withdrawn;   // the call has failed: what it sends may be gone
    Exchange exchange;
} Post;

typedef enum { FLOW_WAITING, FLOW_MOVING, FLOW_TAKEN } FlowState;

// What one member receives from one peer in its current call.
typedef struct {
    FlowState state;
    bool copying;   // a chunk, without the channel's mutex: the sender may not leave
    uint32_t level; // outermost level at which the two ranks differ
    const char *source[EXCHANGE_PARTS_MAX];
    char *target[EXCHANGE_PARTS_MAX];
    uint64_t bytes[EXCHANGE_PARTS_MAX];
    uint64_t moved, chunk, total; // over all parts; total is shaped, the parts are copied
    double ready_s;               // when the chunk under way may be copied
    LinkFlow link;
} Flow;

typedef struct {
    pthread_cond_t changed; // a peer posted, or the last receiver has taken this member's rows
    Post post;
    Flow *flows; // [members]; NULL until the member has opened the channel
    CommTally tally;
} Member;

typedef struct Channel {
    struct Channel *next;
    Group group;
    Stream stream;
    uint32_t order; // how many channels of this group and stream its members opened before
    uint64_t first_rank;
    uint32_t member_count;
    pthread_mutex_t mutex; // guards members' posts and the states of their flows
    Member *members;
    uint64_t *ranks;
} Channel;

typedef struct {
    Channel *channel;
    uint32_t own;
} Handle;

typedef struct {
    Comm comm; // first: a Comm * of this kind is a ThreadComm *
    ThreadWorld *world;
    Handle *handles;
    uint32_t handle_count;
    CommCounters counters[LEVELS_MAX];
    Watch watch; // guarded by world->watch_mutex; no functions: nobody to ask
} ThreadComm;

struct ThreadWorld {
    Cluster cluster;
    uint64_t size;
    LinkEmulation *links;
    double timeout_s;
    ThreadComm *comms;
    pthread_mutex_t mutex; // guards the list of channels
    Channel *channels;
    pthread_mutex_t cause_mutex;
    Fault cause;
    atomic_bool aborted;
    pthread_mutex_t watch_mutex;
    _Atomic double progress_s; // when any rank last made progress: it moved or posted something, or computed
    struct {
        pthread_mutex_t mutex;
        pthread_cond_t passed;
        uint64_t arrived, generation;
        const double **values; // [rank], of the all-reduce under way
    } barrier;
};

// What ranks ask about each other: comm_threads_life.c.
// True, with the first cause as the fault, once a rank has failed.
bool thread_world_aborted(ThreadWorld *world, Fault *fault);

// Has any rank got on within the time limit?
bool thread_world_lives(ThreadWorld *world);
// Where `rank` stands goes into a fault that names it as peer.
void thread_world_tell_peer(ThreadWorld *world, uint64_t rank, Stream stream, Fault *fault);

// CommOps.exchange: comm_threads_calls.c.
bool threads_exchange(Comm *base, int channel, const Exchange *exchange, Fault *fault);

#endif
