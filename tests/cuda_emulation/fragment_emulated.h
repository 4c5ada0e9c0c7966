// What kernels/cuda/fragment.h wraps, for the processor. A lane holds what its eight results need: half a row of the
// sum, one row of a, eight columns of b.
#ifndef HEP_CUDA_FRAGMENT_EMULATED_H
#define HEP_CUDA_FRAGMENT_EMULATED_H

#include "emulate.h"

enum { FRAGMENT = 16, FRAGMENT_COLUMNS = 8 };

template <typename T, bool TRANSPOSED> struct FragmentA {
    float row[FRAGMENT];

    void load(const T *from, int stride)
    {
        int r = emulation_lane() / 2;
        for (int k = 0; k < FRAGMENT; k++)
            row[k] = to_f32(TRANSPOSED ? from[k * stride + r] : from[r * stride + k]);
    }
};

template <typename T, bool TRANSPOSED> struct FragmentB {
    float columns[FRAGMENT][FRAGMENT_COLUMNS];

    void load(const T *from, int stride)
    {
        int first = emulation_lane() % 2 * FRAGMENT_COLUMNS;
        for (int k = 0; k < FRAGMENT; k++)
            for (int c = 0; c < FRAGMENT_COLUMNS; c++)
                columns[k][c] = to_f32(TRANSPOSED ? from[(first + c) * stride + k] : from[k * stride + first + c]);
    }
};

struct FragmentSum {
    float values[FRAGMENT_COLUMNS];
};

inline void fragment_clear(FragmentSum &sum)
{
    for (float &value : sum.values)
        value = 0;
}

template <typename Fragment, typename T> void fragment_load(Fragment &fragment, const T *from, int stride)
{
    fragment.load(from, stride);
}

template <typename A, typename B> void fragment_multiply_add(FragmentSum &sum, const A &a, const B &b)
{
    for (int k = 0; k < FRAGMENT; k++)
        for (int c = 0; c < FRAGMENT_COLUMNS; c++)
            sum.values[c] += a.row[k] * b.columns[k][c];
}

inline void fragment_store(float *to, const FragmentSum &sum, int stride)
{
    int lane = emulation_lane();
    for (int c = 0; c < FRAGMENT_COLUMNS; c++)
        to[lane / 2 * stride + lane % 2 * FRAGMENT_COLUMNS + c] = sum.values[c];
}

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
