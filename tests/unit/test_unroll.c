// The loop over micro-batches (ir/unroll.h): a plan whose order, waits and values are written down by hand; random
// plans against the rule as its comment has it; and what order, waits and memory of two and three micro-batches say of
// more.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "ir/order.h"
#include "ir/unroll.h"
#include "specs.h"

// ---- by hand -------------------------------------------------------------------------------------

enum { EMBED, GATHER, ATTENTION, DISPATCH, EXPERT, CLEAR, LOSS, OPTIMIZER, STEPS };
enum { TOKENS, WEIGHTS, HELD, X, Y, ROWS, SUM, BUFFERS };

// Three segments: the embedding; a layer, whose attention waits for the rows that it is about to write again to be
// sent; and the end, whose steps wait for the last micro-batch of the layer.
typedef struct {
    Plan plan;
    Step steps[STEPS];
    Buffer buffers[BUFFERS];
    int32_t operands[64];
    uint32_t after[16];
} Toy;

static void add_step(Toy *toy, Op op, int32_t layer, StepWhen when, const int *after)
{
    Step *step = &toy->steps[toy->plan.step_count++];
    *step = (Step){.op = op, .layer = layer, .level = NONE, .group = NONE, .when = when, .cost_s = 1};
    step->after_first = toy->plan.after_count;
    for (; after && *after >= 0; after++, step->after_count++)
        toy->after[toy->plan.after_count++] = (uint32_t)*after;
    step->operand_first = toy->plan.operand_count;
    for (uint32_t k = 0; k < op_info((int)op)->operand_count; k++)
        toy->operands[toy->plan.operand_count++] = NONE;
}

static void use(Toy *toy, uint32_t step, Operand operand, int32_t buffer)
{
    toy->operands[toy->steps[step].operand_first +
                  (uint32_t)op_operand_index(op_info((int)toy->steps[step].op), operand)] = buffer;
}

static void toy_init(Toy *toy)
{
    memset(toy, 0, sizeof(*toy));
    toy->plan = (Plan){.steps = toy->steps,
                       .buffers = toy->buffers,
                       .operands = toy->operands,
                       .after = toy->after,
                       .buffer_count = BUFFERS,
                       .micro_batches = 3};
    static const BufferSpan spans[] = {SPAN_ALL,         SPAN_ITERATION,   SPAN_ITERATION, SPAN_ALL,
                                       SPAN_MICRO_BATCH, SPAN_MICRO_BATCH, SPAN_ITERATION};
    for (int b = 0; b < BUFFERS; b++) // 400 bytes, 512 from one to the next
        toy->buffers[b] =
            (Buffer){.name = "b", .dtype = DTYPE_F32, .rows = 10, .cols = 10, .span = spans[b], .offset = 4096u * b};
    add_step(toy, OP_EMBED, NONE, WHEN_EVERY, NULL);
    add_step(toy, OP_GATHER, 0, WHEN_FIRST, NULL);
    add_step(toy, OP_PRE_EXPERT, 0, WHEN_EVERY, (const int[]){DISPATCH, -1});
    add_step(toy, OP_DISPATCH, 0, WHEN_EVERY, (const int[]){ATTENTION, -1});
    add_step(toy, OP_EXPERT, 0, WHEN_EVERY, (const int[]){GATHER, DISPATCH, -1});
    add_step(toy, OP_CLEAR, NONE, WHEN_FIRST, NULL);
    add_step(toy, OP_LOSS, NONE, WHEN_EVERY, (const int[]){DISPATCH, -1});
    add_step(toy, OP_OPTIMIZER, NONE, WHEN_LAST, (const int[]){GATHER, DISPATCH, -1});
    use(toy, EMBED, OPERAND_tokens, TOKENS);
    use(toy, EMBED, OPERAND_x, X);
    use(toy, GATHER, OPERAND_shard, WEIGHTS);
    use(toy, GATHER, OPERAND_gathered, HELD);
    use(toy, ATTENTION, OPERAND_x, X);
    use(toy, ATTENTION, OPERAND_y, Y);
    use(toy, DISPATCH, OPERAND_send_rows, Y);
    use(toy, DISPATCH, OPERAND_next_rows, ROWS);
    use(toy, EXPERT, OPERAND_rows, ROWS);
    use(toy, CLEAR, OPERAND_sum, SUM);
    use(toy, LOSS, OPERAND_tokens, TOKENS);
    use(toy, OPTIMIZER, OPERAND_gradient, SUM);
}

