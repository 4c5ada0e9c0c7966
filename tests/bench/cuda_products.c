// What the matrix products of a plan's forward pass take alone, each a call of cuBLAS, on one rank: what the pass
// itself is held against. Attention's products are done for all pairs of tokens and count half, as a causal one needs
// half of them; experts are products of as many rows each as the balanced load has. Times are medians of several runs.
// Without a GPU it says so and exits with 77.
// Usage: cuda_products PLAN.hepb [--json FILE]
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/diag.h"
#include "ir/base/text.h"
#include "ir/load/plan_file.h"
#include "kernels/host/kernels.h"

enum { REPEATS = 11, PRODUCTS_MAX = 16, WORKSPACE_BYTES = 64 << 20, NO_DEVICE = 77 };

#define CHECK(call) check((call) == 0, #call, __LINE__)

static void check(bool ok, const char *what, int line)
{
    if (ok)
        return;
    fprintf(stderr, "cuda_products: line %d: %s failed: %s\n", line, what, cudaGetErrorString(cudaGetLastError()));
    exit(1);
}

// `count` times `batch` products [m][k] x [k][n], of which `share` is needed.
typedef struct {
    const char *name;
    uint64_t m, n, k, batch;
    double count, share, time_s;
} Product;

static struct {
    cublasHandle_t blas;
    cudaStream_t stream;
    Dtype dtype;
    Product products[PRODUCTS_MAX];
    size_t count;
} bench;

// ---- one product -----------------------------------------------------------------------------

// A few thousand random values over and over: products of zeros take less power than real ones.
static void *make(uint64_t elements)
{
    enum { PATTERN = 8191 };
    static float values[PATTERN];
    static char pattern[PATTERN * sizeof(float)];
    uint64_t state = 1, size = PATTERN * dtype_bytes(bench.dtype), bytes = elements * dtype_bytes(bench.dtype);
    char *memory;
    for (size_t i = 0; i < PATTERN; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        values[i] = (float)(state >> 40) / (float)(1u << 23) - 1;
    }
    host_from_f32(values, pattern, bench.dtype, PATTERN);
    CHECK(cudaMalloc((void **)&memory, bytes));
    for (uint64_t done = 0; done < bytes; done += size)
        CHECK(cudaMemcpy(memory + done, pattern, bytes - done < size ? bytes - done : size, cudaMemcpyHostToDevice));
    return memory;
}

