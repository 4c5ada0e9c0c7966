// GPUs, for libhep: a plug-in, hep-library-cuda.so, which is loaded when a communicator asks for it, as CUDA's
// libraries take hundreds of megabytes. It is made of the same objects as hep-run's (runtime/plugin/plugin.h), with
// copies of what those call of the layers below: libhep shows nobody its own.
#ifndef HEP_LIBRARY_DEVICE_H
#define HEP_LIBRARY_DEVICE_H

#include "runtime/comm/comm_nccl.h"
#include "runtime/comm/comm_threads.h"
#include "runtime/engine/mover.h"

// How processes join by NCCL: see comm_nccl.h. The thread's current device is afterwards what it was before.
typedef struct {
    Comm *(*join)(const Launch *launch, int device, double timeout_s, Fault *fault);
    void (*part)(Comm *all);
    Comm *(*open)(Comm *all, const Cluster *cluster, Fault *fault);
    void (*close)(Comm *of_plan);
} DeviceProcesses;

typedef struct {
    const char *build; // of the headers that both sides include
    const MoverOps *mover;
    // Ranks that are threads of one process and share a GPU: comm_local.h. False and a fault: there is no such GPU.
    bool (*check)(int device, Fault *fault);
    Comm *(*open)(ThreadWorld *world, uint64_t rank, int device, Fault *fault);
    void (*close)(Comm *comm);
    const DeviceProcesses *nccl; // NULL: built without NCCL
} LibraryDevice;

// What the plug-in exports, under this name.
typedef const LibraryDevice *LibraryDeviceEntry(void);
#define LIBRARY_DEVICE_ENTRY "hep_library_device"

// Loads it at the first call. NULL and a fault where it is absent, of another build, or cannot be loaded. Any thread.
const LibraryDevice *library_device(Fault *fault) MUST_CHECK;

#endif
