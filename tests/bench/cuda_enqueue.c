// What a step costs the host: the time in which the engine `cuda` enqueues it, against that of one empty kernel in the
// same run. Ranks are threads of this process, each of which enqueues its steps in the plan's order; the first one is
// measured. Built against the emulation (bench_cuda_enqueue_emulated) it knows the interpreter's share alone, what CUDA
// itself would take is not in it; but it counts what every step enqueues.
#include <argp.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/base/text.h"
#include "ir/load/plan_file.h"
#include "ir/unroll.h"
#include "runtime/base/clock.h"
#include "runtime/engine/engine.h"
#include "runtime/training/data.h"
#include "runtime/training/initial.h"

enum { EMPTY_LAUNCHES = 2000, RANKS_MAX = 64, OP_CODES = 64, PLAN_BYTES = 1 << 30, NO_DEVICE = 77 };

#ifdef HEP_EMULATED
uint64_t emulation_enqueued(void);
uint64_t emulation_product_flops(void);
static const bool is_emulated = true;
#else
static const bool is_emulated = false;
static uint64_t emulation_enqueued(void)
{
    return 0;
}

static uint64_t emulation_product_flops(void)
{
    return 0;
}
#endif

cudaError_t cuda_empty_launch(cudaStream_t stream);

static struct {
    const char *path, *json;
    uint32_t iterations;
} options = {.iterations = 50};

// Of one rank. Of the first: seconds by step and iteration, and what the step enqueued at most.
typedef struct {
    const Plan *plan;
    Comm *comm;
    const Data *data;
    pthread_t thread;
    Engine *engine;
    double *step_s;     // [steps][iterations]
    uint64_t *enqueued; // [steps]
    uint64_t *flops;    // [steps] of products
    double *replay_s;   // [iterations]
    bool *skipped;      // [steps], of the iteration
    int32_t *tokens;    // likewise
    uint32_t replays;
    const char *refusal;
} Rank;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "cuda_enqueue: %s: %s\n", what, why);
    exit(1);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);
    if (!memory)
        fail("memory", "there is not enough");
    return memory;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return count ? values[count / 2] : 0;
}

// ---- ranks -----------------------------------------------------------------------------------

static bool is_skipped(const Plan *plan, uint32_t step, uint32_t iteration)
{
    return iteration % plan_step_period(plan, &plan->steps[step]) != 0;
}

static uint64_t micro_batch_tokens(const Plan *plan)
{
    return plan->model.batch * (plan->model.sequence + 1ull);
}

// Iterations from 0 to `iterations` - 1, the first of them as a warm-up; `graphs`: by replay where that can be.
static bool rank_iterate(Rank *rank, uint32_t iteration, StepTime times[], bool graphs, Fault *fault)
{
    const Plan *plan = rank->plan;
    EngineIteration of = {.tokens = rank->tokens, .update = iteration + 1, .learning_rate = 1e-4f};
    for (uint32_t i = 0; i < plan->micro_batches; i++) {
        DataBatch batch = {
            .seed = 1, .rank = rank->comm->rank, .iteration = (uint64_t)iteration * plan->micro_batches + i};
        if (!data_fill(rank->data, &plan->model, &batch, rank->tokens + i * micro_batch_tokens(plan), fault))
            return false;
    }
    for (uint32_t s = 0; s < plan->step_count; s++)
        rank->skipped[s] = is_skipped(plan, s, iteration);
    cuda_engine.begin(rank->engine, &of);
    if (!rank->comm->ops->barrier(rank->comm, fault))
        return false;
    double begin_s = clock_now_s();
    if (graphs && cuda_engine.queue->replay(rank->engine, rank->skipped, fault)) {
        rank->replay_s[rank->replays++] = clock_now_s() - begin_s;
        return cuda_engine.queue->finish(rank->engine, times, fault);
    }
    for (uint32_t s = 0; s < plan->step_count && !fault->message[0]; s++) {
        if (rank->skipped[s])
            continue;
        uint64_t before = emulation_enqueued(), flops_before = emulation_product_flops();
        begin_s = clock_now_s();
        if (!cuda_engine.execute(rank->engine, s, fault))
            return false;
        rank->step_s[(size_t)s * options.iterations + iteration] = clock_now_s() - begin_s;
        uint64_t own = emulation_enqueued() - before;
        rank->enqueued[s] = own > rank->enqueued[s] ? own : rank->enqueued[s];
        rank->flops[s] = emulation_product_flops() - flops_before;
    }
    return !fault->message[0] && cuda_engine.queue->finish(rank->engine, times, fault);
}

