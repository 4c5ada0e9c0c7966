// Lowered schedules: every configuration of random models verifies and survives both file forms, the
// planner's memory figures are what the plan allocates, and the two-tier example of HybridEP comes
// out as published.
// builds: dev fast  seconds: 6
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/footprint.h"
#include "effort.h"
#include "grammar/ast.h"
#include "ir/binary.h"
#include "ir/simulate/simulate.h"
#include "ir/text/plan_text.h"
#include "ir/unroll.h"
#include "ir/verify/verify.h"
#include "lowered.h"
#include "specs.h"

// Names as long as the language allows that differ in the last character: buffers are called by them.
#define LONGEST "ddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
static const char *const longest_names[] = {LONGEST "a", LONGEST "b", LONGEST "c"};
_Static_assert(sizeof(LONGEST) == NAME_LENGTH_MAX, "a character less, and the end");

static Spec random_spec(void)
{
    static const uint32_t shapes[][3] = {{2, 4, 0}, {3, 2, 0}, {2, 2, 2}, {1, 4, 0}, {4, 1, 2}};
    const uint32_t *shape = shapes[rand() % 5];
    uint32_t ranks = shape[0] * shape[1] * (shape[2] ? shape[2] : 1);
    Spec spec = spec_small_gpt(shape, ranks * (1 + (uint32_t)(rand() % 2)), 1 + (uint32_t)(rand() % 2));
    spec.model.layers = 1 + (uint32_t)(rand() % 14);
    spec.model.first_dense = spec.model.layers > 4 ? (uint32_t)(rand() % 3) : 0;
    spec.model.every = spec.model.layers > 4 ? 1 + (uint32_t)(rand() % 2) : 1;
    spec.model.ffn_inner = 24;
    spec.model.shared_experts = (uint32_t)(rand() % 2);
    spec.model.dtype = (Dtype)(rand() % 3);
    spec.model.activation = (Activation)(rand() % ACTIVATION_COUNT);
    spec.plan.pass = (Pass)(rand() % 2);
    spec.plan.dispatch = (Dispatch)(rand() % 2);
    spec.plan.experts.codec = (Codec)(rand() % CODEC_COUNT);
    spec.plan.experts.ratio = spec.plan.experts.codec == CODEC_SR || spec.plan.experts.codec == CODEC_DELTA ? 7.5 : 1;
    spec.plan.capacity = rand() % 2 ? 1.5 : 0;
    spec.plan.exchange = spec.plan.capacity > 0 ? (ExchangeKind)(spec.model.layers % 2) : EXCHANGE_COUNTED;
    if (shape[0] > 1 && rand() % 3 == 0) { // copies, or parts of experts, which have no mean
        bool training = spec.plan.pass == PASS_TRAINING;
        spec.replica_levels = !training;
        spec.model.experts = ranks / shape[0];
        spec.plan.experts.codec =
            training && spec.plan.experts.codec == CODEC_SR ? CODEC_DELTA : spec.plan.experts.codec;
        spec.model.top_k = spec.model.experts > 1 ? spec.model.top_k : 1;
    }
    for (uint32_t l = 0; l < spec.cluster.level_count && spec.model.layers % 2; l++)
        spec.cluster.levels[l].name = longest_names[l];
    return spec;
}

static void random_dense_coding(Spec *spec)
{
    static const Codec codecs[] = {CODEC_DENSE, CODEC_DELTA, CODEC_SIGN, CODEC_Q4};
    Coding *dense = &spec->plan.dense;
    dense->codec = codecs[rand() % 4];
    dense->ratio = dense->codec == CODEC_DELTA ? 8 : 1;
    dense->gradient = (GradientReturn)(rand() % GRADIENT_COUNT);
    dense->gradient_ratio = dense->gradient == GRADIENT_TOPK ? 9 : 1;
    if (coding_encodes(dense))
        dense->whole_levels = (uint32_t)rand() % spec->cluster.level_count;
    spec->plan.whole_iterations = spec_encodes(spec) && rand() % 3 == 0 ? 5 : 0;
}

