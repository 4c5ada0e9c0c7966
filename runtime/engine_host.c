// The host engine: one arena per rank. Everything a step needs (tensors, route tables, channels, row counts' places) is
// resolved here when the engine is created; executing a step only calls (engine_host_ops.c).
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/text.h"
#include "runtime/comm_sums.h"
#include "runtime/engine_host_internal.h"
#include "runtime/weights.h"

static bool host_supports(Op op)
{
    return host_handler(op) != NULL;
}

// ---- where experts are -----------------------------------------------------------------------

static const Choice *choice_of_layer(const Plan *plan, int32_t layer)
{
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        if (layer >= 0 && plan->choices[c].layer == (uint32_t)layer)
            return &plan->choices[c];
    }
    return NULL;
}

static const ExpertMap *map_of(const HostEngine *engine, const uint32_t domain[LEVELS_MAX])
{
    for (uint32_t m = 0; m < engine->map_count; m++) {
        if (memcmp(engine->maps[m].domain, domain, sizeof(engine->maps[m].domain)) == 0)
            return &engine->maps[m];
    }
    return NULL;
}

static void map_fill(const HostEngine *engine, ExpertMap *map, int32_t *memory)
{
    const Plan *plan = engine->plan;
    uint32_t experts = plan->model.experts, levels = plan->cluster.level_count;
    map->slot_of_expert = memory;
    for (uint32_t e = 0; e < experts; e++)
        map->slot_of_expert[e] = (int32_t)plan_expert_slot(plan, map->domain, engine->comm->rank, e);
    for (uint32_t l = 0; l < levels; l++) {
        map->member_of_expert[l] = memory + (uint64_t)experts * (l + 1);
        for (uint32_t e = 0; e < experts; e++)
            map->member_of_expert[l][e] = (int32_t)plan_expert_domain(plan, map->domain, e, l);
    }
}

static bool maps_create(HostEngine *engine)
{
    const Plan *plan = engine->plan;
    engine->maps = calloc(plan->choice_count + 1, sizeof(*engine->maps));
    if (!engine->maps)
        return false;
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        if (!map_of(engine, plan->choices[c].domain))
            memcpy(engine->maps[engine->map_count++].domain, plan->choices[c].domain, sizeof(engine->maps->domain));
    }
    uint64_t per_map = (uint64_t)plan->model.experts * (plan->cluster.level_count + 1);
    engine->map_memory = calloc(per_map * engine->map_count + 1, sizeof(*engine->map_memory));
    if (!engine->map_memory)
        return false;
    for (uint32_t m = 0; m < engine->map_count; m++)
        map_fill(engine, &engine->maps[m], engine->map_memory + m * per_map);
    return true;
}

// ---- creation --------------------------------------------------------------------------------

static Tensor buffer_tensor(const HostEngine *engine, int32_t buffer)
{
    if (buffer == NONE)
        return (Tensor){0};
    const Buffer *from = &engine->plan->buffers[buffer];
    return (Tensor){.data = engine->arena + from->offset, .dtype = from->dtype, .rows = from->rows, .cols = from->cols};
}

// Which weights a weight buffer holds follows from the operand it is used as.
static void weight_fill(const HostEngine *engine, const char *operand, int32_t layer, Tensor out)
{
    const Plan *plan = engine->plan;
    const ModelDims *dims = &plan->model;
    uint64_t seed = engine->options.seed;
    uint32_t of = layer == NONE ? 0 : (uint32_t)layer;
    if (strcmp(operand, "embedding") == 0)
        weights_fill_embedding(dims, seed, out);
    else if (strcmp(operand, "attention") == 0)
        weights_fill_attention(dims, seed, of, out);
    else if (strcmp(operand, "router") == 0)
        weights_fill_router(dims, seed, of, out);
    else if (strcmp(operand, "ffn") == 0)
        weights_fill_ffn(dims, seed, of, out);
    else if (strcmp(operand, "shared") == 0)
        weights_fill_shared(dims, seed, of, out);
    else if (strcmp(operand, "experts") == 0 || strcmp(operand, "shard") == 0)
        weights_fill_experts(dims, seed, of, plan_first_expert(plan, engine->comm->rank), plan_experts_per_rank(plan),
                             out);
}

