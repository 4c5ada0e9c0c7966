// The matrix instructions of warp groups (wgmma), which compute capability 9.0 alone has: four warps multiply a
// [64][16] by b [16][256], f16 or bf16, both in shared memory, and add to f32 sums in their registers, while they go on
// with other work. A thin wrapper, so that the emulation can put its own arithmetic here. Only code for sm_90a can use
// it: kernels that do are empty in other code, and grouped_check.cu sees to it that nobody launches them there.
//
// Order of calls: group_begin; group_multiply_add any number of times; group_commit; group_await, before which sums
// must not be looked at nor what is multiplied be overwritten. Multiplying reads shared memory by another path than
// loads and stores do: whoever wrote there calls group_publish when the writes are complete and before the barrier.
#ifndef HEP_CUDA_WARP_GROUP_H
#define HEP_CUDA_WARP_GROUP_H

#include "kernels/cuda/fragment.h"

enum { WARP_GROUP = 4 * WARP, GROUP_ROWS = 64, GROUP_COLS = 256, GROUP_DEPTH = 16 };
enum { GROUP_SUMS = GROUP_ROWS * GROUP_COLS / WARP_GROUP }; // of one thread

// Sum i of a thread is that of this row and column: a warp has 16 rows, four lanes share one, and a lane has two
// neighbours of every eight columns of its row, then of the row eight below.
static __device__ __forceinline__ int group_row(int thread, int i)
{
    return thread % WARP_GROUP / WARP * 16 + thread % WARP / 4 + i / 2 % 2 * 8;
}

static __device__ __forceinline__ int group_col(int thread, int i)
{
    return i / 4 * 8 + thread % 4 * 2 + i % 2;
}

// Where a factor lies in shared memory, in the form the instruction takes. All in bytes: `address` of its first element
// and what leads from one piece of it to the next (swizzled_tile.h), multiples of 16 below 2^18. The pieces repeat
// every 1024 bytes, 8 lines of 128 whose eighths are exchanged: eighth e of line l stands at e xor l.
static __device__ __forceinline__ uint64_t operand_descriptor(uint32_t address, uint32_t leading, uint32_t stride)
{
    constexpr uint64_t SWIZZLE_128 = 1;
    return (address & 0x3FFFF) >> 4 | static_cast<uint64_t>(leading >> 4) << 16 |
           static_cast<uint64_t>(stride >> 4) << 32 | SWIZZLE_128 << 62;
}

#ifdef HEP_CUDA_EMULATION
#include "warp_group_emulated.h"
#else

static __device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes to a shared address as copy_async does, or, unless `there`, 16 bytes of 0; `from` is not read then.
static __device__ __forceinline__ void copy_async_or_zero(uint32_t to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void group_publish()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void group_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// The compiler must not move what it does with sums over the instructions that wait.
static __device__ __forceinline__ void group_hold(float (&sums)[GROUP_SUMS])
{
#pragma unroll
    for (int i = 0; i < GROUP_SUMS; i++)
        asm volatile("" : "+f"(sums[i])::"memory");
}

static __device__ __forceinline__ void group_begin(float (&sums)[GROUP_SUMS])
{
    group_hold(sums);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Until all but the last `PENDING` committed groups are done.
template <int PENDING> static __device__ __forceinline__ void group_await(float (&sums)[GROUP_SUMS])
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    group_hold(sums);
}

#define HEP_SUMS_4(i)  "+f"(sums[i]), "+f"(sums[(i) + 1]), "+f"(sums[(i) + 2]), "+f"(sums[(i) + 3])
#define HEP_SUMS_16(i) HEP_SUMS_4(i), HEP_SUMS_4((i) + 4), HEP_SUMS_4((i) + 8), HEP_SUMS_4((i) + 12)
#define HEP_SUMS_64(i) HEP_SUMS_16(i), HEP_SUMS_16((i) + 16), HEP_SUMS_16((i) + 32), HEP_SUMS_16((i) + 48)
#define HEP_MULTIPLY_ADD(type)                                                                                         \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, 1, 0;\n"                                                      \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {"                                     \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                              \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                    \
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                    \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                    \
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                    \
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                    \
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "        \
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"      \
                 "}, %128, %129, adds, 1, 1, %130, %131;\n}"                                                           \
                 : HEP_SUMS_64(0), HEP_SUMS_64(64)                                                                     \
                 : "l"(a), "l"(b), "n"(A_ALONG_ROWS), "n"(B_ALONG_COLS))

// sums += a [64][16] b [16][256]. Neighbours in shared memory are neighbours along k, or along a's rows if A_ALONG_ROWS
// is 1 and along b's columns if B_ALONG_COLS is.
template <typename T, int A_ALONG_ROWS, int B_ALONG_COLS>
static __device__ __forceinline__ void group_multiply_add(float (&sums)[GROUP_SUMS], uint64_t a, uint64_t b)
{
    if constexpr (std::is_same_v<T, __half>)
        HEP_MULTIPLY_ADD("f16");
    else
        HEP_MULTIPLY_ADD("bf16");
}

#undef HEP_SUMS_4
#undef HEP_SUMS_16
#undef HEP_SUMS_64
#undef HEP_MULTIPLY_ADD
#endif

#endif
