// A small valid plan built by hand, for tests that break it: 2 x 2 ranks, one MoE layer, forward.
// Rows go over level `dc`, experts are gathered over level `gpu`. Buffers share no memory.
#ifndef HEP_TEST_PLANS_H
#define HEP_TEST_PLANS_H

#include <stdlib.h>
#include <string.h>

#include "ir/plan.h"

enum {
    PLAN_EMBED,
    PLAN_GATHER,
    PLAN_PRE_EXPERT,
    PLAN_GATE,
    PLAN_ROUTE,
    PLAN_DISPATCH,
    PLAN_EXPERT,
    PLAN_COMBINE,
    PLAN_UNROUTE,
    PLAN_RESIDUAL,
    PLAN_LOSS,
    PLAN_STEPS,
};

static inline int32_t plan_buffer_index(const Plan *plan, const char *name)
{
    for (uint32_t i = 0; i < plan->buffer_count; i++)
        if (strcmp(plan->buffers[i].name, name) == 0)
            return (int32_t)i;
    return NONE;
}

// By its name in the text form.
static inline int32_t *plan_operand_named(Plan *plan, uint32_t step, const char *name)
{
    const OpInfo *info = op_info((int)plan->steps[step].op);
    for (uint32_t k = 0; k < info->operand_count; k++)
        if (strcmp(info->operands[k].name, name) == 0)
            return &plan->operands[plan->steps[step].operand_first + k];
    abort();
}

static inline int32_t *plan_operand(Plan *plan, uint32_t step, Operand operand)
{
    int32_t index = op_operand_index(op_info((int)plan->steps[step].op), operand);
    if (index < 0)
        abort();
    return &plan->operands[plan->steps[step].operand_first + (uint32_t)index];
}