// Training in several micro-batches, also in laps, with activations kept or computed again.
static Spec random_looped_spec(void)
{
    Spec spec = random_spec();
    spec.plan.pass = PASS_TRAINING;
    spec.replica_levels = 0;
    if (spec.model.experts % cluster_gpus(&spec.cluster) && spec.plan.experts.codec == CODEC_SR) // parts have no mean
        spec.plan.experts.codec = CODEC_DELTA;
    spec.model.layers = 1 + (spec.model.layers - 1) % 5;
    spec.model.first_dense = spec.model.layers > 3 ? spec.model.first_dense : 0;
    spec.model.every = spec.model.layers > 3 ? spec.model.every : 1;
    spec.training.clip = rand() % 2 ? 1 : 0;
    spec.plan.shared_every = spec.plan.experts.codec == CODEC_SR && rand() % 2 ? 3 : 0;
    spec.plan.experts.gradient = (GradientReturn)(rand() % GRADIENT_COUNT);
    spec.plan.experts.gradient_ratio = spec.plan.experts.gradient == GRADIENT_TOPK ? 9 : 1;
    if (spec.plan.experts.gradient != GRADIENT_DENSE || spec.plan.experts.codec != CODEC_DENSE)
        spec.plan.experts.whole_levels = (uint32_t)rand() % spec.cluster.level_count;
    static const uint32_t loops[][2] = {{1, 0}, {2, 0}, {3, 0}, {5, 0}, {2, 1},
                                        {4, 2}, {6, 2}, {6, 3}, {3, 1}, {12, 3}};
    random_dense_coding(&spec);
    int loop = rand() % (spec_encodes(&spec) ? 4 : 10); // laps bring no packets
    spec.plan.micro_batches = loops[loop][0];
    spec.plan.lap = loops[loop][1];
    spec.plan.recomputes = rand() % 2;
    spec.plan.regather_dense = rand() % 2;
    spec.plan.interleaves = rand() % 2;
    spec.plan.regather_embedding = spec.plan.recomputes != spec.plan.interleaves;
    spec.plan.returns_apart = !spec_encodes(&spec) && rand() % 2;
    spec.plan.gradient_levels = spec.plan.returns_apart ? (uint32_t)rand() % spec.cluster.level_count : 0;
    if (coding_encodes(&spec.plan.dense)) { // what packets bring is kept
        spec.plan.regather_dense = spec.plan.regather_dense && spec.plan.dense.whole_levels > 0;
        spec.plan.dense_levels = coding_levels(&spec.plan.dense, spec.cluster.level_count);
    }
    return spec;
}

static void expect_round_trips(const Plan *plan)
{
    uint8_t *bytes, *again;
    size_t length, again_length;
    Fault fault = {0};
    cr_assert(plan_encode(plan, &bytes, &length, &fault), "%s", fault.message);
    Plan *decoded = plan_decode(bytes, length, &fault);
    cr_assert_not_null(decoded, "%s", fault.message);
    Text text = {0};
    plan_print(decoded, &text);
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    uint32_t source = diag_add_source(diag, "plan", text.data, text.length, NULL);
    Plan *parsed = plan_parse(text.data, text.length, source, diag);
    cr_assert_not_null(parsed);
    cr_assert(plan_encode(parsed, &again, &again_length, &fault), "%s", fault.message);
    cr_assert(length == again_length && memcmp(bytes, again, length) == 0);
    // What is not stored would be missed here.
    VerifyReport report;
    cr_assert(plan_verify(parsed, &report), "read back: %s", report.items[0].message);
    cr_assert_eq(plan_executions(parsed), plan_executions(plan));
    cr_assert_eq(plan_abreast(parsed), plan_abreast(plan));
    free(bytes);
    free(again);
    text_free(&text);
    plan_destroy(decoded);
    plan_destroy(parsed);
    arena_destroy(arena);
}

static void check_configurations(const Spec *spec, size_t stride, int instance)
{
    Arena *arena = arena_create();
    Workload *work = workload_derive(spec, arena);
    Candidate *candidates;
    size_t count;
    cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
    for (size_t c = (size_t)instance % stride; c < count; c += stride) {
        double bytes;
        Plan *plan = lower_uniform(work, &candidates[c].config, spec->plan.dispatch, &bytes);
        cr_assert_not_null(plan);
        cr_assert_eq(bytes, plan_memory_bytes(plan));
        // Of a few buffers more or less depends on how they pack: some kilobytes, whatever the size.
        cr_assert(fabs(candidates[c].memory_bytes - bytes) <= 0.01 * bytes + 8192,
                  "priced at %.0f bytes, allocates %.0f", candidates[c].memory_bytes, bytes);
        lowered_claim(spec, &candidates[c], plan);
        VerifyReport report;
        cr_assert(plan_verify(plan, &report), "instance %d: %s", instance, report.items[0].message);
        if (c % 3 == 0)
            expect_round_trips(plan);
        plan_destroy(plan);
    }
    arena_destroy(arena);
}

