// Which communicators there are, and what is known of each before any rank has joined: communicators.def as data.
#ifndef HEP_COMMUNICATOR_H
#define HEP_COMMUNICATOR_H

#include "ir/base/base.h"

#define HEP_COMMUNICATOR(name, ...) COMMUNICATOR_##name,
typedef enum {
#include "runtime/comm/communicators.def"
    COMMUNICATOR_COUNT
} CommunicatorId;

typedef struct {
    const char *name;
    bool of_device;                // moves device memory, and goes with engines that compute there; else the host's
    bool of_processes;             // every rank is a process of its own; else all are threads of one
    const char *(*launcher)(void); // of processes: what started this one as one of several; NULL: nothing did
    const char *library;           // that it is built with
    const char *text;
} Communicator;

const Communicator *communicator_info(CommunicatorId id);
const Communicator *communicator_find(const char *name); // NULL for an unknown name
const char *communicator_name(size_t index);             // NULL beyond the last
// The one whose ranks are threads of one process.
const Communicator *communicator_of_threads(bool of_device);
// What this process was started for: as one of several by a launcher, or by itself.
const Communicator *communicator_of_launcher(bool of_device);

#endif
