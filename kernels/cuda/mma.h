// The matrix units below the level of fragment.h, for kernels that compute with sums between two products: which lane
// holds which elements is known here. Wrappers of ldmatrix and mma.m16n8k16 (PTX ISA, "Warp Level Matrix
// Instructions"); the emulation does what that says, register by register.
#ifndef HEP_CUDA_MMA_H
#define HEP_CUDA_MMA_H

#include "kernels/cuda/fragment.h"

#ifdef HEP_CUDA_EMULATION
#include "mma_emulated.h"
#else
// Four 8 x 8 matrices of 16-bit elements in shared memory. Lane l gives where row l % 8 of matrix l / 8 lies, a
// multiple of 16 bytes; it gets, in to[i], of matrix i row l / 4, columns 2 (l % 4), in the low half, and the next.
static __device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void *row)
{
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// The same of the transposed matrices: column l / 4, rows 2 (l % 4) and the next.
static __device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void *row)
{
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// sums [16][8] += a [16][16] b [16][8]. Lane l holds, with r = l / 4 and c = 2 (l % 4), pairs of neighbours:
//   sums[0..1] at row r, columns c and c + 1; sums[2..3] at row r + 8
//   a[0] at row r, columns c, c + 1; a[1] at row r + 8; a[2] and a[3] the same, 8 columns further
//   b_low of column r, rows c, c + 1; b_high 8 rows further
template <typename T>
static __device__ __forceinline__ void mma_16x8x16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_low,
                                                   uint32_t b_high)
{
    if constexpr (std::is_same<T, __half>::value)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}
#endif

// Two elements as the matrix units take them, `low` in the low half.
template <typename T> static __device__ __forceinline__ uint32_t pack_pair(float low, float high)
{
    alignas(4) T pair[2] = {from_f32<T>(low), from_f32<T>(high)};
    return *reinterpret_cast<const uint32_t *>(pair);
}

#endif
