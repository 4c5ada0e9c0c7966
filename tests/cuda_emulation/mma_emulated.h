// What kernels/cuda/mma.h wraps, for the processor: lanes exchange registers as the PTX ISA says that the instructions
// do, so that a kernel which mistakes a lane's elements computes something else here, too.
#ifndef HEP_CUDA_MMA_EMULATED_H
#define HEP_CUDA_MMA_EMULATED_H

#include "emulate.h"

inline const uint16_t *matrix_row(uint64_t address)
{
    if (address % 16) {
        fprintf(stderr, "emulation: a row of a matrix does not begin at a multiple of 16 bytes\n");
        abort();
    }
    return reinterpret_cast<const uint16_t *>(address);
}

inline void load_matrices(uint32_t (&to)[4], const void *row)
{
    const uint64_t *rows = emulation::warp_meet(reinterpret_cast<uintptr_t>(row));
    int own = emulation_lane() / 4, col = emulation_lane() % 4 * 2;
    for (int i = 0; i < 4; i++)
        memcpy(&to[i], matrix_row(rows[8 * i + own]) + col, sizeof(to[i]));
    __syncwarp(); // the instruction is done when all have read
}

inline void load_matrices_transposed(uint32_t (&to)[4], const void *row)
{
    const uint64_t *rows = emulation::warp_meet(reinterpret_cast<uintptr_t>(row));
    int own = emulation_lane() / 4, first = emulation_lane() % 4 * 2;
    for (int i = 0; i < 4; i++)
        to[i] = matrix_row(rows[8 * i + first])[own] | static_cast<uint32_t>(matrix_row(rows[8 * i + first + 1])[own])
                                                           << 16;
    __syncwarp();
}

template <typename T> float half_of(uint64_t pair, int which)
{
    uint16_t bits = static_cast<uint16_t>(pair >> 16 * which);
    T value;
    memcpy(static_cast<void *>(&value), &bits, sizeof(bits));
    return to_f32(value);
}

template <typename T> void mma_16x8x16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high)
{
    int quad = emulation_lane() / 4 * 4, col = emulation_lane() % 4 * 2;
    float rows[2][16], columns[2][16];
    for (int part = 0; part < 2; part++) { // columns 0 .. 7 of a, then 8 .. 15
        const uint64_t *all = emulation::warp_meet(a[2 * part] | static_cast<uint64_t>(a[2 * part + 1]) << 32);
        for (int k = 0; k < 8; k++) {
            rows[0][8 * part + k] = half_of<T>(all[quad + k / 2], k % 2);
            rows[1][8 * part + k] = half_of<T>(all[quad + k / 2] >> 32, k % 2);
        }
    }
    const uint64_t *all = emulation::warp_meet(b_low | static_cast<uint64_t>(b_high) << 32);
    for (int c = 0; c < 2; c++) {
        for (int k = 0; k < 16; k++)
            columns[c][k] = half_of<T>(all[(col + c) * 4 + k % 8 / 2] >> (k < 8 ? 0 : 32), k % 2);
    }
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 16; k++)
            sums[i] += rows[i / 2][k] * columns[i % 2][k];
}

#endif
