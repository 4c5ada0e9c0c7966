// What training adds to a job: an update is skipped where a number is not finite, on all ranks alike; where such a
// number came from is found; evaluating leaves no trace. The engine is the host's, which a test may spoil.
#include <math.h>
#include <stdatomic.h>

#include "compiled.h"
#include "ir/unroll.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/job/job.h"
#include "runtime/job/state.h"
#include "runtime/training/step_sets.h"

enum { ITERATIONS = 8 };

static const char model[] =
    "cluster four { level dc { count = 2 bandwidth = 1 Gbit/s latency = 1 ms }\n"
    "  level gpu { count = 2 bandwidth = 4 Gbit/s latency = 10 us }\n"
    "  device { compute = 4 GFLOP/s memory = 512 MB memory_bandwidth = 1 GB/s } }\n"
    "model small { layers = 2 hidden = 16 heads = 2 vocabulary = 32 sequence = 8 batch = 2 dtype = f32\n"
    "  moe { experts = 8 top_k = 2 inner = 16 activation = gelu } }\n"
    "plan { pass = training  LOOP  migration { MIGRATION } }\n"
    "training { learning_rate = 0.01 }\n";

// As it is executed: unrolled where `loop` says that an iteration has several micro-batches.
static Compiled compile_looped(const char *loop, const char *migration, const char *domain)
{
    char text[1024];
    const char *first = strstr(model, "LOOP"), *second = strstr(model, "MIGRATION");
    snprintf(text, sizeof(text), "%.*s%s%.*s%s%s", (int)(first - model), model, loop,
             (int)(second - first - (ptrdiff_t)strlen("LOOP")), first + strlen("LOOP"), migration,
             second + strlen("MIGRATION"));
    Compiled compiled = compiled_from(text, domain);
    compiled.plan = (Plan *)plan_unroll_all(compiled.plan, compiled.arena);
    return compiled;
}

static Compiled compile(const char *migration, const char *domain)
{
    return compile_looped("", migration, domain);
}

// ---- an engine that is spoilt --------------------------------------------------------------------

static struct {
    const Plan *plan;
    uint64_t iteration, rank; // where
    uint32_t step;            // after which a NaN is written,
    uint32_t buffer;          // to the begin of this buffer
} spoilt;
// Of the thread that runs the compute stream: trainings begun, and whether one is under way. Only those have a rate.
static _Thread_local uint64_t own_rank, begun;
static _Thread_local bool trains;

static Engine *spoilt_create(const Plan *plan, Comm *comm, const EngineOptions *options, Fault *fault)
{
    own_rank = comm->rank;
    begun = 0;
    return host_engine.create(plan, comm, options, fault);
}

static void spoilt_begin(Engine *engine, const EngineIteration *iteration)
{
    trains = iteration->learning_rate > 0;
    begun += trains;
    host_engine.begin(engine, iteration);
}

static bool spoilt_execute(Engine *engine, uint32_t step, Fault *fault)
{
    float nan = NAN;
    return host_engine.execute(engine, step, fault) &&
           (step != spoilt.step || own_rank != spoilt.rank || !trains || begun != spoilt.iteration + 1 ||
            host_engine.write(engine, spoilt.buffer, 0, sizeof(nan), &nan, fault));
}

// Rank 2 of 4, iteration 4 (from 1), after the `count`th step of the op, counted from 0.
static EngineOps spoil(const Plan *plan, Op op, uint32_t count, Operand operand)
{
    EngineOps engine = host_engine;
    engine.create = spoilt_create;
    engine.begin = spoilt_begin;
    engine.execute = spoilt_execute;
    spoilt.plan = plan;
    spoilt.rank = 2;
    spoilt.iteration = 3;
    spoilt.step = 0;
    while (plan->steps[spoilt.step].op != op || count-- > 0)
        spoilt.step++;
    spoilt.buffer = (uint32_t)step_operand(plan, &plan->steps[spoilt.step], operand);
    return engine;
}

