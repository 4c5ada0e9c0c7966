// What all parts of the MPI communicator call: errors of MPI as faults, waiting, messages of the control communicator,
// and whom each stream waits for.
#include <math.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_mpi_internal.h"

static const double first_sleep_s = 20e-6, last_sleep_s = 1e-3;

bool mpi_check(int error, const char *what, Fault *fault)
{
    if (error == MPI_SUCCESS)
        return true;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(error, text, &length);
    return fault_set(fault, FAULT_RUN, "%s: %s", what, text);
}

void mpi_wait_a_while(double since_s)
{
    double now_s = clock_now_s();
    clock_sleep_until(now_s + fmin(fmax((now_s - since_s) / 8, first_sleep_s), last_sleep_s));
}

int64_t mpi_rank_of(const MpiWorld *world, int process)
{
    if (!comm_is_placed(&world->comm))
        return process;
    return (int64_t)cluster_rank_of_process(world->comm.cluster, (uint64_t)process);
}

int mpi_control_receive(const MpiWorld *world, int from, ControlTag tag, void *message, int bytes)
{
    MPI_Message matched;
    MPI_Status status;
    int arrived = 0;
    if (MPI_Improbe(from, tag, world->control, &arrived, &matched, &status) != MPI_SUCCESS || !arrived ||
        MPI_Mrecv(message, bytes, MPI_BYTE, &matched, MPI_STATUS_IGNORE) != MPI_SUCCESS)
        return -1;
    return status.MPI_SOURCE;
}

void mpi_wait_for(MpiWorld *world, Stream stream, const Channel *channel, uint32_t member)
{
    Wait *wait = &world->waits[stream];
    pthread_mutex_lock(&world->wait_mutex);
    if (wait->channel != channel || wait->member != member)
        *wait = (Wait){.channel = channel, .member = member};
    if (channel)
        wait->process = (int)cluster_process_of_rank(world->comm.cluster, channel->ranks[member]);
    pthread_mutex_unlock(&world->wait_mutex);
}

Wait mpi_wait_known(MpiWorld *world, Stream stream)
{
    pthread_mutex_lock(&world->wait_mutex);
    Wait wait = world->waits[stream];
    pthread_mutex_unlock(&world->wait_mutex);
    return wait;
}
