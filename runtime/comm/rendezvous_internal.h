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

#include "runtime/comm/job_secret.h"
#include "runtime/comm/rendezvous.h"

typedef enum {
    FRAME_HELLO = 1, // to rank 0: Hello
    FRAME_CHALLENGE, // from rank 0: random bytes
    FRAME_PROOF,     // to rank 0: that this process knows the job's secret
    FRAME_REFUSED,   // from rank 0, before it knows whose connection this is: a RefusedFor, uint32_t
    FRAME_WELCOME,   // from rank 0: proof that it knows the secret, then places of all, or a Fault
    FRAME_PART,      // to rank 0: this process's part of a call
    FRAME_ALL,       // from rank 0: the parts of all
    FRAME_ABORT,     // Fault
    FRAME_ALIVE,     // a Sign, then to rank 0 a Standing, from rank 0 those of all
    FRAME_LEFT,      // nothing: the connection's end is no failure
} FrameKind;

typedef struct {
    uint32_t kind, failed; // failed: a WELCOME that carries a Fault
    uint64_t bytes;        // that follow
} FrameHeader;

typedef enum { REFUSED_SILENT, REFUSED_NONSENSE, REFUSED_VERSION, REFUSED_SECRET } RefusedFor;

enum { HELLO_MAGIC = 0x48455031, PROTOCOL_VERSION = 2, PLACE_HOST_MAX = 64, REFUSAL_MAX = 128, CANDIDATES_MAX = 1024 };

typedef struct {
    int64_t pid;
    char host[PLACE_HOST_MAX];
} Place;

typedef struct {
    uint32_t magic, version, fault_bytes, unused; // fault_bytes: of this build's Fault
    uint64_t rank, size;
    unsigned char challenge[SECRET_BYTES]; // to rank 0
    Place place;
} Hello;

// What both sides prove to each other that they have heard, in these roles.
typedef struct {
    Hello hello;
    unsigned char challenge[SECRET_BYTES]; // of rank 0
} Said;
#define PROVES_MEMBER "a process"
#define PROVES_FIRST  "rank 0"

// A connection to rank 0 that has not proved to be of this job.
typedef struct {
    int socket; // -1: refused or admitted
    double until_s;
    bool challenged;
    FrameHeader header;
    uint64_t read; // bytes of the header and what follows
    Hello hello;
    Said said;
    unsigned char proof[SECRET_BYTES], answer[SECRET_BYTES];
} Candidate;

typedef struct {
    double idle_s; // for how long this process has done nothing, while no call of its own waits
} Sign;

// The connection to one process. The reader alone looks at what comes in, until `full`.
typedef struct {
    int socket;
    uint64_t rank;
    bool left, gone;                   // said so; ended without
    double heard_s, idle_s;            // idle_s: of its last sign of life
    unsigned char proof[SECRET_BYTES]; // rank 0's, for this peer
    FrameHeader header;
    uint64_t header_read, read; // bytes of the frame under way
    char *data;                 // [capacity] of it so far; a part or the parts of all while `full`
    uint64_t capacity;
    bool full;
} Peer;

struct Rendezvous {
    Launch launch;
    double timeout_s;
    Place *places;       // [size]
    Standing *standings; // [size] at standings_s each
    double *standings_s; // [size] CLOCK_MONOTONIC
    char *sign_of_life;  // the reader's: a sign of life as it is sent
    Peer *peers;         // [peer_count]; of rank 0 those of ranks 1.., of others that of rank 0
    uint64_t peer_count;
    pthread_mutex_t mutex, send_mutex;
    pthread_cond_t changed;
    pthread_t reader;
    bool reading, quit;
    int wake[2]; // a pipe that ends the reader's sleep
    Fault cause;
    double failed_s;
    atomic_bool aborted;
    bool told_cause;           // rank 0 has the cause and passed it on
    uint64_t refused;          // connections of strangers
    char refusal[REFUSAL_MAX]; // of the last of them: where it came from, and why
    double busy_s;             // CLOCK_MONOTONIC, when this process last did something
    bool waits;                // a call waits for a peer
};

// rendezvous_frames.c. How long poll may take until then.
int rendezvous_poll_ms(double until_s);
// Whole frames, bounded in time by the socket's own limits. False when the connection is gone or `time_s` is over.
bool frame_send(int socket, FrameKind kind, bool failed, const void *data, uint64_t bytes) MUST_CHECK;
bool frame_send_welcome(int socket, bool failed, const unsigned char proof[SECRET_BYTES], const void *data,
                        uint64_t bytes) MUST_CHECK; // what follows the header: the proof, then the data
bool frame_receive(int socket, void *data, uint64_t bytes, double until_s) MUST_CHECK;

void rendezvous_socket_prepare(int socket, double timeout_s);
// Text of another process: ends within `size`, and has no characters that steer terminals.
void rendezvous_clean(char *text, size_t size);
void rendezvous_clean_place(Place *place);
// A fault of another process, whatever its bytes are.
Fault rendezvous_clean_fault(const void *bytes);

// rendezvous_admit.c. Rank 0's part in joining.
bool rendezvous_gather_all(Rendezvous *rendezvous, Fault *fault) MUST_CHECK;
// Hears what has come; counts it in `joined` when it is admitted. False and a fault where one that knows the secret
// does not fit in.
bool rendezvous_candidate_turn(Rendezvous *rendezvous, Candidate *candidate, uint64_t *joined, Fault *fault) MUST_CHECK;
// rendezvous.c. The others' part, once connected.
typedef enum { WELCOME_GOT, WELCOME_FAILED, WELCOME_CLOSED } Welcome;
Welcome rendezvous_introduce(Rendezvous *rendezvous, int socket, double until_s, Fault *fault);
// rendezvous_calls.c. Takes what has come of a peer that was admitted. The mutex is held.
void rendezvous_peer_read(Rendezvous *rendezvous, Peer *peer);

// "process 4711 on host"
void rendezvous_describe(const Rendezvous *rendezvous, uint64_t rank, char *out, size_t size);
// Starts and ends the thread that reads.
bool rendezvous_read_begin(Rendezvous *rendezvous, Fault *fault) MUST_CHECK;
void rendezvous_read_end(Rendezvous *rendezvous);

#endif
