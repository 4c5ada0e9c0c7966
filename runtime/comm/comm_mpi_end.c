// How a world of processes ends when one of them fails: the fault goes to rank 0, which reports the first one and ends
// all; if that process does not answer, to the next. Who reports it adds where its own rank stands and what is known of
// the processes that it waits for.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/machine.h"
#include "runtime/comm/comm_launcher.h"
#include "runtime/comm/comm_mpi_internal.h"

// Launchers kill a second after they have told processes to end, hasty ones after a quarter of that: two that do not
// answer must fit in. There is more time for faults that this process found itself.
static const double poll_s = 5e-3, answer_s = 1, told_answer_s = 0.4, hasty_answer_s = 0.1, patience_s = 1.8,
                    precedence_of_spokesmen_s = 0.8, precedence_s = 0.2, hasty_precedence_s = 0.05, settle_s = 0.05,
                    farewell_s = 0.2, killed_s = 0.3, start_slack_s = 1, start_turn_s = 1.5;
enum { SPOKESMEN = 2 };

// ---- what is known of a process --------------------------------------------------------------

bool mpi_places_learn(MpiWorld *world, Fault *fault)
{
    Place own = {.pid = getpid()};
    struct stat space;
    gethostname(own.host, sizeof(own.host) - 1);
    own.pid_space = stat("/proc/self/ns/pid", &space) == 0 ? (uint64_t)space.st_ino : 0;
    world->places = calloc(world->comm.size, sizeof(*world->places));
    if (!world->places)
        return fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " ranks", world->comm.size);
    return mpi_check(MPI_Allgather(&own, sizeof(own), MPI_BYTE, world->places, sizeof(own), MPI_BYTE, world->world),
                     "learning where processes run", fault);
}

static ProcessState state_of(const MpiWorld *world, uint64_t process)
{
    const Place *own = &world->places[world->process], *place = &world->places[process];
    if (process == world->process)
        return PROCESS_RUNS;
    if (own->pid_space == 0 || place->pid_space != own->pid_space || strcmp(place->host, own->host) != 0)
        return PROCESS_UNKNOWN;
    return machine_process_state(place->pid);
}

bool mpi_lost(const Comm *base)
{
    const MpiWorld *world = (const MpiWorld *)base;
    for (uint64_t p = 0; p < base->size; p++)
        if (state_of(world, p) == PROCESS_GONE)
            return true;
    return false;
}

static void append(Fault *fault, const char *text)
{
    size_t length = strlen(fault->message);
    snprintf(fault->message + length, sizeof(fault->message) - length, "%s", text);
}

// The process of the awaited rank, or the first of this machine that does not run.
static void append_culprit(const MpiWorld *world, Fault *fault)
{
    uint64_t culprit = world->comm.size;
    for (uint64_t p = 0; p < world->comm.size && culprit == world->comm.size; p++) {
        ProcessState state = state_of(world, p);
        if (state == PROCESS_STOPPED || state == PROCESS_GONE)
            culprit = p;
    }
    if (culprit == world->comm.size && fault->peer >= 0 && world->comm.cluster)
        culprit = cluster_process_of_rank(world->comm.cluster, (uint64_t)fault->peer);
    if (culprit == world->comm.size)
        return;
    static const char *const words[] = {
        [PROCESS_UNKNOWN] = "look at that process, its machine and the link to it",
        [PROCESS_RUNS] = "that process runs: look at what it does",
        [PROCESS_STOPPED] = "that process is stopped",
        [PROCESS_GONE] = "that process is gone: killed or crashed; look at the launcher's lines and the kernel's log",
    };
    char text[256];
    snprintf(text, sizeof(text), "; rank %" PRId64 " is process %" PRId64 " on %s: %s",
             mpi_rank_of(world, (int)culprit), world->places[culprit].pid, world->places[culprit].host,
             words[state_of(world, culprit)]);
    append(fault, text);
}

// Where this rank stands, for a fault that came from outside the schedule.
static void complete(MpiWorld *world, Fault *fault)
{
    bool outside = fault->step < 0, waits = false;
    if (fault->rank < 0)
        fault->rank = (int64_t)world->comm.rank;
    pthread_mutex_lock(&world->wait_mutex);
    for (uint32_t s = 0; outside && world->watch.point && s < STREAM_COUNT && !waits; s++) {
        const Wait *wait = &world->waits[s];
        StreamPoint at = world->watch.point(world->watch.context, (Stream)s);
        if (at.step < 0)
            continue;
        waits = wait->channel;
        if (fault->step < 0 || waits)
            fault->step = at.step;
        if (!waits)
            continue;
        char group[128], text[256];
        comm_describe_group(world->comm.cluster, &wait->channel->group, group, sizeof(group));
        snprintf(text, sizeof(text), "; it waits for rank %" PRIu64 " in %s", wait->channel->ranks[wait->member],
                 group);
        append(fault, text);
        if (fault->peer < 0)
            fault->peer = (int64_t)wait->channel->ranks[wait->member];
    }
    if (outside && world->watch.point && fault->step < 0)
        append(fault, ", between iterations");
    pthread_mutex_unlock(&world->wait_mutex);
    append_culprit(world, fault);
}

// ---- telling ---------------------------------------------------------------------------------

void mpi_end_all(int exit_code)
{
    MPI_Abort(MPI_COMM_WORLD, exit_code);
}

// The cause is reported already: the launcher ends this process soon.
static _Noreturn void await_end(const MpiWorld *world, FaultKind kind)
{
    clock_sleep_until(clock_now_s() + killed_s);
    world->options.end(kind, false);
}