static void rank_run(Rank *rank, bool graphs)
{
    const Plan *plan = rank->plan;
    Fault fault = {0};
    StepTime *times = allocate(plan->step_count, sizeof(*times));
    Initial initial = {.plan = plan, .seed = 1, .rank = rank->comm->rank};
    EngineOptions settings = {.fill = initial_fill,
                              .fill_context = &initial,
                              .routing = graphs ? ROUTING_BALANCED : ROUTING_LEARNED,
                              .training = plan->training,
                              .graphs = graphs};
    rank->engine = cuda_engine.create(plan, rank->comm, &settings, &fault);
    if (!rank->engine)
        fail(options.path, fault.message);
    rank->refusal = cuda_engine.queue->replay_refusal(rank->engine);
    for (uint32_t i = 0; i < options.iterations; i++)
        if (!rank_iterate(rank, i, times, graphs, &fault))
            fail(options.path, fault.message);
    if (!rank->comm->ops->barrier(rank->comm, &fault)) // nobody reads this rank's memory any more
        fail(options.path, fault.message);
    cuda_engine.destroy(rank->engine);
    free(times);
}

static void *rank_main(void *data)
{
    rank_run(data, false);
    return NULL;
}

// ---- what came of it -------------------------------------------------------------------------

typedef struct {
    double step_s; // median over iterations, mean over steps
    uint32_t steps;
    uint64_t enqueued; // by one step, at most
    uint64_t flops;    // likewise
    bool meets;        // waits for other ranks, or for the device
} OpCost;

static void op_costs(Rank *rank, OpCost costs[OP_CODES])
{
    const Plan *plan = rank->plan;
    double *values = allocate(options.iterations, sizeof(double));
    for (uint32_t s = 0; s < plan->step_count; s++) {
        OpCost *cost = &costs[plan->steps[s].op]; // codes are less: op_info knows no others
        size_t count = 0;
        for (uint32_t i = 1; i < options.iterations; i++)
            if (!is_skipped(plan, s, i))
                values[count++] = rank->step_s[(size_t)s * options.iterations + i];
        cost->step_s += median(values, count);
        cost->steps++;
        cost->meets = cost->meets || plan->steps[s].group != NONE;
        cost->enqueued = rank->enqueued[s] > cost->enqueued ? rank->enqueued[s] : cost->enqueued;
        cost->flops = rank->flops[s] > cost->flops ? rank->flops[s] : cost->flops;
    }
    free(values);
}

static double empty_launch_s(void)
{
    cudaStream_t stream;
    double values[EMPTY_LAUNCHES];
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    for (int i = 0; i < EMPTY_LAUNCHES && error == cudaSuccess; i++) {
        double begin_s = clock_now_s();
        error = cuda_empty_launch(stream);
        values[i] = clock_now_s() - begin_s;
        if (error == cudaSuccess && i % 64 == 63)
            error = cudaStreamSynchronize(stream); // a full queue would hold up the host
    }
    if (error != cudaSuccess)
        fail("empty kernel", cudaGetErrorString(error));
    cudaStreamDestroy(stream);
    return median(values, EMPTY_LAUNCHES);
}

static void print_table(const OpCost costs[OP_CODES], double empty_s, const char *device)
{
    printf("# %s%s\n", device, is_emulated ? ": the interpreter's share alone" : "");
    printf("# an empty kernel: %.2f us\n", 1e6 * empty_s);
    printf("%-24s %6s %12s %10s %10s\n%-24s %6s %12s %10s %10s\n", "op", "steps", "host time", "against", "enqueues",
           "", "", "us a step", "empty", "at most");
    for (int op = 0; op < OP_CODES; op++) {
        const OpCost *cost = &costs[op];
        if (cost->steps == 0)
            continue;
        printf("%-24s %6u %12.2f %10.2f ", op_info(op)->name, cost->steps, 1e6 * cost->step_s / cost->steps,
               cost->step_s / cost->steps / empty_s);
        printf(is_emulated ? "%10llu%s\n" : "%10.0llu%s\n", (unsigned long long)cost->enqueued,
               cost->meets ? "  meets other ranks" : "");
    }
}

