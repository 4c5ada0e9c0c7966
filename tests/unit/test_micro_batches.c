// An iteration of m micro-batches trains as one of a single batch that is m times as large: losses and weights after
// ten updates, over clusters, domains, dtypes and numbers of micro-batches. What is computed or gathered again gives
// the same bits. The load-balancing loss, which is a batch's by nature, is off. Every token takes every expert, so that
// rounding cannot turn round a choice, after which trainings would differ by more than rounding.
// builds: fast  seconds: 10
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "ir/unroll.h"
#include "ir/verify/verify.h"
#include "lowered.h"
#include "runtime/check/tolerance.h"
#include "runtime/engine/engine_host_internal.h"
#include "runtime/job/job.h"
#include "specs.h"

enum { UPDATES = 10, RANKS_MAX = 8, SEQUENCES = 6, NAMES_MAX = 16 };

static const double learning_rate = 0.5;

// ---- an engine whose weights are kept ------------------------------------------------------------

// Of one rank, in f32: the master copy where weights have 16 bits. Buffers in the order of their updates, by name.
typedef struct {
    uint32_t count;
    char names[NAMES_MAX][32];
    uint64_t elements[NAMES_MAX];
    float *initial[NAMES_MAX], *final[NAMES_MAX];
} Weights;

static Weights *kept; // [ranks]

static float *copy_weights(const HostEngine *engine, const Buffer *weights, const Buffer *state)
{
    float *values = malloc(weights->rows * weights->cols * sizeof(float) + 1);
    for (uint64_t row = 0; row < weights->rows; row++) {
        const char *from = engine->memory + weights->offset + row * weights->cols * dtype_bytes(weights->dtype);
        const char *master = engine->memory + state->offset + (row * state->cols + 2 * weights->cols) * sizeof(float);
        memcpy(values + row * weights->cols, weights->dtype == DTYPE_F32 ? from : master,
               weights->cols * sizeof(float));
    }
    return values;
}

static void keep(const Engine *base, bool initial)
{
    const HostEngine *engine = (const HostEngine *)base;
    const Plan *plan = engine->plan;
    Weights *of = &kept[engine->comm->rank];
    of->count = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        if (plan->steps[s].op != OP_OPTIMIZER)
            continue;
        StepBuffers step = step_buffers(plan, &plan->steps[s]);
        const Buffer *weights = &plan->buffers[step.optimizer.weights];
        uint32_t at = of->count++;
        cr_assert_lt(at, NAMES_MAX);
        snprintf(of->names[at], sizeof(of->names[at]), "%s", weights->name);
        of->elements[at] = weights->rows * weights->cols;
        *(initial ? &of->initial[at] : &of->final[at]) =
            copy_weights(engine, weights, &plan->buffers[step.optimizer.state]);
    }
}

static Engine *keeping_create(const Plan *plan, Comm *comm, const EngineOptions *options, Fault *fault)
{
    Engine *engine = host_engine.create(plan, comm, options, fault);
    if (engine)
        keep(engine, true);
    return engine;
}

static void keeping_destroy(Engine *engine)
{
    if (engine)
        keep(engine, false);
    host_engine.destroy(engine);
}

// ---- a training ----------------------------------------------------------------------------------

typedef struct {
    double loss[UPDATES], hidden, loss_tolerance;
    uint64_t ranks, tokens; // of a rank
    Weights *weights;       // [ranks]
} Outcome;

static void outcome_free(Outcome *outcome)
{
    for (uint64_t r = 0; r < outcome->ranks; r++)
        for (uint32_t w = 0; w < outcome->weights[r].count; w++) {
            free(outcome->weights[r].initial[w]);
            free(outcome->weights[r].final[w]);
        }
    free(outcome->weights);
}

// Of any weight, by all updates: epsilon keeps it far below the sum of the learning rates.
static double largest_movement(const Outcome *of)
{
    double largest = 0;
    for (uint64_t r = 0; r < of->ranks; r++)
        for (uint32_t w = 0; w < of->weights[r].count; w++)
            for (uint64_t i = 0; i < of->weights[r].elements[w]; i++)
                largest =
                    fmax(largest, fabs((double)of->weights[r].final[w][i] - (double)of->weights[r].initial[w][i]));
    return largest;
}

