// Whether this device multiplies experts by wgmma: it must have the instructions, this build must hold code for them,
// and both kernels must come to the same results. Their factors are small multiples of 1/8, so that sums are exact in
// any order and only one rounding follows: results are the same to the bit, where activations are not computed in
// other forms.
#include "kernels/cuda/grouped.h"
#include "kernels/cuda/internal.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

namespace
{

// Rows of two experts, one of whom has more than a warp group takes, and of one without any; more columns than a tile
// has, more of the depth than all stages hold, more shares than blocks.
constexpr uint32_t HELD = 3, HIDDEN_ROWS = 40, PLACES = 70, N = 264, DEEP = 264, K = 72, BLOCKS = 2;
constexpr uint32_t BEGINS[HELD + 1] = {0, 66, 66, PLACES};
constexpr uint2 TILES[] = {{0, 0}, {2, 66}};
constexpr uint32_t TILE_COUNT = sizeof TILES / sizeof *TILES;
constexpr float SMALLEST = 0x1p-24f; // of f16 above 0, the least distance of its numbers
constexpr uint64_t WEIGHTS = HELD * N * DEEP, RESULTS = HELD * K * N, ROWS = PLACES * DEEP;

struct Check {
    CudaQueue queue; // its stream, and which kernel multiplies
    Dtype dtype;
    uint32_t *begins, *rows, *tile_count;
    uint2 *tiles;
    void *hidden, *inner, *weights[2], *results;
    char *host; // as large as the largest of these
};

typedef cudaError_t (*Product)(const Check &check, const SortedRows &sorted);

cudaError_t rows_product(const Check &c, const SortedRows &sorted)
{
    return grouped_multiply(&c.queue, c.dtype, sorted, N, DEEP, {c.hidden, DEEP, true}, {c.weights[0], N, N * DEEP}, {},
                            true, ACTIVATION_RELU, c.results);
}

cudaError_t gated_product(const Check &c, const SortedRows &sorted)
{
    return grouped_multiply(&c.queue, c.dtype, sorted, N, K, {c.hidden, K, true}, {c.weights[0], N, N * K},
                            {c.weights[1], N, N * K}, true, ACTIVATION_SWIGLU, c.results);
}

cudaError_t transposed_product(const Check &c, const SortedRows &sorted)
{
    return grouped_multiply_transposed(&c.queue, c.dtype, sorted, N, K, {c.hidden, K, true}, {c.weights[0], K, N * K},
                                       {c.inner, K, false}, {c.weights[1], K, N * K}, c.results);
}

cudaError_t gradient_product(const Check &c, const SortedRows &sorted)
{
    return grouped_gradient(&c.queue, c.dtype, sorted, K, N, {c.hidden, K, true}, {c.inner, N, false}, c.results,
                            static_cast<uint64_t>(K) * N);
}

struct Case {
    const char *name;
    Product product;
    uint64_t results;
    bool rounds; // activations of both kernels may round to neighbours
};

constexpr Case CASES[] = {{"rows", rows_product, PLACES *N, false},
                          {"gated rows", gated_product, PLACES *N, true},
                          {"rows by transposed weights", transposed_product, PLACES *N, false},
                          {"gradient", gradient_product, RESULTS, false}};

// Results with NaN where there were none.
cudaError_t results_of(const Check &c, const Case &of, bool warp_groups, float *values)
{
    Check check = c;
    uint64_t bytes = of.results * dtype_bytes(c.dtype);
    check.queue.warp_groups = warp_groups;
    TRY(cudaMemsetAsync(c.results, 0xFF, bytes, c.queue.stream));
    SortedRows sorted = {c.begins, c.rows, c.tiles, c.tile_count, PLACES, HELD, BLOCKS};
    TRY(of.product(check, sorted));
    TRY(cudaMemcpyAsync(c.host, c.results, bytes, cudaMemcpyDeviceToHost, c.queue.stream));
    TRY(cudaStreamSynchronize(c.queue.stream));
    host_to_f32(c.host, c.dtype, values, of.results);
    return cudaSuccess;
}

// `refusal` is written if they differ. values: [2][RESULTS].
cudaError_t compare_kernels(const Check &c, const Case &of, float *values, char *refusal, size_t refusal_bytes)
{
    float *wgmma = values, *wmma = values + RESULTS, spacing = c.dtype == DTYPE_F16 ? 0x1p-10f : 0x1p-7f;
    TRY(results_of(c, of, true, wgmma));
    TRY(results_of(c, of, false, wmma));
    for (uint64_t i = 0; i < of.results; i++) {
        float bound = of.rounds ? fmaxf(spacing * fmaxf(fabsf(wgmma[i]), fabsf(wmma[i])), SMALLEST) : 0;
        if (fabsf(wgmma[i] - wmma[i]) <= bound)
            continue;
        snprintf(refusal, refusal_bytes, "wgmma and wmma differ (%s, %s, element %llu: %g and %g)", of.name,
                 dtype_name(c.dtype), static_cast<unsigned long long>(i), static_cast<double>(wgmma[i]),
                 static_cast<double>(wmma[i]));
        break;
    }
    return cudaSuccess;
}

// Multiples of `unit` from -3 to 3 times it.
cudaError_t fill(const Check &c, void *matrix, uint64_t count, float unit, uint32_t seed, float *values)
{
    for (uint64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = unit * static_cast<float>(static_cast<int>((seed >> 16) % 7) - 3);
    }
    host_from_f32(values, c.host, c.dtype, count);
    return cudaMemcpy(matrix, c.host, count * dtype_bytes(c.dtype), cudaMemcpyHostToDevice);
}

cudaError_t fill_all(const Check &c, float *values)
{
    uint32_t rows[PLACES], tile_count = TILE_COUNT;
    for (uint32_t place = 0; place < PLACES; place++)
        rows[place] = place * 7 % HIDDEN_ROWS;
    TRY(cudaMemcpy(c.begins, BEGINS, sizeof BEGINS, cudaMemcpyHostToDevice));
    TRY(cudaMemcpy(c.tiles, TILES, sizeof TILES, cudaMemcpyHostToDevice));
    TRY(cudaMemcpy(c.tile_count, &tile_count, sizeof tile_count, cudaMemcpyHostToDevice));
    TRY(cudaMemcpy(c.rows, rows, sizeof rows, cudaMemcpyHostToDevice));
    TRY(fill(c, c.hidden, HIDDEN_ROWS * DEEP, 1, 1, values));
    TRY(fill(c, c.inner, ROWS, 1, 2, values));
    TRY(fill(c, c.weights[0], WEIGHTS, 0.125f, 3, values));
    return fill(c, c.weights[1], WEIGHTS, 0.125f, 4, values);
}

template <typename T> T *take(CudaScratch *scratch, uint64_t count)
{
    return static_cast<T *>(cuda_scratch_take(scratch, count, sizeof(T)));
}

void take_all(Check *c, CudaScratch *scratch)
{
    c->begins = take<uint32_t>(scratch, HELD + 1);
    c->rows = take<uint32_t>(scratch, PLACES);
    c->tile_count = take<uint32_t>(scratch, 1);
    c->tiles = take<uint2>(scratch, TILE_COUNT);
    c->hidden = take<char>(scratch, HIDDEN_ROWS * DEEP * dtype_bytes(c->dtype));
    c->inner = take<char>(scratch, ROWS * dtype_bytes(c->dtype));
    c->weights[0] = take<char>(scratch, WEIGHTS * dtype_bytes(c->dtype));
    c->weights[1] = take<char>(scratch, WEIGHTS * dtype_bytes(c->dtype));
    c->results = take<char>(scratch, RESULTS * dtype_bytes(c->dtype));
}

cudaError_t compare_all(Check *c, char *memory, uint64_t bytes, float *values, char *refusal, size_t refusal_bytes)
{
    for (Dtype dtype : {DTYPE_F16, DTYPE_BF16}) {
        CudaScratch scratch = {memory, 0, bytes};
        c->dtype = dtype;
        take_all(c, &scratch);
        TRY(fill_all(*c, values));
        TRY(cudaStreamSynchronize(nullptr)); // copies from pageable memory return before they arrive
        for (const Case &of : CASES)
            if (!*refusal)
                TRY(compare_kernels(*c, of, values, refusal, refusal_bytes));
    }
    return cudaSuccess;
}

cudaError_t compare(char *refusal, size_t refusal_bytes)
{
    Check check = {};
    CudaScratch sizes = {};
    char *memory = nullptr;
    check.dtype = DTYPE_F16; // BF16 takes as much
    take_all(&check, &sizes);
    check.host = static_cast<char *>(malloc(WEIGHTS * 2));
    float *values = static_cast<float *>(malloc((WEIGHTS > 2 * RESULTS ? WEIGHTS : 2 * RESULTS) * sizeof(float)));
    cudaError_t error =
        check.host && values ? cudaMalloc(reinterpret_cast<void **>(&memory), sizes.used) : cudaErrorMemoryAllocation;
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&check.queue.stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = compare_all(&check, memory, sizes.used, values, refusal, refusal_bytes);
    if (check.queue.stream)
        cudaStreamDestroy(check.queue.stream);
    cudaFree(memory);
    free(check.host);
    free(values);
    return error;
}

struct Decision {
    bool made;
    char refusal[160]; // empty: wgmma
};

cudaError_t decide(int device, Decision *decision)
{
    int major, minor;
    const char *wanted = getenv("HEP_EXPERT_KERNEL");
    char *refusal = decision->refusal;
    size_t bytes = sizeof decision->refusal;
    TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    if (major != 9 || minor != 0)
        snprintf(refusal, bytes, "wgmma needs compute capability 9.0, this is %d.%d", major, minor);
    else if (!HEP_CUDA_SM_90A)
        snprintf(refusal, bytes, "this build has no code for sm_90a (HEP_CUDA_ARCHITECTURES)");
    else if (wanted && strcmp(wanted, "wmma") == 0)
        snprintf(refusal, bytes, "HEP_EXPERT_KERNEL=wmma");
    else if (wanted && strcmp(wanted, "wgmma") != 0)
        snprintf(refusal, bytes, "HEP_EXPERT_KERNEL is neither wmma nor wgmma");
    else if (!wanted)
        TRY(compare(refusal, bytes));
    decision->made = true;
    return cudaSuccess;
}

} // namespace

cudaError_t cuda_expert_kernel(CudaExpertKernel *kernel)
{
    constexpr int DEVICES = 64;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // ranks of one process begin together
    static Decision decisions[DEVICES];
    int device;
    *kernel = {false, nullptr};
    TRY(cudaGetDevice(&device));
    if (device >= DEVICES)
        return cudaErrorInvalidDevice;
    pthread_mutex_lock(&lock);
    Decision *decision = &decisions[device];
    cudaError_t error = decision->made ? cudaSuccess : decide(device, decision);
    pthread_mutex_unlock(&lock);
    *kernel = {error == cudaSuccess && !*decision->refusal, *decision->refusal ? decision->refusal : nullptr};
    return error;
}