// So that nobody reports another cause while the launcher ends all.
static void say_over(const MpiWorld *world)
{
    int size = (int)world->comm.size, done = 0;
    MPI_Request *requests = calloc((size_t)size, sizeof(*requests));
    if (!requests)
        return;
    for (int p = 0; p < size; p++) {
        requests[p] = MPI_REQUEST_NULL;
        if (p != (int)world->process)
            MPI_Isend(NULL, 0, MPI_BYTE, p, TAG_OVER, world->control, &requests[p]);
    }
    for (double until_s = clock_now_s() + farewell_s; !done && clock_now_s() < until_s;) {
        done = 1;
        for (int p = 0, sent; p < size; p++) {
            MPI_Test(&requests[p], &sent, MPI_STATUS_IGNORE);
            done = done && sent;
        }
        clock_sleep_until(clock_now_s() + poll_s);
    }
    free(requests);
}

// Does not return if another process reports a cause within that time, or has.
static void await_over(MpiWorld *world, double time_s, FaultKind kind)
{
    double until_s = clock_now_s() + time_s;
    do {
        if (mpi_control_receive(world, MPI_ANY_SOURCE, TAG_OVER, NULL, 0) >= 0)
            atomic_store(&world->over, true);
        if (atomic_load(&world->over))
            await_end(world, kind);
        clock_sleep_until(clock_now_s() + poll_s);
    } while (clock_now_s() < until_s);
}

void mpi_end(MpiWorld *world, const Fault *cause)
{
    pthread_mutex_lock(&world->end_mutex);
    await_over(world, settle_s, cause->kind); // a process that was stopped finds old messages
    world->options.report(world->options.report_context, cause);
    say_over(world);
    world->options.end(cause->kind, true);
}

static void tell(MpiWorld *world, int spokesman, const Fault *fault, double time_s)
{
    MPI_Request request;
    MPI_Isend(fault, sizeof(*fault), MPI_BYTE, spokesman, TAG_FAULT, world->control, &request);
    await_over(world, time_s, fault->kind);
    MPI_Request_free(&request);
}

// How long a spokesman may take to answer. Of this machine it is known whether it is there.
static double answer_time_s(const MpiWorld *world, int spokesman, bool told_before)
{
    ProcessState state = state_of(world, (uint64_t)spokesman);
    if (state == PROCESS_GONE)
        return 0;
    if (!told_before)
        return answer_s;
    return launcher_is_hasty() && state == PROCESS_UNKNOWN ? hasty_answer_s : told_answer_s;
}

static bool is_told_to_end(const MpiWorld *world)
{
    return world->options.interrupted && atomic_load(world->options.interrupted);
}

void mpi_abort(Comm *base, const Fault *cause)
{
    MpiWorld *world = (MpiWorld *)base;
    Fault fault = *cause; // lives as long as this call: it does not return
    bool told_before = is_told_to_end(world);
    complete(world, &fault);
    if (fault.step < 0) // who was in a step has more to say
        await_over(world, told_before && launcher_is_hasty() ? hasty_precedence_s : precedence_s, fault.kind);
    double began_s = clock_now_s();
    for (int spokesman = 0; spokesman < SPOKESMEN && spokesman < (int)world->process; spokesman++)
        tell(world, spokesman, &fault, answer_time_s(world, spokesman, told_before));
    // Cut off from those, but not from the launcher: that ends all soon, and somebody has told why.
    double until_s = began_s + patience_s + (world->process < SPOKESMEN ? 0 : precedence_of_spokesmen_s);
    while (world->process > 0 && !is_told_to_end(world) && clock_now_s() < until_s)
        await_over(world, 0, fault.kind);
    if (is_told_to_end(world) && world->process > 0 && (!told_before || world->process >= SPOKESMEN))
        await_end(world, fault.kind);
    mpi_end(world, &fault);
}

// ---- the start -------------------------------------------------------------------------------

static struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    WorldOptions options;
    bool watched, seen;
} start = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void *start_main(void *argument)
{
    (void)argument;
    double until_s = clock_now_s() + start.options.timeout_s + start_slack_s;
    struct timespec until = clock_timespec(until_s);
    pthread_mutex_lock(&start.mutex);
    while (!start.seen && pthread_cond_timedwait(&start.changed, &start.mutex, &until) == 0)
        continue;
    bool seen = start.seen;
    pthread_mutex_unlock(&start.mutex);
    if (seen)
        return NULL;
    // One after the other, so that the first ends all and the rest say nothing; last who was stopped itself.
    uint64_t rank = mpi_launcher_rank();
    bool was_stopped = clock_now_s() > until_s + start_turn_s / 4;
    clock_sleep_until(clock_now_s() + start_turn_s * (was_stopped || rank > 2 ? 2 : (double)rank));
    Fault fault = {0};
    fault_set(
        &fault, FAULT_RUN,
        "MPI did not come up in %g s: a process of this job is missing, stopped or cut off; look at the processes "
        "on every host and at the network between hosts",
        start.options.timeout_s + start_slack_s);
    fault.rank = (int64_t)rank;
    start.options.report(start.options.report_context, &fault);
    start.options.end(fault.kind, false);
}

void mpi_start_watch(const WorldOptions *options)
{
    start.options = *options;
    clock_cond_init(&start.changed);
    start.watched = pthread_create(&start.thread, NULL, start_main, NULL) == 0;
}

void mpi_start_seen(void)
{
    if (!start.watched)
        return;
    pthread_mutex_lock(&start.mutex);
    start.seen = true;
    pthread_cond_signal(&start.changed);
    pthread_mutex_unlock(&start.mutex);
    pthread_join(start.thread, NULL);
    start.watched = false;
}