static Outcome train(const Spec *spec, const Config *config, const char *name)
{
    Arena *arena = arena_create();
    Workload *work = workload_derive(spec, arena);
    Mix mix = mix_uniform(work, config, PREFETCH_UNLIMITED, arena);
    Plan *plan = lowered_mix(spec, work, &mix);
    VerifyReport report;
    cr_assert(plan_verify(plan, &report), "%s: %s", name, report.items[0].message);
    EngineOps engine = host_engine;
    engine.create = keeping_create;
    engine.destroy = keeping_destroy;
    JobOptions options = job_options_default();
    options.engine = &engine;
    options.iterations = UPDATES;
    options.warmup = 0;
    options.seed = 11;
    kept = calloc(RANKS_MAX, sizeof(*kept));
    Outcome out = {.weights = kept, .ranks = cluster_gpus(&spec->cluster), .tokens = model_tokens(&plan->model)};
    JobResult result;
    Fault fault = {0};
    cr_assert(job_run(plan_unroll_all(plan, arena), &options, &result, &fault), "%s: %s", name, fault.message);
    for (uint32_t u = 0; u < UPDATES; u++)
        out.loss[u] = result.loss[u];
    double moved = largest_movement(&out);
    out.hidden = tolerance_hidden(plan, 0);
    out.loss_tolerance = tolerance_loss(plan, moved, 0);
    job_result_free(&result);
    plan_destroy(plan);
    arena_destroy(arena);
    return out;
}

// ---- comparing -----------------------------------------------------------------------------------

static void expect_same(const Outcome *a, const Outcome *b, const char *name)
{
    for (uint32_t u = 0; u < UPDATES; u++)
        cr_assert_eq(a->loss[u], b->loss[u], "%s: loss %u is %.9g and %.9g", name, u, a->loss[u], b->loss[u]);
    for (uint64_t r = 0; r < a->ranks; r++)
        for (uint32_t w = 0; w < a->weights[r].count; w++)
            cr_assert(
                memcmp(a->weights[r].final[w], b->weights[r].final[w], a->weights[r].elements[w] * sizeof(float)) == 0,
                "%s: '%s' of rank %u differs", name, a->weights[r].names[w], (unsigned)r);
}

static uint32_t named(const Weights *of, const char *name)
{
    uint32_t w = 0;
    while (w < of->count && strcmp(of->names[w], name))
        w++;
    cr_assert_lt(w, of->count, "no weights '%s'", name);
    return w;
}

// Relative error of a gradient, by rounding: as tolerance.c derives it (7.), twice the stores and sums of the loss and
// one term for each token, in f32.
static double gradient_error(const Outcome *of)
{
    double rounding = of->hidden / 10, w = 0x1p-24; // 10: the safety of a single largest difference
    return sqrt(2 * rounding * rounding + (double)of->tokens * w * w);
}

// With epsilon far above every gradient an update is proportional to it, as plain gradient descent has it, so that its
// size counts, too. The movement of the weights then has the relative error of the gradient, of two runs that both err;
// five deviations, as there.
static void expect_alike(const Outcome *have, const Outcome *want, const char *name)
{
    double squares = 0, off = 0, worst = 0;
    for (uint32_t u = 0; u < UPDATES; u++) {
        worst = fmax(worst, fabs(have->loss[u] - want->loss[u]));
        cr_assert_leq(fabs(have->loss[u] - want->loss[u]), want->loss_tolerance, "%s: loss %u is %.9g, not %.9g", name,
                      u, have->loss[u], want->loss[u]);
    }
    for (uint64_t r = 0; r < have->ranks; r++)
        for (uint32_t w = 0; w < have->weights[r].count; w++) {
            const Weights *a = &have->weights[r], *b = &want->weights[r];
            uint32_t v = named(b, a->names[w]);
            cr_assert_eq(a->elements[w], b->elements[v]);
            for (uint64_t i = 0; i < a->elements[w]; i++) {
                double moved = (double)b->final[v][i] - (double)b->initial[v][i];
                cr_assert_eq(a->initial[w][i], b->initial[v][i], "%s: '%s' begins otherwise", name, a->names[w]);
                squares += moved * moved;
                off += pow((double)a->final[w][i] - (double)b->final[v][i], 2);
            }
        }
    double allowed = 5 * sqrt(2) * gradient_error(want), error = sqrt(off / squares);
    cr_assert_gt(squares, 0);
    cr_assert_lt(allowed, 0.5); // else a micro-batch that is missing would pass
    cr_assert_leq(error, allowed, "%s: weights moved otherwise by %g, allowed %g", name, error, allowed);
    printf("%-44s losses off by %.1e of %.1e, movements by %.1e of %.1e\n", name, worst, want->loss_tolerance, error,
           allowed);
}

