// Equivalence is the contract: every strategy computes what plain EP and a dense reference compute.
// Clusters of up to three levels x all domain sizes x top_k 1, 2, 4 x both dispatch modes x even and
// uneven routing. HEP_MATRIX_STRIDE=n runs every n-th combination; under a sanitizer n is 4 unless given.
// builds: dev fast  seconds: 5
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "effort.h"
#include "ir/verify/verify.h"
#include "runtime/check/reference.h"
#include "runtime/check/tolerance.h"
#include "runtime/job/job.h"
#include "specs.h"

// What a combination left for the others of its group to be compared with.
typedef struct {
    float *outputs;
    size_t output_count;
    double loss, naive_bytes;
} Baseline;

static void strategies_from(const Candidate *chosen, const Spec *spec, Plan *plan)
{
    plan->strategies = arena_alloc_array(plan->arena, 1, sizeof(*plan->strategies));
    plan->strategy_count = 1;
    plan->strategies[0].name = "chosen";
    plan->strategies[0].dispatch = spec->plan.dispatch;
    plan->strategies[0].iteration_s = chosen->cost.iteration_s;
    plan->strategies[0].memory_bytes = plan_memory_bytes(plan);
    plan->strategies[0].fits = true;
    memcpy(plan->strategies[0].domain, chosen->config.domain, sizeof(chosen->config.domain));
    memcpy(plan->strategies[0].traffic, chosen->cost.traffic, sizeof(chosen->cost.traffic));
    plan->solver = "none";
    plan->status = STATUS_FORCED;
    plan->iteration_s = chosen->cost.iteration_s;
}

// Most bytes a rank can send over a level: what the capacities of its send and receive buffers allow.
static double bound_bytes(const Plan *plan, uint32_t level)
{
    double bytes = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        if (step->level != (int32_t)level)
            continue;
        if (step->op == OP_DISPATCH)
            bytes += (double)buffer_bytes(step_buffer(plan, step, OPERAND_send_rows)) +
                     (double)buffer_bytes(step_buffer(plan, step, OPERAND_send_records)) + 4096;
        else if (step->op == OP_COMBINE)
            bytes += (double)buffer_bytes(step_buffer(plan, step, OPERAND_results));
        else
            bytes += step->bytes;
    }
    return bytes;
}

static void check_traffic(const Plan *plan, const JobResult *result, Routing routing, const char *name)
{
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        const Traffic *planned = &plan->strategies[0].traffic[l];
        double total = planned->exchange_bytes + planned->routing_bytes + planned->gather_bytes;
        if (plan->exchange == EXCHANGE_PADDED || (routing == ROUTING_BALANCED && plan->dispatch == DISPATCH_NAIVE))
            cr_assert(fabs(result->traffic[l].bytes - total) < 1e-6 * fmax(1, total),
                      "%s: level %u sent %.3f bytes, planned %.3f", name, l, result->traffic[l].bytes, total);
        if (plan->exchange == EXCHANGE_PADDED)
            cr_assert_eq(result->traffic[l].busiest_rank_bytes, total, "%s: level %u, a rank sends more", name, l);
        cr_assert_leq(result->traffic[l].busiest_rank_bytes, bound_bytes(plan, l), "%s: level %u over its bound", name,
                      l);
        cr_assert(fabs(result->traffic[l].gather_bytes - planned->gather_bytes) < 1e-6 * fmax(1, planned->gather_bytes),
                  "%s: gathers of level %u", name, l);
    }
}

static void compare(const Plan *plan, const JobResult *result, Baseline *baseline, const char *name)
{
    size_t count = (size_t)result->ranks * model_tokens(&plan->model) * plan->model.hidden;
    const float *outputs = result->outputs;
    if (!baseline->outputs) {
        baseline->outputs = malloc(count * sizeof(*outputs));
        memcpy(baseline->outputs, outputs, count * sizeof(*outputs));
        baseline->output_count = count;
        baseline->loss = result->loss[0];
        return;
    }
    double largest = 0, square = 0;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)outputs[i] - baseline->outputs[i]));
        square += (double)baseline->outputs[i] * baseline->outputs[i];
    }
    double allowed = 2 * tolerance_hidden(plan, 0) * sqrt(square / (double)count);
    cr_assert_leq(largest, allowed, "%s: differs from plain EP by %g, allowed %g", name, largest, allowed);
    cr_assert(fabs(result->loss[0] - baseline->loss) <= allowed, "%s: loss %g, plain EP %g", name, result->loss[0],
              baseline->loss);
}

