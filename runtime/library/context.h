// A plan on a communicator: what tokens.c, experts.c and dense.c share. Who may be inside a context, and what becomes
// of a failure, is decided in entry.c alone: public functions begin with context_enter and end with context_leave.
#ifndef HEP_LIBRARY_CONTEXT_H
#define HEP_LIBRARY_CONTEXT_H

#include <pthread.h>

#include "ir/bundle.h"
#include "runtime/engine/engine_common.h"
#include "runtime/engine/mover.h"
#include "runtime/library/library.h"
#include "runtime/library/links.h"
#include "runtime/library/store.h"

enum { PARAMETERS_MAX = 16 }; // of an expert

// A level that rows of a layer cross.
typedef struct {
    uint32_t level;
    Meeting meeting;    // its call is set by who meets
    RouteTable table;   // of the host
    RouteTable of_rows; // the same, with places of experts where rows lie
} Hop;

// A level that weights cross: shards of the outer levels lie together.
typedef struct {
    uint32_t level, members, own;
    Meeting gather, home; // of dense weights `home` alone
} Crossing;

enum { OUTGROWN_MAX = 48 };

// Scratch of one thread, or queue, which grows as needed.
typedef struct {
    char *memory;
    uint64_t bytes;
    const MoveOps *moves; // of its kind of memory; NULL: the host's
    // Of a GPU's: what it was before. Freeing it waits for everything that is in line, on all ranks.
    void *outgrown[OUTGROWN_MAX];
    uint32_t outgrown_count;
} Pool;

// What a thread that moves weights, or a queue, has to itself.
typedef struct {
    Pool sums, block, packets;
    int32_t *counts; // [2][ranks], of the host
    MoveQueue *queue;
} Lane;

// How a bundle's weights and gradients travel as packets, and what is remembered of them: coded.c. Vectors are `rows`
// of `cols` elements a share; packets bring `members` shares together.
typedef struct {
    const Coding *coding; // NULL: nothing of this bundle is encoded
    const MoveOps *moves; // of the memory
    bool encodes, returns;
    uint32_t crossings; // outermost ones, which packets cross
    uint64_t rows, cols, members;
    Dtype dtype;
    char *memory; // one allocation, of what follows
    uint64_t bytes;
    Tensor sent, replicas, mean, error[LEVELS_MAX]; // error: by crossing
    bool has_sent;                                  // receivers know what `sent` is; else the next packets are whole
    bool is_fresh;                                  // replicas are of the weights as they are
} Coded;

typedef enum {
    EXPERTS_IDLE,   // not asked for in this pass, or dropped
    EXPERTS_QUEUED, // begun, not yet moving
    EXPERTS_MOVING,
    EXPERTS_READY,
    EXPERTS_USED
} ExpertsState;

// An MoE layer.
typedef struct {
    const Choice *choice;
    const ExpertMap *map;
    const int32_t *slots; // of experts, where rows lie
    ExpertShares shares;
    bool whole; // shares are whole experts
    uint64_t own_slot;
    uint32_t hop_count, crossing_count;
    Hop hops[LEVELS_MAX];
    Crossing crossings[LEVELS_MAX]; // outermost first
    // Bound, guarded by the context's mutex while transfers use it:
    uint32_t parameters; // 0: not bound
    Tensor own[PARAMETERS_MAX], grads[PARAMETERS_MAX], full[PARAMETERS_MAX];
    bool has_grads;
    ExpertsState state;
    MoveMark *arrived; // of the last gather
    bool present;      // `full` holds the weights of the last gather
    char *kept;        // what came over the levels that are crossed once, where the rest is gathered again
    uint64_t kept_bytes;
    bool has_kept;
    Coded coded;
    uint64_t summed; // the iteration in which the mean of all experts was summed, from 1; 0: none
} Layer;

// A dense bundle. Guarded by the context's mutex while transfers use it.
typedef struct {
    Tensor share, grad, full; // as bound
    bool has_grad;
    uint32_t moving; // transfers that are not done
    bool is_gathered;
    MoveMark *done;            // with the last transfer
    uint64_t gathers, returns; // so far, since what codecs remember began
    Coded coded;
} Bundle;

typedef enum { JOB_RETURN, JOB_DENSE_GATHER, JOB_DENSE_RETURN } JobKind;

// What the second thread moves, one after another.
typedef struct Job {
    struct Job *next;
    JobKind kind;
    double scale; // of returns
    bool whole;   // packets hold whole values
    // JOB_RETURN:
    uint32_t layer;
    Tensor full[PARAMETERS_MAX];
    // The others: a bundle, and what travels of it; `again`: its weights have not changed.
    Bundle *bundle; // NULL: of a call that waits
    Tensor share, all;
    int32_t number;
    bool again;
} Job;

