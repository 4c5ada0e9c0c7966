// How a world of processes ends early. A fault goes to rank 0, which reports the first one and ends all processes.
// In every process a thread listens: rank 0's for faults, each one's for signs of life of the rank before it, so that
// a stopped process is noticed wherever the others wait.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "runtime/clock.h"
#include "runtime/comm_mpi_internal.h"

static const double poll_s = 1e-3, listen_s = 20e-3, answer_s = 3, beat_s = 1;

typedef enum { TAG_FAULT, TAG_ALIVE, TAG_LAST } ControlTag;

// A fault on its way to rank 0: a pointer does not travel.
typedef struct {
    Fault fault;
    char op[32];
} FaultMessage;

static void world_end(MpiWorld *world, const Fault *cause)
{
    pthread_mutex_lock(&world->end_mutex);
    world->options.report(world->options.report_context, cause);
    MPI_Abort(MPI_COMM_WORLD, (int)cause->code);
}

void mpi_abort(Comm *base, const Fault *cause)
{
    MpiWorld *world = (MpiWorld *)base;
    if (world->process != 0) {
        FaultMessage message = {.fault = *cause};
        snprintf(message.op, sizeof(message.op), "%s", cause->op ? cause->op : "");
        MPI_Request request;
        MPI_Isend(&message, sizeof(message), MPI_BYTE, 0, TAG_FAULT, world->control, &request);
        for (double until_s = clock_now_s() + answer_s; clock_now_s() < until_s;) {
            int done;
            MPI_Test(&request, &done, MPI_STATUS_IGNORE);
            clock_sleep_until(clock_now_s() + poll_s);
        }
    }
    world_end(world, cause);
}

static int rank_after(const MpiWorld *world)
{
    return (int)((world->process + 1) % world->comm.size);
}

static int rank_before(const MpiWorld *world)
{
    return (int)((world->process + world->comm.size - 1) % world->comm.size);
}

static bool control_receive(const MpiWorld *world, int from, ControlTag tag, FaultMessage *message)
{
    int arrived = 0, bytes = message ? (int)sizeof(*message) : 0;
    return MPI_Iprobe(from, tag, world->control, &arrived, MPI_STATUS_IGNORE) == MPI_SUCCESS && arrived &&
           MPI_Recv(message, bytes, MPI_BYTE, from, tag, world->control, MPI_STATUS_IGNORE) == MPI_SUCCESS;
}

static void listen_for_faults(MpiWorld *world)
{
    FaultMessage message;
    if (!control_receive(world, MPI_ANY_SOURCE, TAG_FAULT, &message))
        return;
    message.fault.op = message.op[0] ? message.op : NULL;
    world_end(world, &message.fault);
}

static void give_sign_of_life(MpiWorld *world)
{
    int done;
    MPI_Test(&world->alive, &done, MPI_STATUS_IGNORE);
    if (done)
        MPI_Isend(NULL, 0, MPI_BYTE, rank_after(world), TAG_ALIVE, world->control, &world->alive);
}

static void *listener_main(void *argument)
{
    MpiWorld *world = argument;
    double timeout_s = world->options.timeout_s, period_s = fmin(beat_s, timeout_s / 8);
    double heard_s = clock_now_s(), beaten_s = 0, last_s = heard_s;
    while (!atomic_load(&world->quit)) {
        double now_s = clock_now_s();
        if (world->process == 0)
            listen_for_faults(world);
        if (now_s >= beaten_s + period_s) {
            give_sign_of_life(world);
            beaten_s = now_s;
        }
        // Who was stopped itself and goes on has no reason to complain.
        if (control_receive(world, rank_before(world), TAG_ALIVE, NULL) || now_s - last_s > timeout_s / 2)
            heard_s = now_s;
        if (now_s > heard_s + timeout_s) {
            Fault fault = {0};
            fault_set(&fault, EXIT_FAULT, "rank %d gave no sign of life for %g s: stopped, or cut off",
                      rank_before(world), timeout_s);
            fault.rank = (int64_t)world->process;
            fault.peer = rank_before(world);
            mpi_abort(&world->comm, &fault);
        }
        last_s = now_s;
        clock_sleep_until(now_s + listen_s);
    }
    return NULL;
}

void mpi_listener_start(MpiWorld *world)
{
    world->alive = MPI_REQUEST_NULL;
    world->listens = pthread_create(&world->listener, NULL, listener_main, world) == 0;
}

// Takes what signs of life are still on their way: the last message is behind them.
void mpi_listener_stop(MpiWorld *world)
{
    atomic_store(&world->quit, true);
    if (world->listens)
        pthread_join(world->listener, NULL);
    MPI_Request last;
    MPI_Status status = {.MPI_TAG = TAG_ALIVE};
    MPI_Isend(NULL, 0, MPI_BYTE, rank_after(world), TAG_LAST, world->control, &last);
    while (status.MPI_TAG != TAG_LAST)
        MPI_Recv(NULL, 0, MPI_BYTE, rank_before(world), MPI_ANY_TAG, world->control, &status);
    MPI_Wait(&world->alive, MPI_STATUS_IGNORE);
    MPI_Wait(&last, MPI_STATUS_IGNORE);
}
