// Each property of the verifier, broken alone on a plan that is fine otherwise.
#include <criterion/criterion.h>

#include "ir/memory.h"
#include "ir/verify/verify.h"
#include "lowered.h"
#include "plans.h"
#include "specs.h"

static VerifyReport report;
enum { OP_CODES = 128 };

static void expect_valid(Plan *plan)
{
    bool valid = plan_verify(plan, &report);
    cr_assert(valid, "%s: step %ld: %s", property_name(report.items[0].property), (long)report.items[0].step,
              report.items[0].message);
}

static void expect_violation(Plan *plan, Property property, int64_t step, const char *message)
{
    cr_assert(!plan_verify(plan, &report), "expected '%s'", message);
    bool found = false;
    for (uint32_t i = 0; i < verify_report_count(&report); i++) {
        const Violation *violation = &report.items[i];
        // A wrong buffer in a place is often of a wrong size there, too.
        cr_assert(violation->property == property || violation->property == PROPERTY_SIZES, "also %s: step %ld: %s",
                  property_name(violation->property), (long)violation->step, violation->message);
        found |= violation->property == property && violation->step == step && strstr(violation->message, message);
    }
    cr_assert(found, "expected '%s' at step %ld, got '%s' at step %ld", message, (long)step, report.items[0].message,
              (long)report.items[0].step);
    plan_destroy(plan);
}

