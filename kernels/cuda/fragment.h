// Asynchronous copies to shared memory, a thin wrapper, so that the emulation can put its own here; and how many rows
// and columns of a product go together.
#ifndef HEP_CUDA_FRAGMENT_H
#define HEP_CUDA_FRAGMENT_H

#include "kernels/cuda/device.h"

#ifdef HEP_CUDA_EMULATION
#include "fragment_emulated.h"
#else
#include <cuda_pipeline_primitives.h>

enum { FRAGMENT = 16 };

// 16 bytes from global to shared memory, without a register between; they are there when the group is awaited.
static __device__ __forceinline__ void copy_async(void *to, const void *from)
{
    __pipeline_memcpy_async(to, from, 16);
}

static __device__ __forceinline__ void copy_commit()
{
    __pipeline_commit();
}

// Until all but the last `pending` groups are there, for the calling thread.
template <int PENDING> static __device__ __forceinline__ void copy_await()
{
    __pipeline_wait_prior(PENDING);
}
#endif

#endif
