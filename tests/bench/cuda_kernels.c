// How close the CUDA kernels come to what the GPU can do. Every figure is a ratio to something that the run itself
// measured:
//   copy      a device-to-device copy, against which what is bound by memory is held: bytes a kernel must read and
//             write over its time, over bytes a copy reads and writes over its
//   product   one dense cuBLAS product of as many multiplications as the experts' products have
// Times are medians over repetitions, each a run of launches between two events. Speed on the processor would mean
// nothing, so this is not built against the emulation: without a GPU it says so and exits with 77.
// Usage: cuda_kernels [--json FILE]
#include <cublas_v2.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/kernels.h"

enum { REPEATS = 11, LAUNCHES = 5, MEASURES_MAX = 32, EXPERTS = 8, NO_DEVICE = 77 };

#define CHECK(call) check((call), #call, __LINE__)

static void check(cudaError_t error, const char *what, int line)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "cuda_kernels: line %d: %s: %s\n", line, what, cudaGetErrorString(error));
    exit(1);
}

typedef struct {
    const char *name, *against;
    double time_s, rate;  // rate: bytes or multiply-adds x 2 per second
    double ratio, target; // to what it is held against; 0: none
    bool target_is_most;  // else at least
    bool is_flops;
} Measure;

static struct {
    Measure measures[MEASURES_MAX];
    int count;
    CudaQueue queue;
    double copy_rate;
    uint64_t *lost;
    AdamWFactors *factors;
} bench;

// ---- memory and time -------------------------------------------------------------------------------

static Tensor make(Dtype dtype, uint64_t rows, uint64_t cols)
{
    Tensor tensor = {NULL, dtype, rows, cols};
    CHECK(cudaMalloc(&tensor.data, rows * cols * dtype_bytes(dtype)));
    CHECK(cudaMemset(tensor.data, 0, rows * cols * dtype_bytes(dtype)));
    return tensor;
}

static uint64_t bytes_of(Tensor tensor)
{
    return tensor.rows * tensor.cols * dtype_bytes(tensor.dtype);
}

static uint64_t random_state = 1;

static double random_unit(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 40) / (double)(1u << 24);
}

// Random values, a few thousand of them over and over: products of zeros would take less power than real ones.
static Tensor make_random(Dtype dtype, uint64_t rows, uint64_t cols, double scale)
{
    enum { PATTERN = 8191 };
    static float values[PATTERN];
    static char pattern[PATTERN * sizeof(float)];
    Tensor tensor = make(dtype, rows, cols);
    for (size_t i = 0; i < PATTERN; i++)
        values[i] = (float)(scale * (2 * random_unit() - 1));
    host_from_f32(values, pattern, dtype, PATTERN);
    uint64_t bytes = bytes_of(tensor), size = PATTERN * dtype_bytes(dtype);
    for (uint64_t done = 0; done < bytes; done += size)
        CHECK(cudaMemcpy((char *)tensor.data + done, pattern, bytes - done < size ? bytes - done : size,
                         cudaMemcpyHostToDevice));
    return tensor;
}

static void release(size_t count, const Tensor tensors[])
{
    CHECK(cudaDeviceSynchronize());
    for (size_t t = 0; t < count; t++)
        CHECK(cudaFree(tensors[t].data));
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef void (*Work)(const void *operands);

// Median time of one call, in seconds.
static double time_of(Work work, const void *operands)
{
    cudaEvent_t begin, end;
    double times[REPEATS];
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaDeviceSynchronize()); // operands have arrived
    work(operands);
    for (int r = 0; r < REPEATS; r++) {
        float ms;
        CHECK(cudaEventRecord(begin, bench.queue.stream));
        for (int l = 0; l < LAUNCHES; l++)
            work(operands);
        CHECK(cudaEventRecord(end, bench.queue.stream));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        times[r] = (double)ms * 1e-3 / LAUNCHES;
    }
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    qsort(times, REPEATS, sizeof(*times), compare);
    return times[REPEATS / 2];
}

static Measure *add_measure(Measure measure)
{
    if (bench.count == MEASURES_MAX) {
        fputs("cuda_kernels: too many measures\n", stderr);
        exit(70);
    }
    bench.measures[bench.count] = measure;
    return &bench.measures[bench.count++];
}

