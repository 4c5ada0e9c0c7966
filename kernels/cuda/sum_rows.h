// Weighted sums of rows, the form of every combine: out[row] = sum over j of weight_j x source_j, in f32, in order, and
// rounded once. A block a row, 16 bytes an access; bound by memory. A `Sources` has
//   __device__ uint32_t count() const;
//   __device__ Source<T> at(uint32_t j) const; // `row` NULL where there is none
#ifndef HEP_CUDA_SUM_ROWS_H
#define HEP_CUDA_SUM_ROWS_H

#include "kernels/cuda/device.h"

namespace
{

constexpr unsigned SUM_THREADS = 128;

template <typename T> struct Source {
    const T *row;
    float weight;
};

// The elements from `at` on of a block's row.
template <typename T, typename Sources>
__device__ __forceinline__ Piece<T> sum_of_sources(const Sources &sources, uint64_t at, uint64_t cols, bool aligned)
{
    Piece<T> sum = {}, part;
#pragma unroll 4
    for (uint32_t j = 0; j < sources.count(); j++) {
        Source<T> source = sources.at(j);
        if (!source.row)
            continue;
        part.load(source.row, at, cols, aligned);
        sum.add(part, source.weight);
    }
    return sum;
}

} // namespace

#endif
