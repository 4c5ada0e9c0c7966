// Padded exchanges against counted ones: the same values to the last bit, bytes as predicted to the byte, padding as
// counted, and what the verifier says when a message could get larger than its place.
// builds: dev fast  seconds: 5
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "effort.h"
#include "ir/exchange.h"
#include "ir/plan_facts.h"
#include "ir/verify/verify.h"
#include "lowered.h"
#include "runtime/job/job.h"
#include "specs.h"

typedef struct {
    uint32_t counts[3], experts, top_k;
    Dispatch dispatch;
    double capacity;
    Routing routing;
} Case;

static const Case cases[] = {
    {{2, 4, 0}, 16, 2, DISPATCH_DEDUP, 1.25, ROUTING_LEARNED},
    {{2, 2, 2}, 16, 3, DISPATCH_DEDUP, 1, ROUTING_LEARNED},
    {{2, 2, 2}, 8, 2, DISPATCH_NAIVE, 1.5, ROUTING_SKEWED},
    {{3, 2, 0}, 12, 4, DISPATCH_NAIVE, 1, ROUTING_LEARNED},
    {{2, 3, 0}, 3, 2, DISPATCH_DEDUP, 2, ROUTING_SKEWED},
    {{1, 4, 0}, 8, 1, DISPATCH_DEDUP, 1e6, ROUTING_BALANCED}, // no expert ever gets too many
};

enum { ITERATIONS = 3 };

static Plan *make_plan(const Case *c, ExchangeKind exchange, size_t index, Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = spec_small_gpt(c->counts, c->experts, c->top_k);
    spec->plan.pass = PASS_TRAINING;
    spec->plan.dispatch = c->dispatch;
    spec->plan.capacity = c->capacity;
    spec->plan.exchange = exchange;
    spec->training = (TrainingSettings){.learning_rate = 0.05, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8};
    const Workload *work = workload_derive(spec, arena);
    Candidate *candidates;
    size_t count;
    cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
    Plan *plan = index < count ? lowered_plan(spec, work, &candidates[index]) : NULL;
    VerifyReport report;
    if (plan)
        cr_assert(plan_verify(plan, &report), "candidate %zu: %s", index, report.items[0].message);
    return plan;
}

static JobResult run(const Plan *plan, Routing routing)
{
    JobOptions options = job_options_default();
    options.iterations = ITERATIONS;
    options.warmup = 0;
    options.routing = routing;
    options.keep_outputs = true;
    JobResult result;
    Fault fault = {0};
    cr_assert(job_run(plan, &options, &result, &fault), "%s", fault.message);
    return result;
}

static void compare_traffic(const Plan *plan, const JobResult *padded, const JobResult *counted)
{
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        const JobTraffic *got = &padded->traffic[l], *other = &counted->traffic[l];
        const Traffic *planned = &plan->strategies[0].traffic[l];
        cr_expect_eq(got->exchange_bytes, planned->exchange_bytes);
        cr_expect_eq(got->routing_bytes, planned->routing_bytes);
        cr_expect_eq(got->bytes, traffic_total(planned), "level %u", l);
        cr_expect_float_eq(got->exchange_bytes - got->padding_bytes, other->exchange_bytes, 1e-6, "level %u", l);
        cr_expect_eq(other->padding_bytes, 0);
        cr_expect_eq(got->reduce_bytes, other->reduce_bytes);
        cr_expect_eq(got->gather_bytes, other->gather_bytes);
    }
}

Test(padded, computes_what_counted_exchanges_do, .timeout = 120)
{
    uint32_t compared = 0;
    double padding_bytes = 0;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const Case *c = &cases[i];
        for (size_t index = i % EFFORT_SHARE;; index += EFFORT_SHARE) {
            Arena *arena = arena_create();
            Plan *padded = make_plan(c, EXCHANGE_PADDED, index, arena);
            Plan *counted = make_plan(c, EXCHANGE_COUNTED, index, arena);
            if (!padded) {
                arena_destroy(arena);
                break;
            }
            JobResult got = run(padded, c->routing), expected = run(counted, c->routing);
            cr_expect_arr_eq(got.loss, expected.loss, ITERATIONS * sizeof(*got.loss), "case %zu, candidate %zu", i,
                             index);
            cr_expect_eq(memcmp(got.outputs, expected.outputs,
                                got.ranks * model_tokens(&padded->model) * padded->model.hidden * sizeof(float)),
                         0, "case %zu, candidate %zu", i, index);
            cr_expect_neq(got.loss[0], got.loss[ITERATIONS - 1], "nothing was learned");
            compare_traffic(padded, &got, &expected);
            for (uint32_t l = 0; l < padded->cluster.level_count; l++)
                padding_bytes += got.traffic[l].padding_bytes;
            compared++;
            job_result_free(&got);
            job_result_free(&expected);
            plan_destroy(padded);
            plan_destroy(counted);
            arena_destroy(arena);
        }
    }
    cr_expect_gt(compared, INSTANCES(30));
    cr_expect_gt(padding_bytes, 0);
}