static cudaDataType data_type(void)
{
    return bench.dtype == DTYPE_F32 ? CUDA_R_32F : bench.dtype == DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void measure(Product *product)
{
    const Product *p = product;
    const float one = 1, zero = 0;
    cudaDataType type = data_type();
    cudaEvent_t begin, end;
    float times_ms[REPEATS];
    void *a = make(p->batch * p->m * p->k), *b = make(p->batch * p->k * p->n), *c = make(p->batch * p->m * p->n);
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    for (int r = -2; r < REPEATS; r++) { // two to warm up
        CHECK(cudaEventRecord(begin, bench.stream));
        CHECK(cublasGemmStridedBatchedEx(bench.blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)p->n, (int)p->m, (int)p->k, &one, b,
                                         type, (int)p->n, (long long)(p->k * p->n), a, type, (int)p->k,
                                         (long long)(p->m * p->k), &zero, c, type, (int)p->n, (long long)(p->m * p->n),
                                         (int)p->batch, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
        CHECK(cudaEventRecord(end, bench.stream));
        CHECK(cudaEventSynchronize(end));
        if (r >= 0)
            CHECK(cudaEventElapsedTime(&times_ms[r], begin, end));
    }
    qsort(times_ms, REPEATS, sizeof(*times_ms), compare);
    product->time_s = 1e-3 * (double)times_ms[REPEATS / 2] * p->count * p->share;
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaFree(a));
    CHECK(cudaFree(b));
    CHECK(cudaFree(c));
}

// ---- a plan's --------------------------------------------------------------------------------

static void add(const char *name, uint64_t m, uint64_t n, uint64_t k, uint64_t batch, double count, double share)
{
    if (count > 0 && m > 0)
        bench.products[bench.count++] = (Product){name, m, n, k, batch, count, share, 0};
}

static void list_products(const Plan *plan)
{
    const ModelDims *dims = &plan->model;
    uint64_t tokens = model_tokens(dims), hidden = dims->hidden, queries = (uint64_t)dims->heads * dims->head_dim;
    uint64_t keys = (uint64_t)dims->kv_heads * dims->head_dim, heads = (uint64_t)dims->batch * dims->heads;
    uint64_t held = dims->experts, rows = tokens * dims->top_k / held, inner = dims->inner;
    double layers = dims->layers, moe = plan->choice_count, dense = layers - moe;
    double ups = activation_matrices(dims->activation) - 1.0;
    bench.dtype = dims->dtype;
    add("queries", tokens, queries, hidden, 1, layers, 1);
    add("keys and values", tokens, keys, hidden, 1, 2 * layers, 1);
    add("scores", dims->sequence, dims->sequence, dims->head_dim, heads, layers, 0.5);
    add("context", dims->sequence, dims->head_dim, dims->sequence, heads, layers, 0.5);
    add("attention output", tokens, hidden, queries, 1, layers, 1);
    add("router", tokens, dims->experts, hidden, 1, moe, 1);
    add("experts, up and gate", rows, inner, hidden, held, ups * moe, 1);
    add("experts, down", rows, hidden, inner, held, moe, 1);
    add("shared experts, up and gate", tokens, inner * dims->shared_experts, hidden, 1,
        dims->shared_experts ? ups * moe : 0, 1);
    add("shared experts, down", tokens, hidden, inner * dims->shared_experts, 1, dims->shared_experts ? moe : 0, 1);
    add("dense, up and gate", tokens, dims->ffn_inner, hidden, 1, ups * dense, 1);
    add("dense, down", tokens, hidden, dims->ffn_inner, 1, dense, 1);
    add("words", tokens, dims->vocabulary, hidden, 1, 1, 1);
}

static double flops_of(const Product *p)
{
    return 2.0 * (double)p->m * (double)p->n * (double)p->k * (double)p->batch * p->count * p->share;
}

// ---- report ----------------------------------------------------------------------------------

static double print_table(const char *device)
{
    double total_s = 0;
    printf("# %s; medians of %d runs\n%-28s %10s %12s\n%-28s %10s %12s\n", device, REPEATS, "product", "time", "rate",
           "", "us", "TFLOP/s");
    for (size_t i = 0; i < bench.count; i++) {
        const Product *p = &bench.products[i];
        total_s += p->time_s;
        printf("%-28s %10.1f %12.1f\n", p->name, 1e6 * p->time_s, 1e-12 * flops_of(p) / p->time_s);
    }
    printf("%-28s %10.1f\n", "all", 1e6 * total_s);
    return total_s;
}

static bool write_json(const char *path, const char *device, double total_s)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return false;
    fprintf(out, "{\"device\": \"%s\", \"total_s\": %.9g, \"products\": [", device, total_s);
    for (size_t i = 0; i < bench.count; i++) {
        const Product *p = &bench.products[i];
        fprintf(out, "%s\n  {\"name\": \"%s\", \"time_s\": %.9g, \"flops\": %.9g}", i ? "," : "", p->name, p->time_s,
                flops_of(p));
    }
    fputs("\n]}\n", out);
    return fclose(out) == 0;
}

static Plan *open_plan(const char *path)
{
    size_t length;
    Fault fault = {0};
    char *data = file_read(path, 1 << 30, &length, &fault);
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Plan *plan = data ? plan_load(path, data, length, diag) : NULL;
    if (!data)
        fprintf(stderr, "cuda_products: %s: %s\n", path, fault.message);
    diag_print(diag, stderr, false);
    free(data);
    arena_destroy(arena);
    return plan;
}

int main(int argc, char **argv)
{
    int devices = 0;
    struct cudaDeviceProp device;
    void *workspace;
    if (argc != 2 && !(argc == 4 && strcmp(argv[2], "--json") == 0)) {
        fprintf(stderr, "usage: %s PLAN.hepb [--json FILE]\n", argv[0]);
        return 2;
    }
    Plan *plan = open_plan(argv[1]);
    if (!plan)
        return 3;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fputs("no CUDA device\n", stderr);
        return NO_DEVICE;
    }
    host_kernels_init(1, UINT64_MAX);
    CHECK(cudaGetDeviceProperties(&device, 0));
    CHECK(cudaStreamCreateWithFlags(&bench.stream, cudaStreamNonBlocking));
    CHECK(cublasCreate(&bench.blas));
    CHECK(cublasSetStream(bench.blas, bench.stream));
    CHECK(cudaMalloc(&workspace, WORKSPACE_BYTES));
    CHECK(cublasSetWorkspace(bench.blas, workspace, WORKSPACE_BYTES));
    list_products(plan);
    for (size_t i = 0; i < bench.count; i++)
        measure(&bench.products[i]);
    double total_s = print_table(device.name);
    if (argc == 4 && !write_json(argv[3], device.name, total_s)) {
        fprintf(stderr, "cuda_products: cannot write '%s'\n", argv[3]);
        return 6;
    }
    plan_destroy(plan);
    return 0;
}
