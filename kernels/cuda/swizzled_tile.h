// A tile of 16-bit elements in shared memory as the instructions of warp groups read it: lines of 64 elements, 128
// bytes, one after the other, whose eighths are exchanged so that neither the copies that fill the tile nor the reads
// of eight lines at once meet in a bank. A tile with longer lines is several such blocks side by side.
#ifndef HEP_CUDA_SWIZZLED_TILE_H
#define HEP_CUDA_SWIZZLED_TILE_H

#include "kernels/cuda/warp_group.h"

namespace
{

// LINES of LENGTH elements, at a multiple of 1024 bytes: what is exchanged follows from the address.
template <int TILE_LINES, int TILE_LENGTH> struct SwizzledTile {
    static constexpr int LINES = TILE_LINES, LENGTH = TILE_LENGTH;
    static constexpr int LINE = 64, LINE_BYTES = 128, VECTOR = 8, VECTOR_BYTES = 16, EXCHANGED = 8;
    static constexpr int BLOCK_BYTES = LINES * LINE_BYTES, BYTES = LENGTH / LINE * BLOCK_BYTES;
    static constexpr int REPEAT_BYTES = EXCHANGED * LINE_BYTES;
    static_assert(LINES % EXCHANGED == 0 && LENGTH % LINE == 0, "whole blocks");

    // Of 8 elements from `column` on, a multiple of 8; in bytes.
    static __device__ __forceinline__ int place(int line, int column)
    {
        int vector = column % LINE / VECTOR ^ line % EXCHANGED;
        return column / LINE * BLOCK_BYTES + line * LINE_BYTES + vector * VECTOR_BYTES;
    }

    // Lines are rows of a or columns of b: GROUP_DEPTH elements of each from `depth` on, a multiple of that, beginning
    // with a line that is a multiple of 8. The next 8 lines are what repeats; nothing leads along the depth, which ends
    // within the 128 bytes.
    static __device__ __forceinline__ uint64_t across_lines(uint32_t address, int line, int depth)
    {
        static_assert(LENGTH == LINE, "the depth ends within a block");
        return operand_descriptor(address + line * LINE_BYTES + depth * 2, 0, REPEAT_BYTES);
    }

    // Lines are the depth: GROUP_DEPTH of them from `depth` on, a multiple of that, beginning with the elements of a
    // column that is a multiple of 64. The next 8 of the depth are what repeats, the next 64 elements another block.
    static __device__ __forceinline__ uint64_t along_lines(uint32_t address, int column, int depth)
    {
        return operand_descriptor(address + column / LINE * BLOCK_BYTES + depth * LINE_BYTES, BLOCK_BYTES,
                                  REPEAT_BYTES);
    }
};

// Which vectors of 16 bytes of a tile each of THREADS threads copies: as many each, its columns of EACH lines, AT_ONCE
// lines apart. What is exchanged is the same in all of them.
template <typename Tile, int THREADS> struct TileVectors {
    static constexpr int PER_LINE = Tile::LENGTH / Tile::VECTOR, AT_ONCE = THREADS / PER_LINE;
    static constexpr int EACH = Tile::LINES / AT_ONCE;
    static_assert(THREADS % PER_LINE == 0 && Tile::LINES % AT_ONCE == 0, "every thread copies as much");
    static_assert(AT_ONCE % Tile::EXCHANGED == 0, "lines of a thread are alike");

    static __device__ __forceinline__ uint32_t line(int vector)
    {
        return threadIdx.x / PER_LINE + vector * AT_ONCE;
    }

    static __device__ __forceinline__ uint32_t column()
    {
        return threadIdx.x % PER_LINE * Tile::VECTOR;
    }

    // In bytes.
    static __device__ __forceinline__ uint32_t place(int vector)
    {
        return Tile::place(threadIdx.x / PER_LINE, column()) + vector * AT_ONCE * Tile::LINE_BYTES;
    }
};

} // namespace

#endif