// As bench_cuda_kernels has them: `at_most` is what is asked for on a GPU.
static void print_measures(FILE *out, double step_s, double replayed_s)
{
    const char *limits[] = {is_emulated ? "" : ", \"at_most\": 5e-6", is_emulated ? "" : ", \"at_most\": 2e-6"};
    fprintf(out, "\"measures\": [{\"name\": \"host enqueues a step\", \"time_s\": %.3e%s}", step_s, limits[0]);
    if (replayed_s > 0)
        fprintf(out, ", {\"name\": \"host replays a step\", \"time_s\": %.3e%s}", replayed_s, limits[1]);
    fprintf(out, "],\n ");
}

static void print_json(FILE *out, Rank *rank, const OpCost costs[OP_CODES], double empty_s, const char *device)
{
    double local_s = 0;
    uint32_t local = 0;
    const char *comma = "";
    fprintf(out, "{\"bench\": \"cuda_enqueue\", \"format\": 1, \"device\": \"%s\", \"emulated\": %s, ", device,
            is_emulated ? "true" : "false");
    fprintf(out, "\"iterations\": %u, \"ranks\": %u, \"steps\": %u, \"empty_launch_us\": %.3f,\n \"ops\": [",
            options.iterations, (unsigned)cluster_gpus(&rank->plan->cluster), rank->plan->step_count, 1e6 * empty_s);
    for (int op = 0; op < OP_CODES; op++) {
        const OpCost *cost = &costs[op];
        if (cost->steps == 0)
            continue;
        double step_s = cost->step_s / cost->steps;
        fprintf(out, "%s\n  {\"op\": \"%s\", \"steps\": %u, \"meets\": %s, \"enqueue_us\": %.3f, \"ratio\": %.3f",
                comma, op_info(op)->name, cost->steps, cost->meets ? "true" : "false", 1e6 * step_s, step_s / empty_s);
        if (is_emulated)
            fprintf(out, ", \"enqueues\": %llu, \"product_flops\": %llu", (unsigned long long)cost->enqueued,
                    (unsigned long long)cost->flops);
        fprintf(out, "}");
        comma = ",";
        local_s += cost->meets ? 0 : cost->step_s;
        local += cost->meets ? 0 : cost->steps;
    }
    double mean_s = local ? local_s / local : 0;
    fprintf(out, "],\n \"local_step_us\": %.3f, \"local_step_ratio\": %.3f, ", 1e6 * mean_s, mean_s / empty_s);
    double replay_s =
        rank->replays > 1 ? median(rank->replay_s + 1, rank->replays - 1) : 0; // the first makes the graph
    print_measures(out, mean_s, replay_s / rank->plan->step_count);
    if (rank->replays > 1) {
        fprintf(out, "\"replay\": {\"host_us\": %.3f, \"step_us\": %.3f, \"step_ratio\": %.4f}}\n", 1e6 * replay_s,
                1e6 * replay_s / rank->plan->step_count, replay_s / rank->plan->step_count / empty_s);
    } else {
        fprintf(out, "\"replay\": null, \"replay_refusal\": \"%s\"}\n", rank->refusal ? rank->refusal : "too few");
    }
}

// ---- the program -----------------------------------------------------------------------------

static const char documentation[] =
    "Host time in which the CUDA engine enqueues each step of a plan, against that of an empty kernel in the same "
    "run.\v"
    "Of a plan for one GPU it also replays a graph. Keys of the JSON: device, emulated (then times are the\n"
    "interpreter's share alone), iterations, ranks, steps, empty_launch_us (median),\n"
    "ops[{op, steps, meets (other ranks: then the time holds waiting), enqueue_us (median over iterations, mean over\n"
    "steps), ratio (to an empty kernel), enqueues (kernels, products, copies and fills of one step at most), "
    "product_flops\n"
    "(of cuBLAS's; both emulated only)}], local_step_us and local_step_ratio (mean over steps that meet nobody), "
    "replay{host_us (of the call that\n"
    "launches the graph), step_us (the same by step), step_ratio} or null with replay_refusal; measures[{name, "
    "time_s,\n"
    "at_most (what is asked for, not of the emulation)}].\n"
    "Exit code 77: there is no GPU.";