// `bytes`: read and written.
static double measure_bytes(const char *name, Work work, const void *operands, double bytes, double target)
{
    double time_s = time_of(work, operands), rate = bytes / time_s;
    add_measure(
        (Measure){name, "copy", time_s, rate, bench.copy_rate > 0 ? rate / bench.copy_rate : 0, target, false, false});
    return time_s;
}

// ---- copy ------------------------------------------------------------------------------------------

typedef struct {
    Tensor from, to;
} Copy;

static void run_copy(const void *operands)
{
    const Copy *c = operands;
    CHECK(cudaMemcpyAsync(c->to.data, c->from.data, bytes_of(c->to), cudaMemcpyDeviceToDevice, bench.queue.stream));
}

static void measure_copy(void)
{
    Copy c = {make_random(DTYPE_BF16, 1 << 15, 8192, 1), make(DTYPE_BF16, 1 << 15, 8192)}; // 512 MB
    double time_s = measure_bytes("copy, device to device", run_copy, &c, 2.0 * (double)bytes_of(c.from), 0);
    bench.copy_rate = 2.0 * (double)bytes_of(c.from) / time_s;
    bench.measures[0].ratio = 1;
    release(2, (Tensor[]){c.from, c.to});
}

// ---- routing ---------------------------------------------------------------------------------------

typedef struct {
    RouteTable table;
    CudaRows present;
    Tensor rows, records, next_rows, next_records, send_rows, send_records, counts, origin, sums;
} RouteRun;

static void run_route(const void *operands)
{
    const RouteRun *r = operands;
    CHECK(cuda_route(&bench.queue, &r->table, r->present, 1, r->rows, r->records, r->next_rows, r->next_records,
                     r->send_rows, r->send_records, r->counts, r->origin, NULL, bench.lost));
}

static void run_unroute(const void *operands)
{
    const RouteRun *r = operands;
    CHECK(cuda_unroute(&bench.queue, &r->table, r->present, 1, 2, r->next_rows, r->send_rows, r->counts, r->origin,
                       r->sums));
}

static void run_unroute_backward(const void *operands)
{
    const RouteRun *r = operands;
    CHECK(cuda_unroute_backward(&bench.queue, &r->table, 1, r->rows, r->counts, r->origin, r->next_rows, r->send_rows));
}

// Distinct experts a row, every row of every token the same number of records.
static void choose_records(Tensor records, uint32_t per_row)
{
    uint64_t count = records.rows * per_row;
    Record *chosen = malloc(count * sizeof(*chosen));
    for (uint64_t row = 0; row < records.rows; row++) {
        uint32_t first = (uint32_t)(random_unit() * EXPERTS);
        for (uint32_t i = 0; i < per_row; i++)
            chosen[row * per_row + i] = (Record){(int32_t)((first + i * 3) % EXPERTS), 0.5f};
    }
    CHECK(cudaMemcpy(records.data, chosen, count * sizeof(*chosen), cudaMemcpyHostToDevice));
    free(chosen);
}

static double copies_of(const RouteRun *r)
{
    int32_t counts[EXPERTS];
    double copies = 0;
    CHECK(cudaMemcpy(counts, r->counts.data, r->table.members * sizeof(*counts), cudaMemcpyDeviceToHost));
    for (uint32_t m = 0; m < r->table.members; m++)
        copies += counts[m];
    return copies;
}