static bool run(const Plan *plan, const EngineOps *engine, bool skip, uint32_t validate_every, JobResult *result,
                Fault *fault)
{
    JobOptions options = job_options_default();
    options.engine = engine;
    options.warmup = 0;
    options.iterations = ITERATIONS;
    options.training.skip_nonfinite = skip;
    options.training.validate_every = validate_every;
    *fault = (Fault){0};
    return job_run(plan, &options, result, fault);
}

// ---- finding it ----------------------------------------------------------------------------------

// `later`: its output's memory is used again before the loss, so that a step after it, of the same layer, is named.
static void expect_found(const char *domain, Op op, uint32_t count, Operand operand, bool later)
{
    Compiled compiled = compile("codec = dense", domain);
    EngineOps engine = spoil(compiled.plan, op, count, operand);
    JobResult result;
    Fault fault;
    cr_assert_not(run(compiled.plan, &engine, false, 0, &result, &fault));
    cr_expect(strstr(fault.message, "the loss of iteration 4 is not a finite number"), "%s", fault.message);
    cr_expect_eq(fault.rank, 2, "%s: rank %d", op_info((int)op)->name, (int)fault.rank);
    bool found = later ? fault.step > spoilt.step : fault.step == spoilt.step;
    cr_expect(found, "%s: step %d, spoilt was %u", op_info((int)op)->name, (int)fault.step, spoilt.step);
    cr_expect_eq(compiled.plan->steps[fault.step].layer, compiled.plan->steps[spoilt.step].layer);
    job_result_free(&result);
    compiled_free(&compiled);
}

Test(job_training, names_the_first_step_that_is_not_finite)
{
    expect_found("ep", OP_PRE_EXPERT, 0, OPERAND_y, false);
    expect_found("ep", OP_PRE_EXPERT, 1, OPERAND_y, false);
    expect_found("ep", OP_RESIDUAL, 0, OPERAND_y, false);
    expect_found("dc=2,gpu=1", OP_EMBED, 0, OPERAND_x, false);
    expect_found("dc=2,gpu=2", OP_EXPERT, 1, OPERAND_results, false);
    expect_found("dc=2,gpu=2", OP_LOSS, 0, OPERAND_loss, false);
}

// After the count-th attention, layer by layer. Its memory may be used again before the last micro-batch's loss, so
// that a step after it is named, of the same layer and micro-batch.
static void expect_micro_batch(const char *loop, uint32_t count, const char *words)
{
    Compiled compiled = compile_looped(loop, "codec = dense", "dc=2,gpu=1");
    EngineOps engine = spoil(compiled.plan, OP_PRE_EXPERT, count, OPERAND_y);
    JobResult result;
    Fault fault;
    cr_assert_not(run(compiled.plan, &engine, false, 0, &result, &fault));
    cr_assert_geq(fault.step, spoilt.step);
    const Step *found = &compiled.plan->steps[fault.step];
    Text text = {0};
    state_append_fault(compiled.plan, &fault, &text);
    char expected[128];
    snprintf(expected, sizeof(expected), "rank 2: step %u, '%s' of %s: the loss of iteration 4", found->written,
             op_info((int)found->op)->name, words);
    cr_expect(strstr(text.data, expected), "expected '%s', got: %s", expected, text.data);
    text_free(&text);
    job_result_free(&result);
    compiled_free(&compiled);
}

Test(job_training, names_the_micro_batch)
{
    expect_micro_batch("micro_batches = 3  recompute = none", 0, "micro-batch 0 of layer 0");
    expect_micro_batch("micro_batches = 3  recompute = none", 4, "micro-batch 1 of layer 1");
    expect_micro_batch("micro_batches = 3  recompute = none", 5, "micro-batch 2 of layer 1");
    expect_micro_batch("micro_batches = 3  recompute = full", 4, "micro-batch 1 of layer 1");
}

// ---- skipping updates -------------------------------------------------------------------------

