// Waiting for a GPU, which polls: a peer that has failed leaves work there that never ends. Collectives that are in
// line are listed, so that one that waits for too long is noticed, whoever waits for what comes after it. And memory by
// which queues reach the host, and their kernels' scratch.
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_common.h"
#include "runtime/engine/cuda_mover.h"

static const double spin_s = 200e-6, sleep_s = 50e-6, look_s = 0.02;

// ---- waiting ---------------------------------------------------------------------------------

static bool check_lost(const Mover *mover, Fault *fault)
{
    uint64_t lost = __atomic_load_n(mover->lost_seen, __ATOMIC_RELAXED);
    return lost == 0 || fault_set(fault, FAULT_RUN, "%" PRIu64 " rows did not fit in their messages", lost);
}

// Has it gone on? False and a fault: it has failed, or a peer lets it wait.
static bool pending_look(const Mover *mover, Pending *pending, bool *done, Fault *fault)
{
    cudaError_t error = cudaEventQuery(pending->done);
    *done = error == cudaSuccess;
    if (!*done && error != cudaErrorNotReady)
        return fault_set(fault, FAULT_RUN, "the GPU failed: %s", cudaGetErrorString(error));
    if (*done || cudaEventQuery(pending->begun) != cudaSuccess)
        return true;
    double now_s = clock_now_s();
    pending->begun_s = pending->begun_s > 0 ? pending->begun_s : now_s;
    if (mover->comm->timeout_s <= 0 || now_s - pending->begun_s < mover->comm->timeout_s)
        return true;
    char call[64];
    comm_describe_call(&pending->call, call, sizeof(call));
    fault_set(fault, FAULT_RUN, "%s has waited on the GPU for %g s: a rank did not come, or is in another call", call,
              mover->comm->timeout_s);
    fault->late = true;
    return false;
}

bool mover_look(Mover *mover, CommCall *call, Fault *fault)
{
    int before = 0;
    cudaGetDevice(&before);
    if (before != mover->comm->device_index)
        cudaSetDevice(mover->comm->device_index); // a thread of the library's
    bool ok = mover->comm->device->poll(mover->comm, fault) && check_lost(mover, fault);
    pthread_mutex_lock(&mover->mutex);
    for (Pending **at = &mover->pending; ok && *at;) {
        Pending *pending = *at;
        bool done;
        ok = pending_look(mover, pending, &done, fault);
        if (!ok)
            *call = pending->call;
        if (!done) {
            at = &pending->next;
            continue;
        }
        *at = pending->next;
        pending->next = mover->spare;
        mover->spare = pending;
    }
    mover->pending_end = &mover->pending;
    while (*mover->pending_end)
        mover->pending_end = &(*mover->pending_end)->next;
    pthread_mutex_unlock(&mover->mutex);
    return ok;
}

bool mover_await(Mover *mover, cudaEvent_t event, Fault *fault)
{
    double began_s = clock_now_s(), looked_s = began_s;
    for (;;) {
        cudaError_t error = cudaEventQuery(event);
        if (error == cudaSuccess) // also of what was broken off
            return mover->comm->device->poll(mover->comm, fault);
        if (error != cudaErrorNotReady)
            return fault_set(fault, FAULT_RUN, "the GPU failed: %s", cudaGetErrorString(error));
        double now_s = clock_now_s();
        CommCall call;
        if (now_s - looked_s > look_s) {
            looked_s = now_s;
            if (!mover_look(mover, &call, fault))
                return false;
        }
        if (now_s - began_s < spin_s)
            sched_yield();
        else
            clock_sleep_until(now_s + sleep_s);
    }
}

// ---- collectives -----------------------------------------------------------------------------

static Pending *pending_take(Mover *mover, Fault *fault)
{
    pthread_mutex_lock(&mover->mutex);
    Pending *pending = mover->spare;
    if (pending)
        mover->spare = pending->next;
    pthread_mutex_unlock(&mover->mutex);
    if (pending)
        return pending;
    pending = calloc(1, sizeof(*pending));
    if (pending && event_make(&pending->begun, fault) && event_make(&pending->done, fault))
        return pending;
    if (!pending)
        fault_set(fault, FAULT_MEMORY, "out of memory for a collective");
    else
        event_drop(pending->begun);
    free(pending);
    return NULL;
}

