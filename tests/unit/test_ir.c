// Names, ops, topology, sizes, order and memory planning of the IR.
#include <criterion/criterion.h>

#include "ir/base/text.h"
#include "ir/gaps.h"
#include "ir/memory.h"
#include "ir/memory_large.h"
#include "ir/order.h"
#include "ir/schema.h"
#include "ir/verify/verify.h"
#include "plans.h"

Test(names, codes_and_texts_are_inverse)
{
    for (int code = 0; code < DTYPE_COUNT; code++)
        cr_assert_eq(name_code(&dtype_names, dtype_name((Dtype)code)), code);
    cr_assert_null(dtype_name(DTYPE_COUNT));
    cr_assert_eq(name_code(&stream_names, "migrate"), STREAM_MIGRATE);
    cr_assert_eq(name_code(&stream_names, "migration"), -1);
    cr_assert_eq(dtype_bytes(DTYPE_BF16), 2);
    cr_assert_eq(activation_matrices(ACTIVATION_SWIGLU), 3);
}

// Codes are what plan files store: this list may grow, and never change.
Test(names, codes_are_stable)
{
    static const struct {
        int code;
        const char *name;
    } stored[] = {
        {1, "embed"},
        {2, "pre_expert"},
        {3, "ffn"},
        {4, "gate"},
        {5, "route"},
        {6, "dispatch"},
        {7, "expert"},
        {8, "combine"},
        {9, "unroute"},
        {10, "shared_expert"},
        {11, "residual"},
        {12, "loss"},
        {13, "encode"},
        {14, "gather"},
        {15, "decode"},
        {32, "loss_backward"},
        {33, "unroute_backward"},
        {34, "expert_backward"},
        {35, "route_backward"},
        {36, "gate_backward"},
        {37, "shared_expert_backward"},
        {38, "ffn_backward"},
        {39, "pre_expert_backward"},
        {40, "embed_backward"},
        {41, "reduce_scatter"},
        {42, "all_reduce"},
        {43, "optimizer"},
        {44, "combine_backward"},
    };
    for (size_t i = 0; i < COUNT_OF(stored); i++) {
        cr_assert_not_null(op_info(stored[i].code));
        cr_assert_str_eq(op_info(stored[i].code)->name, stored[i].name);
    }
    cr_assert(DTYPE_F32 == 0 && DTYPE_U8 == 4 && STREAM_SYNC == 3 && CODEC_DELTA == 2 && CODEC_SIGN == 3 &&
              GROUP_WORLD == 3);
    cr_assert(BUFFER_WEIGHT == 0 && BUFFER_STATE == 4 && STATUS_FORCED == 2 && PASS_TRAINING == 1 &&
              DISPATCH_DEDUP == 1);
}

Test(ops, table_is_consistent)
{
    size_t count;
    const OpInfo *ops = op_table(&count);
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(op_info((int)ops[i].op), &ops[i]);
        cr_assert(ops[i].operand_count >= 1 && ops[i].operand_count <= OPERANDS_MAX);
        for (uint32_t k = 0; k < ops[i].operand_count; k++)
            cr_assert_not_null(ops[i].operands[k].name);
    }
    cr_assert_null(op_info(0));
    cr_assert_null(op_info(-1));
    cr_assert_null(op_info(1 << 20));
    const OpInfo *dispatch = op_info(OP_DISPATCH);
    cr_assert(dispatch->operands[1].optional && dispatch->operands[3].role == ROLE_INOUT);
}

// ---- topology ----------------------------------------------------------------------------------

static Cluster three_levels(void)
{
    Cluster cluster = {.level_count = 3};
    cluster.levels[0].count = 2;
    cluster.levels[1].count = 3;
    cluster.levels[2].count = 4;
    return cluster;
}

Test(topology, coordinates_are_mixed_radix_last_fastest)
{
    Cluster cluster = three_levels();
    cr_assert_eq(cluster_gpus(&cluster), 24);
    cr_assert_eq(cluster_gpus_below(&cluster, 0), 12);
    cr_assert_eq(cluster_gpus_below(&cluster, 2), 1);
    uint32_t x[LEVELS_MAX];
    cluster_coordinates(&cluster, 23, x);
    cr_assert(x[0] == 1 && x[1] == 2 && x[2] == 3);
    for (uint64_t rank = 0; rank < 24; rank++) {
        cluster_coordinates(&cluster, rank, x);
        cr_assert_eq(cluster_rank(&cluster, x), rank);
    }
}