// ---- variations ----------------------------------------------------------------------------------

static Spec spec_training(const uint32_t counts[3], uint32_t experts, uint32_t top_k)
{
    Spec spec = spec_small_gpt(counts, experts, top_k);
    spec.model.batch = SEQUENCES;
    spec.plan.pass = PASS_TRAINING;
    spec.training = (TrainingSettings){.learning_rate = learning_rate, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1};
    return spec;
}

static Spec divided(Spec spec, uint32_t micro_batches, bool recomputes)
{
    spec.model.batch = SEQUENCES / micro_batches;
    spec.plan.micro_batches = micro_batches;
    spec.plan.recomputes = recomputes;
    return spec;
}

static Config configuration(const Spec *spec, size_t index)
{
    Arena *arena = arena_create();
    Candidate *candidates;
    size_t count;
    cr_assert(planner_enumerate(workload_derive(spec, arena), arena, diag_create(arena), &candidates, &count));
    cr_assert_lt(index, count);
    Config config = candidates[index].config;
    arena_destroy(arena);
    return config;
}

// One batch against 2, 3 and 6 micro-batches, in the configuration of that index.
static void check(Spec spec, size_t index, const char *name)
{
    static const uint32_t counts[] = {2, 3, 6};
    Config config = configuration(&spec, index);
    Outcome whole = train(&spec, &config, name);
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        char what[96];
        Spec kept_spec = divided(spec, counts[i], false), again_spec = divided(spec, counts[i], true);
        snprintf(what, sizeof(what), "%s, configuration %zu, %u", name, index, counts[i]);
        Outcome parts = train(&kept_spec, &config, what);
        expect_alike(&parts, &whole, what);
        if (i != 1) { // computed again, gathered again, in turns: the same bits
            again_spec.plan.regather_dense = i == 2;
            again_spec.plan.interleaves = true;
            Outcome again = train(&again_spec, &config, what);
            expect_same(&again, &parts, what);
            outcome_free(&again);
        }
        outcome_free(&parts);
    }
    outcome_free(&whole);
}

Test(micro_batches, levels_of_sites, .timeout = 120)
{
    for (size_t index = 0; index < 7; index += 6)
        check(spec_training((uint32_t[]){2, 4, 0}, 8, 8), index, "2 x 4, 8 experts");
}

Test(micro_batches, three_levels, .timeout = 120)
{
    check(spec_training((uint32_t[]){2, 2, 2}, 8, 8), 5, "2 x 2 x 2, 8 experts");
    check(spec_training((uint32_t[]){3, 2, 0}, 6, 6), 2, "3 x 2, 6 experts");
}

// Experts that the ranks do not divide: they own parts.
Test(micro_batches, parts_of_experts, .timeout = 120)
{
    check(spec_training((uint32_t[]){2, 4, 0}, 60, 60), 1, "2 x 4, 60 experts");
    for (size_t index = 0; index < 2; index++)
        check(spec_training((uint32_t[]){2, 2, 0}, 3, 3), index, "2 x 2, 3 experts");
}

Test(micro_batches, half_precision, .timeout = 120)
{
    Spec spec = spec_training((uint32_t[]){2, 2, 0}, 4, 4);
    spec.model.dtype = DTYPE_BF16;
    for (size_t index = 0; index < 3; index += 2)
        check(spec, index, "2 x 2, bf16");
}

// Naive dispatch, dense layers, shared experts, a limit to the norm that is reached.
Test(micro_batches, other_layers_and_the_norm, .timeout = 120)
{
    Spec spec = spec_training((uint32_t[]){2, 2, 0}, 4, 4);
    spec.plan.dispatch = DISPATCH_NAIVE;
    spec.model.layers = 3;
    spec.model.first_dense = 1;
    spec.model.ffn_inner = 24;
    spec.model.shared_experts = 1;
    spec.model.activation = ACTIVATION_SWIGLU;
    check(spec, 1, "shared experts, dense layers");
    spec.training.clip = 1e-2;
    check(spec, 2, "a limit to the norm");
}

