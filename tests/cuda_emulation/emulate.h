// Included before every kernel source that is compiled for the processor: CUDA's words for C++. Blocks run one after
// another, the threads of a block as fibers, so that barriers, shuffles, votes, shared memory and atomics do what they
// do on a GPU. This checks the logic of kernels, not their speed, and not races that a memory model would allow; but
// fibers may run in reverse order, which shows most missing barriers.
#ifndef HEP_CUDA_EMULATE_H
#define HEP_CUDA_EMULATE_H

#include <cuda_runtime_api.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#define HEP_CUDA_EMULATION 1

#undef __shared__
#undef __global__
#undef __device__
#undef __forceinline__
#undef __launch_bounds__
#define __shared__ static thread_local
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::max;
using std::min;

namespace emulation
{

// Of the fiber that runs on this thread of the process. __thread: what needs no constructor needs no wrapper.
struct Place {
    uint3 thread, block, block_size, grid_size;
};
extern __thread Place here;
extern __thread unsigned char *dynamic_shared;

void block_barrier();
// All lanes of the warp meet and see what each gave: 8 bytes a lane, valid until the lane's next meeting.
const uint64_t *warp_meet(uint64_t given);

// What works behind the fibers' backs (engines.cpp). Asynchronous copies of 16 bytes, zeros if `from` is NULL, wait in
// groups. So do products of warp groups, whose sums are NaN until they are awaited; a and b are descriptors of shared
// memory, decode turns the eight elements of a unit of 16 bytes to f32.
struct GroupProduct {
    uint64_t a, b;
    bool a_along_rows, b_along_cols;
    void (*decode)(const unsigned char *unit, float values[8]);
};
enum { GROUP_PRODUCT_SUMS = 128 };

void engines_begin(unsigned threads, size_t shared_bytes, bool backwards); // a block
void engines_end(unsigned threads);
void copy_later(void *to, const void *from);
void copy_group();
void copy_until(unsigned pending_groups);
void copy_publish();
uint32_t shared_address(const void *pointer);
void *shared_pointer(uint32_t address);
void product_begin();
void product_later(float *sums, const GroupProduct &product);
void product_group();
void product_until(unsigned pending_groups);

// Runs at once or, while the stream is captured, becomes part of the graph.
cudaError_t submit(cudaStream_t stream, std::function<void()> work);
void count_enqueued();                // one more kernel, product, copy or fill
void load_kernel(const void *kernel); // before every launch
void count_flops(uint64_t flops);     // of a product
void run_grid(dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()> &kernel);
bool grid_is_valid(dim3 grid, unsigned threads, size_t shared_bytes);

template <typename T> T exchange(T value, int from_lane)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(value));
    const uint64_t *all = warp_meet(bits);
    memcpy(&value, &all[from_lane], sizeof(value));
    return value;
}

} // namespace emulation

#define threadIdx            (emulation::here.thread)
#define blockIdx             (emulation::here.block)
#define blockDim             (emulation::here.block_size)
#define gridDim              (emulation::here.grid_size)
#define DYNAMIC_SHARED(name) unsigned char *name = emulation::dynamic_shared

inline void __syncthreads()
{
    emulation::block_barrier();
}

inline int emulation_lane()
{
    return static_cast<int>(emulation::here.thread.x % 32);
}

inline void __syncwarp(unsigned = 0xFFFFFFFFu)
{
    emulation::warp_meet(0);
}

template <typename T> T __shfl_sync(unsigned, T value, int lane)
{
    return emulation::exchange(value, lane % 32);
}

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask)
{
    return emulation::exchange(value, emulation_lane() ^ mask);
}

template <typename T> T __shfl_up_sync(unsigned, T value, int distance)
{
    int lane = emulation_lane();
    return emulation::exchange(value, lane >= distance ? lane - distance : lane);
}

template <typename T> T __shfl_down_sync(unsigned, T value, int distance)
{
    int lane = emulation_lane();
    return emulation::exchange(value, lane + distance < 32 ? lane + distance : lane);
}

inline unsigned __ballot_sync(unsigned, bool vote)
{
    const uint64_t *all = emulation::warp_meet(vote);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        bits |= static_cast<unsigned>(all[lane] & 1) << lane;
    return bits;
}

template <typename T> unsigned __match_any_sync(unsigned, T value)
{
    const uint64_t *all = emulation::warp_meet(static_cast<uint64_t>(value));
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        bits |= static_cast<unsigned>(all[lane] == static_cast<uint64_t>(value)) << lane;
    return bits;
}

inline unsigned __float_as_uint(float value)
{
    unsigned bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float __uint_as_float(unsigned bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

inline int __float2int_rn(float value) // to the nearest, even ones of two
{
    return static_cast<int>(rintf(value));
}

inline float __fdividef(float dividend, float divisor)
{
    return dividend / divisor;
}

inline int __popc(unsigned bits)
{
    return __builtin_popcount(bits);
}

// One fiber at a time, so an ordinary addition is atomic.
template <typename T> T atomicAdd(T *to, T value)
{
    T old = *to;
    *to = old + value;
    return old;
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaStream_t stream, dim3 grid, unsigned threads, size_t shared_bytes, void (*kernel)(Parameters...),
                   Arguments... arguments)
{
    if (!emulation::grid_is_valid(grid, threads, shared_bytes))
        return cudaErrorInvalidConfiguration;
    emulation::count_enqueued();
    emulation::load_kernel(reinterpret_cast<const void *>(kernel));
    std::tuple<std::decay_t<Parameters>...> bound(static_cast<Parameters>(arguments)...);
    return emulation::submit(
        stream, [=] { emulation::run_grid(grid, threads, shared_bytes, [&] { std::apply(kernel, bound); }); });
}

#endif
