// See mover.h: queues on a GPU and their order.
#include <stdlib.h>

#include "runtime/engine/cuda_mover.h"

struct MoveMark {
    cudaEvent_t event;
};

// ---- order -----------------------------------------------------------------------------------

static bool queue_mark(MoveQueue *queue, MoveMark **mark, Fault *fault)
{
    if (!*mark) {
        *mark = calloc(1, sizeof(**mark));
        if (!*mark)
            return fault_set(fault, FAULT_MEMORY, "out of memory for a mark");
        if (!event_make(&(*mark)->event, fault)) {
            free(*mark);
            *mark = NULL;
            return false;
        }
    }
    return event_record((*mark)->event, queue->kernels.stream, fault);
}

static bool queue_follow(MoveQueue *queue, const MoveMark *mark, Fault *fault)
{
    return !mark || cuda_check(cudaStreamWaitEvent(queue->kernels.stream, mark->event, 0), "order streams", fault);
}

static void queue_unmark(MoveMark *mark)
{
    if (mark)
        event_drop(mark->event);
    free(mark);
}

static bool queue_drain(MoveQueue *queue, Fault *fault)
{
    PinnedStage *stage = &queue->in; // whose event is nobody else's between calls
    return (stage->through || event_make(&stage->through, fault)) &&
           event_record(stage->through, queue->kernels.stream, fault) &&
           mover_await(queue->mover, stage->through, fault);
}

static void mover_enter(Mover *mover)
{
    cudaGetDevice(&mover->device_before);
    if (mover->device_before != mover->comm->device_index)
        cudaSetDevice(mover->comm->device_index);
}

static void mover_leave(Mover *mover)
{
    if (mover->is_attached)
        mover->has_last = cudaEventRecord(mover->last, mover->queues[LANE_CALLER].kernels.stream) == cudaSuccess;
    mover->is_attached = false;
    if (mover->device_before != mover->comm->device_index)
        cudaSetDevice(mover->device_before);
}

// An event is recorded in streams of its own device alone.
static bool mover_attach(Mover *mover, void *stream, Fault *fault)
{
    if (cudaEventRecord(mover->here, stream) != cudaSuccess) {
        cudaGetLastError();
        return fault_set(fault, FAULT_USAGE, "'stream' is not one of GPU %d", mover->comm->device_index);
    }
    mover->queues[LANE_CALLER].kernels.stream = stream;
    mover->is_attached = true;
    return !mover->has_last || cuda_check(cudaStreamWaitEvent(stream, mover->last, 0), "order streams", fault);
}

static bool mover_owns(Mover *mover, const void *data, const char *name, Fault *fault)
{
    enum { ALIGNMENT = 16 }; // of the kernels' accesses
    struct cudaPointerAttributes of = {.type = cudaMemoryTypeUnregistered};
    if (cudaPointerGetAttributes(&of, data) != cudaSuccess)
        cudaGetLastError();
    if (of.type != cudaMemoryTypeDevice && of.type != cudaMemoryTypeManaged)
        return fault_set(fault, FAULT_USAGE, "'%s' is not in memory of GPU %d", name, mover->comm->device_index);
    if (of.type == cudaMemoryTypeDevice && of.device != mover->comm->device_index)
        return fault_set(fault, FAULT_USAGE, "'%s' is in memory of GPU %d, expected GPU %d", name, of.device,
                         mover->comm->device_index);
    return (uintptr_t)data % ALIGNMENT == 0 ||
           fault_set(fault, FAULT_USAGE, "'%s' does not begin at a multiple of %d bytes", name, ALIGNMENT);
}

// ---- life ------------------------------------------------------------------------------------

static void stage_drop(PinnedStage *stage)
{
    event_drop(stage->through);
    cudaFreeHost(stage->memory);
}

static void queue_drop(MoveQueue *queue)
{
    for (uint32_t s = 0; s < STAGES; s++)
        stage_drop(&queue->out[s]);
    stage_drop(&queue->in);
    while (queue->outgrown_count)
        cudaFree(queue->outgrown[--queue->outgrown_count]);
    cudaFree(queue->kernels.work);
    if (queue->is_own)
        cudaStreamDestroy(queue->kernels.stream);
}

