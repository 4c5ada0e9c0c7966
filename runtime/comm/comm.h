// Communicators: how the ranks of a plan reach each other. One table of functions per kind
// (threads, MPI; NCCL takes the same form); one Comm per rank. Collectives block their
// caller, which is a stream's thread; two streams of a rank use different channels and run
// concurrently. All members of a group open its channels in the same order and call its
// collectives in the same order.
#ifndef HEP_COMM_H
#define HEP_COMM_H

#include "ir/base/fault.h"
#include "ir/plan.h"
#include "runtime/base/standing.h"
#include "runtime/comm/communicator.h"

typedef struct Comm Comm;

// What a communicator asks of the rank it serves, from any thread, when others wait for that rank.
typedef struct {
    StreamPoint (*point)(void *context, Stream stream);
    // When the rank was last seen to make progress: a step began or ended, or `now_s` while a stream computes.
    double (*life_s)(void *context, double now_s);
    void *context;
} Watch;

// Where the rows for, or from, the members lie, one member's after another's.
typedef enum {
    ROWS_OTHERS, // own excluded
    ROWS_ALL,    // own has its place, as long as its entry of the counts says, and is left alone
    ROWS_SAME,   // sent only: every member gets the same rows
} RowLayout;

typedef struct {
    const void *send;
    void *recv;
    uint64_t row_bytes;
    // Not 0: every message of the part has so many rows, whatever the counts say, and those for, or from, a member lie
    // in a place of as many, in the order of members. `own_place`: own has a place, too.
    uint64_t fixed_rows;
    bool own_place;
} ExchangePart;

enum { EXCHANGE_PARTS_MAX = 3 };

// What the rows are. Of token rows, part 0's; the other parts and counts are routing.
typedef enum { CARRIES_ROWS, CARRIES_SUMS, CARRIES_COUNTS, CARRIES_WEIGHTS } Carries;

// What a collective is for, where its members may not mean the same one: steps of a plan follow each other, calls of
// somebody else's program may not. X(NAME, "text")
#define HEP_CALLS(X)                                                                                                   \
    X(STEP, "a step of the plan")                                                                                      \
    X(CREATE, "hep_create")                                                                                            \
    X(DISPATCH, "hep_dispatch")                                                                                        \
    X(DISPATCH_FINISH, "hep_dispatch_finish")                                                                          \
    X(COMBINE, "hep_combine")                                                                                          \
    X(COMBINE_BACKWARD, "hep_combine_backward")                                                                        \
    X(DISPATCH_BACKWARD, "hep_dispatch_backward")                                                                      \
    X(GATHER, "a gather of hep_begin")                                                                                 \
    X(RETURN, "hep_return")                                                                                            \
    X(DENSE_GATHER, "hep_dense_gather")                                                                                \
    X(DENSE_RETURN, "hep_dense_return")
#define X(name, text) CALL_OF_##name,
typedef enum { HEP_CALLS(X) CALL_KINDS } CallPurpose;
#undef X

typedef struct {
    CallPurpose purpose;
    int32_t layer; // with experts, as callers count them; NONE
    int32_t pass;  // which of several such calls
} CommCall;

typedef struct {
    uint32_t part_count;
    ExchangePart parts[EXCHANGE_PARTS_MAX];
    RowLayout send_layout, recv_layout;
    // Parts have fixed rows all, or none has. Fixed: send_counts says how many of them are rows, and may be NULL where
    // the host does not know; the rest below is not looked at.
    const int32_t *send_counts; // [members] rows to each member
    int32_t *recv_counts;       // [members] rows from each; own entry untouched. Written unless counts_known
    bool counts_known;          // recv_counts are given: nothing but rows travels
    uint64_t recv_capacity;     // rows of others that fit at `recv`; more is a fault
    Carries carries;            // for the byte counters
    CommCall call;
    bool dispatches; // what it brings is to be computed here: counted as received rows
} Exchange;

// Bytes that left this rank, by the level whose coordinate differs between sender and receiver.
typedef struct {
    uint64_t exchange_bytes, routing_bytes, gather_bytes, reduce_bytes;
    uint64_t padding_bytes; // of exchange_bytes
    uint64_t received_rows; // that others dispatched to this rank
} CommTraffic;