// Breaks a good plan by `statement`; exactly `property` is violated.
#define EXPECT(statement, property, step, message)                                                                     \
    do {                                                                                                               \
        Plan *plan = plan_of_four_ranks();                                                                             \
        expect_valid(plan);                                                                                            \
        statement;                                                                                                     \
        expect_violation(plan, PROPERTY_##property, step, message);                                                    \
    } while (0)

static Buffer *buffer(Plan *plan, const char *name)
{
    return &plan->buffers[plan_buffer_index(plan, name)];
}

static void use(Plan *plan, uint32_t step, Operand operand, const char *name)
{
    *plan_operand(plan, step, operand) = plan_buffer_index(plan, name);
}

// The model gets a shared expert: the weights are there, its results are not.
static void share_expert(Plan *plan)
{
    plan->model.shared_experts = 1;
    Buffer *dense = buffer(plan, "dense");
    dense->cols = model_dense_elements(&plan->model, true);
    dense->offset = plan->arena_bytes;
    plan->arena_bytes += (buffer_bytes(dense) + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
    plan->strategies[0].memory_bytes = (double)plan->arena_bytes;
}

Test(verify, the_plan_itself_and_a_packed_one_hold)
{
    Plan *plan = plan_of_four_ranks();
    expect_valid(plan);
    cr_assert(memory_plan(plan, plan->arena));
    plan->strategies[0].memory_bytes = plan_memory_bytes(plan);
    expect_valid(plan);
    plan_destroy(plan);
}

Test(verify, limits)
{
    EXPECT(plan->steps[PLAN_GATE].group = 7, LIMITS, PLAN_GATE, "step 3 ('gate'): 'group' is 7");
    EXPECT(plan->after[0] = 1000, LIMITS, PLAN_DISPATCH, "waits for step 1000");
}

Test(verify, groups)
{
    EXPECT(plan->groups[0].domain = 3, GROUPS, NONE,
           "group g0: domain size 3 does not divide the 2 workers of level 'gpu'");
    EXPECT(plan->groups[1].domain = 4, GROUPS, NONE, "group g1: domain size 4 does not divide");
    EXPECT((plan->groups[plan->group_count++] = (Group){GROUP_LEVEL, 0, 2}), GROUPS, NONE,
           "a 'level' group has domain size 1");
}

Test(verify, choices)
{
    EXPECT(plan->choices[0].domain[1] = 3, CHOICES, NONE,
           "layer 0: domain size 3 does not divide the 2 workers of level 'gpu'");
    EXPECT((plan->replica_levels = 1, plan->model.experts = 2), CHOICES, NONE,
           "level 'dc' holds replicas, its domain size is 2, not 1");
    EXPECT(plan->model.experts = 3, CHOICES, NONE,
           "layer 0: the domain sizes make 2 places, which do not divide the 3 experts");
    EXPECT((plan->pass = PASS_TRAINING, plan->replica_levels = 1), CHOICES, NONE,
           "'replica_levels' is 1 in a training plan: every expert has one owner");
    EXPECT(plan->choices[0].layer = 1, CHOICES, NONE, "layer 1 is none of the 1 layers");
    EXPECT((plan->model.layers = 2, plan->choices[1] = plan->choices[0], plan->choice_count = 2), CHOICES, NONE,
           "layer 0 follows layer 0: expected ascending layers");
    EXPECT((plan->model.layers = 2, plan->choices[1] = plan->choices[0], plan->choices[0].layer = 1,
            plan->choice_count = 2),
           CHOICES, NONE, "layer 0 follows layer 1: expected ascending layers");
}

Test(verify, steps)
{
    EXPECT(plan->steps[PLAN_GATE].bytes = 1, STEPS, PLAN_GATE, "op 'gate' is local");
    EXPECT(plan->steps[PLAN_GATE].level = 0, STEPS, PLAN_GATE, "op 'gate' is local");
    EXPECT(plan->steps[PLAN_GATHER].group = NONE, STEPS, PLAN_GATHER, "op 'gather' needs a group");
    EXPECT(plan->steps[PLAN_GATHER].group = 1, STEPS, PLAN_GATHER, "cannot use group g1, which is of kind 'exchange'");
    EXPECT(plan->steps[PLAN_DISPATCH].group = 0, STEPS, PLAN_DISPATCH,
           "cannot use group g0, which is of kind 'gather'");
    EXPECT(plan->steps[PLAN_DISPATCH].level = 1, STEPS, PLAN_DISPATCH, "the step's level is not that of its group g1");
    EXPECT(
        (plan->steps[PLAN_LOSS].op = OP_ALL_REDUCE, plan->steps[PLAN_LOSS].level = 1, plan->steps[PLAN_LOSS].group = 0),
        STEPS, PLAN_LOSS, "op 'all_reduce' cannot use group g0");
}

Test(verify, edges)
{
    EXPECT(plan->after[0] = PLAN_EXPERT, EDGES, PLAN_DISPATCH, "waits for step 6, which does not come before it");
    EXPECT(plan->after[0] = PLAN_DISPATCH, EDGES, PLAN_DISPATCH, "waits for step 5, which does not come before it");
    EXPECT(plan->after[plan->steps[PLAN_COMBINE].after_first] = PLAN_DISPATCH, EDGES, PLAN_COMBINE,
           "waits for step 5 of its own stream, 'exchange'");
}

Test(verify, operands)
{
    EXPECT(*plan_operand(plan, PLAN_RESIDUAL, OPERAND_x) = NONE, OPERANDS, PLAN_RESIDUAL,
           "op 'residual' misses operand 'x'");
    EXPECT(buffer(plan, "x")->dtype = DTYPE_F16, OPERANDS, PLAN_EMBED, "'x' (f16 2 x 4) does not fit operand 'x'");
    EXPECT(buffer(plan, "records")->dtype = DTYPE_F32, OPERANDS, PLAN_GATE, "does not fit operand 'records'");
    EXPECT(buffer(plan, "records")->cols = 3, OPERANDS, PLAN_GATE, "does not fit operand 'records'");
    EXPECT(buffer(plan, "next_counts")->rows = 1, OPERANDS, PLAN_DISPATCH, "does not fit operand 'next_counts'");
    EXPECT(buffer(plan, "dense")->cols -= 1, OPERANDS, PLAN_PRE_EXPERT, "does not fit operand 'dense'");
    EXPECT(buffer(plan, "tokens")->cols = 2, OPERANDS, PLAN_EMBED, "does not fit operand 'tokens'");
    EXPECT(buffer(plan, "loss")->dtype = DTYPE_BF16, OPERANDS, PLAN_LOSS, "does not fit operand 'loss'");
    EXPECT(buffer(plan, "gathered")->rows = 1, OPERANDS, PLAN_GATHER, "'gathered' is not 2 times 'experts'");
    EXPECT(use(plan, PLAN_EXPERT, OPERAND_experts, "experts"), OPERANDS, PLAN_EXPERT, "does not fit operand 'experts'");
    EXPECT(buffer(plan, "x")->kind = BUFFER_INPUT, OPERANDS, PLAN_EMBED, "op 'embed' writes the input 'x'");
    EXPECT(plan->model.abstract = true, OPERANDS, NONE, "the model is abstract and has");
}

static void drop_edge(Plan *plan, uint32_t step, uint32_t which)
{
    Step *broken = &plan->steps[step];
    memmove(plan->after + broken->after_first + which, plan->after + broken->after_first + which + 1,
            (broken->after_count - which - 1) * sizeof(uint32_t));
    broken->after_count--;
}

Test(verify, reads)
{
    EXPECT(drop_edge(plan, PLAN_EXPERT, 0), READS, PLAN_EXPERT,
           "reads 'gathered', which no step before it has written");
    EXPECT(use(plan, PLAN_EMBED, OPERAND_x, "out"), READS, PLAN_PRE_EXPERT, "reads 'x'");
    EXPECT(buffer(plan, "dense")->kind = BUFFER_TEMPORARY, READS, PLAN_PRE_EXPERT, "reads 'dense'");
}

Test(verify, races)
{
    EXPECT((use(plan, PLAN_RESIDUAL, OPERAND_y, "y"), use(plan, PLAN_LOSS, OPERAND_x, "y")), RACES, PLAN_RESIDUAL,
           "'y' is both operand 'x' and operand 'y', and written");
    // There from the start, and overwritten by a gather that the reader does not wait for.
    EXPECT((buffer(plan, "gathered")->kind = BUFFER_WEIGHT, drop_edge(plan, PLAN_EXPERT, 0)), RACES, PLAN_EXPERT,
           "reads 'gathered' while step 1 may write it");
}

Test(verify, memory)
{
    EXPECT(buffer(plan, "x")->offset += 8, MEMORY, NONE, "no multiple of 256");
    EXPECT(plan->arena_bytes -= 256, MEMORY, NONE, "'loss' ends at");
    EXPECT(buffer(plan, "y")->offset = buffer(plan, "x")->offset, MEMORY, NONE,
           "'x' and 'y' overlap and may be alive together");
    EXPECT(buffer(plan, "gathered")->offset = buffer(plan, "x")->offset, MEMORY, NONE, "overlap");
    EXPECT(buffer(plan, "x")->offset = buffer(plan, "dense")->offset, MEMORY, NONE, "overlap");
    EXPECT(buffer(plan, "loss")->offset = buffer(plan, "out")->offset, MEMORY, NONE, "overlap");
    Plan *plan = plan_of_four_ranks();
    buffer(plan, "summed")->offset = buffer(plan, "x")->offset; // x is dead when summed is born
    expect_valid(plan);
    plan_destroy(plan);
}

// Two plain layers of which the second has the given step of the first.
static void move_to_dense_layer(Plan *plan, uint32_t step)
{
    plan->model.layers = 2;
    plan->steps[step].layer = 1;
}

Test(verify, exchange)
{
    EXPECT(use(plan, PLAN_COMBINE, OPERAND_send_counts, "next_counts"), EXCHANGE, PLAN_COMBINE,
           "returns rows by other 'send_counts'");
    EXPECT(use(plan, PLAN_COMBINE, OPERAND_next_counts, "send_counts"), EXCHANGE, PLAN_COMBINE,
           "returns rows by other 'next_counts'");
    EXPECT(use(plan, PLAN_UNROUTE, OPERAND_send_counts, "next_counts"), EXCHANGE, PLAN_UNROUTE,
           "'send_counts' is not that of its 'route' step 4");
    EXPECT(use(plan, PLAN_UNROUTE, OPERAND_returned, "results"), EXCHANGE, PLAN_COMBINE,
           "no 'unroute' step puts back its rows");
    EXPECT(use(plan, PLAN_DISPATCH, OPERAND_send_rows, "rows"), EXCHANGE, PLAN_DISPATCH,
           "no 'route' step prepares its rows");
    EXPECT(move_to_dense_layer(plan, PLAN_COMBINE), EXCHANGE, PLAN_COMBINE,
           "layer 1 is no MoE layer and has a 'combine' step");
    EXPECT(move_to_dense_layer(plan, PLAN_COMBINE), EXCHANGE, NONE, "layer 0 misses 'combine' over level 'dc'");
    EXPECT(plan->steps[PLAN_DISPATCH].layer = NONE, EXCHANGE, PLAN_DISPATCH, "op 'dispatch' names no layer");
}

Test(verify, gather)
{
    EXPECT(plan->steps[PLAN_GATHER].layer = NONE, GATHER, PLAN_GATHER, "op 'gather' names no layer");
    EXPECT(move_to_dense_layer(plan, PLAN_GATHER), GATHER, NONE, "layer 0 misses 'gather' over level 'gpu'");
}

// Volumes without tensors: the same steps without operands, the same structure.
static Plan *abstract_plan(void)
{
    Plan *plan = plan_of_four_ranks();
    plan->model.abstract = true;
    plan->buffer_count = 0;
    for (uint32_t i = 0; i < plan->operand_count; i++)
        plan->operands[i] = NONE;
    plan->steps[PLAN_DISPATCH].bytes = plan->steps[PLAN_COMBINE].bytes; // no records travel
    plan->strategies[0].traffic[0].routing_bytes = 0;
    return plan;
}

Test(verify, abstract_plans_have_structure_and_no_buffers)
{
    Plan *plan = abstract_plan();
    expect_valid(plan);
    drop_edge(plan, PLAN_EXPERT, 1);
    expect_violation(plan, PROPERTY_EXCHANGE, PLAN_EXPERT, "does not wait for step 5, the one before on the rows' way");
    plan = abstract_plan();
    plan->choices[0].domain[0] = 2;
    cr_assert(!plan_verify(plan, &report));
    cr_assert_eq(report.items[0].property, PROPERTY_EXCHANGE);
    cr_assert_not_null(strstr(report.items[0].message, "found 'dispatch' over level 'dc': expected 'expert'"));
    plan_destroy(plan);
    plan = abstract_plan();
    plan->pass = PASS_TRAINING;
    cr_assert(!plan_verify(plan, &report));
    cr_assert_not_null(strstr(report.items[0].message, "layer 0 misses 'dispatch' over level 'dc'"));
    cr_assert_not_null(strstr(report.items[1].message, "layer 0 misses 'reduce_scatter' over level 'gpu'"));
    plan->pass = PASS_FORWARD;
    plan->choices[0].domain[1] = 1;
    cr_assert(!plan_verify(plan, &report));
    cr_assert_eq(report.items[0].property, PROPERTY_EXCHANGE);
    cr_assert_eq(report.items[1].property, PROPERTY_GATHER);
    cr_assert_not_null(strstr(report.items[1].message, "found 'gather' over level 'gpu': expected no more"));
    plan_destroy(plan);
}

// Domains of two among four workers, where the layer chose domains of one: rows go another way than the choice says.
Test(verify, exchanges_are_those_of_the_choice)
{
    Plan *plan = abstract_plan();
    plan->cluster.levels[0].count = 4;
    plan->model.experts = 8;
    expect_valid(plan);
    plan->groups[1].domain = 2;
    expect_violation(plan, PROPERTY_EXCHANGE, PLAN_DISPATCH, "the domain size is 2, and the layer's choice is 1");
}

// Of a lowered plan, whose traffic no strategy claims yet.
static bool violates(const Plan *plan, Property property, uint32_t step, const char *message)
{
    bool found = false, valid = plan_verify(plan, &report);
    for (uint32_t i = 0; i < verify_report_count(&report); i++)
        found |= report.items[i].property == property && report.items[i].step == step &&
                 strstr(report.items[i].message, message);
    return found && !valid;
}

static uint32_t find_step(const Plan *plan, Op op)
{
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (plan->steps[i].op == op)
            return i;
    abort();
}

// Gradients cannot go home before they are computed; abstract plans have no buffers that would show it.
Test(verify, gradients_of_abstract_plans_go_home_when_they_are_there)
{
    Spec spec = spec_one_tier(4, 1e9, 1e-4, 1e6, 1e6, 1e-3);
    spec.plan.pass = PASS_TRAINING;
    Arena *arena = arena_create();
    double bytes;
    Plan *plan = lower_uniform(workload_derive(&spec, arena), &(Config){.domain = {4}}, DISPATCH_NAIVE, &bytes);
    uint32_t home = find_step(plan, OP_REDUCE_SCATTER);
    cr_assert(!violates(plan, PROPERTY_GATHER, home, ""));
    plan->steps[home].after_count = 0;
    cr_assert(violates(plan, PROPERTY_GATHER, home, ""), "%s", report.items[0].message);
    plan_destroy(plan);
    arena_destroy(arena);
}

Test(verify, flow)
{
    EXPECT(use(plan, PLAN_GATE, OPERAND_x, "x"), FLOW, PLAN_GATE,
           "operand 'x', 'x', holds the input of layer 0: expected the attention's output of layer 0");
    EXPECT(use(plan, PLAN_RESIDUAL, OPERAND_x, "x"), FLOW, PLAN_RESIDUAL, "expected the attention's output of layer 0");
    EXPECT(use(plan, PLAN_RESIDUAL, OPERAND_results, "y"), FLOW, PLAN_RESIDUAL, "expected results of layer 0");
    EXPECT(use(plan, PLAN_LOSS, OPERAND_x, "summed"), FLOW, PLAN_LOSS, "expected the input of layer 1");
    EXPECT(plan->step_count--, FLOW, NONE, "the schedule ends without a loss");
    EXPECT(share_expert(plan), FLOW, PLAN_RESIDUAL,
           "misses operand 'shared': expected results of the shared experts of layer 0");
}

// ---- every operand of lowered plans --------------------------------------------------------------

// Training plans of two layers over two levels: as they are; with packets of weights and gradients of both bundles,
// with means, several micro-batches and activations computed again, shared experts, rows that travel packed.
static Plan *lowered_variant(int variant, Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    spec->plan.pass = variant == 0 ? PASS_FORWARD : PASS_TRAINING;
    spec->training.clip = 1;
    spec->model.shared_experts = variant % 2;
    Config config = {.domain = {2, 1}};
    if (variant == 2) {
        spec->plan.experts = (Coding){CODEC_DELTA, 4, GRADIENT_TOPK, 4, 0};
        spec->plan.dense = (Coding){CODEC_SIGN, 1, GRADIENT_Q4, 1, 0};
    } else if (variant == 3) {
        spec->plan.experts = (Coding){CODEC_SR, 4, GRADIENT_Q4, 1, 0};
        spec->plan.shared_every = 2;
        config.regather = true;
    } else if (variant == 4) {
        spec->plan.micro_batches = 4;
        spec->plan.recomputes = true;
        spec->plan.exchange = EXCHANGE_PADDED;
    } else if (variant == 5) {
        for (uint32_t way = 0; way < TOKEN_WAYS; way++)
            spec->plan.tokens[way] = TOKENS_FP8;
        spec->model.first_dense = 1;
        spec->model.ffn_inner = 32;
    }
    double bytes;
    return lower_uniform(workload_derive(spec, arena), &config, spec->plan.dispatch, &bytes);
}

// The plan with another buffer, as large as `like` and there from the start, behind all others in memory.
static int32_t add_like(Plan *plan, int32_t like)
{
    Buffer *buffers = arena_alloc_array(plan->arena, plan->buffer_count + 1, sizeof(*buffers));
    memcpy(buffers, plan->buffers, plan->buffer_count * sizeof(*buffers));
    Buffer *fresh = &buffers[plan->buffer_count];
    *fresh = buffers[like];
    fresh->name = "fresh";
    if (fresh->kind == BUFFER_TEMPORARY)
        fresh->kind = BUFFER_INPUT;
    uint64_t bytes;
    cr_assert(plan_buffer_bytes(plan, fresh, &bytes));
    fresh->offset = plan->arena_bytes;
    plan->arena_bytes += bytes;
    plan->buffers = buffers;
    return (int32_t)plan->buffer_count++;
}

// Lowered plans claim no traffic yet: what is left must hold.
static bool is_refused(const Plan *plan)
{
    bool refused = !plan_verify(plan, &report), before_traffic = false;
    for (uint32_t i = 0; i < verify_report_count(&report); i++)
        before_traffic |= report.items[i].property < PROPERTY_TRAFFIC;
    return refused && before_traffic;
}

// Other tokens, and weights or what is kept of them for the next iteration, that a step alone uses in place of the
// plan's own: as good as those.
static bool may_be_another(const OpInfo *info, uint32_t operand, Pass pass)
{
    Operand of = info->operands[operand].operand;
    return of == OPERAND_tokens || of == OPERAND_state || of == OPERAND_sent || of == OPERAND_error ||
           (pass == PASS_FORWARD && info->op == OP_GATHER);
}

// Nothing is taken in the place of what a step reads, however well it fits.
Test(verify, nothing_else_is_read_in_the_place_of_an_operand)
{
    for (int variant = 0; variant < 6; variant++) {
        Arena *arena = arena_create();
        Plan *plan = lowered_variant(variant, arena);
        bool seen[OP_CODES][OPERANDS_MAX] = {{false}};
        cr_assert(!is_refused(plan), "variant %d: %s", variant, report.items[0].message);
        for (uint32_t i = 0; i < plan->step_count; i++) {
            const OpInfo *info = op_info((int)plan->steps[i].op);
            for (uint32_t k = 0; k < info->operand_count; k++) {
                int32_t *operand = &plan->operands[plan->steps[i].operand_first + k], before = *operand;
                if (before == NONE || info->operands[k].role == ROLE_OUT || seen[info->op][k])
                    continue;
                seen[info->op][k] = true;
                Plan changed = *plan;
                *operand = add_like(&changed, before);
                cr_assert(is_refused(&changed) || may_be_another(info, k, plan->pass), "variant %d: '%s' of '%s'",
                          variant, info->operands[k].name, info->name);
                *operand = before;
            }
        }
        plan_destroy(plan);
        arena_destroy(arena);
    }
}

Test(verify, traffic)
{
    EXPECT(plan->steps[PLAN_COMBINE].bytes += 1e-3, TRAFFIC, NONE, "level 'dc': the steps send");
    EXPECT(plan->steps[PLAN_DISPATCH].bytes += 5;
           plan->steps[PLAN_COMBINE].bytes -= 5, TRAFFIC, PLAN_COMBINE,
           "sends 1.6875 rows, step 5, which exchanges the same ones, 2.2083333333333335");
    EXPECT(plan->strategies[0].traffic[0].exchange_bytes += 5;
           plan->strategies[0].traffic[0].routing_bytes -= 5, TRAFFIC, NONE,
           "level 'dc': the steps send 64 bytes of rows, the strategy says 69");
    EXPECT(plan->strategies[0].traffic[1].gather_bytes = 0, TRAFFIC, NONE, "bytes of experts, the strategy says 0");
    EXPECT(plan->strategies[0].traffic[1].reduce_bytes = 5, TRAFFIC, NONE,
           "level 'gpu': the steps send 0 bytes of gradients");
    EXPECT(plan->strategy_count = 0, TRAFFIC, NONE, "the strategy says 0");
    Plan *plan = plan_of_four_ranks();
    plan->steps[PLAN_COMBINE].bytes *= 1 + 1e-12; // a sum in another order
    expect_valid(plan);
    plan_destroy(plan);
}

Test(verify, sizes)
{
    EXPECT(buffer(plan, "x")->rows = 1, SIZES, 0, "has 1 rows, expected 2");
    EXPECT(buffer(plan, "summed")->rows = 1, SIZES, PLAN_UNROUTE, "has 1 rows, expected 2");
    EXPECT(buffer(plan, "origin")->rows = 3, SIZES, PLAN_ROUTE, "has 3 rows, expected 4");
    EXPECT(plan->model.top_k = 2, SIZES, PLAN_ROUTE, "expected 4 for 2 record(s) a row");
    EXPECT(buffer(plan, "dense")->layer = NONE, SIZES, PLAN_PRE_EXPERT, "is of another layer");
    EXPECT(buffer(plan, "dense")->kind = BUFFER_INPUT, SIZES, PLAN_PRE_EXPERT, "expected a weight");
    EXPECT(plan->model.layers = 2, SIZES, NONE, "the schedule computes attention 1 times, expected 2 for 2 layers");
}

static uint32_t find_buffer(const Plan *plan, BufferKind kind, BufferSpan span)
{
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        if (plan->buffers[b].kind == kind && plan->buffers[b].span == span)
            return b;
    abort();
}

// Eight values lie one after another, and what is always alive in the place of the last one: seen by those who look at
// all micro-batches.
Test(verify, every_value_has_its_place)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    spec.plan.pass = PASS_TRAINING;
    spec.plan.micro_batches = 8;
    Arena *arena = arena_create();
    double bytes;
    Plan *plan = lower_uniform(workload_derive(&spec, arena), &(Config){.domain = {2, 1}}, DISPATCH_DEDUP, &bytes);
    Buffer *all = &plan->buffers[find_buffer(plan, BUFFER_TEMPORARY, SPAN_ALL)];
    Buffer *state = &plan->buffers[find_buffer(plan, BUFFER_STATE, SPAN_ITERATION)];
    uint64_t value, of_state;
    cr_assert(buffer_aligned_bytes(all, &value) && buffer_aligned_bytes(state, &of_state));
    all->offset = plan->arena_bytes;
    state->offset = all->offset + 8 * value;
    plan->arena_bytes = state->offset + of_state;
    cr_assert(!is_refused(plan), "%s", report.items[0].message);
    state->offset -= value;
    cr_assert(is_refused(plan));
    cr_assert_eq(report.items[0].property, PROPERTY_MEMORY);
    plan_destroy(plan);
    arena_destroy(arena);
}

Test(verify, what_has_no_buffers_has_one_micro_batch)
{
    Spec spec = spec_one_tier(4, 1e9, 1e-4, 1e6, 1e6, 1e-3);
    spec.plan.pass = PASS_TRAINING;
    Arena *arena = arena_create();
    double bytes;
    Plan *plan = lower_uniform(workload_derive(&spec, arena), &(Config){.domain = {4}}, DISPATCH_NAIVE, &bytes);
    plan->micro_batches = 2;
    cr_assert(is_refused(plan));
    bool said = false;
    for (uint32_t i = 0; i < verify_report_count(&report); i++)
        said |= report.items[i].property == PROPERTY_LOOP && strstr(report.items[i].message, "has no buffers");
    cr_assert(said, "%s", report.items[0].message);
    plan_destroy(plan);
    arena_destroy(arena);
}

// Of weights that are gathered again one level is, at least, even where nothing is gathered.
Test(verify, claims_of_training_plans)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    spec.plan.pass = PASS_TRAINING;
    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    Candidate candidate = {.config = {.domain = {1, 1}}};
    cost_iteration(work, &candidate.config, spec.plan.dispatch, &candidate.cost);
    Plan *plan = lowered_plan(&spec, work, &candidate);
    plan->choices[0].regather = true;
    plan->choices[0].once = 1;
    expect_valid(plan);
    plan->choices[0].once = 2;
    expect_violation(plan, PROPERTY_CLAIMS, NONE, "kept over 2 outermost levels, expected at most 1");
    arena_destroy(arena);
}