// 16 tokens of 2 experts each, 16 experts: at 1.25 times the balanced load 2.5 rows, so 3.
Test(padded, a_message_is_bounded_by_tokens_and_experts)
{
    static const uint32_t apart[LEVELS_MAX] = {1, 1}, joined[LEVELS_MAX] = {2, 1};
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 16, 2);
    ModelDims dims = spec_dims(&spec.model);
    const Cluster *c = &spec.cluster;
    cr_expect_eq(exchange_rows_bound(c, &dims, DISPATCH_DEDUP, 1.25, apart, 0), 16,
                 "every token, though 8 experts take 24");
    cr_expect_eq(exchange_rows_bound(c, &dims, DISPATCH_NAIVE, 1.25, apart, 0), 24);
    cr_expect_eq(exchange_rows_bound(c, &dims, DISPATCH_NAIVE, 0, apart, 0), 32, "every record");
    cr_expect_eq(exchange_rows_bound(c, &dims, DISPATCH_DEDUP, 1.25, apart, 1), 2 * 6,
                 "two GPUs' rows for two experts");
    cr_expect_eq(exchange_rows_bound(c, &dims, DISPATCH_DEDUP, 1.25, joined, 1), 12, "one GPU's for four experts");
    cr_expect_eq(exchange_rows_bound(c, &dims, DISPATCH_DEDUP, 1, joined, 1), 8);
    cr_expect_eq(exchange_rows_bound(c, &dims, DISPATCH_DEDUP, 0, joined, 1), 16, "every token");
}

static void expect_refused(Plan *plan, Property property, const char *part)
{
    VerifyReport report;
    cr_assert_not(plan_verify(plan, &report));
    cr_expect_eq(report.items[0].property, property, "%s: %s", property_name(report.items[0].property),
                 report.items[0].message);
    cr_expect_not_null(strstr(report.items[0].message, part), "%s", report.items[0].message);
}

static Step *first_dispatch(const Plan *plan)
{
    uint32_t s = 0;
    while (plan->steps[s].op != OP_DISPATCH)
        s++;
    return &plan->steps[s];
}

Test(padded, verifier)
{
    Arena *arena = arena_create();
    Plan *plan = make_plan(&cases[0], EXCHANGE_PADDED, 0, arena);
    Step *dispatch = first_dispatch(plan);
    cr_assert_eq(plan_message_rows(plan, dispatch), 16);
    plan->capacity = 0.5; // messages are smaller than places
    expect_refused(plan, PROPERTY_SIZES, "has 32 rows, expected 16");
    plan->capacity = 0;
    expect_refused(plan, PROPERTY_SIZES, "rows, expected");
    plan->capacity = 1.25;
    dispatch->bytes -= 136; // a row of 16 numbers and its two records, of two messages
    expect_refused(plan, PROPERTY_TRAFFIC, "of tokens");
    dispatch->bytes += 136;
    plan->strategies[0].traffic[0].padding_bytes = 1e9;
    expect_refused(plan, PROPERTY_TRAFFIC, "bytes of padded exchanges are padding");
    plan->exchange = EXCHANGE_COUNTED;
    expect_refused(plan, PROPERTY_SIZES, "origin");
    plan_destroy(plan);
    arena_destroy(arena);
}

Test(padded, a_dispatch_alone_with_other_bytes)
{
    Arena *arena = arena_create();
    Plan *plan = make_plan(&cases[0], EXCHANGE_PADDED, 0, arena);
    double row = 16 * sizeof(float);
    for (uint32_t s = 0; s < plan->step_count; s++) { // all exchanges of a level alike, and charged so
        Step *step = &plan->steps[s];
        bool records = step->op == OP_DISPATCH && step_operand(plan, step, OPERAND_send_records) != NONE;
        if (step->level != 1 || op_info((int)step->op)->shape != SHAPE_EXCHANGE)
            continue;
        double routing = exchange_routing_bytes(step->op, records, 1, 2, 0);
        step->bytes -= row + routing;
        plan->strategies[0].traffic[1].exchange_bytes -= row;
        plan->strategies[0].traffic[1].routing_bytes -= routing;
    }
    expect_refused(plan, PROPERTY_TRAFFIC, "padded messages of 12 rows are 36");
    plan_destroy(plan);
    arena_destroy(arena);
}