Test(lower, every_configuration_verifies_and_round_trips)
{
    srand(17);
    for (int i = 0; i < INSTANCES(60); i++) {
        Spec spec = random_spec();
        check_configurations(&spec, 1, i);
    }
}

Test(lower, so_does_every_configuration_of_several_micro_batches)
{
    srand(18);
    for (int i = 0; i < INSTANCES(60); i++) {
        Spec spec = random_looped_spec();
        check_configurations(&spec, 4, i);
    }
}

// Memory of deep models is not measured but added up, layer by layer: held against whole lowerings.
typedef struct {
    int compared, exact;
} Added;

static void compare_added(const char *what, const Spec *spec, double added, double bytes, Added *of)
{
    of->compared++;
    of->exact += added == bytes;
    // How the few buffers of one layer pack beside another's makes some kilobytes, whatever the size; packets that may
    // be whole are as large as what they are of.
    double slack = spec->plan.whole_iterations > 0 ? 0.07 : 0.01;
    cr_expect(fabs(added - bytes) <= slack * bytes + 8192, "%s of %u layers, %s, %u micro-batches: %.0f, lowered %.0f",
              what, spec->model.layers, spec->plan.recomputes ? "recomputed" : "kept", spec->plan.micro_batches, added,
              bytes);
}

Test(lower, memory_of_deep_models_is_what_their_layers_add)
{
    enum { LAYERS_MAX = 24 };
    static const uint32_t depths[] = {PREFETCH_UNLIMITED, 8, 4, 2, 1, 0};
    Added uniform = {0};
    srand(19);
    for (int i = 0; i < 60; i++) {
        Spec spec = random_looped_spec();
        while (i % 3 == 0 && spec.plan.pass != PASS_FORWARD)
            spec = random_spec();
        spec.model.layers = LAYERS_MAX / 2 + (uint32_t)rand() % (LAYERS_MAX / 2);
        spec.model.every = 1 + (uint32_t)(rand() % 2);
        spec.model.first_dense = (uint32_t)(rand() % 3);
        Arena *arena = arena_create();
        const Workload *work = workload_derive(&spec, arena);
        Candidate *candidates;
        size_t count;
        cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
        for (int k = 0; k < 3; k++) {
            const Config *config = &candidates[(size_t)rand() % count].config;
            uint32_t prefetch = depths[rand() % COUNT_OF(depths)];
            Mix mix = mix_uniform(work, config, prefetch, arena);
            compare_added("one choice", &spec, footprint_total(&spec, config, prefetch, spec.plan.dispatch),
                          footprint_lowered(work, &mix, spec.plan.dispatch), &uniform);
        }
        arena_destroy(arena);
    }
    cr_expect(uniform.exact >= 0.8 * uniform.compared, "%d of %d are exact", uniform.exact, uniform.compared);
}

// What an iteration's steps take alone, by kind as the cost model has it.
typedef struct {
    double pre_expert_s, exchange_s, expert_s, other_s;
} Sums;

static void add_cost(const Plan *plan, const Step *step, Sums *sums)
{
    double cost_s = plan_step_runs(plan, step) * step->cost_s;
    switch (op_info((int)step->op)->shape) {
    case SHAPE_GATHER:
    case SHAPE_SCATTER:
    case SHAPE_REDUCE:
        return; // waited for, where nothing hides them
    case SHAPE_EXCHANGE:
        sums->exchange_s += cost_s;
        return;
    case SHAPE_LOCAL:
        break;
    }
    bool attention = step->op == OP_PRE_EXPERT || step->op == OP_GATE || step->op == OP_PRE_EXPERT_BACKWARD ||
                     step->op == OP_GATE_BACKWARD;
    bool expert = step->op == OP_EXPERT || step->op == OP_EXPERT_BACKWARD;
    *(attention ? &sums->pre_expert_s : expert ? &sums->expert_s : &sums->other_s) += cost_s;
}