static error_t parse(int key, char *argument, struct argp_state *state)
{
    char *end = "";
    switch (key) {
    case 'i':
        options.iterations = (uint32_t)strtoul(argument, &end, 10);
        if (*end || options.iterations < 2 || options.iterations > 10000)
            argp_error(state, "'--iterations %s': expected 2 to 10000", argument);
        return 0;
    case 'j':
        options.json = argument;
        return 0;
    case ARGP_KEY_ARG:
        if (options.path)
            argp_error(state, "one plan at a time");
        options.path = argument;
        return 0;
    case ARGP_KEY_END:
        if (!options.path)
            argp_error(state, "expected a plan that hepc wrote");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static Plan *load(const char *path, char **content)
{
    size_t length;
    Fault fault = {0};
    *content = file_read(path, PLAN_BYTES, &length, &fault);
    if (!*content)
        fail(path, fault.message);
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Plan *plan = plan_load(path, *content, length, diag);
    diag_print(diag, stderr, false);
    arena_destroy(arena);
    if (!plan)
        exit(1);
    return (Plan *)plan_unroll_all(plan, plan->arena); // in its arena, which it ends with
}

// All ranks of the plan once, enqueueing or, of one rank, replaying.
static void run_ranks(const Plan *plan, const Data *data, Rank ranks[], bool graphs)
{
    uint32_t count = (uint32_t)cluster_gpus(&plan->cluster);
    ThreadWorld *world = thread_world_create(&plan->cluster, NULL, 60);
    Fault fault = {0};
    for (uint32_t r = 0; r < count; r++) {
        ranks[r].plan = plan;
        ranks[r].data = data;
        ranks[r].comm = world ? cuda_engine.device->join(world, r, &fault) : NULL;
        if (!ranks[r].comm)
            fail("ranks", fault.message);
    }
    for (uint32_t r = 1; r < count; r++)
        if (pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]))
            fail("ranks", "no thread");
    rank_run(&ranks[0], graphs);
    for (uint32_t r = 1; r < count; r++)
        pthread_join(ranks[r].thread, NULL);
    for (uint32_t r = 0; r < count; r++)
        cuda_engine.device->leave(ranks[r].comm);
    thread_world_destroy(world);
}

int main(int argc, char **argv)
{
    static const struct argp_option described[] = {
        {"iterations", 'i', "N", 0, "how many, of which the first is not measured (default 50)", 0},
        {"json", 'j', "FILE", 0, "write the figures there", 0},
        {0}};
    argp_parse(&(struct argp){described, parse, "PLAN", documentation, NULL, NULL, NULL}, argc, argv, 0, NULL, NULL);
    if (is_emulated)
        setenv("HEP_EMULATION_ASYNC", "1", 0); // kernels run behind the host's back
    Fault fault = {0};
    if (!cuda_engine.available(&fault)) {
        fprintf(stderr, "SKIP: %s\n", fault.message);
        return NO_DEVICE;
    }
    char *content;
    Plan *plan = load(options.path, &content);
    uint32_t count = (uint32_t)cluster_gpus(&plan->cluster);
    if (count > RANKS_MAX)
        fail(options.path, "too many ranks for one process");
    Data data;
    if (!data_open(&(DataOptions){0}, &plan->model, &data, &fault))
        fail("data", fault.message);
    Rank *ranks = allocate(count, sizeof(*ranks));
    for (uint32_t r = 0; r < count; r++) {
        ranks[r].step_s = allocate((size_t)plan->step_count * options.iterations, sizeof(double));
        ranks[r].enqueued = allocate(plan->step_count, sizeof(uint64_t));
        ranks[r].flops = allocate(plan->step_count, sizeof(uint64_t));
        ranks[r].replay_s = allocate(options.iterations, sizeof(double));
        ranks[r].skipped = allocate(plan->step_count, sizeof(bool));
        ranks[r].tokens = allocate(plan->micro_batches * micro_batch_tokens(plan), sizeof(int32_t));
    }
    struct cudaDeviceProp device;
    OpCost costs[OP_CODES] = {0};
    if (cudaGetDeviceProperties(&device, 0) != cudaSuccess)
        fail("device", cudaGetErrorString(cudaGetLastError()));
    run_ranks(plan, &data, ranks, false);
    op_costs(&ranks[0], costs);
    if (count == 1)
        run_ranks(plan, &data, ranks, true);
    double empty_s = empty_launch_s();
    print_table(costs, empty_s, device.name);
    FILE *out = options.json ? fopen(options.json, "w") : NULL;
    if (options.json && !out)
        fail(options.json, "cannot be written");
    if (out) {
        print_json(out, &ranks[0], costs, empty_s, device.name);
        fclose(out);
    }
    for (uint32_t r = 0; r < count; r++) {
        free(ranks[r].step_s);
        free(ranks[r].enqueued);
        free(ranks[r].flops);
        free(ranks[r].replay_s);
        free(ranks[r].skipped);
        free(ranks[r].tokens);
    }
    free(ranks);
    data_close(&data);
    plan_destroy(plan);
    free(content);
    return 0;
}