static double sent_bytes(const JobResult *result)
{
    double bytes = 0;
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        bytes += result->traffic[l].exchange_bytes;
    return bytes;
}

// Runs one combination (compared with the others of its group unless `baseline` is NULL); returns the token bytes a GPU
// sent.
static double run(const Workload *work, const Candidate *candidate, Dispatch dispatch, Routing routing,
                  Baseline *baseline, const char *name)
{
    double bytes;
    Plan *plan = lower_uniform(work, &candidate->config, dispatch, &bytes);
    cr_assert_not_null(plan);
    strategies_from(candidate, work->spec, plan);
    VerifyReport report;
    cr_assert(plan_verify(plan, &report), "%s: %s", name, report.items[0].message);
    JobOptions options = job_options_default();
    options.iterations = 1;
    options.warmup = 0;
    options.seed = 5;
    options.routing = routing;
    options.check = true;
    options.keep_outputs = true;
    JobResult result;
    Fault fault = {0};
    cr_assert(job_run(plan, &options, &result, &fault), "%s: %s", name, fault.message);
    cr_assert(result.check.pass, "%s: error %g, tolerance %g", name, result.check.max_abs_error,
              result.check.tolerance);
    check_traffic(plan, &result, routing, name);
    if (baseline)
        compare(plan, &result, baseline, name);
    double sent = sent_bytes(&result);
    job_result_free(&result);
    plan_destroy(plan);
    return sent;
}

static void run_group(Spec *spec, Routing routing, uint32_t *counter, uint32_t stride)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Baseline baseline = {0};
    Candidate *candidates[DISPATCH_COUNT];
    size_t count = 0;
    const Workload *work[DISPATCH_COUNT];
    for (int d = 0; d < DISPATCH_COUNT; d++) {
        Spec *copy = arena_alloc(arena, sizeof(*copy));
        *copy = *spec;
        copy->plan.dispatch = (Dispatch)d;
        work[d] = workload_derive(copy, arena);
        cr_assert(planner_enumerate(work[d], arena, diag, &candidates[d], &count));
    }
    for (size_t c = 0; c < count; c++) {
        double sent[DISPATCH_COUNT] = {0};
        bool both = true;
        for (int d = 0; d < DISPATCH_COUNT; d++) {
            bool wanted =
                c == 0 || (*counter)++ % stride == 0; // candidate 0, plain EP, is what others are compared with
            both = both && wanted;
            char name[160], domain[96];
            snprintf(name, sizeof(name), "%s top_k=%u routing %d, %s", dispatch_name((Dispatch)d), spec->model.top_k,
                     (int)routing, config_format(&spec->cluster, &candidates[d][c].config, domain, sizeof(domain)));
            if (wanted)
                sent[d] = run(work[d], &candidates[d][c], (Dispatch)d, routing, &baseline, name);
        }
        if (both)
            cr_assert_leq(sent[DISPATCH_DEDUP], sent[DISPATCH_NAIVE] + 1e-6, "deduplication sends more");
    }
    free(baseline.outputs);
    arena_destroy(arena);
}

static void run_cluster(uint32_t a, uint32_t b, uint32_t c)
{
    const char *text = getenv("HEP_MATRIX_STRIDE");
    uint32_t stride = text ? (uint32_t)atoi(text) : EFFORT_SHARE, counter = 0, ranks = a * (b ? b : 1) * (c ? c : 1);
    for (uint32_t top_k = 1; top_k <= 4; top_k *= 2)
        for (int routing = 0; routing < ROUTING_COUNT; routing++) {
            Spec spec = spec_small_gpt((uint32_t[]){a, b, c}, 2 * ranks, top_k);
            spec.model.batch = ranks / 4 ? (2 * ranks + 7) / 8 : 1; // tokens a multiple of the experts
            run_group(&spec, (Routing)routing, &counter, stride ? stride : 1);
        }
}