typedef struct {
    uint32_t written, micro_batch;
    int after[3]; // ends with -1
} Execution;

static void expect_executions(const Plan *unrolled, const Execution *expected, uint32_t count)
{
    cr_assert_eq(unrolled->step_count, count);
    for (uint32_t i = 0; i < count; i++) {
        const Step *step = &unrolled->steps[i];
        cr_expect(step->written == expected[i].written && step->micro_batch == expected[i].micro_batch,
                  "%u: step %u of micro-batch %u, expected %u of %u", i, step->written, step->micro_batch,
                  expected[i].written, expected[i].micro_batch);
        uint32_t waits = 0;
        while (expected[i].after[waits] >= 0)
            waits++;
        cr_assert_eq(step->after_count, waits, "%u: %u waits, expected %u", i, step->after_count, waits);
        for (uint32_t k = 0; k < waits; k++)
            cr_expect_eq(unrolled->after[step->after_first + k], (uint32_t)expected[i].after[k], "%u waits for %u", i,
                         unrolled->after[step->after_first + k]);
    }
}

// Weights are gathered before all micro-batches of their layer. Attention of the second micro-batch waits for the rows
// of the first (5), that of the first for nothing. The expert waits for the gather once. The loss of all micro-batches
// comes after the layer's last rows (11), which its first execution waits for.
static const Execution three[] = {
    {EMBED, 0, {-1}},        {EMBED, 1, {-1}},        {EMBED, 2, {-1}},
    {GATHER, 0, {-1}},       {ATTENTION, 0, {-1}},    {DISPATCH, 0, {4, -1}},
    {EXPERT, 0, {3, 5, -1}}, {ATTENTION, 1, {5, -1}}, {DISPATCH, 1, {7, -1}},
    {EXPERT, 1, {8, -1}},    {ATTENTION, 2, {8, -1}}, {DISPATCH, 2, {10, -1}},
    {EXPERT, 2, {11, -1}},   {CLEAR, 0, {-1}},        {LOSS, 0, {11, -1}},
    {LOSS, 1, {-1}},         {LOSS, 2, {-1}},         {OPTIMIZER, 2, {3, 11, -1}},
};
static const Execution one[] = {
    {EMBED, 0, {-1}},        {GATHER, 0, {-1}}, {ATTENTION, 0, {-1}}, {DISPATCH, 0, {2, -1}},
    {EXPERT, 0, {1, 3, -1}}, {CLEAR, 0, {-1}},  {LOSS, 0, {3, -1}},   {OPTIMIZER, 0, {1, 3, -1}},
};

Test(unroll, executions_and_waits)
{
    Toy toy;
    toy_init(&toy);
    Arena *arena = arena_create();
    expect_executions(plan_unroll_all(&toy.plan, arena), three, COUNT_OF(three));
    expect_executions(plan_unroll_steps(&toy.plan, (Laps){1, 3}, arena), three, COUNT_OF(three));
    expect_executions(plan_unroll(&toy.plan, (Laps){1, 1}, arena), one, COUNT_OF(one));
    arena_destroy(arena);
}

// Four micro-batches, two abreast. The layer has two phases, as the expert follows the exchange: attention and rows of
// both, then experts of both, each after its own rows. Attention of the third waits for the rows of the first (6), that
// of the fourth for those of the second (8).
static const Execution abreast[] = {
    {EMBED, 0, {-1}},
    {EMBED, 1, {-1}},
    {EMBED, 2, {-1}},
    {EMBED, 3, {-1}},
    {GATHER, 0, {-1}},
    {ATTENTION, 0, {-1}},
    {DISPATCH, 0, {5, -1}},
    {ATTENTION, 1, {-1}},
    {DISPATCH, 1, {7, -1}},
    {EXPERT, 0, {4, 6, -1}},
    {EXPERT, 1, {8, -1}},
    {ATTENTION, 2, {6, -1}},
    {DISPATCH, 2, {11, -1}},
    {ATTENTION, 3, {8, -1}},
    {DISPATCH, 3, {13, -1}},
    {EXPERT, 2, {12, -1}},
    {EXPERT, 3, {14, -1}},
    {CLEAR, 0, {-1}},
    {LOSS, 0, {14, -1}},
    {LOSS, 1, {-1}},
    {LOSS, 2, {-1}},
    {LOSS, 3, {-1}},
    {OPTIMIZER, 3, {4, 14, -1}},
};