// By definition: who is in a group, from coordinates.
static bool together(const Cluster *cluster, const Group *group, uint64_t a, uint64_t b)
{
    uint32_t x[LEVELS_MAX], y[LEVELS_MAX];
    cluster_coordinates(cluster, a, x);
    cluster_coordinates(cluster, b, y);
    for (uint32_t l = 0; l < cluster->level_count && group->kind != GROUP_WORLD; l++)
        if ((int32_t)l != group->level && x[l] != y[l])
            return false;
    uint32_t level = (uint32_t)group->level, domain = group->domain;
    return !(group->kind == GROUP_GATHER && x[level] / domain != y[level] / domain) &&
           !(group->kind == GROUP_EXCHANGE && x[level] % domain != y[level] % domain);
}

static void check_group(const Cluster *cluster, Group group)
{
    uint64_t gpus = cluster_gpus(cluster);
    for (uint64_t rank = 0; rank < gpus; rank++) {
        uint64_t index = 0;
        for (uint64_t other = 0; other < gpus; other++) {
            if (!together(cluster, &group, rank, other))
                continue;
            cr_assert_eq(group_member_rank(cluster, &group, rank, index), other);
            if (other == rank)
                cr_assert_eq(group_index(cluster, &group, rank), index);
            index++;
        }
        cr_assert_eq(group_size(cluster, &group), index);
    }
}

Test(topology, groups_follow_their_formulas)
{
    Cluster cluster = three_levels();
    for (int32_t level = 0; level < 3; level++) {
        for (uint32_t domain = 1; domain <= cluster.levels[level].count; domain++) {
            if (cluster.levels[level].count % domain == 0) {
                check_group(&cluster, (Group){GROUP_GATHER, level, domain});
                check_group(&cluster, (Group){GROUP_EXCHANGE, level, domain});
            }
        }
        check_group(&cluster, (Group){GROUP_LEVEL, level, 1});
    }
    check_group(&cluster, (Group){GROUP_WORLD, NONE, 1});
}

// Gathering really moves shards: level by level, outer first, member 0's first. What lies where
// afterwards is what plan_expert_slot says.
static void check_slots(const Plan *plan, const uint32_t domain[LEVELS_MAX])
{
    const Cluster *cluster = &plan->cluster;
    ExpertShares shares = plan_expert_shares(plan, domain);
    uint64_t gpus = cluster_gpus(cluster), held = shares.rows;
    static uint32_t now[24][96], next[24][96];
    for (uint64_t rank = 0; rank < gpus; rank++)
        for (uint64_t e = 0; e < held; e++)
            now[rank][e] = (uint32_t)(share_owned(&shares, rank).first / shares.expert_elements + e);
    for (uint32_t l = plan->replica_levels; l < cluster->level_count; l++) {
        Group group = {GROUP_GATHER, (int32_t)l, domain[l]};
        for (uint64_t rank = 0; rank < gpus; rank++)
            for (uint64_t m = 0; m < domain[l]; m++)
                memcpy(&next[rank][m * held], now[group_member_rank(cluster, &group, rank, m)],
                       held * sizeof(uint32_t));
        memcpy(now, next, sizeof(now));
        held *= domain[l];
    }
    for (uint64_t rank = 0; rank < gpus; rank++) {
        uint64_t found = 0;
        for (uint32_t expert = 0; expert < plan->model.experts; expert++) {
            int64_t slot = plan_expert_slot(plan, domain, rank, expert);
            cr_assert(slot >= -1 && slot < (int64_t)held);
            cr_assert(slot < 0 || now[rank][slot] == expert);
            found += slot >= 0;
        }
        cr_assert_eq(found, held);
    }
}

Test(topology, slots_are_where_gathers_put_experts)
{
    Plan *plan = plan_create();
    plan->cluster = three_levels();
    plan->model.hidden = plan->model.inner = 3;
    for (plan->replica_levels = 0; plan->replica_levels <= 1; plan->replica_levels++) {
        plan->model.experts = plan->replica_levels ? 24 : 48;
        for (uint32_t s0 = plan->replica_levels ? 2 : 1; s0 <= 2; s0++)
            for (uint32_t s1 = 1; s1 <= 3; s1 += 2)
                for (uint32_t s2 = 1; s2 <= 4; s2 *= 2)
                    check_slots(plan, (const uint32_t[LEVELS_MAX]){s0, s1, s2});
    }
    plan_destroy(plan);
}