static bool weights_create(const HostEngine *engine)
{
    const Plan *plan = engine->plan;
    bool *filled = calloc(plan->buffer_count + 1, sizeof(*filled));
    if (!filled)
        return false;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const OpInfo *info = op_info(plan->steps[s].op);
        const int32_t *operands = step_operands(plan, &plan->steps[s]);
        for (uint32_t o = 0; o < info->operand_count; o++) {
            int32_t b = operands[o];
            if (b == NONE || plan->buffers[b].kind != BUFFER_WEIGHT || filled[b])
                continue;
            weight_fill(engine, info->operands[o].name, plan->buffers[b].layer, buffer_tensor(engine, b));
            filled[b] = true;
        }
    }
    free(filled);
    return true;
}

static bool channel_open(const HostEngine *engine, HostStep *step, Fault *fault)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[step->index];
    Stream stream = op_info(of->op)->stream;
    const Group *group = &plan->groups[of->group];
    int *channel = &engine->channels[(uint32_t)of->group * STREAM_COUNT + stream];
    if (*channel < 0)
        *channel = engine->comm->ops->open(engine->comm, group, stream, fault);
    step->channel = *channel;
    step->own = (uint32_t)group_index(&plan->cluster, group, engine->comm->rank);
    step->members = (uint32_t)group_size(&plan->cluster, group);
    return step->channel >= 0;
}

enum { ROUTE_COUNTS = 2, ROUTE_ORIGIN = 8, DISPATCH_SEND_COUNTS = 2 };

// Routes and their way back name no level: they serve the dispatch that reads the same counts.
static const Step *dispatch_of(const Plan *plan, int32_t send_counts)
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (step->op == OP_DISPATCH && step_operands(plan, step)[DISPATCH_SEND_COUNTS] == send_counts)
            return step;
    }
    return NULL;
}

// Which operand is the send counts, and which the origin; false for other ops.
static bool find_route_operands(Op op, uint32_t *send_counts, uint32_t *origin)
{
    switch ((int)op) {
    case OP_ROUTE:
        *send_counts = 7, *origin = ROUTE_ORIGIN;
        return true;
    case OP_UNROUTE:
        *send_counts = 2, *origin = 3;
        return true;
    case OP_UNROUTE_BACKWARD:
        *send_counts = 1, *origin = 2;
        return true;
    case OP_ROUTE_BACKWARD:
        *send_counts = 4, *origin = 5;
        return true;
    }
    return false;
}

// Record rows a row of the stage that the origin leads back to: several before the first exchange, where dispatch is
// naive.
static uint32_t fanout_of(const Plan *plan, int32_t origin)
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const int32_t *operands = step_operands(plan, &plan->steps[s]);
        if (plan->steps[s].op == OP_ROUTE && operands[ROUTE_ORIGIN] == origin)
            return operands[ROUTE_COUNTS] == NONE && plan->dispatch == DISPATCH_NAIVE ? plan->model.top_k : 1;
    }
    return 1;
}

static bool route_resolve(const HostEngine *engine, HostStep *step, const ExpertMap *map, Fault *fault)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[step->index];
    uint32_t counts_at, origin_at;
    if (!find_route_operands(of->op, &counts_at, &origin_at))
        return true;
    int32_t counts = step_operands(plan, of)[counts_at];
    step->fanout = fanout_of(plan, step_operands(plan, of)[origin_at]);
    const Step *dispatch = dispatch_of(plan, counts);
    if (!dispatch || !map)
        return fault_set(fault, EXIT_INPUT, "step %" PRIu32 " ('%s') belongs to no dispatch of an MoE layer",
                         step->index, op_info(of->op)->name);
    const Group *group = &plan->groups[dispatch->group];
    step->route = (RouteTable){
        .member_of_expert = map->member_of_expert[dispatch->level],
        .members = (uint32_t)group_size(&plan->cluster, group),
        .own = (uint32_t)group_index(&plan->cluster, group, engine->comm->rank),
    };
    return true;
}

