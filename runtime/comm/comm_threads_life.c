// What a rank of the world of threads asks about the others: has one failed, does any still move, where does one stand.
#include <math.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_threads_internal.h"

bool thread_world_aborted(ThreadWorld *world, Fault *fault)
{
    if (!atomic_load(&world->aborted))
        return false;
    pthread_mutex_lock(&world->cause_mutex);
    if (fault->kind == FAULT_NONE)
        *fault = world->cause;
    pthread_mutex_unlock(&world->cause_mutex);
    return true;
}

bool thread_world_lives(ThreadWorld *world)
{
    double now_s = clock_now_s(), life_s = atomic_load(&world->progress_s);
    pthread_mutex_lock(&world->watch_mutex);
    for (uint64_t rank = 0; rank < world->size && life_s < now_s; rank++) {
        const Watch *watch = &world->comms[rank].watch;
        life_s = watch->life_s ? fmax(life_s, watch->life_s(watch->context, now_s)) : life_s;
    }
    pthread_mutex_unlock(&world->watch_mutex);
    atomic_store(&world->progress_s, life_s);
    return life_s + world->timeout_s > now_s;
}

void thread_world_tell_peer(ThreadWorld *world, uint64_t rank, Stream stream, Fault *fault)
{
    fault->peer = (int64_t)rank;
    pthread_mutex_lock(&world->watch_mutex);
    const Watch *watch = &world->comms[rank].watch;
    fault->peer_told = watch->point;
    if (watch->point) {
        fault->peer_stream = stream;
        fault->peer_at = watch->point(watch->context, stream);
        fault->peer_for_s = clock_now_s() - fault->peer_at.since_s;
    }
    pthread_mutex_unlock(&world->watch_mutex);
}