Test(matrix, cluster_1x8)
{
    run_cluster(1, 8, 0);
}
Test(matrix, cluster_8x1)
{
    run_cluster(8, 1, 0);
}
Test(matrix, cluster_2x4)
{
    run_cluster(2, 4, 0);
}
Test(matrix, cluster_4x2)
{
    run_cluster(4, 2, 0);
}
Test(matrix, cluster_2x2x2)
{
    run_cluster(2, 2, 2);
}
Test(matrix, cluster_3x2)
{
    run_cluster(3, 2, 0);
}
Test(matrix, cluster_2x3x2)
{
    run_cluster(2, 3, 2);
}

// Variations on one cluster: 16-bit storage, gated and shared experts, dense layers, capacity, replicas.
static void run_variation(void (*change)(Spec *))
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    change(&spec);
    uint32_t counter = 0;
    for (int routing = 0; routing < ROUTING_COUNT; routing++) {
        Arena *arena = arena_create();
        Candidate *candidates;
        size_t count;
        for (int d = 0; d < DISPATCH_COUNT; d++) {
            spec.plan.dispatch = (Dispatch)d;
            const Workload *work = workload_derive(&spec, arena);
            cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
            for (size_t c = 0; c < count; c++) {
                char name[160], domain[96];
                snprintf(name, sizeof(name), "%s routing %d, %s", dispatch_name((Dispatch)d), routing,
                         config_format(&spec.cluster, &candidates[c].config, domain, sizeof(domain)));
                run(work, &candidates[c], (Dispatch)d, (Routing)routing, NULL, name);
                counter++;
            }
        }
        arena_destroy(arena);
    }
    cr_assert_gt(counter, 0);
}

static void half(Spec *spec)
{
    spec->model.dtype = DTYPE_F16;
}
static void brain(Spec *spec)
{
    spec->model.dtype = DTYPE_BF16;
}
static void gated(Spec *spec)
{
    spec->model.activation = ACTIVATION_SWIGLU;
    spec->model.shared_experts = 2;
    spec->model.kv_heads = 1;
}
static void dense_between(Spec *spec)
{
    spec->model.layers = 5;
    spec->model.first_dense = 1;
    spec->model.every = 2;
    spec->model.ffn_inner = 40;
}
static void capped(Spec *spec)
{
    spec->plan.capacity = 1;
}
static void padded(Spec *spec)
{
    spec->plan.capacity = 1.25;
    spec->plan.exchange = EXCHANGE_PADDED;
}
// Choices between logits that rounding makes near equal, of tokens that lost some of theirs.
static void dropped_and_rounded(Spec *spec)
{
    spec->model.dtype = DTYPE_BF16;
    spec->model.sequence = 64;
    spec->model.top_k = 4;
    spec->plan.capacity = 1;
    spec->plan.exchange = EXCHANGE_PADDED;
}
static void replicated(Spec *spec)
{
    spec->model.experts = 2;
    spec->replica_levels = 1;
}
// Parts of experts that are held over the outer level from the start; and all of them everywhere.
static void replicated_parts(Spec *spec)
{
    spec->model.experts = 3;
    spec->replica_levels = 1;
}
static void replicated_everywhere(Spec *spec)
{
    spec->model.experts = 5;
    spec->replica_levels = 2;
}
static void in_parts(Spec *spec)
{
    spec->model.experts = 6;
}
static void in_padded_parts(Spec *spec)
{
    spec->model.experts = 3;
    spec->model.inner = 9;
    spec->model.activation = ACTIVATION_SWIGLU;
}

Test(matrix, half_precision)
{
    run_variation(half);
}
Test(matrix, bfloat)
{
    run_variation(brain);
}
Test(matrix, gated_and_shared_experts)
{
    run_variation(gated);
}
Test(matrix, dense_layers_between)
{
    run_variation(dense_between);
}
Test(matrix, capacity)
{
    run_variation(capped);
}
Test(matrix, padded_exchanges)
{
    run_variation(padded);
}
Test(matrix, dropped_and_rounded)
{
    run_variation(dropped_and_rounded);
}
Test(matrix, replicated_experts)
{
    run_variation(replicated);
}
Test(matrix, replicated_parts_of_experts)
{
    run_variation(replicated_parts);
}
Test(matrix, experts_replicated_everywhere)
{
    run_variation(replicated_everywhere);
}
Test(matrix, parts_of_experts)
{
    run_variation(in_parts);
}
Test(matrix, padded_parts_of_experts)
{
    run_variation(in_padded_parts);
}