// Six micro-batches in laps of 1, 2 and 3, with weights kept, gathered again, and in between, against one batch.
// Gradients return over levels inside those of the weights in every lap, or over those inside `gradient_levels`.
static void check_laps(Spec spec, size_t index, uint32_t dense_levels, uint32_t gradient_levels, const char *name)
{
    Config config = configuration(&spec, index);
    Outcome whole = train(&spec, &config, name);
    for (uint32_t lap = 1; lap <= 3; lap++) {
        Spec of = divided(spec, 6, lap == 2);
        of.plan.lap = lap;
        of.plan.regather_dense = lap != 3;
        of.plan.dense_levels = of.plan.regather_dense ? dense_levels : 0;
        of.plan.interleaves = lap == 2;
        of.plan.returns_apart = gradient_levels < of.cluster.level_count;
        of.plan.gradient_levels = gradient_levels;
        config_plan_gradients(&of, &config);
        char what[128];
        snprintf(what, sizeof(what), "%s, configuration %zu, laps of %u, gradients once over %u levels", name, index,
                 lap, gradient_levels);
        Outcome laps = train(&of, &config, what);
        expect_alike(&laps, &whole, what);
        outcome_free(&laps);
    }
    outcome_free(&whole);
}

// The embedding gathered for each use, its gradient returned in halves: in laps of 1, 2, 3 and of all six, with dense
// weights kept, kept over `dense_levels`, or gathered again, one after the other or in turns, against one batch.
static void check_halves(Spec spec, size_t index, uint32_t dense_levels, const char *name)
{
    static const uint32_t laps[] = {1, 2, 3, 6};
    Config config = configuration(&spec, index);
    Outcome whole = train(&spec, &config, name);
    for (size_t i = 0; i < COUNT_OF(laps); i++) {
        Spec of = divided(spec, 6, i == 1);
        of.plan.lap = laps[i];
        of.plan.regather_dense = i != 2;
        of.plan.dense_levels = of.plan.regather_dense ? dense_levels : 0;
        of.plan.regather_embedding = true;
        of.plan.interleaves = i == 3;
        cr_assert(spec_regathers_embedding(&of));
        char what[96];
        snprintf(what, sizeof(what), "%s, halves, laps of %u", name, laps[i]);
        Outcome halves = train(&of, &config, what);
        expect_alike(&halves, &whole, what);
        outcome_free(&halves);
    }
    outcome_free(&whole);
}

Test(micro_batches, embedding_gathered_for_each_use, .timeout = 240)
{
    for (uint32_t levels = 0; levels < 2; levels++) {
        Spec spec = spec_training((uint32_t[]){2, 2, 2}, 8, 8);
        spec.model.dtype = levels ? DTYPE_BF16 : DTYPE_F32;
        spec.training.clip = levels ? 0 : 1e-2;
        check_halves(spec, 3 + levels, levels, levels ? "2 x 2 x 2, bf16" : "2 x 2 x 2");
    }
    check_halves(spec_training((uint32_t[]){4, 0, 0}, 4, 4), 1, 0, "4");
}

// All that experts can do: exchanged, gathered and kept, gathered again over all levels, over those inside; and
// gradients that return in every lap over levels whose weights are kept: all of them, or those inside one level or two.
Test(micro_batches, laps, .timeout = 240)
{
    static const struct {
        bool regather;
        uint32_t once, gradient_levels;
    } kinds[] = {{false, 0, 3}, {true, 0, 3}, {true, 1, 3}, {false, 0, 0}, {false, 0, 1}, {false, 0, 2}, {true, 1, 0}};
    for (int dtype = 0; dtype < 2; dtype++) {
        Spec spec = spec_training((uint32_t[]){2, 2, 2}, 8, 8);
        spec.model.dtype = dtype ? DTYPE_BF16 : DTYPE_F32;
        spec.training.clip = dtype ? 0 : 1e-2;
        Arena *arena = arena_create();
        Candidate *candidates;
        size_t count, seen = 0;
        cr_assert(planner_enumerate(workload_derive(&spec, arena), arena, diag_create(arena), &candidates, &count));
        for (size_t i = 0; i < COUNT_OF(kinds); i++)
            for (size_t c = count; c-- > 0;) { // the one that gathers most
                const Config *config = &candidates[c].config;
                if (config->regather != kinds[i].regather || config->once != kinds[i].once)
                    continue;
                check_laps(spec, c, (uint32_t)i % 2, kinds[i].gradient_levels, dtype ? "2 x 2 x 2, bf16" : "2 x 2 x 2");
                seen++;
                break;
            }
        cr_assert_eq(seen, COUNT_OF(kinds));
        arena_destroy(arena);
    }
}