Test(verify, claims)
{
    EXPECT(plan->iteration_s = 99, CLAIMS, NONE, "iteration time of the chosen strategy");
    EXPECT(plan->model.expert_bytes = 7, CLAIMS, NONE, "expert_bytes is given as 7, it is 128");
    EXPECT(plan->model.data_bytes = 5, CLAIMS, NONE, "data_bytes is given as 5, it is 32");
    EXPECT(plan->strategies[0].memory_bytes = 4, CLAIMS, NONE, "memory of the chosen strategy");
    EXPECT(plan->strategies[0].fits = false, CLAIMS, NONE, "said not to fit");
    EXPECT((plan->strategy_count = 1, plan->strategies[0].fits = false), CLAIMS, NONE, "said not to fit");
    EXPECT(plan->cluster.device.memory_bytes = 1000, CLAIMS, NONE, "exceed the device's 1000");
    EXPECT(plan->engine_bytes = 4096, CLAIMS, NONE, "memory of the chosen strategy");
    EXPECT(plan->choices[0].regather = true, CLAIMS, NONE, "gathers again in a forward pass");
    EXPECT(plan->experts.ratio = 2, CLAIMS, NONE, "ratio of dense migration");
    EXPECT(plan->experts.codec = CODEC_SR, CLAIMS, NONE, "experts are not encoded");
    EXPECT(plan->strategies[1].name = "hybrid", CLAIMS, NONE, "two strategies are called 'hybrid'");
    Plan *plan = plan_of_four_ranks();
    plan->cluster.device.memory_bytes = plan_memory_bytes(plan); // all of it
    expect_valid(plan);
    plan_destroy(plan);
}
