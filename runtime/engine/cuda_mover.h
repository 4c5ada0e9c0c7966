// Queues on a GPU: cuda_mover.c makes them and keeps their order, cuda_moves.c fills them, by cuda_queue.c, which
// waits.
#ifndef HEP_CUDA_MOVER_H
#define HEP_CUDA_MOVER_H

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdatomic.h>

#include "kernels/cuda/kernels.h"
#include "runtime/base/cuda_check.h"
#include "runtime/engine/mover.h"

enum { STAGES = 4, OUTGROWN_WORK_MAX = 48 };

// Pinned memory by which bytes go to the device, or come from there.
typedef struct {
    void *memory;
    uint64_t bytes;
    cudaEvent_t through; // what was copied last is
} PinnedStage;

struct MoveQueue {
    Mover *mover;
    CudaQueue kernels; // its stream: the caller's own, or one of ours
    bool is_own;
    PinnedStage out[STAGES], in;
    uint32_t next_out;
    void *outgrown[OUTGROWN_WORK_MAX]; // scratch that became too small; freeing it waits for everything that is in line
    uint32_t outgrown_count;
};

// A collective that is in line.
typedef struct Pending {
    struct Pending *next;
    CommCall call;
    cudaEvent_t begun, done; // the stream has come to it; it is through
    double begun_s;          // when that was seen; 0: not yet
} Pending;

struct Mover {
    Comm *comm;
    MoveQueue queues[LANE_COUNT];
    int device_before; // of the thread that is inside a call
    bool is_attached;
    cudaEvent_t here, last; // the stream of this call; what was put in line by the one before
    bool has_last;
    int32_t *zero;       // device
    uint64_t *lost;      // device: rows that did not fit
    uint64_t *lost_seen; // pinned
    atomic_bool hurries;
    pthread_mutex_t mutex; // guards what follows
    Pending *pending, **pending_end, *spare;
};

static inline MUST_CHECK bool event_make(cudaEvent_t *event, Fault *fault)
{
    return cuda_check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "create an event", fault);
}

static inline MUST_CHECK bool event_record(cudaEvent_t event, cudaStream_t stream, Fault *fault)
{
    return cuda_check(cudaEventRecord(event, stream), "record an event", fault);
}

static inline void event_drop(cudaEvent_t event)
{
    if (event)
        cudaEventDestroy(event);
}

extern const MoveOps cuda_moves;
extern const MoverOps cuda_mover;

// See MoverOps.look.
bool mover_look(Mover *mover, CommCall *call, Fault *fault) MUST_CHECK;
// Waits for the event, or a failure.
bool mover_await(Mover *mover, cudaEvent_t event, Fault *fault) MUST_CHECK;
bool mover_exchange(const Meeting *meeting, const Exchange *exchange, Fault *fault) MUST_CHECK;
// Brings how many rows have not fit to the host, at some time.
bool mover_see_lost(MoveQueue *queue, Fault *fault) MUST_CHECK;

// So much scratch for the kernels that are launched next.
bool queue_reserve(MoveQueue *queue, uint64_t bytes, Fault *fault) MUST_CHECK;
bool queue_put(MoveQueue *queue, void *to, const void *host, uint64_t bytes, Fault *fault) MUST_CHECK;
bool queue_bring(MoveQueue *queue, void *host, const void *from, uint64_t bytes, Fault *fault) MUST_CHECK;

#endif
