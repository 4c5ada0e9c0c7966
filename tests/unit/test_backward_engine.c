// Gradients of a whole training plan on the host engine, optimizer excluded: every strategy's equal plain EP's, and
// plain EP's predict what a small step along them does to the loss.
// builds: dev fast
#include <criterion/criterion.h>

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "runtime/comm/comm_threads.h"
#include "runtime/engine/engine_host_internal.h"
#include "runtime/training/data.h"
#include "runtime/training/initial.h"
#include "specs.h"

enum { RANKS_MAX = 8 };

// One rank's run of one iteration. `step` is added to the weights before, times `direction`.
typedef struct {
    const Plan *plan;
    Comm *comm;
    Routing routing;
    const double *const *direction; // [buffers] of the baseline's gradients, by weight; or NULL
    double step, loss;
    double **gradients; // [updates] in f64, in the order of the plan's weights
    Fault fault;
    bool ok;
} Rank;

typedef struct {
    int32_t weight, gradient;
} Update;

static uint64_t elements_of(const Plan *plan, int32_t buffer)
{
    return plan->buffers[buffer].rows * plan->buffers[buffer].cols;
}

// Weights and their gradients, ascending by weight: the same order for all strategies of a model.
static uint32_t updates_of(const Plan *plan, Update *updates)
{
    uint32_t count = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        for (uint32_t s = 0; s < plan->step_count; s++)
            if (plan->steps[s].op == OP_OPTIMIZER && step_operand(plan, &plan->steps[s], OPERAND_weights) == (int32_t)b)
                updates[count++] = (Update){(int32_t)b, step_buffers(plan, &plan->steps[s]).optimizer.gradient};
    return count;
}

static void *place_of(const Engine *engine, int32_t buffer)
{
    const HostEngine *host = (const HostEngine *)engine;
    return host->memory + host->plan->buffers[buffer].offset;
}

static double value_at(const Plan *plan, const Engine *engine, int32_t buffer, uint64_t index)
{
    float value;
    Dtype dtype = plan->buffers[buffer].dtype;
    host_to_f32((const char *)place_of(engine, buffer) + index * dtype_bytes(dtype), dtype, &value, 1);
    return (double)value;
}

static void move_weights(Rank *rank, Engine *engine, const Update *updates, uint32_t count)
{
    for (uint32_t u = 0; rank->direction && u < count; u++) { // f32
        float *weights = place_of(engine, updates[u].weight);
        for (uint64_t i = 0; i < elements_of(rank->plan, updates[u].weight); i++)
            weights[i] = (float)((double)weights[i] + rank->step * rank->direction[u][i]);
    }
}

static void *run_rank(void *argument)
{
    Rank *rank = argument;
    const Plan *plan = rank->plan;
    Update *updates = calloc(plan->step_count, sizeof(*updates));
    uint32_t count = updates_of(plan, updates);
    Initial initial = {.plan = plan, .seed = 7, .rank = rank->comm->rank};
    EngineOptions options = {.fill = initial_fill, .fill_context = &initial, .routing = rank->routing};
    int32_t *tokens = calloc(plan->model.batch * (plan->model.sequence + 1), sizeof(*tokens));
    cr_assert(
        data_fill(&(Data){0}, &plan->model, &(DataBatch){.seed = 7, .rank = rank->comm->rank}, tokens, &(Fault){0}));
    Engine *engine = host_engine.create(plan, rank->comm, &options, &rank->fault);
    rank->ok = engine != NULL;
    if (engine) {
        move_weights(rank, engine, updates, count);
        host_engine.begin(engine, &(EngineIteration){.tokens = tokens, .update = 1});
    }
    for (uint32_t s = 0; rank->ok && s < plan->step_count; s++) // in an order that is valid one by one
        rank->ok = plan->steps[s].op == OP_OPTIMIZER || host_engine.execute(engine, s, &rank->fault);
    rank->gradients = calloc(count, sizeof(*rank->gradients));
    for (uint32_t u = 0; rank->ok && u < count; u++) {
        uint64_t elements = elements_of(plan, updates[u].gradient);
        rank->gradients[u] = malloc(elements * sizeof(**rank->gradients));
        for (uint64_t i = 0; i < elements; i++)
            rank->gradients[u][i] = value_at(plan, engine, updates[u].gradient, i);
    }
    rank->loss = rank->ok ? host_engine.result(engine).loss : NAN;
    host_engine.destroy(engine);
    free(updates);
    free(tokens);
    return NULL;
}