// The model leaves out what embedding and residuals move.
Test(lower, steps_of_several_micro_batches_cost_what_the_model_says)
{
    for (int i = 0; i < 12; i++) {
        Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 16, 2);
        spec.plan.pass = PASS_TRAINING;
        spec.model.layers = 3;
        spec.model.first_dense = i % 2;
        spec.model.ffn_inner = 24;
        spec.model.shared_experts = i % 3 == 1;
        spec.model.dtype = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        spec.plan.micro_batches = (uint32_t[]){1, 2, 5}[i % 3];
        spec.plan.recomputes = i / 3 % 2;
        Arena *arena = arena_create();
        const Workload *work = workload_derive(&spec, arena);
        Config config = {.domain = {1 + (uint32_t)i / 6, 2}};
        double bytes;
        Plan *plan = lower_uniform(work, &config, spec.plan.dispatch, &bytes);
        IterationCost cost;
        cost_iteration(work, &config, spec.plan.dispatch, &cost);
        Sums sums = {0};
        double left_out_s = 0;
        for (uint32_t s = 0; s < plan->step_count; s++) {
            const Step *step = &plan->steps[s];
            if (step->op == OP_EMBED || step->op == OP_RESIDUAL)
                left_out_s += plan_step_runs(plan, step) * step->cost_s;
            add_cost(plan, step, &sums);
        }
        cr_expect_float_eq(sums.pre_expert_s, cost.pre_expert_s, 1e-9 * cost.pre_expert_s, "%d: attention: %g, not %g",
                           i, sums.pre_expert_s, cost.pre_expert_s);
        cr_expect_float_eq(sums.exchange_s, cost.exchange_s, 1e-9 * cost.exchange_s, "%d: exchanges: %g, not %g", i,
                           sums.exchange_s, cost.exchange_s);
        cr_expect_float_eq(sums.expert_s, cost.expert_s, 1e-9 * cost.expert_s, "%d: experts: %g, not %g", i,
                           sums.expert_s, cost.expert_s);
        cr_expect_float_eq(sums.other_s - left_out_s, cost.other_s, 1e-9 * cost.other_s, "%d: others: %g, not %g", i,
                           sums.other_s - left_out_s, cost.other_s);
        plan_destroy(plan);
        arena_destroy(arena);
    }
}

// Volumes without tensors: the same steps, each once.
Test(lower, steps_of_abstract_workloads_cost_what_the_model_says)
{
    Spec spec = spec_one_tier(4, 1e9, 1e-4, 1e6, 1e6, 1e-3);
    spec.cluster.level_count = 2;
    spec.cluster.levels[1] = (Level){"gpu", 2, 4e9, 1e-5, 0};
    spec.model.layers = 3;
    spec.model.first_dense = 1;
    spec.model.expert_compute_s = 2e-3;
    spec.plan.pass = PASS_TRAINING;
    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    Config config = {.domain = {2, 1}};
    double bytes;
    Plan *plan = lower_uniform(work, &config, DISPATCH_NAIVE, &bytes);
    IterationCost cost;
    cost_iteration(work, &config, DISPATCH_NAIVE, &cost);
    Sums sums = {0};
    uint32_t exchanges = 0, gathers = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        add_cost(plan, &plan->steps[s], &sums);
        exchanges += op_info((int)plan->steps[s].op)->shape == SHAPE_EXCHANGE;
        gathers += plan->steps[s].op == OP_GATHER || plan->steps[s].op == OP_REDUCE_SCATTER;
    }
    cr_assert_eq(exchanges, 2 * 2 * 4); // layers, levels; out and back, both passes
    cr_assert_eq(gathers, 2 * 2);       // layers; experts, gradients
    cr_assert_float_eq(sums.exchange_s, cost.exchange_s, 1e-12);
    cr_assert_float_eq(sums.expert_s, 2 * 3 * 2e-3, 1e-12);
    cr_assert_float_eq(sums.pre_expert_s, 3 * 3 * 1e-3, 1e-12);
    plan_destroy(plan);
    arena_destroy(arena);
}