static void expect_skipped_in(const char *loop, const char *migration, const char *domain, Op op, uint32_t count,
                              Operand operand)
{
    Compiled compiled = compile_looped(loop, migration, domain);
    EngineOps engine = spoil(compiled.plan, op, count, operand);
    JobResult clean, skipped, again;
    Fault fault;
    cr_assert(run(compiled.plan, &host_engine, true, 0, &clean, &fault), "%s", fault.message);
    cr_assert(run(compiled.plan, &engine, true, 0, &skipped, &fault), "%s", fault.message);
    cr_assert(run(compiled.plan, &engine, true, 0, &again, &fault), "%s", fault.message);
    cr_expect_eq(clean.skipped, 0);
    cr_expect_eq(skipped.skipped, 1, "%s: %u", op_info((int)op)->name, (unsigned)skipped.skipped);
    cr_expect_arr_eq(clean.loss, skipped.loss, 3 * sizeof(double));
    for (uint32_t i = 4; i < ITERATIONS; i++) {
        cr_expect(isfinite(skipped.loss[i]) && skipped.loss[i] != clean.loss[i], "%s: iteration %u: %g",
                  op_info((int)op)->name, i, skipped.loss[i]);
        cr_expect_eq(skipped.loss[i], again.loss[i]);
    }
    job_result_free(&clean);
    job_result_free(&skipped);
    job_result_free(&again);
    compiled_free(&compiled);
}

static void expect_skipped(const char *migration, const char *domain, Op op, Operand operand)
{
    expect_skipped_in("", migration, domain, op, 0, operand);
}

Test(job_training, leaves_out_updates_that_are_not_finite)
{
    expect_skipped("codec = dense", "ep", OP_PRE_EXPERT, OPERAND_y);             // the loss
    expect_skipped("codec = dense", "dc=2,gpu=1", OP_LOSS_BACKWARD, OPERAND_dx); // only gradients
    expect_skipped("codec = delta  ratio = 4  gradient = topk  gradient_ratio = 4", "dc=2,gpu=2", OP_LOSS_BACKWARD,
                   OPERAND_dx); // which codecs would remember
    expect_skipped("codec = sr  ratio = 4  shared_every = 2", "dc=2,gpu=2", OP_PRE_EXPERT, OPERAND_y);
}

// One micro-batch spoils the update of all.
Test(job_training, leaves_out_updates_of_several_micro_batches)
{
    expect_skipped_in("micro_batches = 3  recompute = none", "codec = dense", "dc=2,gpu=1", OP_PRE_EXPERT, 1,
                      OPERAND_y);
    expect_skipped_in("micro_batches = 3  recompute = full", "codec = dense", "dc=2,gpu=1", OP_LOSS_BACKWARD, 1,
                      OPERAND_dx);
    expect_skipped_in("micro_batches = 2  recompute = full", "codec = delta  ratio = 4", "dc=2,gpu=2", OP_LOSS_BACKWARD,
                      0, OPERAND_dx);
}

Test(job_training, splitting_the_iteration_changes_no_loss)
{
    static const char *const loops[] = {"", "micro_batches = 3  recompute = none",
                                        "micro_batches = 2  recompute = full"};
    static const char *const migrations[] = {"codec = dense", "codec = delta  ratio = 4", "codec = sr  ratio = 4"};
    for (size_t m = 0; m < COUNT_OF(migrations) * COUNT_OF(loops); m++) {
        Compiled compiled =
            compile_looped(loops[m / COUNT_OF(migrations)], migrations[m % COUNT_OF(migrations)], "dc=2,gpu=1");
        JobResult whole, split;
        Fault fault;
        cr_assert(run(compiled.plan, &host_engine, false, 0, &whole, &fault), "%s", fault.message);
        cr_assert(run(compiled.plan, &host_engine, true, 3, &split, &fault), "%s", fault.message);
        cr_expect_arr_eq(whole.loss, split.loss, ITERATIONS * sizeof(double));
        cr_expect_eq(split.validation_count, 3); // after 3, 6 and 8
        for (uint32_t l = 0; l < compiled.plan->cluster.level_count; l++)
            cr_expect_eq(whole.traffic[l].bytes, split.traffic[l].bytes, "evaluation is counted");
        job_result_free(&whole);
        job_result_free(&split);
        compiled_free(&compiled);
    }
}

