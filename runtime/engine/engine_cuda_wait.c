// Waiting for the device, which polls: a peer that has failed leaves work there that never ends. While nothing moves,
// ranks learn where the others stand, and who lets whom wait.
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_common.h"
#include "runtime/engine/engine_cuda_internal.h"

// A wait asks over and over, then sleeps between two questions for a share of the time that it has taken already.
static const double spin_s = 100e-6, hurrying_spin_s = 300e-6, share = 1.0 / 32, sleep_least_s = 20e-6,
                    sleep_most_s = 500e-6;
static const double look_s = 0.1;
enum { TIMER_SLACK_NS = 1000 };

// Timers of a thread may be 50 us late unless it asks for less.
static void sleep_until(double time_s)
{
    static _Thread_local bool is_sharp;
    if (!is_sharp)
        prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    is_sharp = true;
    clock_sleep_until(time_s);
}

// The first step of a stream that was enqueued in this iteration and is not done, or NONE.
static int64_t step_under_way(const CudaEngine *engine, Stream stream)
{
    for (uint32_t s = 0; s < engine->plan->step_count; s++) {
        const CudaStep *step = &engine->steps[s];
        if (step->stream == stream && atomic_load(&step->enqueued) == engine->iteration &&
            cudaEventQuery(step->done) == cudaErrorNotReady)
            return s;
    }
    return NONE;
}

static int64_t any_collective(const CudaEngine *engine, const int64_t at[STREAM_COUNT])
{
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        if (at[s] != NONE && engine->plan->steps[at[s]].group != NONE)
            return at[s];
    return NONE;
}

// A step that computes may take as long as it likes, and so may those that wait for it.
static bool anything_computes(const CudaEngine *engine, const int64_t at[STREAM_COUNT])
{
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        bool waits = at[s] == NONE || engine->plan->steps[at[s]].group != NONE;
        for (uint32_t a = 0; !waits && a < engine->steps[at[s]].awaited_count; a++)
            waits = cudaEventQuery(engine->steps[engine->steps[at[s]].awaited[a]].done) == cudaErrorNotReady;
        if (!waits)
            return true;
    }
    return false;
}

typedef struct {
    double moved_s; // when the device was last seen to make progress
    int64_t at[STREAM_COUNT];
} Progress;

// Is a rank that stands at `standing` before this step of that iteration?
static bool is_behind(uint64_t iteration, int64_t step, const Standing *standing)
{
    if (standing->iteration != iteration)
        return standing->iteration < iteration;
    bool behind = false;
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        behind = behind || (standing->at[s] >= 0 && standing->at[s] < step);
    return behind;
}

// The first step, of any stream, that is not done there; -1 where none is under way.
static int64_t first_step(const Plan *plan, const Standing *standing)
{
    int64_t first = -1;
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        if (standing->at[s] >= 0 && standing->at[s] < plan->step_count && (first < 0 || standing->at[s] < first))
            first = standing->at[s];
    return first;
}

// The member of the step's group, as `rank` sees it, that is furthest behind, or -1; *found becomes where it stands.
static int64_t furthest_behind(const CudaEngine *engine, uint64_t rank, uint64_t iteration, int64_t step,
                               Standing *found)
{
    const Plan *plan = engine->plan;
    const Group *group = &plan->groups[plan->steps[step].group];
    Comm *comm = engine->comm;
    uint64_t members = group_size(&plan->cluster, group);
    int64_t peer = -1;
    for (uint64_t m = 0; comm->device->standing && m < members; m++) {
        uint64_t member = group_member_rank(&plan->cluster, group, rank, m);
        Standing standing = comm->device->standing(comm, member);
        bool only = members == 2 && rank == comm->rank; // who else
        bool further =
            peer < 0 || standing.iteration < found->iteration ||
            (standing.iteration == found->iteration && first_step(plan, &standing) < first_step(plan, found));
        if (member == rank || member == comm->rank || !further || (!only && !is_behind(iteration, step, &standing)))
            continue;
        peer = (int64_t)member;
        *found = standing;
    }
    return peer;
}