typedef struct {
    uint32_t ranks, updates;
    Rank rank[RANKS_MAX];
} Run;

// `from` and `step`: weights are those of the seed plus step times the gradients of that run.
static void run_plan(const Plan *plan, Routing routing, const Run *from, double step, Run *run)
{
    pthread_t threads[RANKS_MAX];
    ThreadWorld *world = thread_world_create(&plan->cluster, NULL, 30);
    cr_assert_not_null(world);
    Update *updates = calloc(plan->step_count, sizeof(*updates));
    *run = (Run){.ranks = (uint32_t)cluster_gpus(&plan->cluster), .updates = updates_of(plan, updates)};
    cr_assert(run->ranks <= RANKS_MAX && run->updates > 0);
    for (uint32_t r = 0; r < run->ranks; r++) {
        run->rank[r] = (Rank){.plan = plan, .comm = thread_world_comm(world, r), .routing = routing, .step = step};
        if (from)
            run->rank[r].direction = (const double *const *)from->rank[r].gradients;
        cr_assert_eq(pthread_create(&threads[r], NULL, run_rank, &run->rank[r]), 0);
    }
    for (uint32_t r = 0; r < run->ranks; r++)
        pthread_join(threads[r], NULL);
    for (uint32_t r = 0; r < run->ranks; r++)
        cr_assert(run->rank[r].ok, "rank %u: %s", r, run->rank[r].fault.message);
    thread_world_destroy(world);
    free(updates);
}

static void run_free(Run *run)
{
    for (uint32_t r = 0; r < run->ranks; r++) {
        for (uint32_t u = 0; u < run->updates; u++)
            free(run->rank[r].gradients[u]);
        free(run->rank[r].gradients);
    }
}

static double total_loss(const Run *run)
{
    double loss = 0;
    for (uint32_t r = 0; r < run->ranks; r++)
        loss += run->rank[r].loss;
    return loss;
}

static bool is_experts(const Plan *plan, int32_t weight)
{
    return strstr(plan->buffers[weight].name, "experts") != NULL;
}

// Square of the whole gradient, of which every rank owns a part.
static double square_of(const Plan *plan, const Run *run)
{
    double square = 0;
    Update *updates = calloc(plan->step_count, sizeof(*updates));
    updates_of(plan, updates);
    for (uint32_t u = 0; u < run->updates; u++) {
        for (uint32_t r = 0; r < run->ranks; r++)
            for (uint64_t i = 0; i < elements_of(plan, updates[u].weight); i++)
                square += run->rank[r].gradients[u][i] * run->rank[r].gradients[u][i];
    }
    free(updates);
    return square;
}

// How the sum of the ranks' losses changes along the gradients, by central difference with step h.
static double change_along(const Plan *plan, Routing routing, const Run *base, double h)
{
    Run above, below;
    run_plan(plan, routing, base, h, &above);
    run_plan(plan, routing, base, -h, &below);
    double change = (total_loss(&above) - total_loss(&below)) / (2 * h);
    run_free(&above);
    run_free(&below);
    return change;
}

// The change is |g|^2. Two steps h and 2h leave an error of h^4, at these lengths below 1e-4. Losses near 4 in f32
// are known to some 1e-6, and change by 2h |g|^2 = |g| / 500 > 5e-3: that is the 1e-3 that remains.
static void check_prediction(const Plan *plan, Routing routing, const Run *base)
{
    double square = square_of(plan, base), h = 0.001 / sqrt(square);
    double got = (4 * change_along(plan, routing, base, h) - change_along(plan, routing, base, 2 * h)) / 3;
    cr_assert(square > 4 && fabs(got - square) <= 1e-3 * square, "the loss changes by %g, the gradients say %g", got,
              square);
}

