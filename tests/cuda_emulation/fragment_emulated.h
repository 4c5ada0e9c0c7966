// What kernels/cuda/fragment.h wraps, for the processor.
#ifndef HEP_CUDA_FRAGMENT_EMULATED_H
#define HEP_CUDA_FRAGMENT_EMULATED_H

#include "emulate.h"

enum { FRAGMENT = 16 };

inline void copy_async(void *to, const void *from)
{
    emulation::copy_later(to, from);
}

inline void copy_commit()
{
    emulation::copy_group();
}

template <int PENDING> void copy_await()
{
    emulation::copy_until(PENDING);
}

#endif