// Time that a rank's collectives took. A collective ends, for its rank, when it has all rows.
typedef struct {
    double late_s;     // until the last peer had come
    double transfer_s; // from then on
} CommTime;

typedef struct {
    CommTime exchange, gather;
    double *late_s; // [ranks] how much of the first was spent waiting for that rank, which came last
    double *last_s; // [ranks] how much of the second that rank took, which delivered last
} CommTimes;

typedef struct {
    CommunicatorId communicator;
    // A channel of `group` for the calling rank's stream. Returns a handle >= 0, or -1 and a fault.
    int (*open)(Comm *comm, const Group *group, Stream stream, Fault *fault);
    bool (*exchange)(Comm *comm, int channel, const Exchange *exchange, Fault *fault);
    // All ranks of the world; outside the schedule, not counted, not shaped.
    bool (*barrier)(Comm *comm, Fault *fault);
    bool (*all_reduce_max)(Comm *comm, double *values, uint32_t count, Fault *fault);
    bool (*all_reduce_sum)(Comm *comm, double *values, uint32_t count, Fault *fault);
    // Whom to ask how far this rank is. NULL before that goes away.
    void (*watch)(Comm *comm, const Watch *watch);
    // Makes every rank's pending and later calls fail soon with `cause`, or ends all processes of the world with it.
    void (*abort)(Comm *comm, const Fault *cause);
    // Is it known that a process of this world has died? NULL: not known before a call fails.
    bool (*lost)(const Comm *comm);
    // Adds this rank's counters since the last reset to totals[level]; then resets if asked.
    void (*traffic)(Comm *comm, CommTraffic totals[LEVELS_MAX], bool reset);
    // Likewise the times. No call of this rank is under way.
    void (*times)(Comm *comm, CommTimes *totals, bool reset);
} CommOps;

typedef struct {
    void *memory;
    uint64_t bytes;
    // Destroys what holds collectives to run them again: who aborts calls it first, from any thread.
    void (*drop_graphs)(void *context);
    void *context;
} DeviceUse;

// Collectives on device memory. They are enqueued on `stream` (a cudaStream_t), one after another, and done when that
// gets there; the caller may have to wait for its peers to enqueue theirs. Parts, shard and gathered are device memory;
// counts are the host's and known.
typedef struct {
    bool captures; // may be called while the stream is captured into a graph
    // Collectives of all channels are to be called one after another, in one order on all ranks; and nothing that has
    // not run before may run while they do, as the driver loads kernels only when nothing runs.
    bool ordered;
    bool (*exchange)(Comm *comm, int channel, const Exchange *exchange, void *stream, Fault *fault);
    bool (*all_gather)(Comm *comm, int channel, const void *shard, void *gathered, uint64_t bytes, void *stream,
                       Fault *fault);
    // False and a fault once a rank has failed, or what was enqueued has. Cheap; from any thread that waits.
    bool (*poll)(Comm *comm, Fault *fault);
    // Counts bytes that left this rank without a call: a captured graph moved them again.
    void (*count)(Comm *comm, const CommTraffic moved[LEVELS_MAX]);
    // Has other ranks told where this one's device stands, and says where another told that it was (iteration 0: it did
    // not). NULL where peers are of this process.
    void (*stand)(Comm *comm, const Standing *standing);
    Standing (*standing)(Comm *comm, uint64_t rank);
    // Device memory from which it moves rows without staging them. NULL: any is; then the caller allocates.
    bool (*allocate)(Comm *comm, uint64_t bytes, void **memory, Fault *fault);
    void (*release)(Comm *comm, void *memory);
    // What collectives will use, before the first of them. All ranks together, after all channels are open.
    bool (*attach)(Comm *comm, const DeviceUse *use, Fault *fault);
    // Before that memory is freed and after the graphs have gone. Nothing where nothing is attached.
    void (*detach)(Comm *comm);
} DeviceCommOps;

struct Comm {
    const CommOps *ops;
    const DeviceCommOps *device; // then ops->exchange is NULL; NULL: of host memory
    int device_index;            // of the GPU
    double timeout_s;            // how long `device` lets a peer be missing; 0: sees to that itself
    uint64_t rank, size;
    uint64_t machine_size; // ranks on this machine
    const Cluster *cluster;
};

#endif