// By hand: two of eight experts are owned, 8192 bytes at 500 MB/s are encoded, four GPUs' of them decoded at 2 GB/s. Of
// gradients those of three others are encoded, and the own ones decoded.
Test(lower, encoding_and_decoding_take_what_they_move)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    spec.cluster.device.encode_bandwidth = 5e8;
    spec.cluster.device.decode_bandwidth = 2e9;
    spec.model.layers = 1;
    spec.plan.pass = PASS_TRAINING;
    spec.plan.experts.codec = CODEC_DELTA;
    spec.plan.experts.gradient = GRADIENT_TOPK;
    spec.plan.experts.ratio = spec.plan.experts.gradient_ratio = 8;
    Arena *arena = arena_create();
    double bytes, costs[4] = {0};
    Plan *plan = lower_uniform(workload_derive(&spec, arena), &(Config){.domain = {4}}, DISPATCH_DEDUP, &bytes);
    const Op ops[] = {OP_ENCODE, OP_DECODE, OP_ENCODE_GRADIENT, OP_DECODE_GRADIENT};
    const double expected[] = {8192 / 5e8, 4 * 8192 / 2e9, 3 * 8192 / 5e8, 8192 / 2e9};
    for (uint32_t s = 0; s < plan->step_count; s++)
        for (size_t o = 0; o < COUNT_OF(ops); o++)
            costs[o] += plan->steps[s].op == ops[o] ? plan->steps[s].cost_s : 0;
    for (size_t o = 0; o < COUNT_OF(ops); o++)
        cr_expect_float_eq(costs[o], expected[o], 1e-12, "%s: %g, not %g", op_info(ops[o])->name, costs[o],
                           expected[o]);
    plan_destroy(plan);
    arena_destroy(arena);
}

Test(lower, buffers_share_memory)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 16, 2);
    spec.model.layers = 12;
    Arena *arena = arena_create();
    Config config = {.domain = {1, 1}};
    double bytes, total = 0;
    Plan *plan = lower_uniform(workload_derive(&spec, arena), &config, DISPATCH_DEDUP, &bytes);
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        total += (double)buffer_bytes(&plan->buffers[b]);
    cr_assert_lt(bytes, 0.6 * total);
    plan_destroy(plan);
    arena_destroy(arena);
}

Test(lower, gathers_wait_for_nothing_in_the_forward_pass)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 16, 2);
    Arena *arena = arena_create();
    Config config = {.domain = {2, 2}};
    double bytes;
    Plan *plan = lower_uniform(workload_derive(&spec, arena), &config, DISPATCH_DEDUP, &bytes);
    uint32_t gathers = 0;
    for (uint32_t s = 0; s < plan->step_count; s++)
        if (plan->steps[s].op == OP_GATHER) {
            cr_assert_eq(plan->steps[s].after_count, 0);
            gathers++;
        }
    cr_assert_eq(gathers, 2 * spec.model.layers);
    plan_destroy(plan);
    arena_destroy(arena);
}

Test(lower, gathers_wait_for_the_room_a_plan_claims)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 16, 2);
    spec.model.layers = 3;
    Arena *arena = arena_create();
    Workload *work = workload_derive(&spec, arena);
    Config config = {.domain = {2, 2}};
    Mix mix = mix_uniform(work, &config, 1, arena);
    Plan *plan = lowered_mix(&spec, work, &mix);
    VerifyReport report;
    cr_assert_eq(plan->replica_slots, 2);
    cr_assert(plan_verify(plan, &report), "%s", report.items[0].message);
    plan->replica_slots = 1;
    cr_assert_not(plan_verify(plan, &report));
    cr_assert_eq(report.items[0].property, PROPERTY_GATHER);
    cr_assert(strstr(report.items[0].message, "there is room for the experts of 1 layers"), "%s",
              report.items[0].message);
    plan_destroy(plan);
    arena_destroy(arena);
}