static void pending_drop(Pending *pending)
{
    while (pending) {
        Pending *next = pending->next;
        event_drop(pending->begun);
        event_drop(pending->done);
        free(pending);
        pending = next;
    }
}

static void mover_free(Mover *mover)
{
    for (int q = 0; q < LANE_COUNT; q++)
        queue_drop(&mover->queues[q]);
    pending_drop(mover->pending);
    pending_drop(mover->spare);
    event_drop(mover->here);
    event_drop(mover->last);
    cudaFree(mover->zero);
    cudaFree(mover->lost);
    cudaFreeHost(mover->lost_seen);
    pthread_mutex_destroy(&mover->mutex);
    free(mover);
}

// What was put in line of the caller's stream may still use what is freed here.
static void mover_destroy(Mover *mover)
{
    Fault ignored = {0};
    if (!mover)
        return;
    mover_enter(mover);
    bool settled = !mover->has_last || mover_await(mover, mover->last, &ignored);
    for (int q = LANE_GATHERS; q < LANE_COUNT && settled; q++)
        settled = queue_drain(&mover->queues[q], &ignored);
    int before = mover->device_before, own = mover->comm->device_index;
    mover_free(mover);
    if (before != own)
        cudaSetDevice(before);
}

static bool make_parts(Mover *mover, Fault *fault)
{
    for (int q = 0; q < LANE_COUNT; q++)
        mover->queues[q].mover = mover;
    for (int q = LANE_GATHERS; q < LANE_COUNT; q++) {
        MoveQueue *queue = &mover->queues[q];
        if (!cuda_check(cudaStreamCreateWithFlags(&queue->kernels.stream, cudaStreamNonBlocking), "create a stream",
                        fault))
            return false;
        queue->is_own = true;
    }
    if (!event_make(&mover->here, fault) || !event_make(&mover->last, fault) ||
        !cuda_check(cudaMalloc((void **)&mover->zero, sizeof(*mover->zero)), "allocate memory", fault) ||
        !cuda_check(cudaMalloc((void **)&mover->lost, sizeof(*mover->lost)), "allocate memory", fault) ||
        !cuda_check(cudaMallocHost((void **)&mover->lost_seen, sizeof(*mover->lost_seen)), "allocate pinned memory",
                    fault))
        return false;
    *mover->lost_seen = 0;
    return cuda_check(cudaMemset(mover->zero, 0, sizeof(*mover->zero)), "clear memory", fault) &&
           cuda_check_settled(cudaMemset(mover->lost, 0, sizeof(*mover->lost)), "clear memory", fault);
}

static bool mover_create(Comm *comm, Mover **out, Fault *fault)
{
    Mover *mover = calloc(1, sizeof(*mover));
    *out = NULL;
    if (!mover)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a context");
    mover->comm = comm;
    mover->pending_end = &mover->pending;
    pthread_mutex_init(&mover->mutex, NULL);
    mover_enter(mover);
    bool ok = make_parts(mover, fault);
    mover_leave(mover);
    if (ok)
        *out = mover;
    else
        mover_free(mover);
    return ok;
}

static MoveQueue *mover_queue(Mover *mover, MoveLane lane)
{
    return &mover->queues[lane];
}

static void mover_hurry(Mover *mover, bool hurries)
{
    atomic_store(&mover->hurries, hurries);
}

const MoverOps cuda_mover = {.moves = &cuda_moves,
                             .create = mover_create,
                             .destroy = mover_destroy,
                             .queue = mover_queue,
                             .enter = mover_enter,
                             .leave = mover_leave,
                             .attach = mover_attach,
                             .owns = mover_owns,
                             .mark = queue_mark,
                             .follow = queue_follow,
                             .unmark = queue_unmark,
                             .drain = queue_drain,
                             .hurry = mover_hurry,
                             .look = mover_look};
