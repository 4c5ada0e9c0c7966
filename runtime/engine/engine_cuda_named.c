// Stands for the CUDA engine until its plug-in is loaded (runtime/plugin/plugin.h): it can be named, and executes
// nothing. The engine itself begins in engine_cuda.c.
#include "runtime/engine/engine.h"

static bool cuda_available(Fault *fault)
{
    return fault_set(fault, FAULT_INTERNAL, "the CUDA engine was not loaded");
}

static bool cuda_supports(Op op)
{
    (void)op;
    return false;
}

const EngineOps cuda_engine = {
    .name = "cuda", .kind = ENGINE_CUDA, .available = cuda_available, .supports = cuda_supports};
