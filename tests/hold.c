// Preloaded into a process of a world over MPI: stops it inside a collective, before its HEP_HOLD_AT-th long message
// leaves, so that what the others say of a step does not depend on when a signal arrives. By then they have had time to
// come to that step.
#include <mpi.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { LONG_FROM_BYTES = 64 << 10 }; // longer than anything but rows and shards

static void hold(void)
{
    struct timespec time = {.tv_nsec = 500000000};
    nanosleep(&time, NULL);
    kill(getpid(), SIGSTOP);
}

int MPI_Isend(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    static atomic_int sent;
    const char *at = getenv("HEP_HOLD_AT");
    int size = 0;
    MPI_Type_size(type, &size);
    if (at && (long)count * size >= LONG_FROM_BYTES && atomic_fetch_add(&sent, 1) + 1 == atoi(at))
        hold();
    return PMPI_Isend(data, count, type, to, tag, comm, request);
}