struct hep_context {
    hep_plan *handle;
    const Plan *plan;
    Link link; // the communicator
    Comm *comm;
    const MoveOps *moves;                         // of the memory that tensors lie in
    const MoverOps *device;                       // NULL: it is the host's
    Mover *mover;                                 // of a GPU
    MoveMark *begun, *released, *given, *settled; // see order.h
    uint64_t rank;                                // of the plan
    uint64_t max_tokens;
    uint64_t capacity_rows; // most records of an expert from a rank; 0: no limit
    uint32_t *taken;        // [experts], of the caller's thread
    ExpertMaps maps;
    WeightKind *kinds; // [buffers]
    Layer *layers;     // [plan->choice_count]
    uint32_t dense_count;
    Crossing dense[LEVELS_MAX];
    uint32_t sum_count; // levels over which the mean of experts is summed, innermost first
    Meeting sums[LEVELS_MAX];
    uint32_t bundle_count;
    Bundle **bundles;           // by number; NULL: not bound
    uint64_t iterations;        // that were begun with new weights
    int world;                  // channel of everybody
    int32_t *places_of_experts; // all maps of `maps`, in a GPU's memory; NULL

    // Channels that the call under way meets others on, in order: where they find out if it fails.
    int ahead[LEVELS_MAX];
    uint32_t ahead_count;

    atomic_bool busy;
    atomic_bool failed;
    pthread_mutex_t mutex; // guards what follows, and layers' states
    pthread_cond_t changed;
    Fault fault;
    bool threads_run, stopping;
    pthread_t gatherer, courier, watcher;
    bool is_watched;
    uint32_t *queue; // [choice_count]: layers to gather
    uint32_t queue_first, queue_end, passes;
    uint32_t in_use; // layers whose slot is taken
    bool unlimited;  // slots, in this pass
    bool keeps;      // nothing is dropped after its use
    bool backward;
    Job *jobs, **jobs_end;
    uint32_t returning; // jobs that are not done
    double waited_s;
    Lane caller_lane, gather_lane, courier_lane;
    Store *store;      // of routes and of what calls need, where tensors lie
    Store *host_store; // the same of the host: that one, if tensors lie there
    _Atomic uint64_t dense_gathered[LEVELS_MAX], dense_returned[LEVELS_MAX];
};

// Begins a public function of a context. False: it has failed before, or another call is under way, and `*status` is
// what to return.
bool context_enter(hep_context *context, hep_status *status) MUST_CHECK;
// The same of one that is given a stream: of a GPU, what it does comes after what is there, and before what will be.
bool context_enter_on(hep_context *context, void *stream, hep_status *status) MUST_CHECK;
// Ends it. On a fault the context has failed, and so do those of all ranks.
hep_status context_leave(hep_context *context, bool ok, Fault *fault);
// The communicator's rank of one of the plan; -1 for others.
int64_t context_process(const hep_context *context, int64_t rank);
// The context fails, by a thread that is inside no public function.
void context_fail(hep_context *context, const Fault *fault);
// Whether it has, and then why; the mutex is held.
bool context_has_failed(const hep_context *context, Fault *fault);
// Tells ranks that wait for this one on channels of these streams (bits), once the context has failed: those of the
// calling thread.
enum { CALLER_STREAMS = 1u << STREAM_EXCHANGE, ALL_STREAMS = (1u << STREAM_COUNT) - 1 };
void context_tell(hep_context *context, uint32_t streams);
// The call under way meets others on the layer's hops, first to last or `back`.
void context_expect(hep_context *context, const Layer *layer, bool back);
// Iterations before the one that was begun last.
uint64_t context_iteration(const hep_context *context);
Layer *context_layer(hep_context *context, int layer, Fault *fault) MUST_CHECK;

// Returns `ok`. If not, and the fault is this rank's: which step of the plan the call stood for.
bool context_blame(const hep_context *context, const CommCall *call, uint32_t level, bool ok, Fault *fault);

// At least `bytes`; NULL and a fault when there are none.
void *pool_take(Pool *pool, uint64_t bytes, Fault *fault) MUST_CHECK;
void pool_free(Pool *pool);

// What a tensor of the caller has to be. cols: -1 any; rows: -1 any.
typedef struct {
    const char *name;
    int64_t rows, cols;
    uint32_t dtypes; // bits by hep_dtype
} TensorShape;

bool tensor_check(const hep_context *context, const hep_tensor *tensor, const TensorShape *shape,
                  Fault *fault) MUST_CHECK;
// The same, as kernels take it. For dtypes that both know.
bool tensor_take(const hep_context *context, const hep_tensor *tensor, const TensorShape *shape, Tensor *out,
                 Fault *fault) MUST_CHECK;

// experts.c: the threads that move weights.
bool experts_start(hep_context *context, Fault *fault) MUST_CHECK;
void experts_stop(hep_context *context);

#endif
