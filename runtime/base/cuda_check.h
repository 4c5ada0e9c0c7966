// CUDA's errors as faults. Owns nothing; for files that are built with CUDA alone.
#ifndef HEP_CUDA_CHECK_H
#define HEP_CUDA_CHECK_H

#include <cuda_runtime_api.h>

#include "ir/base/fault.h"

// "cannot WHAT: an illegal memory access was encountered".
static inline bool cuda_check(cudaError_t error, const char *what, Fault *fault)
{
    return error == cudaSuccess || fault_set(fault, FAULT_RUN, "cannot %s: %s", what, cudaGetErrorString(error));
}

// What cudaMemcpy, to the device or within it, and cudaMemset were given is done: they may return before, and streams
// that do not block do not wait for it.
static inline bool cuda_check_settled(cudaError_t error, const char *what, Fault *fault)
{
    return cuda_check(error, what, fault) && cuda_check(cudaStreamSynchronize(NULL), what, fault);
}

#endif