Test(unroll, micro_batches_abreast)
{
    Toy toy;
    toy_init(&toy);
    toy.plan.micro_batches = 4;
    toy.plan.abreast = 2;
    Arena *arena = arena_create();
    uint32_t phases[4];
    cr_expect_eq(plan_phases(&toy.plan, GATHER, CLEAR, phases), 2);
    static const uint32_t expected[] = {0, 0, 0, 1};
    for (int s = 0; s < 4; s++)
        cr_expect_eq(phases[s], expected[s], "step %d of the layer", s);
    const Plan *unrolled = plan_unroll_all(&toy.plan, arena);
    expect_executions(unrolled, abreast, COUNT_OF(abreast));
    expect_executions(plan_unroll(&toy.plan, (Laps){1, 1}, arena), one, COUNT_OF(one));
    cr_expect_eq(plan_buffer_values(&toy.plan, &toy.buffers[X]), 4);
    cr_expect_eq(plan_buffer_values(&toy.plan, &toy.buffers[Y]), 2); // one each, in turns
    const uint32_t *first = plan_first_values(&toy.plan, (Laps){1, 4}, arena);
    for (uint32_t i = 0; i < 4; i++)
        cr_expect_eq(unrolled->buffers[first[Y] + i].offset, toy.buffers[Y].offset + i % 2 * 512);
    arena_destroy(arena);
}

Test(unroll, segments_are_runs_of_steps_of_a_layer)
{
    Toy toy;
    toy_init(&toy);
    static const uint32_t ends[STEPS] = {1, 5, 5, 5, 5, 8, 8, 8};
    for (uint32_t s = 0; s < STEPS; s++)
        cr_expect_eq(plan_segment_end(&toy.plan, s), ends[s], "step %u", s);
}

static void expect_operand(const Plan *plan, uint32_t step, Operand operand, int32_t buffer)
{
    int32_t found = step_operand(plan, &plan->steps[step], operand);
    cr_expect_eq(found, buffer, "step %u: '%s' is buffer %d, expected %d", step, operand_name(operand), found, buffer);
}

// 0-2 tokens, 3 weights, 4 held, 5-7 x, 8-10 y, 11-13 rows, 14 sum.
Test(unroll, values_are_buffers)
{
    Toy toy;
    toy_init(&toy);
    Arena *arena = arena_create();
    const Plan *unrolled = plan_unroll_all(&toy.plan, arena);
    static const uint64_t offsets[] = {0,     512,   1024,  4096,  8192,  12288, 12800, 13312,
                                       16384, 16384, 16384, 20480, 20480, 20480, 24576};
    cr_assert_eq(unrolled->buffer_count, COUNT_OF(offsets));
    for (uint32_t b = 0; b < unrolled->buffer_count; b++)
        cr_expect_eq(unrolled->buffers[b].offset, offsets[b], "value %u lies at %u", b,
                     (unsigned)unrolled->buffers[b].offset);
    const uint32_t *first = plan_first_values(&toy.plan, (Laps){1, 3}, arena);
    static const uint32_t firsts[] = {0, 3, 4, 5, 8, 11, 14, 15};
    for (int b = 0; b <= BUFFERS; b++)
        cr_expect_eq(first[b], firsts[b]);
    expect_operand(unrolled, 1, OPERAND_tokens, 1);
    expect_operand(unrolled, 2, OPERAND_x, 7);
    expect_operand(unrolled, 2, OPERAND_embedding, NONE);
    expect_operand(unrolled, 3, OPERAND_gathered, 4);
    expect_operand(unrolled, 7, OPERAND_x, 6);
    expect_operand(unrolled, 8, OPERAND_send_rows, 9);
    expect_operand(unrolled, 8, OPERAND_next_rows, 12);
    expect_operand(unrolled, 13, OPERAND_sum, 14);
    expect_operand(unrolled, 16, OPERAND_tokens, 2);
    expect_operand(unrolled, 17, OPERAND_gradient, 14);
    expect_operand(plan_unroll_steps(&toy.plan, (Laps){1, 3}, arena), 8, OPERAND_next_rows, ROWS);
    arena_destroy(arena);
}