// 64 Ki rows of 4096 halves, 512 MB, two experts each in four domains.
static void measure_routing(void)
{
    const int32_t members[EXPERTS] = {0, 1, 2, 3, 0, 1, 2, 3};
    uint64_t rows = 1 << 16, hidden = 4096, most = 2 * rows;
    Tensor table = make(DTYPE_I32, 1, EXPERTS);
    CHECK(cudaMemcpy(table.data, members, sizeof(members), cudaMemcpyHostToDevice));
    RouteRun r = {.table = {table.data, 4, 1},
                  .present = {NULL, 0, rows},
                  .rows = make_random(DTYPE_BF16, rows, hidden, 1),
                  .records = make(DTYPE_I32, rows, 4),
                  .next_rows = make(DTYPE_BF16, rows, hidden),
                  .next_records = make(DTYPE_I32, rows, 4),
                  .send_rows = make(DTYPE_BF16, most, hidden),
                  .send_records = make(DTYPE_I32, most, 4),
                  .counts = make(DTYPE_I32, 4, 1),
                  .origin = make(DTYPE_I32, 2 * most, 1),
                  .sums = make(DTYPE_BF16, rows, hidden)};
    choose_records(r.records, 2);
    CHECK(cudaDeviceSynchronize());
    run_route(&r);
    CHECK(cudaDeviceSynchronize());
    double row = (double)hidden * 2, copies = copies_of(&r);
    // A row is read once however many copies it gets: that is what the kernel must do.
    measure_bytes("permute (route)", run_route, &r, row * ((double)rows + copies), 0.8);
    measure_bytes("unpermute and combine (unroute)", run_unroute, &r, row * ((double)rows + copies), 0.8);
    measure_bytes("unpermute, backward", run_unroute_backward, &r, row * ((double)rows + copies), 0.8);
    release(10, (Tensor[]){table, r.rows, r.records, r.next_rows, r.next_records, r.send_rows, r.send_records, r.counts,
                           r.origin, r.sums});
}

// ---- experts ---------------------------------------------------------------------------------------

typedef struct {
    ModelDims dims;
    Tensor slots, rows, records, experts, results;
} ExpertRun;

static void run_expert(const void *operands)
{
    const ExpertRun *e = operands;
    CHECK(cuda_expert(&bench.queue, &e->dims, (CudaSlots){e->slots.data, UINT64_MAX}, (CudaRows){.rows = e->rows.rows},
                      1, e->rows, e->records, e->experts, e->results, bench.lost));
}

typedef struct {
    uint64_t m, n, k;
    Tensor a, b, c;
} Dense;

static void run_dense(const void *operands)
{
    const Dense *d = operands;
    const float one = 1, zero = 0;
    cublasStatus_t status =
        cublasGemmEx(bench.queue.blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)d->n, (int)d->m, (int)d->k, &one, d->b.data,
                     CUDA_R_16BF, (int)d->n, d->a.data, CUDA_R_16BF, (int)d->k, &zero, d->c.data, CUDA_R_16BF,
                     (int)d->n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    CHECK(status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorUnknown);
}

static double measure_dense(uint64_t rows, uint64_t hidden, uint64_t inner, double flops)
{
    Dense d = {rows,
               3 * inner,
               hidden,
               make_random(DTYPE_BF16, rows, hidden, 1),
               make_random(DTYPE_BF16, hidden, 3 * inner, 0.02),
               make(DTYPE_BF16, rows, 3 * inner)};
    double time_s = time_of(run_dense, &d);
    add_measure((Measure){"one dense product of as many FLOPs", "", time_s, flops / time_s, 1, 0, false, true});
    release(3, (Tensor[]){d.a, d.b, d.c});
    return time_s;
}

static float *host_values(Tensor tensor)
{
    uint64_t count = tensor.rows * tensor.cols;
    char *elements = malloc(bytes_of(tensor));
    float *values = malloc(count * sizeof(*values));
    CHECK(cudaStreamSynchronize(bench.queue.stream));
    CHECK(cudaMemcpy(elements, tensor.data, bytes_of(tensor), cudaMemcpyDeviceToHost));
    host_to_f32(elements, tensor.dtype, values, count);
    free(elements);
    return values;
}

// What is fast and wrong is not to be timed. Both kernels round the inner dimension and the result to bf16, each by up
// to half a spacing, 2^-8; differences of the many terms of a sum mostly cancel. Frees `by_wgmma`.
static void expect_alike(float *by_wgmma, Tensor results)
{
    float *by_wmma = host_values(results);
    double most = 0, largest = 0;
    for (uint64_t i = 0; i < results.rows * results.cols; i++) {
        double distance = fabs((double)by_wgmma[i] - (double)by_wmma[i]);
        most = fmax(most, isnan(distance) ? INFINITY : distance);
        largest = fmax(largest, fabs((double)by_wmma[i]));
    }
    free(by_wgmma);
    free(by_wmma);
    if (most <= 4 * 0x1p-8 * largest)
        return;
    fprintf(stderr, "cuda_kernels: experts by wgmma and wmma differ by %g, the largest result is %g\n", most, largest);
    exit(1);
}