// Sums of the same terms in other orders and groupings: some hundred roundings of 6e-8, through a few layers. With
// 16-bit storage every hop rounds what it summed, to half a unit of 2^-10 or 2^-7: ten or so in a row add up.
static double tolerance(Dtype dtype)
{
    return dtype == DTYPE_F32 ? 5e-5 : dtype == DTYPE_F16 ? 10 * 0x1p-11 : 10 * 0x1p-8;
}

// The gradient of all experts of a layer one after another, from the ranks that own parts of them. Padding is 0.
static double *gather_shares(const Plan *plan, const Run *run, uint32_t u, int32_t weight, const char *name)
{
    uint64_t elements = plan->model.experts * model_expert_elements(&plan->model);
    double *whole = malloc(elements * sizeof(*whole));
    const Choice *choice = plan_choice_of_layer(plan, plan->buffers[weight].layer);
    ExpertShares shares = plan_expert_shares(plan, choice->domain);
    for (uint32_t r = 0; r < run->ranks; r++) {
        ElementRange own = share_owned(&shares, r);
        memcpy(whole + own.first, run->rank[r].gradients[u], own.count * sizeof(*whole));
        for (uint64_t i = own.count; i < elements_of(plan, weight); i++)
            cr_assert_eq(run->rank[r].gradients[u][i], 0, "%s: padding of rank %u has a gradient", name, r);
    }
    return whole;
}

static void compare_values(const double *got, const double *want, uint64_t count, double relative, const char *what)
{
    double largest = 1e-6;
    for (uint64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(want[i]));
    for (uint64_t i = 0; i < count; i++)
        cr_assert(fabs(got[i] - want[i]) <= relative * largest, "%s [%llu]: %g, plain EP %g", what,
                  (unsigned long long)i, got[i], want[i]);
}

// `plan` is that of `base`, `other` that of `run`: weights have the same order in both.
static void compare(const Plan *plan, const Plan *other, const Run *base, const Run *run, const char *name)
{
    Update *updates = calloc(plan->step_count, sizeof(*updates)), *others = calloc(other->step_count, sizeof(*others));
    double relative = tolerance(plan->model.dtype);
    updates_of(plan, updates);
    updates_of(other, others);
    cr_assert_eq(run->updates, base->updates);
    cr_assert_float_eq(total_loss(run), total_loss(base), relative * total_loss(base), "%s: the loss", name);
    for (uint32_t u = 0; u < run->updates; u++) {
        char what[256];
        snprintf(what, sizeof(what), "%s: '%s'", name, plan->buffers[updates[u].gradient].name);
        if (is_experts(plan, updates[u].weight)) {
            double *want = gather_shares(plan, base, u, updates[u].weight, name);
            double *got = gather_shares(other, run, u, others[u].weight, name);
            compare_values(got, want, plan->model.experts * model_expert_elements(&plan->model), relative, what);
            free(want);
            free(got);
            continue;
        }
        for (uint32_t r = 0; r < run->ranks; r++)
            compare_values(run->rank[r].gradients[u], base->rank[r].gradients[u], elements_of(plan, updates[u].weight),
                           relative, what);
    }
    free(updates);
    free(others);
}

