// Stands in for the CUDA engine where the toolkit, or NCCL, was missing when hep-run was built: it can be named, says
// how to get it, and executes nothing. The engine itself begins in engine_cuda.c.
#include "runtime/engine/engine.h"

static bool cuda_available(Fault *fault)
{
    return fault_set(fault, FAULT_RUN,
                     "this hep-run was built without CUDA: install the CUDA toolkit and NCCL, configure with "
                     "-DHEP_CUDA=ON and build again");
}

static bool cuda_supports(Op op)
{
    (void)op;
    return false;
}

const EngineOps cuda_engine = {.name = "cuda", .available = cuda_available, .supports = cuda_supports};