// Mixtral's experts: three matrices of 4096 x 14336, `rows_each` rows for each of eight.
static double measure_experts(const char *name, uint64_t rows_each)
{
    uint64_t hidden = 4096, inner = 14336, rows = rows_each * EXPERTS;
    int32_t slots[EXPERTS];
    ExpertRun e = {.dims = {.dtype = DTYPE_BF16,
                            .hidden = 4096,
                            .inner = 14336,
                            .experts = EXPERTS,
                            .top_k = 1,
                            .activation = ACTIVATION_SWIGLU}};
    Record *records = malloc(rows * sizeof(*records));
    for (uint32_t s = 0; s < EXPERTS; s++)
        slots[s] = (int32_t)s;
    for (uint64_t i = 0; i < rows; i++)
        records[i] = (Record){(int32_t)(i % EXPERTS), 1};
    e.slots = make(DTYPE_I32, 1, EXPERTS);
    e.rows = make_random(DTYPE_BF16, rows, hidden, 1);
    e.records = make(DTYPE_I32, rows, 2);
    e.experts = make_random(DTYPE_BF16, EXPERTS, model_expert_elements(&e.dims), 0.02);
    e.results = make(DTYPE_BF16, rows, hidden);
    CHECK(cudaMemcpy(e.slots.data, slots, sizeof(slots), cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(e.records.data, records, rows * sizeof(*records), cudaMemcpyHostToDevice));
    free(records);
    double flops = 2.0 * 3 * (double)rows * (double)hidden * (double)inner;
    double dense_s = measure_dense(rows, hidden, inner, flops), time_s = time_of(run_expert, &e);
    add_measure((Measure){name, "product", time_s, flops / time_s, dense_s / time_s, 0.75, false, true});
    if (bench.queue.warp_groups) {
        float *by_wgmma = host_values(e.results);
        bench.queue.warp_groups = false;
        double wmma_s = time_of(run_expert, &e);
        add_measure((Measure){"the same by wmma", "product", wmma_s, flops / wmma_s, dense_s / wmma_s, 0, false, true});
        bench.queue.warp_groups = true;
        expect_alike(by_wgmma, e.results);
    }
    release(5, (Tensor[]){e.slots, e.rows, e.records, e.experts, e.results});
    return time_s;
}

// ---- gate ------------------------------------------------------------------------------------------

typedef struct {
    ModelDims dims;
    Tensor x, router, rows, records;
} GateRun;

static void run_gate(const void *operands)
{
    const GateRun *g = operands;
    CHECK(cuda_gate(&bench.queue, &g->dims, ROUTING_LEARNED, 0, g->x, g->router, g->rows, g->records));
}

// As a share of the experts' time for as many tokens: an iteration takes longer still.
static void measure_gate(uint64_t tokens, double experts_s)
{
    GateRun g = {.dims = {.dtype = DTYPE_BF16, .hidden = 4096, .experts = EXPERTS, .top_k = 2}};
    g.x = make_random(DTYPE_BF16, tokens, 4096, 1);
    g.router = make_random(DTYPE_BF16, 1, model_router_elements(&g.dims), 0.02);
    g.rows = make(DTYPE_BF16, tokens, 4096);
    g.records = make(DTYPE_I32, tokens, 4);
    double time_s = time_of(run_gate, &g), bytes = 2.0 * (double)bytes_of(g.x);
    add_measure((Measure){"gate and top-k, over the experts", "experts", time_s, bytes / time_s, time_s / experts_s,
                          0.03, true, false});
    release(4, (Tensor[]){g.x, g.router, g.rows, g.records});
}

// ---- embeddings ------------------------------------------------------------------------------------

typedef struct {
    ModelDims dims;
    Tensor tokens, dx, dembedding;
} EmbedRun;

static void run_embed_backward(const void *operands)
{
    const EmbedRun *e = operands;
    CHECK(cuda_embed_backward(&bench.queue, &e->dims, e->tokens, e->dx, e->dembedding));
}

// Words as texts have them: the n-th is chosen as often as 1/n says.
static void measure_embed(void)
{
    EmbedRun e = {
        .dims = {.dtype = DTYPE_BF16, .hidden = 4096, .vocabulary = 32000, .sequence = 4096, .batch = 8, .heads = 32}};
    uint64_t tokens = model_tokens(&e.dims), places = (uint64_t)e.dims.batch * (e.dims.sequence + 1);
    int32_t *words = malloc(places * sizeof(*words));
    for (uint64_t i = 0; i < places; i++)
        words[i] = (int32_t)pow((double)e.dims.vocabulary, random_unit()) - 1;
    e.tokens = make(DTYPE_I32, e.dims.batch, e.dims.sequence + 1);
    CHECK(cudaMemcpy(e.tokens.data, words, places * sizeof(*words), cudaMemcpyHostToDevice));
    free(words);
    e.dx = make_random(DTYPE_BF16, tokens, 4096, 1);
    e.dembedding = make_random(DTYPE_BF16, 1, model_embedding_elements(&e.dims), 1);
    // rows are read by word and by position
    measure_bytes("gradients of embeddings", run_embed_backward, &e, 2.0 * (double)bytes_of(e.dx), 0);
    release(3, (Tensor[]){e.tokens, e.dx, e.dembedding});
}

// ---- optimizer and codec ---------------------------------------------------------------------------

typedef struct {
    double ratio;
    Tensor weights, gradient, state, shared, packet, decoded;
} Training;

static const Tensor none;

static void run_adamw(const void *operands)
{
    const Training *t = operands;
    CHECK(cuda_optimizer(&bench.queue, bench.factors, &(ModelRanges){0}, none, t->weights, t->gradient, t->state));
}

static void run_encode(const void *operands)
{
    const Training *t = operands;
    CHECK(cuda_encode(&bench.queue, codec_info(CODEC_SR), codec_packing(CODEC_SR, t->ratio), t->weights, t->shared,
                      t->packet));
}

static void run_adamw_then_encode(const void *operands)
{
    run_adamw(operands);
    run_encode(operands);
}

static void run_decode(const void *operands)
{
    const Training *t = operands;
    Tensor own = {t->weights.data, t->weights.dtype, 0, t->weights.cols};
    CHECK(cuda_decode(&bench.queue, codec_info(CODEC_SR), codec_packing(CODEC_SR, t->ratio), 0, t->packet, own,
                      t->shared, t->decoded));
}

static void run_expert_copy(const void *operands)
{
    const Training *t = operands;
    CHECK(cudaMemcpyAsync(t->decoded.data, t->weights.data, bytes_of(t->weights), cudaMemcpyDeviceToDevice,
                          bench.queue.stream));
}

static void add_ratio(const char *name, const char *against, double time_s, double bytes, double to_s, double most)
{
    add_measure((Measure){name, against, time_s, bytes / time_s, time_s / to_s, most, true, false});
}

static void measure_training(void)
{
    uint64_t rows = 2, cols = 3ull * 4096 * 14336; // two experts, 704 MB
    AdamW adamw = {1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 1};
    AdamWFactors factors = cuda_adamw_factors(&adamw, 0);
    Training t = {.ratio = 50,
                  .weights = make_random(DTYPE_BF16, rows, cols, 1),
                  .gradient = make_random(DTYPE_BF16, rows, cols, 1),
                  .state = make(DTYPE_F32, rows, 3 * cols),
                  .shared = make_random(DTYPE_BF16, 1, cols, 1),
                  .packet = make(DTYPE_U8, rows, packing_bytes(codec_packing(CODEC_SR, 50), cols, DTYPE_BF16)),
                  .decoded = make(DTYPE_BF16, rows, cols)};
    CHECK(cudaMemcpy(bench.factors, &factors, sizeof(factors), cudaMemcpyHostToDevice));
    CHECK(cuda_optimizer_begin(&bench.queue, t.weights, t.state));
    double elements = (double)(rows * cols), adamw_bytes = elements * (2 + 2 + 2 + 2 * 12);
    double adamw_s = measure_bytes("AdamW, bf16", run_adamw, &t, adamw_bytes, 0);
    add_ratio("AdamW, then encode 50x", "AdamW", time_of(run_adamw_then_encode, &t), adamw_bytes, adamw_s, 1.3);
    double copy_s = time_of(run_expert_copy, &t);
    add_ratio("decode 50x", "copy of experts", time_of(run_decode, &t), 4 * elements, copy_s, 1.25);
    release(6, (Tensor[]){t.weights, t.gradient, t.state, t.shared, t.packet, t.decoded});
}

// ---- report ----------------------------------------------------------------------------------------

static const char *verdict(const Measure *m)
{
    if (m->target <= 0)
        return "";
    return (m->target_is_most ? m->ratio <= m->target : m->ratio >= m->target) ? "met" : "missed";
}

static void print_table(const struct cudaDeviceProp *device)
{
    CudaExpertKernel kernel;
    CHECK(cuda_expert_kernel(&kernel));
    printf("# %s, compute capability %d.%d, CUDA runtime %d; medians of %d runs of %d launches\n", device->name,
           device->major, device->minor, CUDART_VERSION, REPEATS, LAUNCHES);
    printf("# experts by %s%s%s\n", kernel.warp_groups ? "wgmma" : "wmma", kernel.refusal ? ": " : "",
           kernel.refusal ? kernel.refusal : "");
    printf("%-36s %10s %12s %-8s %8s %-16s %8s\n", "kernel", "time", "rate", "", "ratio", "to", "target");
    printf("%-36s %10s %12s %-8s %8s\n", "", "us", "", "", "");
    for (int i = 0; i < bench.count; i++) {
        const Measure *m = &bench.measures[i];
        printf("%-36s %10.1f %12.1f %-8s %8.3f %-16s", m->name, m->time_s * 1e6, m->rate * (m->is_flops ? 1e-12 : 1e-9),
               m->is_flops ? "TFLOP/s" : "GB/s", m->ratio, m->against);
        if (m->target > 0)
            printf(" %s %.2f %s", m->target_is_most ? "<=" : ">=", m->target, verdict(m));
        putchar('\n');
    }
}

static bool write_json(const char *path, const struct cudaDeviceProp *device)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return false;
    fprintf(out, "{\"device\": \"%s\", \"measures\": [", device->name);
    for (int i = 0; i < bench.count; i++) {
        const Measure *m = &bench.measures[i];
        fprintf(out, "%s\n  {\"name\": \"%s\", \"time_s\": %.9g, \"%s\": %.9g, \"ratio\": %.6g, \"to\": \"%s\"",
                i ? "," : "", m->name, m->time_s, m->is_flops ? "flops" : "bytes_per_s", m->rate, m->ratio, m->against);
        if (m->target > 0)
            fprintf(out, ", \"%s\": %.6g, \"met\": %s", m->target_is_most ? "at_most" : "at_least", m->target,
                    strcmp(verdict(m), "met") == 0 ? "true" : "false");
        fputc('}', out);
    }
    fputs("\n]}\n", out);
    return fclose(out) == 0;
}