// 8000 GPUs, 60 layers, each with its own domains: what all ranks share is written once.
Test(lower, a_large_plan_is_small)
{
    enum { LAYERS = 60, PLAN_FILE_MAX = 1 << 20 };
    Spec spec = spec_small_gpt((uint32_t[]){1000, 8, 0}, 8000, 2);
    spec.model.layers = LAYERS;
    spec.plan.pass = PASS_TRAINING;
    Config configs[LAYERS] = {{.regather = false}};
    for (uint32_t k = 0; k < LAYERS; k++) {
        configs[k].domain[0] = 1u << k % 4;
        configs[k].domain[1] = 1u << (k / 4) % 4;
        configs[k].regather = k % 3 == 0;
    }
    Arena *arena = arena_create();
    Mix mix = {.configs = configs, .prefetch = PREFETCH_UNLIMITED};
    Plan *plan = lowered_mix(&spec, workload_derive(&spec, arena), &mix);
    uint8_t *bytes;
    size_t length;
    Fault fault = {0};
    VerifyReport report;
    cr_assert(plan_verify(plan, &report), "%s", report.items[0].message);
    cr_assert(plan_encode(plan, &bytes, &length, &fault), "%s", fault.message);
    cr_assert_lt(length, PLAN_FILE_MAX);
    free(bytes);
    plan_destroy(plan);
    arena_destroy(arena);
}

// HybridEP, section IV-A: 4 data centres of 4 GPUs, S = (2, 4). GPU 0 gathers with 4 and with 1, 2, 3; it exchanges
// with 8 and with nobody inside its data centre.
Test(lower, two_tier_example_of_the_paper)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 4, 0}, 16, 2);
    Arena *arena = arena_create();
    Config config = {.domain = {2, 4}};
    double bytes;
    Plan *plan = lower_uniform(workload_derive(&spec, arena), &config, DISPATCH_DEDUP, &bytes);
    bool gathers[16] = {false}, exchanges[16] = {false};
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (step->group == NONE)
            continue;
        const Group *group = &plan->groups[step->group];
        for (uint64_t m = 0; m < group_size(&plan->cluster, group); m++)
            (op_info((int)step->op)->shape == SHAPE_GATHER
                 ? gathers
                 : exchanges)[group_member_rank(&plan->cluster, group, 0, m)] = true;
    }
    for (uint32_t rank = 1; rank < 16; rank++) {
        cr_assert_eq(gathers[rank], rank <= 4, "GPU 0 gathers with %u: %d", rank, gathers[rank]);
        cr_assert_eq(exchanges[rank], rank == 8, "GPU 0 exchanges with %u: %d", rank, exchanges[rank]);
    }
    plan_destroy(plan);
    arena_destroy(arena);
}

// Layers that no `first_dense` and `every` describe: the memory that is extrapolated from some of them is that of all.
Test(lower, memory_of_listed_layers_is_extrapolated, .timeout = 60)
{
    enum { LAYERS = 40 };
    SpecMixer mixers[] = {{.name = "state", .parameters = 3000, .state = 10}, {.name = "none"}};
    uint32_t mixer[LAYERS], inner[LAYERS], seen = 0;
    bool is_moe[LAYERS];
    // 0: an odd start and an odd end; 1: every third layer; 2: nothing repeats; 3: a few layers.
    for (int pattern = 0; pattern < 4; pattern++) {
        for (int pass = 0; pass < 2; pass++) {
            Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
            for (uint32_t k = 0; k < LAYERS; k++) {
                bool odd = pattern == 0 && (k < 2 || k == LAYERS - 1);
                is_moe[k] = pattern == 2 ? (k * k / 7) % 3 == 1 : !odd && (pattern != 1 || k % 3 == 1);
                mixer[k] = pattern == 2 ? (k * 5 / 3) % 3 : k % 3;
                inner[k] = k % 2 ? 0 : 24;
            }
            spec.plan.pass = pass ? PASS_TRAINING : PASS_FORWARD;
            spec.model.layers = pattern == 3 ? 5 : LAYERS;
            spec.model.ffn_inner = 24;
            spec.model.is_moe = is_moe;
            spec.model.mixers = mixers;
            spec.model.mixer_count = 2;
            spec.model.mixer = mixer;
            spec.model.inner_each = inner;
            const Config config = {.domain = {2, 1}};
            double all = lower_memory_bytes(&spec, &config, 0, DISPATCH_DEDUP, spec.model.layers);
            double total = footprint_total(&spec, &config, 0, DISPATCH_DEDUP);
            cr_expect(fabs(total / all - 1) < 0.01, "pattern %d, pass %d: %.0f, lowered %.0f", pattern, pass, total,
                      all);
            Footprint of = footprint_measure(&spec, &config, 0, DISPATCH_DEDUP);
            cr_expect(of.per_layer_bytes > 0, "pattern %d", pattern);
            seen++;
        }
    }
    cr_assert_eq(seen, 8);
}