// A row that follows share_member level by level ends where the expert is held.
Test(topology, following_domains_reaches_the_expert)
{
    Plan *plan = plan_create();
    plan->cluster = three_levels();
    plan->model.hidden = plan->model.inner = 3;
    plan->model.experts = 48;
    const uint32_t domain[LEVELS_MAX] = {1, 3, 2};
    const ExpertShares shares = plan_expert_shares(plan, domain);
    for (uint64_t start = 0; start < 24; start++) {
        for (uint32_t expert = 0; expert < 48; expert++) {
            uint64_t rank = start;
            for (uint32_t l = 0; l < 3; l++) {
                Group group = {GROUP_EXCHANGE, (int32_t)l, domain[l]};
                rank = group_member_rank(&plan->cluster, &group, rank, share_member(&shares, expert, l));
            }
            cr_assert_geq(plan_expert_slot(plan, domain, rank, expert), 0);
        }
    }
    plan_destroy(plan);
}

Test(plan, sizes_follow_the_layouts)
{
    ModelDims m = {.layers = 1,
                   .hidden = 8,
                   .heads = 4,
                   .kv_heads = 2,
                   .head_dim = 2,
                   .vocabulary = 10,
                   .sequence = 3,
                   .batch = 5,
                   .ffn_inner = 7,
                   .experts = 6,
                   .top_k = 2,
                   .inner = 9,
                   .shared_experts = 2,
                   .activation = ACTIVATION_SWIGLU};
    cr_assert_eq(model_tokens(&m), 15);
    cr_assert_eq(model_embedding_elements(&m), 10 * 8 + 3 * 8 + 16);
    cr_assert_eq(model_attention_elements(&m), 16 + 8 * 8 + 2 * (8 * 4) + 8 * 8);
    cr_assert_eq(model_router_elements(&m), 16 + 8 * 6);
    cr_assert_eq(model_ffn_elements(&m), 16 + 3 * 8 * 7);
    cr_assert_eq(model_expert_elements(&m), 3 * 8 * 9);
    cr_assert_eq(model_shared_elements(&m), 3 * 8 * 18);
    plan_destroy(NULL);
}

// ---- order and memory --------------------------------------------------------------------------

Test(order, streams_and_edges)
{
    Plan *plan = plan_of_four_ranks();
    Order *order = order_create(plan, plan->arena);
    cr_assert(order_before(order, PLAN_EMBED, PLAN_LOSS));
    cr_assert(!order_before(order, PLAN_LOSS, PLAN_EMBED));
    cr_assert(!order_before(order, PLAN_EMBED, PLAN_EMBED));
    cr_assert(order_before(order, PLAN_ROUTE, PLAN_DISPATCH));
    cr_assert(order_before(order, PLAN_DISPATCH, PLAN_UNROUTE), "through expert and combine");
    cr_assert(!order_before(order, PLAN_GATHER, PLAN_DISPATCH));
    cr_assert(!order_before(order, PLAN_DISPATCH, PLAN_GATHER));
    cr_assert(order_before(order, PLAN_GATHER, PLAN_EXPERT));
    plan_destroy(plan);
}

