// Two questions about hep-run, each answered as a ratio or per step in one run:
//   overhead  what the interpreter adds to a step: plans of steps that do nothing, one stream and two
//             streams that wait for each other after every step, beside a bare loop of function calls
//   engine    a whole forward pass of one rank beside the bare sum of its OpenBLAS products and the
//             memory copies of its rows, for the same sizes
// Usage: runtime [hidden] [tokens]; sizes of the engine question, default 256 and 1024.
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/spec/spec.h"
#include "ir/base/exit_codes.h"
#include "runtime/base/clock.h"
#include "runtime/comm/comm_threads.h"
#include "runtime/engine/interpreter.h"
#include "runtime/job/job.h"

enum { REPEATS = 9 };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return values[count / 2];
}

// ---- overhead --------------------------------------------------------------------------------

static volatile uint32_t executed_step;

static bool execute_nothing(Engine *engine, uint32_t step, Fault *fault)
{
    (void)engine, (void)fault;
    executed_step = step;
    return true;
}

static const EngineOps empty_engine = {.name = "empty", .execute = execute_nothing};

// `count` local steps; with `alternate`, every second one is on the migrate stream and each waits for the one before.
static Plan *empty_plan(uint32_t count, bool alternate)
{
    Plan *plan = plan_create();
    plan->cluster = (Cluster){.name = "one", .level_count = 1, .levels = {{"gpu", 1, 1e9, 0, 0}}};
    plan->steps = arena_alloc_array(plan->arena, count, sizeof(*plan->steps));
    plan->after = arena_alloc_array(plan->arena, count, sizeof(*plan->after));
    plan->step_count = count;
    for (uint32_t i = 0; i < count; i++) {
        Op op = alternate && i % 2 ? OP_ENCODE : OP_RESIDUAL;
        plan->steps[i] =
            (Step){.op = op, .layer = NONE, .level = NONE, .group = NONE, .after_first = plan->after_count};
        if (alternate && i > 0) {
            plan->after[plan->after_count++] = i - 1;
            plan->steps[i].after_count = 1;
        }
    }
    return plan;
}

static double empty_step_s(uint32_t count, bool alternate)
{
    Plan *plan = empty_plan(count, alternate);
    ThreadWorld *world = thread_world_create(&plan->cluster, NULL, 60);
    Fault fault = {0};
    Interpreter *interpreter = interpreter_create(plan, &empty_engine, NULL, thread_world_comm(world, 0), &fault);
    double times[REPEATS];
    for (int r = 0; interpreter && r < REPEATS; r++) {
        double begin_s = clock_now_s();
        if (!interpreter_run(interpreter, NULL, &fault))
            break;
        times[r] = (clock_now_s() - begin_s) / count;
    }
    interpreter_destroy(interpreter);
    thread_world_destroy(world);
    plan_destroy(plan);
    if (fault.kind != FAULT_NONE) {
        fprintf(stderr, "runtime: %s\n", fault.message);
        exit(fault.kind);
    }
    return median(times, REPEATS);
}

static double bare_call_s(uint32_t count)
{
    bool (*volatile call)(Engine *, uint32_t, Fault *) = execute_nothing;
    double times[REPEATS];
    for (int r = 0; r < REPEATS; r++) {
        double begin_s = clock_now_s();
        for (uint32_t i = 0; i < count; i++)
            call(NULL, i, NULL);
        times[r] = (clock_now_s() - begin_s) / count;
    }
    return median(times, REPEATS);
}

static void measure_overhead(void)
{
    enum { STEPS = 10000 };
    double bare_s = bare_call_s(STEPS), one_s = empty_step_s(STEPS, false), two_s = empty_step_s(STEPS, true);
    printf("%-44s %12s %12s\n%-44s %12s %12s\n", "interpreter, empty steps", "per step", "over a call", "", "us",
           "ratio");
    printf("%-44s %12.4f %12.1f\n", "bare function call", 1e6 * bare_s, 1.0);
    printf("%-44s %12.4f %12.1f\n", "one stream", 1e6 * one_s, one_s / bare_s);
    printf("%-44s %12.4f %12.1f\n\n", "two streams, every step waits for the other", 1e6 * two_s, two_s / bare_s);
}

// ---- engine ----------------------------------------------------------------------------------

static Spec one_rank_spec(uint32_t hidden, uint32_t tokens)
{
    Spec spec = {0};
    spec.cluster =
        (Cluster){.name = "one", .level_count = 1, .levels = {{"gpu", 1, 1e9, 0, 0}}, .device = {1e10, 64e9, 1e10, 32}};
    spec.model = (SpecModel){.name = "bench",
                             .dtype = DTYPE_F32,
                             .layers = 4,
                             .hidden = hidden,
                             .heads = 4,
                             .kv_heads = 4,
                             .head_dim = hidden / 4,
                             .vocabulary = 256,
                             .sequence = 128,
                             .batch = tokens / 128,
                             .every = 1,
                             .experts = 8,
                             .top_k = 2,
                             .inner = 4 * hidden,
                             .activation = ACTIVATION_RELU};
    const Coding whole = {.ratio = 1, .gradient_ratio = 1};
    spec.plan = (SpecPlan){
        .pass = PASS_FORWARD, .dispatch = DISPATCH_DEDUP, .experts = whole, .dense = whole, .micro_batches = 1};
    return spec;
}

