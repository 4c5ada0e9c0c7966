// What the parts of the rendezvous share: frames, and the state of one process's connections. Included by
// rendezvous*.c alone.
//
// Rank 0 holds a connection to every other process, these hold one to it. A thread of each process reads them all the
// time; who calls waits for what it has read. `mutex` guards all but what a comment says otherwise; `send_mutex` is
// taken without it.
#ifndef HEP_RENDEZVOUS_INTERNAL_H
#define HEP_RENDEZVOUS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "runtime/comm/rendezvous.h"

typedef enum {
    FRAME_HELLO = 1, // to rank 0: Hello
    FRAME_WELCOME,   // from rank 0: places of all, or a Fault
    FRAME_PART,      // to rank 0: this process's part of a call
    FRAME_ALL,       // from rank 0: the parts of all
    FRAME_ABORT,     // Fault
    FRAME_ALIVE,     // to rank 0: Standing; from rank 0: those of all
    FRAME_LEFT,      // nothing: the connection's end is no failure
} FrameKind;

typedef struct {
    uint32_t kind, failed; // failed: a WELCOME that carries a Fault
    uint64_t bytes;        // that follow
} FrameHeader;

enum { HELLO_MAGIC = 0x48455031, PLACE_HOST_MAX = 64 };

typedef struct {
    int64_t pid;
    char host[PLACE_HOST_MAX];
} Place;

typedef struct {
    uint32_t magic, fault_bytes; // fault_bytes: of this build's Fault
    uint64_t rank, size;
    Place place;
} Hello;

// The connection to one process. The reader alone looks at what comes in, until `full`.
typedef struct {
    int socket;
    uint64_t rank;
    bool left, gone; // said so; ended without
    double heard_s;
    FrameHeader header;
    uint64_t header_read, read; // bytes of the frame under way
    char *data;                 // [capacity] of it; a part or the parts of all while `full`
    uint64_t capacity;
    bool full;
} Peer;

struct Rendezvous {
    Launch launch;
    double timeout_s;
    Place *places;            // [size]
    Standing *standings;      // [size] at standings_s each
    double *standings_s;      // [size] CLOCK_MONOTONIC
    Standing *told_standings; // [size] the reader's: as they are sent
    Peer *peers;              // [peer_count]; of rank 0 those of ranks 1.., of others that of rank 0
    uint64_t peer_count;
    pthread_mutex_t mutex, send_mutex;
    pthread_cond_t changed;
    pthread_t reader;
    bool reading, quit;
    int wake[2]; // a pipe that ends the reader's sleep
    Fault cause;
    double failed_s;
    atomic_bool aborted;
    bool told; // rank 0 has the cause and passed it on
};

// rendezvous_frames.c. How long poll may take until then.
int rendezvous_poll_ms(double until_s);
// Whole frames, bounded in time by the socket's own limits. False when the connection is gone or `time_s` is over.
bool frame_send(int socket, FrameKind kind, bool failed, const void *data, uint64_t bytes) MUST_CHECK;
bool frame_receive(int socket, void *data, uint64_t bytes, double until_s) MUST_CHECK;

// "process 4711 on host"
void rendezvous_describe(const Rendezvous *rendezvous, uint64_t rank, char *out, size_t size);
// Starts and ends the thread that reads.
bool rendezvous_read_begin(Rendezvous *rendezvous, Fault *fault) MUST_CHECK;
void rendezvous_read_end(Rendezvous *rendezvous);

#endif