static bool step_create(HostEngine *engine, uint32_t index, Fault *fault)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[index];
    const OpInfo *info = op_info(of->op);
    HostStep *step = &engine->steps[index];
    *step = (HostStep){.engine = engine, .run = host_handler(of->op), .index = index};
    for (uint32_t o = 0; o < info->operand_count; o++)
        step->operands[o] = buffer_tensor(engine, step_operands(plan, of)[o]);
    const Choice *choice = choice_of_layer(plan, of->layer);
    const ExpertMap *map = choice ? map_of(engine, choice->domain) : NULL;
    if (of->group != NONE && !channel_open(engine, step, fault))
        return false;
    if (of->op == OP_EXPERT || of->op == OP_EXPERT_BACKWARD) {
        if (!map)
            return fault_set(fault, EXIT_INPUT, "step %" PRIu32 " ('%s') is of no MoE layer", index, info->name);
        step->slot_of_expert = map->slot_of_expert;
    }
    if (!route_resolve(engine, step, map, fault))
        return false;
    if (of->op == OP_OPTIMIZER)
        host_optimizer_begin(step->operands[0], step->operands[2]);
    if (of->op == OP_GATE && choice && engine->decisions)
        step->decisions =
            engine->decisions + (uint64_t)(choice - plan->choices) * model_tokens(&plan->model) * plan->model.top_k;
    if (of->op == OP_LOSS)
        engine->loss = step->operands[3];
    if (of->op == OP_EMBED)
        engine->tokens = step->operands[0];
    return true;
}

// The final hidden state is what the last residual or dense layer writes.
static void mark_final(HostEngine *engine)
{
    for (uint32_t s = engine->plan->step_count; s-- > 0;) {
        Op op = engine->plan->steps[s].op;
        if (op != OP_RESIDUAL && op != OP_FFN)
            continue;
        engine->steps[s].is_final = true;
        engine->x = engine->steps[s].operands[op == OP_RESIDUAL ? 3 : 2];
        return;
    }
}

static uint64_t decisions_bytes(const Plan *plan)
{
    return (uint64_t)plan->choice_count * model_tokens(&plan->model) * plan->model.top_k * sizeof(int32_t);
}

static uint64_t final_bytes(const Plan *plan)
{
    return model_tokens(&plan->model) * plan->model.hidden * dtype_bytes(plan->model.dtype);
}

// Of the largest sum, and the members of the largest group that sums.
static uint64_t sum_scratch_bytes(const Plan *plan, uint32_t *members_max)
{
    uint64_t most = 0;
    *members_max = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (step->op != OP_REDUCE_SCATTER && step->op != OP_ALL_REDUCE)
            continue;
        uint32_t members = (uint32_t)group_size(&plan->cluster, &plan->groups[step->group]);
        const Buffer *buffer = &plan->buffers[step_operands(plan, step)[step->op == OP_REDUCE_SCATTER ? 1 : 0]];
        uint64_t elements = buffer->rows * buffer->cols;
        uint64_t bytes = step->op == OP_REDUCE_SCATTER ? comm_scatter_scratch(members, elements, buffer->dtype)
                                                       : comm_reduce_scratch(members, elements, buffer->dtype);
        most = bytes > most ? bytes : most;
        *members_max = members > *members_max ? members : *members_max;
    }
    return most;
}

static uint64_t host_bytes(const Plan *plan, const EngineOptions *options)
{
    uint32_t members;
    uint64_t maps = (uint64_t)plan->model.experts * (plan->cluster.level_count + 1) * sizeof(int32_t);
    uint64_t extra = plan->step_count * sizeof(HostStep), total;
    extra += options->record ? decisions_bytes(plan) + final_bytes(plan) : 0;
    extra += sum_scratch_bytes(plan, &members);
    if (!checked_mul(maps, plan->choice_count, &maps) || !checked_add(plan->arena_bytes, extra, &total) ||
        !checked_add(total, maps, &total))
        return UINT64_MAX;
    return total;
}

static bool memory_create(HostEngine *engine)
{
    const Plan *plan = engine->plan;
    uint64_t bytes = (plan->arena_bytes + BUFFER_ALIGNMENT) / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
    size_t channels = (size_t)(plan->group_count + 1) * STREAM_COUNT;
    engine->arena = aligned_alloc(BUFFER_ALIGNMENT, bytes);
    engine->steps = calloc(plan->step_count + 1, sizeof(*engine->steps));
    engine->channels = malloc(channels * sizeof(*engine->channels));
    uint32_t members;
    engine->sum_scratch = malloc(sum_scratch_bytes(plan, &members) + 1);
    engine->sum_counts = malloc((2ull * members + 1) * sizeof(*engine->sum_counts));
    if (engine->options.record) {
        engine->decisions = malloc(decisions_bytes(plan) + 1);
        engine->final_x = malloc(final_bytes(plan) + 1);
    }
    if (!engine->arena || !engine->steps || !engine->channels || !engine->sum_scratch || !engine->sum_counts ||
        (engine->options.record && (!engine->final_x || !engine->decisions)) || !maps_create(engine))
        return false;
    for (size_t c = 0; c < channels; c++)
        engine->channels[c] = -1;
    memset(engine->arena, 0xFF, bytes); // NaN in every floating dtype: what is read unwritten shows
    return weights_create(engine);
}