Test(unroll, what_is_unrolled_stays)
{
    Toy toy;
    toy_init(&toy);
    Arena *arena = arena_create();
    const Plan *unrolled = plan_unroll_all(&toy.plan, arena);
    cr_expect_eq(plan_unroll(unrolled, (Laps){1, 5}, arena), unrolled);
    cr_expect_eq(unrolled->micro_batches, 3);
    cr_expect(unrolled->unrolled && !toy.plan.unrolled);
    toy.plan.micro_batches = 1;
    cr_expect_eq(plan_unroll_all(&toy.plan, arena), &toy.plan);
    arena_destroy(arena);
}

Test(unroll, counts_and_bytes)
{
    Toy toy;
    toy_init(&toy);
    uint64_t bytes;
    cr_expect_eq(plan_step_runs(&toy.plan, &toy.steps[EMBED]), 3);
    cr_expect_eq(plan_step_runs(&toy.plan, &toy.steps[GATHER]), 1);
    cr_expect_eq(plan_step_runs(&toy.plan, &toy.steps[OPTIMIZER]), 1);
    cr_expect_eq(plan_buffer_values(&toy.plan, &toy.buffers[X]), 3);
    cr_expect_eq(plan_buffer_values(&toy.plan, &toy.buffers[Y]), 1); // one after the other
    cr_expect(plan_buffer_bytes(&toy.plan, &toy.buffers[X], &bytes) && bytes == 3 * 512);
    cr_expect(plan_buffer_bytes(&toy.plan, &toy.buffers[Y], &bytes) && bytes == 512);
    toy.buffers[X].rows = UINT64_C(1) << 56;
    toy.buffers[X].cols = 16; // 2^62 bytes are addressed once
    cr_expect(!plan_buffer_bytes(&toy.plan, &toy.buffers[X], &bytes));
    toy.buffers[X].span = SPAN_MICRO_BATCH;
    cr_expect(plan_buffer_bytes(&toy.plan, &toy.buffers[X], &bytes) && bytes == UINT64_C(1) << 62);
}

// ---- lowered plans -------------------------------------------------------------------------------

enum { MOST = 6 };

static Spec random_spec(uint32_t micro_batches)
{
    static const uint32_t shapes[][3] = {{2, 2, 0}, {1, 4, 0}, {2, 2, 2}, {3, 2, 0}};
    Spec spec = spec_small_gpt(shapes[rand() % 4], 12, 1 + (uint32_t)(rand() % 2));
    spec.model.layers = 1 + (uint32_t)(rand() % 3);
    spec.model.first_dense = spec.model.layers > 1 ? (uint32_t)(rand() % 2) : 0;
    spec.model.ffn_inner = 24;
    spec.model.shared_experts = (uint32_t)(rand() % 2);
    spec.model.dtype = rand() % 2 ? DTYPE_F32 : DTYPE_BF16;
    spec.training.clip = rand() % 2 ? 1 : 0;
    spec.plan.pass = PASS_TRAINING;
    spec.plan.experts.codec = (Codec)(rand() % CODEC_COUNT);
    spec.plan.experts.ratio = spec.plan.experts.codec == CODEC_SR || spec.plan.experts.codec == CODEC_DELTA ? 7.5 : 1;
    spec.plan.shared_every = spec.plan.experts.codec == CODEC_SR ? 2 : 0;
    spec.plan.regather_dense = rand() % 2;
    spec.plan.micro_batches = micro_batches;
    spec.plan.recomputes = rand() % 2;
    spec.plan.interleaves = rand() % 2;
    spec.plan.regather_embedding = rand() % 2;
    spec.plan.returns_apart = rand() % 2;
    spec.plan.gradient_levels = (uint32_t)rand() % spec.cluster.level_count;
    return spec;
}

