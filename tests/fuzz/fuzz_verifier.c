// Fuzz target: valid plans with fields changed, as binary plans. The verifier must answer; what it accepts is
// simulated and printed in every form, so that whatever relies on its properties is tried on all that it lets through.
// Inputs are plan files: a mutator decodes one, changes records and encodes it again, or nothing would get past the
// loader. What does not decode is left to fuzz_plan_binary.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backends/chakra.h"
#include "backends/diff.h"
#include "backends/dot.h"
#include "backends/html.h"
#include "backends/json.h"
#include "backends/simulation_print.h"
#include "backends/summary.h"
#include "backends/trace.h"
#include "ir/binary.h"
#include "ir/text/plan_text.h"
#include "ir/verify/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

enum { CHANGES_MAX = 3, RANKS_PRINTED_MAX = 64 };

// ---- mutation --------------------------------------------------------------------------------

typedef struct {
    Plan *plan;
    uint64_t state;
} Mutation;

static uint64_t draw(Mutation *m, uint64_t below) // xorshift64*; 0 for below 0
{
    m->state ^= m->state >> 12;
    m->state ^= m->state << 25;
    m->state ^= m->state >> 27;
    return below ? (m->state * UINT64_C(2685821657736338717)) % below : 0;
}

static uint32_t near_count(Mutation *m, uint32_t value)
{
    static const uint32_t edges[] = {0, 1, 2, 3, 7, 8, 255, 65535, 65536, INT32_MAX, UINT32_MAX};
    switch (draw(m, 5)) {
    case 0:
        return value + 1;
    case 1:
        return value - 1;
    case 2:
        return value * 2;
    case 3:
        return value / 2;
    }
    return edges[draw(m, COUNT_OF(edges))];
}

static double near_number(Mutation *m, double value)
{
    static const double edges[] = {0, 1, 0.5, 1e-300, 1e300, 1e-9, 1e18, 4294967296.0};
    switch (draw(m, 4)) {
    case 0:
        return value * 2;
    case 1:
        return value * 0.999;
    case 2:
        return value / 1000;
    }
    return edges[draw(m, COUNT_OF(edges))];
}

static int32_t index_or_none(Mutation *m, uint32_t count)
{
    return draw(m, 8) == 0 ? NONE : (int32_t)draw(m, count);
}

static void change_step(Mutation *m)
{
    Plan *plan = m->plan;
    if (plan->step_count == 0)
        return;
    uint32_t index = (uint32_t)draw(m, plan->step_count);
    Step *step = &plan->steps[index];
    const OpInfo *info = op_info((int)step->op);
    switch (draw(m, 10)) {
    case 0:
        if (info->operand_count)
            plan->operands[step->operand_first + draw(m, info->operand_count)] = index_or_none(m, plan->buffer_count);
        break;
    case 1:
        step->layer = index_or_none(m, plan->model.layers);
        break;
    case 2:
        step->level = index_or_none(m, plan->cluster.level_count);
        break;
    case 3:
        step->group = index_or_none(m, plan->group_count);
        break;
    case 4:
        if (step->after_count)
            plan->after[step->after_first + draw(m, step->after_count)] = (uint32_t)draw(m, plan->step_count);
        break;
    case 5:
        step->after_count -= step->after_count > 0;
        break;
    case 6: { // with another step; both keep their edges
        Step *other = &plan->steps[draw(m, plan->step_count)], kept = *step;
        *step = *other;
        *other = kept;
        break;
    }
    case 7:
        step->cost_s = near_number(m, step->cost_s);
        break;
    case 8:
        *(draw(m, 2) ? &step->bytes : &step->busiest) = near_number(m, step->bytes);
        break;
    case 9:
        step->joined = !step->joined;
        break;
    }
}