static uint32_t steps_on(const Plan *plan, Stream stream)
{
    uint32_t count = 0;
    for (uint32_t s = 0; s < plan->step_count; s++)
        count += step_stream(plan, &plan->steps[s]) == stream;
    return count;
}

// Training gathers and returns over the outermost level with several workers beside the levels inside; one layer, all
// gathered: three bundles each way.
Test(lower, outer_levels_have_streams_of_their_own)
{
    static const struct {
        uint32_t counts[3];
        Pass pass;
        Codec codec;
        uint32_t outer_levels, outer, inner; // steps of gathers
    } cases[] = {{{2, 4, 0}, PASS_TRAINING, CODEC_DENSE, 1, 3, 3}, {{2, 2, 2}, PASS_TRAINING, CODEC_DENSE, 1, 3, 6},
                 {{1, 2, 4}, PASS_TRAINING, CODEC_DENSE, 2, 3, 3}, {{1, 4, 0}, PASS_TRAINING, CODEC_DENSE, 0, 0, 3},
                 {{2, 4, 0}, PASS_FORWARD, CODEC_DENSE, 0, 0, 2},  {{2, 4, 0}, PASS_TRAINING, CODEC_DELTA, 0, 0, 8},
                 {{4, 1, 1}, PASS_TRAINING, CODEC_DENSE, 0, 0, 3}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        Spec spec = spec_small_gpt(cases[i].counts, 16, 2);
        spec.model.layers = 1;
        spec.plan.pass = cases[i].pass;
        spec.plan.experts.codec = cases[i].codec;
        spec.plan.experts.ratio = cases[i].codec == CODEC_DENSE ? 1 : 8;
        Config config = {0};
        for (uint32_t l = 0; l < spec.cluster.level_count; l++)
            config.domain[l] = spec.cluster.levels[l].count;
        Arena *arena = arena_create();
        double bytes;
        Plan *plan = lower_uniform(workload_derive(&spec, arena), &config, DISPATCH_DEDUP, &bytes);
        cr_expect_eq(plan->outer_levels, cases[i].outer_levels, "%zu: %u", i, plan->outer_levels);
        cr_expect_eq(steps_on(plan, STREAM_MIGRATE_OUTER), cases[i].outer, "%zu: %u", i,
                     steps_on(plan, STREAM_MIGRATE_OUTER));
        cr_expect_eq(steps_on(plan, STREAM_MIGRATE), cases[i].inner, "%zu: %u", i, steps_on(plan, STREAM_MIGRATE));
        if (cases[i].pass == PASS_TRAINING)
            cr_expect_eq(steps_on(plan, STREAM_SYNC_OUTER), cases[i].outer, "%zu", i);
        plan_destroy(plan);
        arena_destroy(arena);
    }
}

// Time alone of what crosses a level, in one direction.
static double crossing_s(const Plan *plan, Op op, int32_t level)
{
    double total_s = 0;
    for (uint32_t s = 0; s < plan->step_count; s++)
        if (plan->steps[s].op == op && plan->steps[s].level == level)
            total_s += plan->steps[s].bytes * (double)cluster_gpus_below(&plan->cluster, (uint32_t)level) /
                       plan->cluster.levels[level].bandwidth_bytes_per_s;
    return total_s;
}