static Plan *random_plan(uint32_t micro_batches, PlanPassSet passes, Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = random_spec(micro_batches);
    if (spec->plan.experts.codec == CODEC_SR) // parts of experts have no mean
        spec->model.experts = (uint32_t)cluster_gpus(&spec->cluster);
    Workload *work = workload_derive(spec, arena);
    Candidate *candidates;
    size_t count;
    double bytes;
    cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
    Config *configs = arena_alloc_array(arena, work->moe_count + 1, sizeof(*configs));
    for (uint32_t k = 0; k < work->moe_count; k++)
        configs[k] = candidates[(size_t)rand() % count].config;
    Mix mix = {.configs = configs, .prefetch = (uint32_t)rand() % 2 ? PREFETCH_UNLIMITED : (uint32_t)rand() % 2};
    return lower_with(work, &mix, spec->plan.dispatch, passes, &bytes);
}

// The latest of the executions before `at` of the step, or that in the micro-batch; -1.
static int64_t find_execution(const Plan *all, uint32_t at, uint32_t step, int64_t micro_batch)
{
    for (uint32_t e = at; e-- > 0;)
        if (all->steps[e].written == step && (micro_batch < 0 || all->steps[e].micro_batch == micro_batch))
            return e;
    return -1;
}

// In which turn of its segment a step is: after how many exchanges that computation follows.
static uint32_t turn_of(const Plan *plan, uint32_t first, uint32_t step)
{
    uint32_t turn = 0;
    bool travels = false;
    for (uint32_t s = first; s <= step; s++) {
        Stream stream = step_stream(plan, &plan->steps[s]);
        turn += travels && stream == STREAM_COMPUTE;
        travels = stream == STREAM_EXCHANGE || (travels && stream != STREAM_COMPUTE);
    }
    return turn;
}

// The order and the waits of unroll.h's first comment, straight from its words.
static void check_by_the_rule(const Plan *plan, uint32_t count, Arena *arena)
{
    uint32_t together = plan->abreast > 0 && count % plan->abreast == 0 ? plan->abreast : 1;
    const Plan *unrolled = plan_unroll(plan, (Laps){1, count}, arena);
    Plan *all = arena_alloc(arena, sizeof(*all)); // with every wait that the rule names
    *all = *unrolled;
    all->steps = arena_alloc_array(arena, unrolled->step_count, sizeof(*all->steps));
    all->after = arena_alloc_array(arena, (size_t)count * plan->after_count + 1, sizeof(*all->after));
    all->after_count = 0;
    uint32_t at = 0;
    for (uint32_t first = 0, end; first < plan->step_count; first = end) {
        for (end = first; end < plan->step_count && plan->steps[end].layer == plan->steps[first].layer;)
            end++;
        uint32_t turns = together > 1 ? turn_of(plan, first, end - 1) + 1 : 1;
        for (uint32_t n = 0; n < count * turns * (end - first); n++) {
            uint32_t s = first + n % (end - first), rest = n / (end - first);
            uint32_t turn = rest / together % turns, i = rest / together / turns * together + rest % together;
            StepWhen when = plan->steps[s].when;
            if ((when == WHEN_FIRST && i > 0) || (when == WHEN_LAST && i + 1 < count) ||
                (together > 1 && turn_of(plan, first, s) != turn))
                continue;
            Step *step = &all->steps[at];
            *step = unrolled->steps[at];
            cr_assert(step->written == s && step->micro_batch == i);
            step->after_first = all->after_count;
            for (uint32_t k = 0; k < plan->steps[s].after_count; k++) {
                uint32_t other = plan->after[plan->steps[s].after_first + k];
                bool near = together > 1 && other >= first && other < end && plan->steps[other].when == WHEN_EVERY;
                int64_t of = other < s ? i : (int64_t)i - together;
                int64_t e = near && of < 0 ? -1 : find_execution(all, at, other, near ? of : -1);
                if (e >= 0)
                    all->after[all->after_count++] = (uint32_t)e;
            }
            step->after_count = all->after_count - step->after_first;
            at++;
        }
    }
    cr_assert_eq(at, unrolled->step_count);
    const Order *have = order_create(unrolled, arena), *want = order_create(all, arena);
    for (uint32_t a = 0; a < at; a++)
        for (uint32_t b = 0; b < at; b++)
            cr_assert_eq(order_before(have, a, b), order_before(want, a, b), "%u and %u", a, b);
}