static void change_buffer(Mutation *m)
{
    Plan *plan = m->plan;
    if (plan->buffer_count == 0)
        return;
    Buffer *buffer = &plan->buffers[draw(m, plan->buffer_count)];
    switch (draw(m, 6)) {
    case 0:
        buffer->rows = near_count(m, (uint32_t)buffer->rows);
        break;
    case 1:
        buffer->cols = near_count(m, (uint32_t)buffer->cols);
        break;
    case 2:
        buffer->dtype = (Dtype)draw(m, DTYPE_COUNT);
        break;
    case 3:
        buffer->kind = (BufferKind)draw(m, BUFFER_KIND_COUNT);
        break;
    case 4:
        buffer->layer = index_or_none(m, plan->model.layers);
        break;
    case 5:
        buffer->offset = draw(m, 2) ? plan->buffers[draw(m, plan->buffer_count)].offset
                                    : draw(m, plan->arena_bytes / BUFFER_ALIGNMENT + 1) * BUFFER_ALIGNMENT;
        break;
    }
}

static void change_choice(Mutation *m)
{
    Plan *plan = m->plan;
    uint32_t level = (uint32_t)draw(m, plan->cluster.level_count);
    if (plan->group_count && draw(m, 2)) {
        Group *group = &plan->groups[draw(m, plan->group_count)];
        switch (draw(m, 3)) {
        case 0:
            group->kind = (GroupKind)draw(m, GROUP_KIND_COUNT);
            break;
        case 1:
            group->level = index_or_none(m, plan->cluster.level_count);
            break;
        case 2:
            group->domain = near_count(m, group->domain);
            break;
        }
    } else if (plan->choice_count) {
        Choice *choice = &plan->choices[draw(m, plan->choice_count)];
        if (draw(m, 4))
            choice->domain[level] = near_count(m, choice->domain[level]);
        else if (draw(m, 2))
            choice->layer = near_count(m, choice->layer);
        else
            choice->regather = !choice->regather;
    }
}

static void change_cluster(Mutation *m)
{
    Cluster *cluster = &m->plan->cluster;
    Level *level = &cluster->levels[draw(m, cluster->level_count)];
    double *numbers[] = {&level->bandwidth_bytes_per_s,
                         &level->latency_s,
                         &level->overhead_s,
                         &cluster->device.compute_flops,
                         &cluster->device.memory_bytes,
                         &cluster->device.memory_bandwidth,
                         &cluster->device.half_rate_rows};
    double *number = numbers[draw(m, COUNT_OF(numbers))];
    if (cluster->port_count && draw(m, 2))
        number = &cluster->ports[draw(m, cluster->port_count)].bandwidth_bytes_per_s;
    else if (cluster->link_count && draw(m, 2))
        number = &cluster->links[draw(m, cluster->link_count)].latency_s;
    if (draw(m, 3) == 0)
        level->count = near_count(m, level->count);
    else
        *number = near_number(m, *number);
}

static void change_model(Mutation *m)
{
    ModelDims *model = &m->plan->model;
    uint32_t *counts[] = {&model->layers,        &model->hidden,     &model->heads,    &model->kv_heads,
                          &model->head_dim,      &model->vocabulary, &model->sequence, &model->batch,
                          &model->ffn_inner,     &model->experts,    &model->top_k,    &model->inner,
                          &model->shared_experts};
    double *numbers[] = {&model->data_bytes, &model->expert_bytes, &model->pre_expert_s, &model->total_parameters,
                         &model->active_parameters};
    switch (draw(m, 4)) {
    case 0: {
        uint32_t *count = counts[draw(m, COUNT_OF(counts))];
        *count = near_count(m, *count);
        break;
    }
    case 1: {
        double *number = numbers[draw(m, COUNT_OF(numbers))];
        *number = near_number(m, *number);
        break;
    }
    case 2:
        model->dtype = (Dtype)draw(m, DTYPE_COUNT);
        break;
    case 3:
        model->abstract = !model->abstract;
        break;
    }
}