static void pending_add(Mover *mover, Pending *pending)
{
    pthread_mutex_lock(&mover->mutex);
    *mover->pending_end = pending;
    mover->pending_end = &pending->next;
    pthread_mutex_unlock(&mover->mutex);
}

bool mover_exchange(const Meeting *meeting, const Exchange *exchange, Fault *fault)
{
    MoveQueue *queue = meeting->queue;
    Mover *mover = queue->mover;
    Comm *comm = meeting->comm;
    cudaStream_t stream = queue->kernels.stream;
    Pending *pending = pending_take(mover, fault);
    if (!pending)
        return false;
    pending->next = NULL;
    pending->call = meeting->call;
    pending->begun_s = 0;
    cudaEvent_t done = pending->done;
    bool ok = event_record(pending->begun, stream, fault) &&
              comm->device->exchange(comm, meeting->channel, exchange, stream, fault) &&
              event_record(done, stream, fault);
    if (!ok) {
        event_drop(pending->begun);
        event_drop(pending->done);
        free(pending);
        return false;
    }
    pending_add(mover, pending); // from now on it is looked after
    return !comm->device->ordered || atomic_load(&mover->hurries) || mover_await(mover, done, fault);
}

bool mover_see_lost(MoveQueue *queue, Fault *fault)
{
    Mover *mover = queue->mover;
    return cuda_check(cudaMemcpyAsync(mover->lost_seen, mover->lost, sizeof(*mover->lost), cudaMemcpyDeviceToHost,
                                      queue->kernels.stream),
                      "enqueue a copy", fault);
}

// ---- memory of queues ------------------------------------------------------------------------

bool queue_reserve(MoveQueue *queue, uint64_t bytes, Fault *fault)
{
    CudaQueue *kernels = &queue->kernels;
    if (bytes <= kernels->work_bytes)
        return true;
    uint64_t reserved = bytes > 2 * kernels->work_bytes ? bytes : 2 * kernels->work_bytes;
    if (kernels->work && queue->outgrown_count < OUTGROWN_WORK_MAX)
        queue->outgrown[queue->outgrown_count++] = kernels->work;
    else
        cudaFree(kernels->work);
    kernels->work = NULL;
    kernels->work_bytes = 0;
    if (!cuda_check(cudaMalloc(&kernels->work, reserved), "allocate scratch", fault))
        return false;
    kernels->work_bytes = reserved;
    return true;
}

// At least so many bytes, of which nothing is on its way any more.
static bool stage_make(Mover *mover, PinnedStage *stage, uint64_t bytes, Fault *fault)
{
    if (!stage->through && !event_make(&stage->through, fault))
        return false;
    if (stage->memory && !mover_await(mover, stage->through, fault))
        return false;
    if (bytes <= stage->bytes)
        return true;
    cudaFreeHost(stage->memory);
    stage->bytes = bytes > 2 * stage->bytes ? bytes : 2 * stage->bytes;
    bool ok = cuda_check(cudaMallocHost(&stage->memory, stage->bytes), "allocate pinned memory", fault);
    if (!ok)
        *stage = (PinnedStage){.through = stage->through};
    return ok;
}

bool queue_put(MoveQueue *queue, void *to, const void *host, uint64_t bytes, Fault *fault)
{
    PinnedStage *stage = &queue->out[queue->next_out++ % STAGES];
    if (bytes == 0)
        return true;
    if (!stage_make(queue->mover, stage, bytes, fault))
        return false;
    memcpy(stage->memory, host, bytes);
    return cuda_check(cudaMemcpyAsync(to, stage->memory, bytes, cudaMemcpyHostToDevice, queue->kernels.stream),
                      "enqueue a copy", fault) &&
           event_record(stage->through, queue->kernels.stream, fault);
}

bool queue_bring(MoveQueue *queue, void *host, const void *from, uint64_t bytes, Fault *fault)
{
    PinnedStage *stage = &queue->in;
    if (bytes == 0)
        return true;
    if (!stage_make(queue->mover, stage, bytes, fault) ||
        !cuda_check(cudaMemcpyAsync(stage->memory, from, bytes, cudaMemcpyDeviceToHost, queue->kernels.stream),
                    "enqueue a copy", fault) ||
        !event_record(stage->through, queue->kernels.stream, fault) ||
        !mover_await(queue->mover, stage->through, fault))
        return false;
    memcpy(host, stage->memory, bytes);
    return true;
}
