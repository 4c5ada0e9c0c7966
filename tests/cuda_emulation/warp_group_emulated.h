// What kernels/cuda/warp_group.h wraps, for the processor: engines.cpp does the work.
#ifndef HEP_CUDA_WARP_GROUP_EMULATED_H
#define HEP_CUDA_WARP_GROUP_EMULATED_H

#include "emulate.h"

inline uint32_t shared_address(const void *pointer)
{
    return emulation::shared_address(pointer);
}

inline void copy_async_or_zero(uint32_t to, const void *from, bool there)
{
    emulation::copy_later(emulation::shared_pointer(to), there ? from : nullptr);
}

inline void group_publish()
{
    emulation::copy_publish();
}

inline void group_begin(float (&)[GROUP_SUMS])
{
    emulation::product_begin();
}

inline void group_commit()
{
    emulation::product_group();
}

template <int PENDING> void group_await(float (&)[GROUP_SUMS])
{
    emulation::product_until(PENDING);
}

template <typename T> void decode_unit(const unsigned char *unit, float values[8])
{
    T elements[8];
    memcpy(elements, unit, sizeof(elements));
    for (int i = 0; i < 8; i++)
        values[i] = to_f32(elements[i]);
}

template <typename T, int A_ALONG_ROWS, int B_ALONG_COLS>
void group_multiply_add(float (&sums)[GROUP_SUMS], uint64_t a, uint64_t b)
{
    emulation::product_later(sums, {a, b, A_ALONG_ROWS != 0, B_ALONG_COLS != 0, decode_unit<T>});
}

#endif