Test(unroll, random_plans_follow_the_rule)
{
    srand(31);
    for (int i = 0; i < 24; i++) {
        Arena *arena = arena_create();
        uint32_t count = 2 + (uint32_t)(rand() % 3);
        Plan *plan = random_plan(count, PLAN_PASSES_NONE, arena);
        check_by_the_rule(plan, 1, arena);
        check_by_the_rule(plan, count, arena);
        plan_destroy(plan);
        arena_destroy(arena);
    }
}

// What three micro-batches do not need, more do not need: the same happens before the same in six.
Test(unroll, waits_that_are_dropped_order_nothing)
{
    srand(32);
    uint32_t dropped = 0;
    for (int i = 0; i < 24; i++) {
        Arena *arena = arena_create();
        Plan *plan = random_plan(MOST, PLAN_PASSES_NONE, arena);
        const Plan *before = plan_unroll_all(plan, arena);
        const Order *want = order_create(before, arena);
        dropped += order_prune_after(plan);
        const Order *have = order_create(plan_unroll_all(plan, arena), arena);
        for (uint32_t a = 0; a < before->step_count; a++)
            for (uint32_t b = 0; b < before->step_count; b++)
                cr_assert_eq(order_before(have, a, b), order_before(want, a, b), "plan %d: %u and %u", i, a, b);
        plan_destroy(plan);
        arena_destroy(arena);
    }
    cr_assert_gt(dropped, 0);
}

static bool meet(const Buffer *a, const Buffer *b)
{
    return buffer_bytes(a) && buffer_bytes(b) && a->offset < b->offset + buffer_bytes(b) &&
           b->offset < a->offset + buffer_bytes(a);
}

// Every pair of executions that touch the same value, one of them writing, is ordered.
static void check_races(const Plan *plan, const Order *order)
{
    for (uint32_t a = 0; a < plan->step_count; a++)
        for (uint32_t b = a + 1; b < plan->step_count; b++) {
            const OpInfo *x = op_info((int)plan->steps[a].op), *y = op_info((int)plan->steps[b].op);
            bool commute = plan->steps[a].op == OP_ALL_REDUCE && plan->steps[b].op == OP_ALL_REDUCE;
            for (uint32_t k = 0; k < x->operand_count && !commute; k++)
                for (uint32_t m = 0; m < y->operand_count; m++) {
                    int32_t p = step_operands(plan, &plan->steps[a])[k], q = step_operands(plan, &plan->steps[b])[m];
                    bool writes = x->operands[k].role != ROLE_IN || y->operands[m].role != ROLE_IN;
                    cr_assert(p == NONE || p != q || !writes || order_before(order, a, b),
                              "'%s' of micro-batch %u and '%s' of %u race on '%s'", x->name, plan->steps[a].micro_batch,
                              y->name, plan->steps[b].micro_batch, plan->buffers[p].name);
                }
        }
}

// Lowering and verifier look at no more than three micro-batches; six are as sound, pair by pair.
Test(unroll, six_micro_batches_are_as_sound_as_three)
{
    srand(33);
    for (int i = 0; i < 16; i++) {
        Arena *arena = arena_create();
        Plan *plan = random_plan(MOST, PLAN_PASSES_ALL, arena);
        const Plan *unrolled = plan_unroll_all(plan, arena);
        const Order *order = order_create(unrolled, arena);
        const Lifetimes *lifetimes = lifetimes_create(unrolled, order, arena);
        check_races(unrolled, order);
        for (uint32_t a = 0; a < unrolled->buffer_count; a++)
            for (uint32_t b = 0; b < a; b++)
                cr_assert(!meet(&unrolled->buffers[a], &unrolled->buffers[b]) || lifetimes_disjoint(lifetimes, a, b),
                          "plan %d: '%s' and '%s' share memory", i, unrolled->buffers[a].name,
                          unrolled->buffers[b].name);
        for (uint32_t b = 0; b < unrolled->buffer_count; b++)
            cr_assert_leq(unrolled->buffers[b].offset + buffer_bytes(&unrolled->buffers[b]), plan->arena_bytes);
        plan_destroy(plan);
        arena_destroy(arena);
    }
}
