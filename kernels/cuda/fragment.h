// The matrix units: one warp multiplies 16 x 16 matrices in shared memory, f16 or bf16 with f32 sums. A thin wrapper,
// so that the emulation can put its own arithmetic here.
#ifndef HEP_CUDA_FRAGMENT_H
#define HEP_CUDA_FRAGMENT_H

#include "kernels/cuda/device.h"

#ifdef HEP_CUDA_EMULATION
#include "fragment_emulated.h"
#else
#include <cuda_pipeline_primitives.h>
#include <mma.h>

enum { FRAGMENT = 16 };

// Of a [16][16] (rows of the product), or stored transposed.
template <typename T, bool TRANSPOSED>
using FragmentA =
    nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, FRAGMENT, FRAGMENT, FRAGMENT, T,
                           std::conditional_t<TRANSPOSED, nvcuda::wmma::col_major, nvcuda::wmma::row_major>>;
// Of b [16][16] (columns of the product), or stored transposed.
template <typename T, bool TRANSPOSED>
using FragmentB =
    nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, FRAGMENT, FRAGMENT, FRAGMENT, T,
                           std::conditional_t<TRANSPOSED, nvcuda::wmma::col_major, nvcuda::wmma::row_major>>;
using FragmentSum = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, FRAGMENT, FRAGMENT, FRAGMENT, float>;

static __device__ __forceinline__ void fragment_clear(FragmentSum &sum)
{
    nvcuda::wmma::fill_fragment(sum, 0.0f);
}

template <typename Fragment, typename T>
static __device__ __forceinline__ void fragment_load(Fragment &fragment, const T *from, int stride)
{
    nvcuda::wmma::load_matrix_sync(fragment, from, stride);
}

template <typename A, typename B>
static __device__ __forceinline__ void fragment_multiply_add(FragmentSum &sum, const A &a, const B &b)
{
    nvcuda::wmma::mma_sync(sum, a, b, sum);
}

static __device__ __forceinline__ void fragment_store(float *to, const FragmentSum &sum, int stride)
{
    nvcuda::wmma::store_matrix_sync(to, sum, stride, nvcuda::wmma::mem_row_major);
}

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