static void begin(struct cudaDeviceProp *device)
{
    uint64_t work_bytes = CUDA_BLAS_BYTES + (4ull << 30);
    cudaStream_t stream;
    void *work;
    CHECK(cudaGetDeviceProperties(device, 0));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaMalloc(&work, work_bytes));
    CHECK(cuda_queue_create(&bench.queue, stream, true, work, work_bytes));
    CHECK(cudaMalloc((void **)&bench.lost, sizeof(*bench.lost)));
    CHECK(cudaMalloc((void **)&bench.factors, sizeof(*bench.factors)));
    CHECK(cudaMemset(bench.lost, 0, sizeof(*bench.lost)));
}

int main(int argc, char **argv)
{
    int devices = 0;
    struct cudaDeviceProp device;
    if (argc != 1 && !(argc == 3 && strcmp(argv[1], "--json") == 0)) {
        fprintf(stderr, "usage: %s [--json FILE]\n", argv[0]);
        return 2;
    }
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fputs("no CUDA device\n", stderr);
        return NO_DEVICE;
    }
    begin(&device);
    measure_copy();
    measure_routing();
    double experts_s = measure_experts("experts, 512 rows each", 512);
    measure_gate(512 * EXPERTS / 2, experts_s);
    measure_experts("experts, 2048 rows each", 2048);
    measure_embed();
    measure_training();
    print_table(&device);
    if (argc == 3 && !write_json(argv[2], &device)) {
        fprintf(stderr, "cuda_kernels: cannot write '%s'\n", argv[2]);
        return 6;
    }
    return 0;
}