static double engine_s(const Plan *plan)
{
    JobOptions options = job_options_default();
    options.iterations = REPEATS;
    options.routing = ROUTING_BALANCED;
    JobResult result;
    Fault fault = {0};
    if (!job_run(plan, &options, &result, &fault)) {
        fprintf(stderr, "runtime: %s\n", fault.message);
        exit(fault.kind);
    }
    double time_s = result.median_s;
    job_result_free(&result);
    return time_s;
}

typedef struct {
    float *a, *b, *c;
} Operands;

static void product(const Operands *o, uint32_t rows, uint32_t inner, uint32_t columns)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)columns, (blasint)inner, 1, o->a,
                (blasint)inner, o->b, (blasint)columns, 0, o->c, (blasint)columns);
}

// The products of one forward pass, and a copy of every row into and out of its expert's operand.
static void bare_pass(const SpecModel *model, const Operands *o)
{
    uint32_t tokens = model->sequence * model->batch, hidden = model->hidden;
    for (uint32_t layer = 0; layer < model->layers; layer++) {
        for (int projection = 0; projection < 4; projection++)
            product(o, tokens, hidden, hidden);
        for (uint32_t head = 0; head < model->batch * model->heads; head++) {
            product(o, model->sequence, model->head_dim, model->sequence);
            product(o, model->sequence, model->sequence, model->head_dim);
        }
        product(o, tokens, hidden, model->experts);
        uint32_t rows = tokens * model->top_k / model->experts;
        for (uint32_t expert = 0; expert < model->experts; expert++) {
            memcpy(o->a, o->c, (size_t)rows * hidden * sizeof(float));
            product(o, rows, hidden, model->inner);
            product(o, rows, model->inner, hidden);
            memcpy(o->c, o->a, (size_t)rows * hidden * sizeof(float));
        }
    }
    product(o, tokens, hidden, model->vocabulary);
}

// Of a forward pass, or of a whole training iteration: every product of the forward pass has two in the backward pass.
static double bare_s(const SpecModel *model, Pass pass)
{
    int passes = pass == PASS_TRAINING ? 3 : 1;
    // Every operand of every product fits: rows or inner size times the widest matrix.
    size_t widest = model->inner > model->vocabulary ? model->inner : model->vocabulary;
    size_t largest = ((size_t)model->sequence * model->batch + model->inner) * widest;
    Operands o = {calloc(largest, 4), calloc(largest, 4), calloc(largest, 4)};
    for (size_t i = 0; i < largest; i++) {
        o.a[i] = (float)(i % 17) / 17;
        o.b[i] = (float)(i % 13) / 13;
    }
    double times[REPEATS];
    bare_pass(model, &o);
    for (int r = 0; r < REPEATS; r++) {
        double begin_s = clock_now_s();
        for (int p = 0; p < passes; p++)
            bare_pass(model, &o);
        times[r] = clock_now_s() - begin_s;
    }
    free(o.a);
    free(o.b);
    free(o.c);
    return median(times, REPEATS);
}

static void measure_engine(uint32_t hidden, uint32_t tokens, Pass pass)
{
    Spec spec = one_rank_spec(hidden, tokens);
    spec.plan.pass = pass;
    spec.training = (TrainingSettings){.learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8};
    Arena *arena = arena_create();
    Config config = {.domain = {1}};
    double bytes;
    Plan *plan = lower_uniform(workload_derive(&spec, arena), &config, DISPATCH_DEDUP, &bytes);
    double calls_s = bare_s(&spec.model, pass), whole_s = engine_s(plan);
    printf("%-44s %12s %12s\n%-44s %12s %12s\n",
           pass == PASS_TRAINING ? "host engine, training iteration, one rank"
                                 : "host engine, forward pass of one rank, f32",
           "time", "over bare", "", "ms", "ratio");
    printf("%-44s %12.2f %12.2f\n", "bare OpenBLAS products and row copies", 1e3 * calls_s, 1.0);
    printf("%-44s %12.2f %12.2f\n\n", "hep-run", 1e3 * whole_s, whole_s / calls_s);
    plan_destroy(plan);
    arena_destroy(arena);
}

int main(int argc, char **argv)
{
    uint32_t hidden = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 256;
    uint32_t tokens = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1024;
    if (hidden < 4 || hidden % 4 || tokens < 128 || tokens % 128) {
        fprintf(stderr, "usage: runtime [hidden, a multiple of 4] [tokens, a multiple of 128]\n");
        return exit_code_of(FAULT_USAGE);
    }
    host_kernels_init(1, UINT64_MAX);
    printf("# hidden %u, %u tokens, 4 layers, 8 experts of inner %u, top-2, relu; medians of %d\n\n", hidden, tokens,
           4 * hidden, REPEATS);
    measure_overhead();
    measure_engine(hidden, tokens, PASS_FORWARD);
    measure_engine(hidden, tokens, PASS_TRAINING);
    return exit_code_of(FAULT_NONE);
}