// Of four steps of a stream the second and third are one event: neither comes before the other, and what waits for one
// waits for both. Buffers of a run are alive together.
Test(order, steps_of_a_run_are_one_event)
{
    Arena *arena = arena_create();
    Buffer buffers[8];
    int32_t operands[] = {0, 1, 2, 3, 4, 5, 6, 7, 3, 3, 1, 1};
    uint32_t after[] = {1};
    Step steps[5] = {{.op = OP_GATHER}, {.op = OP_GATHER}, {.op = OP_GATHER}, {.op = OP_GATHER}, {.op = OP_OPTIMIZER}};
    for (uint32_t b = 0; b < 8; b++)
        buffers[b] = (Buffer){.name = "", .dtype = DTYPE_U8, .rows = 1, .cols = 1, .kind = BUFFER_TEMPORARY};
    for (uint32_t s = 0; s < 5; s++)
        steps[s].operand_first = 2 * s;
    steps[2].joined = true;
    steps[4].after_count = 1;
    Plan plan = {.buffers = buffers,
                 .buffer_count = 8,
                 .steps = steps,
                 .step_count = 5,
                 .operands = operands,
                 .operand_count = 12,
                 .after = after,
                 .after_count = 1,
                 .micro_batches = 1};
    const Order *order = order_create(&plan, arena);
    cr_assert(order_before(order, 0, 1) && order_before(order, 0, 2) && order_before(order, 1, 3) &&
              order_before(order, 2, 3));
    cr_assert(!order_before(order, 1, 2) && !order_before(order, 2, 1) && !order_before(order, 2, 2));
    cr_assert(order_before(order, 1, 4) && order_before(order, 2, 4), "waits for one, and so for both");
    cr_assert(!order_before(order, 3, 4) && !order_before(order, 4, 3));
    const Lifetimes *lifetimes = lifetimes_create(&plan, order, arena);
    cr_assert(!lifetimes_disjoint(lifetimes, 2, 5), "read by the first, written by the second of the run");
    cr_assert(lifetimes_disjoint(lifetimes, 0, 5), "read before the run");
    cr_assert(lifetimes_disjoint(lifetimes, 2, 7), "written after it");
    cr_assert_eq(plan_run_next(&plan, 0), NONE);
    cr_assert_eq(plan_run_next(&plan, 1), 2);
    cr_assert_eq(plan_run_next(&plan, 2), NONE);
    arena_destroy(arena);
}

// A random plan over all streams; every op here has buffers of no particular shape.
static Plan *random_plan(unsigned seed, uint32_t steps, uint32_t buffers)
{
    static const Op ops[] = {OP_RESIDUAL, OP_COMBINE, OP_GATHER, OP_REDUCE_SCATTER, OP_RESIDUAL};
    srand(seed);
    Plan *plan = plan_create();
    plan->buffers = arena_alloc_array(plan->arena, buffers, sizeof(Buffer));
    plan->steps = arena_alloc_array(plan->arena, steps, sizeof(Step));
    plan->operands = arena_alloc_array(plan->arena, steps * 4, sizeof(int32_t));
    plan->after = arena_alloc_array(plan->arena, steps * 3, sizeof(uint32_t));
    plan->buffer_count = buffers;
    for (uint32_t b = 0; b < buffers; b++)
        plan->buffers[b] = (Buffer){.name = "",
                                    .dtype = DTYPE_U8,
                                    .rows = 1,
                                    .cols = (uint64_t)(rand() % 5000),
                                    .kind = rand() % 10 ? BUFFER_TEMPORARY : BUFFER_WEIGHT};
    for (uint32_t i = 0; i < steps; i++) {
        Step *step = &plan->steps[plan->step_count++];
        *step = (Step){
            .op = ops[rand() % COUNT_OF(ops)], .operand_first = plan->operand_count, .after_first = plan->after_count};
        for (uint32_t k = 0; k < op_info((int)step->op)->operand_count; k++) {
            // Buffers drift along with steps, as in a real schedule.
            uint32_t near = (uint32_t)((uint64_t)i * buffers / steps) + (uint32_t)(rand() % 5);
            plan->operands[plan->operand_count++] = near < buffers ? (int32_t)near : NONE;
        }
        for (int k = rand() % 4; k > 0 && i > 0; k--) {
            plan->after[plan->after_count++] = i - 1 - (uint32_t)rand() % (i < 8 ? i : 8);
            step->after_count++;
        }
    }
    return plan;
}

// Reachability, the slow way.
static void reach(const Plan *plan, bool *before)
{
    uint32_t n = plan->step_count;
    for (uint32_t b = 0; b < n; b++) {
        for (uint32_t a = 0; a < b; a++) {
            bool direct = step_stream(plan, &plan->steps[a]) == step_stream(plan, &plan->steps[b]);
            for (uint32_t k = 0; k < plan->steps[b].after_count; k++)
                direct |= plan->after[plan->steps[b].after_first + k] == a;
            if (!direct)
                continue;
            before[a * n + b] = true;
            for (uint32_t c = 0; c < a; c++)
                before[c * n + b] |= before[c * n + a];
        }
    }
}

