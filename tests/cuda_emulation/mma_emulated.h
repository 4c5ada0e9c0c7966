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

// All lanes show what their registers hold, and see all others' until everybody has read.
template <typename T> void mma_16x8x16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high)
{
    const uint32_t registers[6] = {a[0], a[1], a[2], a[3], b_low, b_high};
    float own[6][2];
    for (int r = 0; r < 6; r++)
        for (int half = 0; half < 2; half++)
            own[r][half] = half_of<T>(registers[r], half);
    const uint64_t *all = emulation::warp_meet(reinterpret_cast<uintptr_t>(own));
    int quad = emulation_lane() / 4 * 4, col = emulation_lane() % 4 * 2;
    for (int k = 0; k < 16; k++) {
        auto of_row = reinterpret_cast<const float(*)[2]>(all[quad + k % 8 / 2]);
        for (int c = 0; c < 2; c++) {
            auto of_column = reinterpret_cast<const float(*)[2]>(all[(col + c) * 4 + k % 8 / 2]);
            float factor = of_column[4 + k / 8][k % 2];
            sums[c] += of_row[k / 8 * 2][k % 2] * factor;
            sums[2 + c] += of_row[k / 8 * 2 + 1][k % 2] * factor;
        }
    }
    __syncwarp();
}

#endif