// Links are all that counts; eight equal layers. The slow one carries without pause; the levels inside take their part
// meanwhile, but for that of the last bundle of each pass.
Test(lower, levels_inside_take_their_part_while_the_outer_one_carries)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 8, 2);
    spec.model.layers = 8;
    spec.model.vocabulary = 8;
    spec.plan.pass = PASS_TRAINING;
    spec.cluster.levels[0].bandwidth_bytes_per_s = 1e6;
    spec.cluster.levels[1].bandwidth_bytes_per_s = 2e6;
    spec.cluster.levels[0].latency_s = spec.cluster.levels[1].latency_s = 0;
    spec.cluster.device.compute_flops = spec.cluster.device.memory_bandwidth = 1e15;
    Config config = {.domain = {2, 4}};
    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    double bytes;
    Plan *plan = lower_uniform(work, &config, DISPATCH_DEDUP, &bytes);
    double outer_s = crossing_s(plan, OP_GATHER, 0) + crossing_s(plan, OP_REDUCE_SCATTER, 0);
    double inner_s = crossing_s(plan, OP_GATHER, 1) + crossing_s(plan, OP_REDUCE_SCATTER, 1);
    cr_assert_gt(inner_s, 0.3 * outer_s); // in turn they would take as much more
    IterationCost cost;
    cost_iteration(work, &config, DISPATCH_DEDUP, &cost);
    double simulated_s = simulated_iteration_s(plan);
    cr_expect(simulated_s >= outer_s && simulated_s <= outer_s + inner_s / 8, "simulated %g s, outer %g, inner %g",
              simulated_s, outer_s, inner_s);
    cr_expect(cost.iteration_s >= outer_s && cost.iteration_s <= outer_s + inner_s / 8, "predicted %g s, outer %g",
              cost.iteration_s, outer_s);
    plan_destroy(plan);
    arena_destroy(arena);
}

// What came over levels outside the boundary is kept, so its gather waits for no room, however few layers' experts
// there is room for; levels inside wait.
Test(lower, what_is_kept_waits_for_no_room)
{
    for (uint32_t prefetch = 0; prefetch < 2; prefetch++)
        for (uint32_t once = 0; once < 3; once++) {
            Spec spec = spec_small_gpt((uint32_t[]){2, 2, 2}, 16, 2);
            spec.plan.pass = PASS_TRAINING;
            spec.model.layers = 5;
            spec.plan.micro_batches = 4;
            spec.plan.lap = prefetch ? 2 : 0;
            Arena *arena = arena_create();
            const Workload *work = workload_derive(&spec, arena);
            Config config = {.domain = {2, 2, 2}, .regather = true, .once = once};
            Mix mix = mix_uniform(work, &config, prefetch, arena);
            Plan *plan = lowered_mix(&spec, work, &mix);
            VerifyReport report;
            cr_expect(plan_verify(plan, &report), "prefetch %u, once %u: %s", prefetch, once, report.items[0].message);
            cr_expect_eq(plan->replica_slots, prefetch + 1);
            plan_destroy(plan);
            arena_destroy(arena);
        }
}

// Gradients that leave the laps for the outer level take turns in memory, and what ends at its owner stays in f32. Each
// GPU of 2 x 2 owns half of one of two experts: over `dc`, once, two shares; `gpu` is crossed in every lap.
Test(lower, gradients_that_leave_laps_take_turns)
{
    enum { LAYERS = 12 };
    for (uint32_t once = 0; once < 2; once++) {
        Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 2, 1);
        spec.plan.pass = PASS_TRAINING;
        spec.model.layers = LAYERS;
        spec.model.dtype = DTYPE_BF16;
        spec.plan.micro_batches = 4;
        spec.plan.lap = 2;
        Arena *arena = arena_create();
        const Workload *work = workload_derive(&spec, arena);
        Config config = {.domain = {2, 2}, .regather = true, .once = once};
        Mix mix = mix_uniform(work, &config, PREFETCH_UNLIMITED, arena);
        Plan *plan = lowered_mix(&spec, work, &mix);
        VerifyReport report;
        cr_expect(plan_verify(plan, &report), "once %u: %s", once, report.items[0].message);
        uint32_t leaving = 0, rounded = 0, sums = 0;
        for (uint32_t b = 0; b < plan->buffer_count; b++)
            leaving += strncmp(plan->buffers[b].name, "leaving", 7) == 0;
        for (uint32_t i = 0; i < plan->step_count; i++) {
            const Step *step = &plan->steps[i];
            bool is_expert = step->layer != NONE && step->op == OP_OPTIMIZER &&
                             strstr(step_buffer(plan, step, OPERAND_weights)->name, "experts");
            rounded += step->op == OP_ROUND_RETURNED;
            sums += is_expert && step_buffer(plan, step, OPERAND_gradient)->dtype == DTYPE_F32;
        }
        cr_expect_eq(leaving, once ? 4 : 0, "%u buffers", leaving);
        cr_expect_eq(rounded, once ? LAYERS : 0);
        cr_expect_eq(sums, once ? 0 : LAYERS);
        plan_destroy(plan);
        arena_destroy(arena);
    }
}