Test(order, agrees_with_reachability_and_pruning_keeps_it)
{
    for (unsigned seed = 1; seed <= 5; seed++) {
        Plan *plan = random_plan(seed, 80, 40);
        uint32_t n = plan->step_count;
        bool *before = arena_alloc_array(plan->arena, (size_t)n * n, sizeof(bool));
        reach(plan, before);
        uint32_t edges = plan->after_count, dropped = 0;
        for (int pruned = 0; pruned < 2; pruned++) {
            Order *order = order_create(plan, plan->arena);
            for (uint32_t i = 0; i < n * n; i++)
                cr_assert_eq(order_before(order, i / n, i % n), before[i]);
            dropped = pruned ? dropped : order_prune_after(plan);
        }
        cr_assert_gt(dropped, 0);
        cr_assert_eq(plan->after_count, edges - dropped);
        cr_assert_eq(order_prune_after(plan), 0, "nothing is left to drop");
        plan_destroy(plan);
    }
}

static bool touches(const Plan *plan, uint32_t step, uint32_t buffer)
{
    bool found = false;
    for (uint32_t k = 0; k < op_info((int)plan->steps[step].op)->operand_count; k++)
        found |= step_operands(plan, &plan->steps[step])[k] == (int32_t)buffer;
    return found;
}

static bool all_before(const Plan *plan, const Order *order, uint32_t a, uint32_t b)
{
    for (uint32_t i = 0; i < plan->step_count; i++)
        for (uint32_t j = 0; j < plan->step_count; j++)
            if (touches(plan, i, a) && touches(plan, j, b) && !order_before(order, i, j))
                return false;
    return true;
}

static void check_sharing(const Plan *plan, const Order *order)
{
    for (uint32_t a = 0; a < plan->buffer_count; a++) {
        const Buffer *x = &plan->buffers[a];
        cr_assert_eq(x->offset % BUFFER_ALIGNMENT, 0);
        cr_assert_leq(x->offset + buffer_bytes(x), plan->arena_bytes);
        for (uint32_t b = a + 1; b < plan->buffer_count; b++) {
            const Buffer *y = &plan->buffers[b];
            bool overlap = x->offset < y->offset + buffer_bytes(y) && y->offset < x->offset + buffer_bytes(x);
            bool temporary = x->kind == BUFFER_TEMPORARY && y->kind == BUFFER_TEMPORARY;
            cr_assert(!overlap || (temporary && (all_before(plan, order, a, b) || all_before(plan, order, b, a))));
        }
    }
    cr_assert_lt(plan->arena_bytes, memory_bytes_without_reuse(plan), "something is shared");
}

Test(memory, buffers_that_share_memory_are_never_alive_together)
{
    for (unsigned seed = 1; seed <= 5; seed++) {
        Plan *plan = random_plan(seed, 60, 40);
        cr_assert(memory_plan(plan, plan->arena));
        check_sharing(plan, order_create(plan, plan->arena));
        plan_destroy(plan);
    }
}