static void check_strategies(Spec spec, Routing routing)
{
    Arena *arena = arena_create();
    Plan *first = NULL;
    Run base = {0};
    uint32_t compared = 0;
    spec.plan.pass = PASS_TRAINING;
    for (int d = 0; d < DISPATCH_COUNT; d++) {
        Candidate *candidates;
        size_t count;
        spec.plan.dispatch = (Dispatch)d;
        Spec regather = spec;
        regather.plan.regather_dense = true;
        const Workload *work = workload_derive(&spec, arena), *again = workload_derive(&regather, arena);
        cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
        for (size_t c = 0; c < count; c++) {
            double bytes;
            char name[160], domain[96];
            snprintf(name, sizeof(name), "%s, routing %d, %s", dispatch_name((Dispatch)d), (int)routing,
                     config_format(&spec.cluster, &candidates[c].config, domain, sizeof(domain)));
            Plan *plan = lower_uniform(c % 2 ? again : work, &candidates[c].config, (Dispatch)d, &bytes);
            cr_assert_not_null(plan);
            Run run;
            run_plan(plan, routing, NULL, 0, first ? &run : &base);
            if (first) {
                compare(first, plan, &base, &run, name);
                run_free(&run);
                plan_destroy(plan);
                compared++;
            } else {
                first = plan;
            }
        }
    }
    cr_assert_gt(compared, 1);
    // Under learned routing a step may change the choice, where the loss jumps; 16-bit weights may not take the step.
    if (routing != ROUTING_LEARNED && spec.model.dtype == DTYPE_F32)
        check_prediction(first, routing, &base);
    run_free(&base);
    plan_destroy(first);
    arena_destroy(arena);
}

Test(backward_engine, two_levels)
{
    check_strategies(spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2), ROUTING_LEARNED);
    check_strategies(spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2), ROUTING_BALANCED);
}

Test(backward_engine, three_levels)
{
    check_strategies(spec_small_gpt((uint32_t[]){2, 2, 2}, 16, 4), ROUTING_LEARNED);
}

Test(backward_engine, uneven_load)
{
    check_strategies(spec_small_gpt((uint32_t[]){2, 3, 0}, 6, 1), ROUTING_SKEWED);
}

Test(backward_engine, gated_shared_and_dense)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    spec.model.activation = ACTIVATION_SWIGLU;
    spec.model.shared_experts = 2;
    spec.model.kv_heads = 1;
    spec.model.layers = 4;
    spec.model.first_dense = 1;
    spec.model.every = 2;
    spec.model.ffn_inner = 40;
    check_strategies(spec, ROUTING_BALANCED);
}

Test(backward_engine, capacity)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    spec.plan.capacity = 1;
    check_strategies(spec, ROUTING_SKEWED);
}

Test(backward_engine, padded_exchanges)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    spec.plan.capacity = 1;
    spec.plan.exchange = EXCHANGE_PADDED;
    check_strategies(spec, ROUTING_LEARNED);
}

// Fewer experts than GPUs, and numbers that GPUs do not divide.
Test(backward_engine, parts_of_experts)
{
    check_strategies(spec_small_gpt((uint32_t[]){2, 2, 0}, 2, 2), ROUTING_LEARNED);
    check_strategies(spec_small_gpt((uint32_t[]){2, 2, 0}, 3, 2), ROUTING_BALANCED);
    check_strategies(spec_small_gpt((uint32_t[]){2, 2, 0}, 6, 2), ROUTING_SKEWED);
    check_strategies(spec_small_gpt((uint32_t[]){6, 0, 0}, 5, 2), ROUTING_LEARNED);
    check_strategies(spec_small_gpt((uint32_t[]){8, 0, 0}, 60, 2), ROUTING_LEARNED);
}

Test(backward_engine, parts_of_experts_in_16_bits)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 6, 2);
    spec.model.dtype = DTYPE_BF16;
    spec.model.hidden = 20; // half an expert is no multiple of what shares are rounded up to
    spec.model.head_dim = 10;
    spec.model.inner = 9;
    check_strategies(spec, ROUTING_BALANCED);
}

Test(backward_engine, storage_in_16_bits)
{
    for (Dtype dtype = DTYPE_F16; dtype <= DTYPE_BF16; dtype++) {
        Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
        spec.model.dtype = dtype;
        spec.model.shared_experts = 1;
        check_strategies(spec, ROUTING_BALANCED);
    }
}
