// The CUDA engine is a plug-in, hep-cuda.so: engine, calibration and communicator for GPUs, with their kernels. It is
// loaded when it is asked for, as CUDA's libraries take hundreds of megabytes of address space; what it calls of the
// rest is the program's own.
#ifndef HEP_PLUGIN_H
#define HEP_PLUGIN_H

#include "runtime/calibrate/calibrate.h"
#include "runtime/comm/world.h"
#include "runtime/engine/engine.h"

typedef struct {
    const char *build; // of the headers that both sides include: see plugin_build
    const EngineOps *engine;
    const CalibrateDevice *calibrate;
    const WorldOps *const *worlds; // of its communicators, up to a NULL
} CudaPlugin;

// What the plug-in exports, under this name.
typedef const CudaPlugin *CudaPluginEntry(void);
#define CUDA_PLUGIN_ENTRY "hep_cuda_plugin"

// Loads it at the first call. NULL and a fault where it is absent, of another build, or cannot be loaded.
const CudaPlugin *cuda_plugin_open(Fault *fault) MUST_CHECK;

// Says where it is, or would be, without loading it.
void cuda_plugin_describe(Text *out);

// Version, and a digest of all headers: structs are passed between program and plug-in.
const char *plugin_build(void);

#endif