static void host_destroy(Engine *base)
{
    HostEngine *engine = (HostEngine *)base;
    if (!engine)
        return;
    free(engine->arena);
    free(engine->steps);
    free(engine->channels);
    free(engine->sum_scratch);
    free(engine->sum_counts);
    free(engine->decisions);
    free(engine->final_x);
    free(engine->maps);
    free(engine->map_memory);
    free(engine);
}

static Engine *host_create(const Plan *plan, Comm *comm, const EngineOptions *options, Fault *fault)
{
    HostEngine *engine = calloc(1, sizeof(*engine));
    if (!engine) {
        fault_set(fault, EXIT_FAULT, "out of memory");
        return NULL;
    }
    const ModelDims *dims = &plan->model;
    *engine = (HostEngine){.plan = plan, .comm = comm, .options = *options};
    if (plan->capacity > 0)
        engine->capacity_rows =
            (uint64_t)ceil(plan->capacity * (double)model_tokens(dims) * dims->top_k / dims->experts);
    char arena[FORMAT_MAX];
    bool ok =
        memory_create(engine) ||
        fault_set(fault, EXIT_FAULT,
                  "out of memory for an arena of %s: look at the limits of the process (ulimit -v, -d) and of its "
                  "control group, and at what else runs on its machine",
                  format_bytes(arena, (double)plan->arena_bytes));
    for (uint32_t s = 0; ok && s < plan->step_count; s++)
        ok = step_create(engine, s, fault);
    if (!ok) {
        host_destroy((Engine *)engine);
        return NULL;
    }
    mark_final(engine);
    return (Engine *)engine;
}

static void host_begin(Engine *base, const EngineIteration *iteration)
{
    HostEngine *engine = (HostEngine *)base;
    engine->updates = iteration->update;
    engine->learning_rate = iteration->learning_rate;
    if (engine->tokens.data)
        data_fill(engine->options.data, &engine->plan->model, engine->options.seed, engine->comm->rank,
                  iteration->iteration, engine->tokens);
}

static bool host_execute(Engine *base, uint32_t step, Fault *fault)
{
    const HostStep *of = &((HostEngine *)base)->steps[step];
    return of->run(of, fault);
}

static EngineResult host_result(const Engine *base)
{
    const HostEngine *engine = (const HostEngine *)base;
    EngineResult result = {.decisions = engine->decisions, .tokens = engine->tokens.data};
    result.has_loss = engine->loss.data != NULL;
    if (result.has_loss)
        result.loss = (double)*(const float *)engine->loss.data;
    if (engine->final_x && engine->x.data) {
        result.x = engine->x;
        result.x.data = engine->final_x;
    }
    return result;
}

static bool host_read(const Engine *base, uint32_t buffer, uint64_t offset, uint64_t bytes, void *out, Fault *fault)
{
    (void)fault;
    const HostEngine *engine = (const HostEngine *)base;
    assert(offset + bytes <= buffer_bytes(&engine->plan->buffers[buffer]));
    memcpy(out, engine->arena + engine->plan->buffers[buffer].offset + offset, bytes);
    return true;
}

static bool host_write(Engine *base, uint32_t buffer, uint64_t offset, uint64_t bytes, const void *from, Fault *fault)
{
    (void)fault;
    HostEngine *engine = (HostEngine *)base;
    assert(offset + bytes <= buffer_bytes(&engine->plan->buffers[buffer]));
    memcpy(engine->arena + engine->plan->buffers[buffer].offset + offset, from, bytes);
    return true;
}

const EngineOps host_engine = {
    .name = "host",
    .supports = host_supports,
    .bytes = host_bytes,
    .create = host_create,
    .destroy = host_destroy,
    .begin = host_begin,
    .execute = host_execute,
    .result = host_result,
    .read = host_read,
    .write = host_write,
};
