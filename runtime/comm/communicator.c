// See communicator.h. Owns the table alone.
#include "runtime/comm/communicator.h"

#include <string.h>

#include "runtime/comm/comm_launcher.h"
#include "runtime/comm/comm_mpi.h"

enum { OF_HOST_THREADS, OF_HOST_PROCESSES, OF_DEVICE_THREADS, OF_DEVICE_PROCESSES };

#define HEP_COMMUNICATOR(name, KIND, launcher, library, text)                                                          \
    {#name, OF_##KIND >= OF_DEVICE_THREADS, OF_##KIND % 2 == 1, launcher, library, text},
static const Communicator communicators[COMMUNICATOR_COUNT] = {
#include "runtime/comm/communicators.def"
};

const Communicator *communicator_info(CommunicatorId id)
{
    return &communicators[id];
}

const char *communicator_name(size_t index)
{
    return index < COMMUNICATOR_COUNT ? communicators[index].name : NULL;
}

const Communicator *communicator_find(const char *name)
{
    for (size_t c = 0; c < COMMUNICATOR_COUNT; c++)
        if (strcmp(communicators[c].name, name) == 0)
            return &communicators[c];
    return NULL;
}

const Communicator *communicator_of_threads(bool of_device)
{
    size_t c = 0;
    while (communicators[c].of_device != of_device || communicators[c].of_processes)
        c++;
    return &communicators[c];
}

const Communicator *communicator_of_launcher(bool of_device)
{
    for (size_t c = 0; c < COMMUNICATOR_COUNT; c++) {
        const Communicator *of = &communicators[c];
        if (of->of_device == of_device && of->of_processes && of->launcher())
            return of;
    }
    return communicator_of_threads(of_device);
}