static void change_plan(Mutation *m)
{
    Plan *plan = m->plan;
    switch (draw(m, 11)) {
    case 0:
        plan->pass = (Pass)draw(m, PASS_COUNT);
        break;
    case 1:
        plan->dispatch = (Dispatch)draw(m, DISPATCH_COUNT);
        break;
    case 2:
        (draw(m, 2) ? &plan->experts : &plan->dense)->codec = (Codec)draw(m, CODEC_COUNT);
        break;
    case 3:
        plan->capacity = near_number(m, plan->capacity);
        break;
    case 4:
        plan->replica_levels = near_count(m, plan->replica_levels);
        break;
    case 5:
        plan->replica_slots = near_count(m, plan->replica_slots);
        break;
    case 10:
        plan->bucket = near_count(m, plan->bucket);
        break;
    case 6:
        plan->iteration_s = near_number(m, plan->iteration_s);
        break;
    case 7:
        plan->arena_bytes = draw(m, 2) ? plan->arena_bytes + BUFFER_ALIGNMENT : near_count(m, 1);
        break;
    case 8:
        if (plan->strategy_count) {
            Traffic *traffic =
                &plan->strategies[draw(m, plan->strategy_count)].traffic[draw(m, plan->cluster.level_count)];
            traffic->exchange_bytes = near_number(m, traffic->exchange_bytes);
        }
        break;
    case 9:
        plan->exchange = (ExchangeKind)draw(m, EXCHANGE_KIND_COUNT);
        break;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    static void (*const changes[])(Mutation *) = {change_step,   change_step,    change_step,  change_buffer,
                                                  change_choice, change_cluster, change_model, change_plan};
    Fault fault = {0};
    Plan *plan = plan_decode(data, size, &fault);
    if (!plan)
        return size;
    Mutation m = {plan, seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
    for (uint64_t i = 1 + draw(&m, CHANGES_MAX); i-- > 0;)
        changes[draw(&m, COUNT_OF(changes))](&m);
    uint8_t *bytes = NULL;
    size_t length = 0;
    if (plan_encode(plan, &bytes, &length, &fault) && length <= max_size) {
        memcpy(data, bytes, length);
        size = length;
    }
    free(bytes);
    plan_destroy(plan);
    return size;
}

// ---- what is tried ---------------------------------------------------------------------------

static void print_all(const Plan *plan, size_t length)
{
    Text text = {0};
    plan_print(plan, &text);
    summary_print(plan, length, &text);
    json_print(plan, 0, length, &text);
    dot_print(plan, &text);
    html_print(plan, NULL, &text);
    if (!trace_print(plan, NULL, &text, &(Fault){0}))
        abort();
    Arena *arena = arena_create();
    const Simulation *simulation = simulate(plan, arena);
    simulation_print(plan, simulation, &text);
    if (isnan(simulation->iteration_s) || simulation->iteration_s < 0)
        abort();
    const Plan *plans[2] = {plan, plan};
    const char *names[2] = {"a", "b"};
    if (!diff_is_empty(diff_plans(plans, names, arena)))
        abort();
    if (chakra_available() && cluster_gpus(&plan->cluster) <= RANKS_PRINTED_MAX) {
        const Chakra *chakra = chakra_create(plan, arena);
        chakra_print_groups(chakra, &text);
        chakra_print_rank(chakra, 0, &text);
    }
    arena_destroy(arena);
    text_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static VerifyReport report;
    Fault fault = {0};
    Plan *plan = plan_decode(data, size, &fault);
    if (!plan)
        return 0;
    bool good = plan_verify(plan, &report);
    if (good != (report.total == 0))
        abort();
    for (uint32_t i = 0; i < verify_report_count(&report); i++)
        if (report.items[i].message[0] == 0 || report.items[i].step >= (int64_t)plan->step_count)
            abort();
    if (good)
        print_all(plan, size);
    plan_destroy(plan);
    return 0;
}