static inline void plan_add_buffer(Plan *plan, const char *name, Dtype dtype, uint64_t rows, uint64_t cols,
                                   BufferKind kind)
{
    Buffer *buffer = &plan->buffers[plan->buffer_count++];
    *buffer = (Buffer){
        .name = name,
        .dtype = dtype,
        .rows = rows,
        .cols = cols,
        .kind = kind,
        .layer = (kind == BUFFER_WEIGHT && strcmp(name, "embedding") != 0) || strcmp(name, "gathered") == 0 ? 0 : NONE,
        .offset = plan->arena_bytes};
    plan->arena_bytes += (buffer_bytes(buffer) + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
}

// `operands` is "name=buffer name=buffer", `after` a list that ends with -1.
static inline Step *plan_add_step(Plan *plan, Op op, int32_t layer, const char *operands, const int *after)
{
    Step *step = &plan->steps[plan->step_count++];
    *step = (Step){.op = op,
                   .layer = layer,
                   .level = NONE,
                   .group = NONE,
                   .operand_first = plan->operand_count,
                   .after_first = plan->after_count,
                   .cost_s = 1e-3 * plan->step_count};
    for (uint32_t k = 0; k < op_info((int)op)->operand_count; k++)
        plan->operands[plan->operand_count++] = NONE;
    char *text = arena_copy_string(plan->arena, operands, strlen(operands)), *rest = NULL;
    for (char *pair = strtok_r(text, " ", &rest); pair; pair = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(pair, '=');
        *equals = 0;
        *plan_operand_named(plan, plan->step_count - 1, pair) = plan_buffer_index(plan, equals + 1);
    }
    for (; after && *after >= 0; after++) {
        plan->after[plan->after_count++] = (uint32_t)*after;
        step->after_count++;
    }
    return step;
}

static inline void plan_add_network(Plan *plan)
{
    const ModelDims *m = &plan->model;
    plan_add_buffer(plan, "tokens", DTYPE_I32, 1, 3, BUFFER_INPUT);
    plan_add_buffer(plan, "embedding", DTYPE_F32, 1, model_embedding_elements(m), BUFFER_WEIGHT);
    plan_add_buffer(plan, "dense", DTYPE_F32, 1, model_dense_elements(m, true), BUFFER_WEIGHT);
    plan_add_buffer(plan, "experts", DTYPE_F32, 1, model_expert_elements(m), BUFFER_WEIGHT);
    plan_add_buffer(plan, "gathered", DTYPE_F32, 2, model_expert_elements(m), BUFFER_TEMPORARY);
    static const struct {
        const char *name;
        uint64_t rows;
    } rows[] = {{"x", 2},       {"y", 2},        {"rows", 2},   {"next_rows", 4}, {"send_rows", 2},
                {"results", 4}, {"returned", 2}, {"summed", 2}, {"out", 2}};
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        plan_add_buffer(plan, rows[i].name, DTYPE_F32, rows[i].rows, m->hidden, BUFFER_TEMPORARY);
    plan_add_buffer(plan, "records", DTYPE_I32, 2, 2, BUFFER_TEMPORARY);
    plan_add_buffer(plan, "next_records", DTYPE_I32, 4, 2, BUFFER_TEMPORARY);
    plan_add_buffer(plan, "send_records", DTYPE_I32, 2, 2, BUFFER_TEMPORARY);
    plan_add_buffer(plan, "send_counts", DTYPE_I32, 2, 1, BUFFER_TEMPORARY);
    plan_add_buffer(plan, "next_counts", DTYPE_I32, 2, 1, BUFFER_TEMPORARY);
    plan_add_buffer(plan, "origin", DTYPE_I32, 4, 1, BUFFER_TEMPORARY);
    plan_add_buffer(plan, "loss", DTYPE_F32, 1, 1, BUFFER_TEMPORARY);

    plan_add_step(plan, OP_EMBED, NONE, "tokens=tokens embedding=embedding x=x", NULL);
    plan_add_step(plan, OP_GATHER, 0, "shard=experts gathered=gathered", NULL);
    plan_add_step(plan, OP_PRE_EXPERT, 0, "x=x dense=dense y=y", NULL);
    plan_add_step(plan, OP_GATE, 0, "x=y dense=dense rows=rows records=records", NULL);
    plan_add_step(plan, OP_ROUTE, 0,
                  "rows=rows records=records next_rows=next_rows next_records=next_records send_rows=send_rows "
                  "send_records=send_records send_counts=send_counts origin=origin",
                  NULL);
    plan_add_step(plan, OP_DISPATCH, 0,
                  "send_rows=send_rows send_records=send_records send_counts=send_counts next_rows=next_rows "
                  "next_records=next_records next_counts=next_counts",
                  (const int[]){PLAN_ROUTE, -1});
    plan_add_step(plan, OP_EXPERT, 0,
                  "rows=next_rows records=next_records counts=next_counts experts=gathered results=results",
                  (const int[]){PLAN_GATHER, PLAN_DISPATCH, -1});
    plan_add_step(plan, OP_COMBINE, 0,
                  "results=results next_counts=next_counts send_counts=send_counts returned=returned",
                  (const int[]){PLAN_EXPERT, -1});
    plan_add_step(plan, OP_UNROUTE, 0,
                  "results=results returned=returned send_counts=send_counts origin=origin rows=summed",
                  (const int[]){PLAN_COMBINE, -1});
    plan_add_step(plan, OP_RESIDUAL, 0, "x=y results=summed y=out", NULL);
    plan_add_step(plan, OP_LOSS, NONE, "x=out tokens=tokens embedding=embedding loss=loss", NULL);
}

static inline void plan_add_collectives(Plan *plan)
{
    plan->groups[plan->group_count++] = (Group){GROUP_GATHER, 1, 2};
    plan->groups[plan->group_count++] = (Group){GROUP_EXCHANGE, 0, 1};
    Step *gather = &plan->steps[PLAN_GATHER];
    gather->level = 1;
    gather->group = 0;
    gather->bytes = 128;
    static const int exchanges[] = {PLAN_DISPATCH, PLAN_COMBINE};
    for (size_t i = 0; i < COUNT_OF(exchanges); i++) {
        Step *step = &plan->steps[exchanges[i]];
        step->level = 0;
        step->group = 1;
        step->bytes = i == 0 ? 52 : 32;
    }
    Strategy *chosen = &plan->strategies[plan->strategy_count++];
    *chosen = (Strategy){.name = "hybrid",
                         .dispatch = DISPATCH_DEDUP,
                         .domain = {1, 2},
                         .iteration_s = plan->iteration_s,
                         .memory_bytes = (double)plan->arena_bytes,
                         .fits = true};
    chosen->traffic[0] = (Traffic){.exchange_bytes = 64, .routing_bytes = 20};
    chosen->traffic[1] = (Traffic){.gather_bytes = 128};
    plan->strategies[plan->strategy_count++] = (Strategy){.name = "ep", .domain = {1, 1}, .iteration_s = 1.0 / 3};
}

static inline Plan *plan_of_four_ranks(void)
{
    Plan *plan = plan_create();
    plan->cluster = (Cluster){.name = "two by two", .level_count = 2, .device = {4e9, 1e9, 1e9, 32}};
    plan->cluster.levels[0] = (Level){"dc", 2, 1.25e8, 5e-4, 0};
    plan->cluster.levels[1] = (Level){"gpu", 2, 1e9, 5e-6, 1e-7};
    plan->model = (ModelDims){.name = "tiny",
                              .dtype = DTYPE_F32,
                              .layers = 1,
                              .hidden = 4,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 4,
                              .vocabulary = 8,
                              .sequence = 2,
                              .batch = 1,
                              .experts = 4,
                              .top_k = 1,
                              .inner = 4,
                              .activation = ACTIVATION_GELU,
                              .data_bytes = 32,
                              .expert_bytes = 128,
                              .pre_expert_s = 1e-6};
    plan->dispatch = DISPATCH_DEDUP;
    plan->solver = "by hand";
    plan->status = STATUS_FORCED;
    plan->iteration_s = 0.1;
    plan->choices = arena_alloc_array(plan->arena, 4, sizeof(*plan->choices));
    plan->strategies = arena_alloc_array(plan->arena, 4, sizeof(*plan->strategies));
    plan->groups = arena_alloc_array(plan->arena, 4, sizeof(*plan->groups));
    plan->buffers = arena_alloc_array(plan->arena, 64, sizeof(*plan->buffers));
    plan->steps = arena_alloc_array(plan->arena, 32, sizeof(*plan->steps));
    plan->operands = arena_alloc_array(plan->arena, 256, sizeof(*plan->operands));
    plan->after = arena_alloc_array(plan->arena, 64, sizeof(*plan->after));
    plan->choices[plan->choice_count++] = (Choice){.layer = 0, .domain = {1, 2}};
    plan_add_network(plan);
    plan_add_collectives(plan);
    return plan;
}

// The same with ports: two data centres that changed places, and a link between them.
static inline Plan *plan_of_placed_ranks(void)
{
    Plan *plan = plan_of_four_ranks();
    Cluster *cluster = &plan->cluster;
    cluster->port_count = cluster->levels[0].count;
    cluster->link_count = 1;
    cluster->ports = arena_alloc_array(plan->arena, cluster->port_count, sizeof(*cluster->ports));
    cluster->links = arena_alloc_array(plan->arena, cluster->link_count, sizeof(*cluster->links));
    cluster->ports[0] = (WorkerPort){"oslo", 1, 1.25e8, 5e-4};
    cluster->ports[1] = (WorkerPort){"dc[0]", 0, 6.25e7, 1e-3};
    cluster->links[0] = (WorkerLink){0, 1, 2.5e7, 4e-2};
    return plan;
}

#endif