// As plans with many buffers are planned.
Test(memory, nor_are_those_of_large_plans)
{
    for (unsigned seed = 1; seed <= 20; seed++) {
        Plan *plan = random_plan(seed, 60, 40);
        cr_assert(memory_plan(plan, plan->arena));
        Order *order = order_create(plan, plan->arena);
        uint64_t base = 0; // of temporaries: the end of what they do not share memory with
        for (uint32_t b = 0; b < plan->buffer_count; b++) {
            const Buffer *buffer = &plan->buffers[b];
            uint64_t end = (buffer->offset + buffer_bytes(buffer) + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT;
            if (buffer->kind != BUFFER_TEMPORARY && end * BUFFER_ALIGNMENT > base)
                base = end * BUFFER_ALIGNMENT;
        }
        const Lifetimes *lifetimes = lifetimes_create(plan, order, plan->arena);
        plan->arena_bytes = memory_place_in_order(plan, plan, order, lifetimes, base, plan->arena);
        check_sharing(plan, order);
        plan_destroy(plan);
    }
}

Test(memory, a_chain_needs_two_buffers)
{
    Plan *plan = random_plan(1, 1, 10);
    plan->step_count = plan->operand_count = plan->after_count = 0;
    plan->steps = arena_alloc_array(plan->arena, 9, sizeof(Step));
    for (uint32_t b = 0; b < 10; b++)
        plan->buffers[b] = (Buffer){.name = "", .dtype = DTYPE_U8, .rows = 1, .cols = 1000, .kind = BUFFER_TEMPORARY};
    plan->operands = arena_alloc_array(plan->arena, 9 * 4, sizeof(int32_t));
    for (uint32_t i = 0; i < 9; i++) {
        plan->steps[plan->step_count++] = (Step){.op = OP_RESIDUAL, .operand_first = plan->operand_count};
        StepBuffers of = {.residual = {(int32_t)i, (int32_t)i, NONE, (int32_t)i + 1}};
        memcpy(plan->operands + plan->operand_count, of.all, sizeof(of.residual));
        plan->operand_count += 4;
    }
    cr_assert(memory_plan(plan, plan->arena));
    cr_assert_eq(plan->arena_bytes, 2 * 1024);
    cr_assert_eq(memory_bytes_without_reuse(plan), 10 * 1024);
    Order *order = order_create(plan, plan->arena);
    const Lifetimes *lifetimes = lifetimes_create(plan, order, plan->arena);
    cr_assert_eq(memory_place_in_order(plan, plan, order, lifetimes, 0, plan->arena), 2 * 1024);
    plan_destroy(plan);
}

Test(memory, results_survive_the_iteration)
{
    Plan *plan = plan_of_four_ranks();
    cr_assert(memory_plan(plan, plan->arena));
    Lifetimes *lifetimes = lifetimes_create(plan, order_create(plan, plan->arena), plan->arena);
    uint32_t x = (uint32_t)plan_buffer_index(plan, "x"), out = (uint32_t)plan_buffer_index(plan, "out"),
             loss = (uint32_t)plan_buffer_index(plan, "loss"), experts = (uint32_t)plan_buffer_index(plan, "experts");
    cr_assert(lifetimes_disjoint(lifetimes, x, out));
    cr_assert(!lifetimes_disjoint(lifetimes, out, loss));
    cr_assert(!lifetimes_disjoint(lifetimes, x, experts));
    plan_destroy(plan);
}

Test(memory, sizes_that_overflow_are_refused)
{
    Plan *plan = random_plan(1, 10, 3);
    plan->buffers[0].rows = UINT64_MAX / 2;
    plan->buffers[0].cols = 3;
    cr_assert(!memory_plan(plan, plan->arena));
    plan->buffers[0] = (Buffer){.name = "", .rows = 1, .cols = UINT64_C(1) << 61, .dtype = DTYPE_U8};
    plan->buffers[1] = plan->buffers[2] = plan->buffers[0];
    cr_assert(memory_plan(plan, plan->arena));
    plan->buffers[1].cols = plan->buffers[0].cols = UINT64_C(1) << 62;
    cr_assert(!memory_plan(plan, plan->arena));
    cr_assert_eq(memory_bytes_without_reuse(plan), UINT64_MAX);
    plan_destroy(plan);
}

// ---- documentation -----------------------------------------------------------------------------

static char *read_document(const char *path)
{
    size_t length;
    Fault fault = {0};
    char *text = file_read(path, 1 << 20, &length, &fault);
    cr_assert_not_null(text, "%s: %s", path, fault.message);
    return text;
}

Test(docs, every_op_is_described)
{
    static const char *const roles[] = {"in", "out", "inout", "part"}, *const shapes[] = {"local", "exchange", "gather",
                                                                                          "scatter", "reduce"};
    char *document = read_document(HEP_SOURCE_DIR "/docs/ir.md");
    size_t count;
    const OpInfo *ops = op_table(&count);
    for (size_t i = 0; i < count; i++) {
        Text line = {0};
        text_format(&line, "| `%s` | %d | %s | %s |", ops[i].name, (int)ops[i].op, stream_name(ops[i].stream),
                    shapes[ops[i].shape]);
        for (uint32_t k = 0; k < ops[i].operand_count; k++) {
            const OperandInfo *operand = &ops[i].operands[k];
            text_format(&line, "%s %s `%s`%s", k ? "," : "", roles[operand->role], operand->name,
                        operand->optional ? "?" : "");
        }
        text_format(&line, " | %s |\n", ops[i].doc);
        cr_assert_not_null(strstr(document, line.data), "docs/ir.md misses:\n%s", line.data);
        text_free(&line);
    }
    free(document);
}

Test(docs, every_field_is_described)
{
    char *document = read_document(HEP_SOURCE_DIR "/docs/plan-format.md");
    for (int kind = 0; kind < RECORD_COUNT; kind++) {
        const RecordInfo *info = record_info((RecordKind)kind);
        Text table = {0};
        text_format(&table, "### %d `%s`, %u bytes\n\n| offset | bytes | field | type |\n|---|---|---|---|\n", kind,
                    info->keyword, record_bytes((RecordKind)kind) + (kind == RECORD_STEP ? 8 : 0));
        uint32_t offset = 0;
        for (const Field *field = info->fields; field->key; field++) {
            text_format(&table, "| %u | %u | `%s` | %s |\n", offset, field_bytes(field->type), field->key,
                        field_takes(field));
            offset += field_bytes(field->type);
        }
        cr_assert_not_null(strstr(document, table.data), "docs/plan-format.md misses:\n%s", table.data);
        text_free(&table);
    }
    free(document);
}

Test(docs, every_code_is_described)
{
    char *document = read_document(HEP_SOURCE_DIR "/docs/plan-format.md");
    for (int kind = 0; kind < RECORD_COUNT; kind++) {
        for (const Field *field = record_info((RecordKind)kind)->fields; field->key; field++) {
            if (!field->names || field->names == &op_names)
                continue;
            Text row = {0};
            text_format(&row, "| %s |", field_takes(field));
            for (int code = 0; name_text(field->names, code); code++)
                text_format(&row, "%s %d `%s`", code ? "," : "", code, name_text(field->names, code));
            text_append(&row, " |\n");
            cr_assert_not_null(strstr(document, row.data), "docs/plan-format.md misses:\n%s", row.data);
            text_free(&row);
        }
    }
    free(document);
}

Test(docs, every_property_is_described)
{
    char *document = read_document(HEP_SOURCE_DIR "/docs/ir.md");
    for (int property = 0; property < PROPERTY_COUNT; property++) {
        Text row = {0};
        text_format(&row, "| `%s` | %s |\n", property_name((Property)property), property_doc((Property)property));
        cr_assert_not_null(strstr(document, row.data), "docs/ir.md misses:\n%s", row.data);
        text_free(&row);
    }
    free(document);
}

// ---- gaps ----------------------------------------------------------------------------------------

enum { PLACES = 400 };

// The smallest free run that is long enough, of equals the first: by looking at every place. PLACES if there is none.
static int smallest_run(const bool *in_use, int wanted)
{
    int best = PLACES, best_length = PLACES + 1;
    for (int begin = 0; begin < PLACES; begin++) {
        int length = 0;
        while (begin + length < PLACES && !in_use[begin + length])
            length++;
        if (length >= wanted && length < best_length) {
            best = begin;
            best_length = length;
        }
        begin += length;
    }
    return best;
}

Test(memory, gaps_are_those_of_a_map_of_all_places)
{
    Arena *arena = arena_create();
    Gaps *gaps = gaps_create(arena);
    bool in_use[PLACES] = {false};
    int held_begin[PLACES], held_length[PLACES], held = 0;
    uint32_t random = 7;
    gaps_add(gaps, (Gap){0, PLACES});
    for (int round = 0; round < 4000; round++) {
        random = random * 1664525 + 1013904223;
        int length = 1 + (int)((random >> 10) % 23), expected = smallest_run(in_use, length);
        uint64_t begin = UINT64_MAX;
        if ((random >> 20) % 5 < 3 || held == 0) {
            bool found = gaps_take(gaps, (uint64_t)length, &begin);
            cr_assert_eq(found, expected < PLACES, "round %d", round);
            cr_assert(!found || begin == (uint64_t)expected, "round %d: at %d, not %d", round, (int)begin, expected);
            for (int i = 0; found && i < length; i++)
                in_use[expected + i] = true;
            held_begin[held] = expected;
            held_length[held] = length;
            held += found;
            continue;
        }
        int which = (int)((random >> 8) % (uint32_t)held);
        for (int i = 0; i < held_length[which]; i++)
            in_use[held_begin[which] + i] = false;
        gaps_add(gaps, (Gap){(uint64_t)held_begin[which], (uint64_t)(held_begin[which] + held_length[which])});
        held_begin[which] = held_begin[--held];
        held_length[which] = held_length[held];
    }
    uint64_t begin = 0;
    bool last_free = !in_use[PLACES - 1];
    cr_assert_eq(gaps_take_last(gaps, PLACES, &begin), last_free);
    cr_assert(!last_free || (begin < PLACES && !in_use[begin] && (begin == 0 || in_use[begin - 1])));
    cr_assert(!gaps_take_last(gaps, PLACES, &begin), "taken twice");
    arena_destroy(arena);
}