// Who is waited for: a peer that is behind may wait for another one, and so on. Returns how many steps that took.
static uint64_t find_cause(const CudaEngine *engine, int64_t step, Fault *fault)
{
    const Plan *plan = engine->plan;
    uint64_t rank = engine->comm->rank, iteration = engine->iteration, hops = 0;
    fault->peer = -1;
    while (hops < engine->comm->size && step >= 0 && plan->steps[step].group != NONE) {
        Standing standing = {0};
        int64_t peer = furthest_behind(engine, rank, iteration, step, &standing);
        if (peer < 0)
            break;
        rank = (uint64_t)peer;
        iteration = standing.iteration;
        step = first_step(plan, &standing);
        fault->peer = peer;
        fault->peer_told = iteration > 0;
        fault->peer_stream = step < 0 ? STREAM_COMPUTE : step_stream(plan, &plan->steps[step]);
        fault->peer_at = (StreamPoint){.step = step, .awaited = -1};
        fault->peer_for_s = standing.still_s;
        hops++;
    }
    return hops;
}

static bool time_out(const CudaEngine *engine, int64_t step, Fault *fault)
{
    const Plan *plan = engine->plan;
    Fault cause = {0};
    uint64_t hops = find_cause(engine, step, &cause);
    char group[128], who[192] = "a rank of ";
    comm_describe_group(&plan->cluster, &plan->groups[plan->steps[step].group], group, sizeof(group));
    if (hops > 0)
        snprintf(who, sizeof(who), hops == 1 ? "rank %" PRId64 " of " : "rank %" PRId64 ", awaited by the ranks of ",
                 cause.peer);
    fault_set(fault, FAULT_RUN,
              "%s%s%s did not arrive, or does not take its rows: for %g s nothing moved here; look at %s", who, group,
              hops > 1 ? "," : "", engine->comm->timeout_s,
              hops > 0 ? "its process, its machine and the link to it"
                       : "the processes of that group, their machines and the links to them");
    cause.kind = fault->kind;
    cause.rank = (int64_t)engine->comm->rank;
    cause.step = step;
    memcpy(cause.message, fault->message, sizeof(cause.message));
    *fault = cause;
    return false;
}

// The step of a stream that is under way, else the one after the last that was enqueued; -1 after them all.
static int64_t step_due(const CudaEngine *engine, Stream stream)
{
    int64_t due = -1;
    for (uint32_t s = engine->plan->step_count; s-- > 0;) {
        const CudaStep *step = &engine->steps[s];
        if (step->stream != stream)
            continue;
        if (atomic_load(&step->enqueued) == engine->iteration)
            break;
        due = s;
    }
    int64_t under_way = step_under_way(engine, stream);
    return under_way == NONE ? due : under_way;
}

static void tell_standing(const CudaEngine *engine, const Progress *progress, double now_s)
{
    if (!engine->comm->device->stand)
        return;
    Standing standing = {.iteration = engine->iteration, .still_s = now_s - progress->moved_s};
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        standing.at[s] = step_due(engine, (Stream)s);
    engine->comm->device->stand(engine->comm, &standing);
}

static bool look_for_progress(const CudaEngine *engine, Progress *progress, Fault *fault)
{
    int64_t at[STREAM_COUNT];
    double now_s = clock_now_s();
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        at[s] = step_under_way(engine, (Stream)s);
    if (memcmp(at, progress->at, sizeof(at)) != 0 || anything_computes(engine, at)) {
        memcpy(progress->at, at, sizeof(at));
        progress->moved_s = now_s;
    }
    tell_standing(engine, progress, now_s);
    int64_t step = any_collective(engine, at);
    if (engine->comm->timeout_s <= 0 || step == NONE || now_s - progress->moved_s < engine->comm->timeout_s)
        return true;
    return time_out(engine, step, fault);
}

bool cuda_await(CudaEngine *engine, cudaEvent_t event, bool hurries, Fault *fault)
{
    const double spins_s = hurries ? hurrying_spin_s : spin_s;
    Progress progress = {.moved_s = clock_now_s()};
    double began_s = progress.moved_s, looked_s = began_s;
    for (;;) {
        cudaError_t error = cudaEventQuery(event);
        if (error == cudaSuccess)
            return true;
        if (error != cudaErrorNotReady)
            return fault_set(fault, FAULT_RUN, "the GPU failed: %s", cudaGetErrorString(error));
        if (!engine->comm->device->poll(engine->comm, fault))
            return false;
        double now_s = clock_now_s();
        if (now_s - looked_s > look_s) {
            looked_s = now_s;
            if (!look_for_progress(engine, &progress, fault))
                return false;
        }
        if (now_s - began_s < spins_s)
            sched_yield();
        else
            sleep_until(now_s + fmin(fmax(share * (now_s - began_s), sleep_least_s), sleep_most_s));
    }
}