Test(job_training, ends_when_nothing_is_learned_any_more)
{
    Compiled compiled = compile("codec = dense", "ep");
    JobOptions options = job_options_default();
    options.warmup = 0;
    options.iterations = 100;
    options.learning_rate = 1e30;
    options.training.skip_nonfinite = true;
    JobResult result;
    Fault fault = {0};
    cr_assert_not(job_run(compiled.plan, &options, &result, &fault));
    cr_expect(strstr(fault.message, "the updates of the last 20 iterations"), "%s", fault.message);
    job_result_free(&result);
    compiled_free(&compiled);
}

// A gradient overflows while the loss does not: the update makes weights that no checkpoint is to have.
Test(job_training, writes_no_weights_that_are_not_finite)
{
    Compiled compiled = compile("codec = dense", "ep");
    EngineOps engine = spoil(compiled.plan, OP_LOSS_BACKWARD, 0, OPERAND_dx);
    char dir[] = "/tmp/test_job_training.XXXXXX", command[64];
    cr_assert_not_null(mkdtemp(dir));
    JobOptions options = job_options_default();
    options.engine = &engine;
    options.warmup = 0;
    options.training.checkpoint = dir;
    options.training.checkpoint_every = 1;
    JobResult result;
    Fault fault = {0};
    cr_assert_not(job_run(compiled.plan, &options, &result, &fault));
    cr_expect(strstr(fault.message, "has a number that is not finite: no checkpoint was written"), "%s", fault.message);
    Checkpoint *last = checkpoint_open(dir, &(Fault){0});
    cr_assert_not_null(last);
    cr_expect_eq(checkpoint_point(last).iteration, 3);
    checkpoint_close(last);
    job_result_free(&result);
    compiled_free(&compiled);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    cr_expect_eq(system(command), 0);
}

// ---- sets of steps -------------------------------------------------------------------------------

// Of a micro-batch before the last the loss's backward pass comes first; sums begin there.
static bool is_backward(const Plan *plan, uint32_t step, uint32_t loss)
{
    Op op = plan->steps[step].op;
    return step > loss || op == OP_LOSS_BACKWARD || op == OP_CLEAR || op == OP_ACCUMULATE;
}

static void expect_evaluation(const char *loop)
{
    Compiled compiled = compile_looped(loop, "codec = delta  ratio = 4", "dc=2,gpu=2");
    const Plan *plan = compiled.plan;
    bool *skipped_steps = calloc(plan->step_count, 1), *buffers = calloc(plan->buffer_count, 1);
    cr_assert(step_sets_evaluation(plan, skipped_steps));
    uint32_t loss = plan->step_count - 1;
    while (plan->steps[loss].op != OP_LOSS)
        loss--;
    for (uint32_t s = 0; s < plan->step_count; s++)
        if (op_info((int)plan->steps[s].op)->stream != STREAM_MIGRATE)
            cr_expect_eq(skipped_steps[s], is_backward(plan, s, loss), "step %u", s);
    cr_assert(step_sets_written(plan, skipped_steps, buffers));
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        cr_expect_eq(buffers[b], plan->buffers[b].kind == BUFFER_REPLICA, "%s", plan->buffers[b].name);
    free(skipped_steps);
    free(buffers);
    compiled_free(&compiled);
}

Test(step_sets, evaluation_is_the_forward_pass)
{
    expect_evaluation("");
    expect_evaluation("micro_batches = 3  recompute = none");
    expect_evaluation("micro_batches = 2  recompute = full");
}

static void expect_halves(const char *loop)
{
    Compiled compiled = compile_looped(loop, "codec = sr  ratio = 4", "dc=2,gpu=2");
    const Plan *plan = compiled.plan;
    bool *first = calloc(plan->step_count, 1), *second = calloc(plan->step_count, 1);
    cr_assert(step_sets_update(plan, first, second));
    for (uint32_t s = 0; s < plan->step_count; s++) {
        cr_expect_neq(first[s], second[s]);
        cr_expect(plan->steps[s].op != OP_OPTIMIZER || first[s]);
        cr_expect(plan->steps[s].op != OP_EXPERT || second[s]);
    }
    free(first);
    free(second);
    compiled_free(&compiled);
}

Test(step_sets, updates_are_the_second_half)
{
    expect_halves("");
    expect_halves("micro_batches = 3  recompute = none");
    expect_halves("micro_batches = 2  recompute = full");
}
