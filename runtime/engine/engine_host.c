// The host engine: one allocation per rank. Everything a step needs (tensors, route tables, channels, row counts'
// places) is resolved here when the engine is created; executing a step only calls (engine_host_ops.c).
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engines/host_scratch.h"
#include "engines/sums.h"
#include "ir/base/text.h"
#include "runtime/engine/engine_host_internal.h"

static const HostHandler handlers[] = {
#define HEP_OP(name, text, ...) [OP_##name] = host_run_##text,
#include "ir/ops.def"
};

static bool host_supports(Op op)
{
    return (size_t)op < COUNT_OF(handlers) && handlers[op];
}

// ---- creation --------------------------------------------------------------------------------

static Tensor buffer_tensor(const HostEngine *engine, int32_t buffer)
{
    if (buffer == NONE)
        return (Tensor){0};
    const Buffer *from = &engine->plan->buffers[buffer];
    return (Tensor){
        .data = engine->memory + from->offset, .dtype = from->dtype, .rows = from->rows, .cols = from->cols};
}

static bool is_stopped(const HostEngine *engine)
{
    return engine->options.stopped && atomic_load(engine->options.stopped);
}

// With NaN in every floating dtype: what is read unwritten shows.
static void memory_fill(const HostEngine *engine)
{
    const uint64_t piece = 16 << 20, bytes = engine->layout.total;
    for (uint64_t at = 0; at < bytes && !is_stopped(engine); at += piece)
        memset(engine->memory + at, 0xFF, bytes - at < piece ? bytes - at : piece);
}

static bool weights_create(const HostEngine *engine, Fault *fault)
{
    const Plan *plan = engine->plan;
    const EngineOptions *options = &engine->options;
    for (uint32_t b = 0; options->fill && b < plan->buffer_count && !is_stopped(engine); b++)
        if (plan->buffers[b].kind == BUFFER_WEIGHT || plan->buffers[b].kind == BUFFER_REPLICA)
            options->fill(options->fill_context, engine->kinds[b], plan->buffers[b].layer,
                          buffer_tensor(engine, (int32_t)b));
    return !is_stopped(engine) || fault_set(fault, FAULT_INTERRUPTED, "interrupted while weights were made");
}

static bool channel_open(const HostEngine *engine, HostStep *step, Fault *fault)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[step->index];
    Stream stream = step_stream(plan, of);
    const Group *group = &plan->groups[of->group];
    int *channel = &engine->channels[(uint32_t)of->group * STREAM_COUNT + stream];
    if (*channel < 0)
        *channel = engine->comm->ops->open(engine->comm, group, stream, fault);
    step->channel = *channel;
    step->place = engine_step_place(plan, of, engine->comm->rank);
    return step->channel >= 0;
}

// ---- what steps of some ops need -------------------------------------------------------------

static bool prepare_embed(HostStep *step, Fault *fault)
{
    (void)fault;
    if (step->engine->plan->steps[step->index].micro_batch == 0)
        step->engine->tokens = step->operands.embed.tokens;
    return true;
}

static bool prepare_gate(HostStep *step, Fault *fault)
{
    (void)fault;
    const Plan *plan = step->engine->plan;
    const Step *of = &plan->steps[step->index];
    const Choice *choice = plan_choice_of_layer(plan, of->layer);
    uint64_t records = model_tokens(&plan->model) * plan->model.top_k;
    if (choice && step->engine->decisions)
        step->of.decisions =
            step->engine->decisions +
            ((uint64_t)of->micro_batch * plan->choice_count + (uint64_t)(choice - plan->choices)) * records;
    return true;
}

static bool prepare_route(HostStep *step, Fault *fault)
{
    HostEngine *engine = step->engine;
    return engine_route_create(engine->plan, &engine->maps, engine->comm->rank, step->index, &step->of.route, fault);
}

static bool prepare_packed(HostStep *step, Fault *fault)
{
    const HostEngine *engine = step->engine;
    return engine_packed_rows(engine->plan, engine->comm->rank, step->index, &step->of.packed, fault);
}

static bool prepare_expert(HostStep *step, Fault *fault)
{
    step->of.slot_of_expert = engine_slots(step->engine->plan, &step->engine->maps, step->index, fault);
    return step->of.slot_of_expert != NULL;
}

static bool prepare_loss(HostStep *step, Fault *fault)
{
    (void)fault;
    if (step->engine->plan->steps[step->index].micro_batch == 0)
        step->engine->loss = step->operands.loss.loss;
    return true;
}

static bool prepare_packets(HostStep *step, Fault *fault)
{
    const HostEngine *engine = step->engine;
    return engine_packet_place(engine->plan, engine->comm->rank, step->index, &step->place, fault);
}

static bool prepare_optimizer(HostStep *step, Fault *fault)
{
    (void)fault;
    const HostEngine *engine = step->engine;
    step->of.undecayed = engine_undecayed(engine->plan, engine->kinds, engine->comm->rank, step->index);
    host_optimizer_begin(step->operands.optimizer.weights, step->operands.optimizer.state);
    return true;
}

static bool prepare_outer(HostStep *step, Fault *fault)
{
    (void)fault;
    host_outer_begin(step->operands.outer_step.weights, step->operands.outer_step.outer);
    return true;
}

// Nothing, where there is none.
static bool (*const prepares[])(HostStep *, Fault *) = {
    [OP_EMBED] = prepare_embed,
    [OP_GATE] = prepare_gate,
    [OP_ROUTE] = prepare_route,
    [OP_UNROUTE] = prepare_route,
    [OP_ENCODE_ROWS] = prepare_packed,
    [OP_DECODE_ROWS] = prepare_packed,
    [OP_ROUTE_BACKWARD] = prepare_route,
    [OP_UNROUTE_BACKWARD] = prepare_route,
    [OP_EXPERT] = prepare_expert,
    [OP_EXPERT_BACKWARD] = prepare_expert,
    [OP_LOSS] = prepare_loss,
    [OP_ENCODE_GRADIENT] = prepare_packets,
    [OP_DECODE_GRADIENT] = prepare_packets,
    [OP_OPTIMIZER] = prepare_optimizer,
    [OP_OUTER_STEP] = prepare_outer,
};

static bool step_create(HostEngine *engine, uint32_t index, Fault *fault)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[index];
    HostStep *step = &engine->steps[index];
    *step = (HostStep){.engine = engine, .run = handlers[of->op], .index = index};
    step->operands = step_tensors(plan, of, engine->memory);
    step->packets = engine_step_packets(plan, engine->kinds, engine->comm->rank, index);
    uint64_t elements = host_step_scratch(plan, of);
    const MemoryPart *scratch = &engine->layout.scratch[step_stream(plan, of)];
    if (elements)
        step->work =
            (Tensor){.data = engine->memory + scratch->offset, .dtype = DTYPE_F32, .rows = 1, .cols = elements};
    int64_t next = of->group == NONE ? NONE : plan_run_next(plan, index);
    step->joined = of->joined;
    step->next = next == NONE ? NULL : &engine->steps[next];
    if (of->group != NONE && !channel_open(engine, step, fault))
        return false;
    return (size_t)of->op >= COUNT_OF(prepares) || !prepares[of->op] || prepares[of->op](step, fault);
}

static uint64_t host_bytes(const Plan *plan, const EngineOptions *options)
{
    uint64_t maps = engine_map_entries(plan) * sizeof(int32_t);
    uint64_t extra = plan->step_count * sizeof(HostStep), total;
    HostMemory layout;
    host_memory_lay_out(plan, &layout);
    extra += options->record ? engine_decisions_bytes(plan) + engine_final_bytes(plan) : 0;
    if (!checked_mul(maps, plan->choice_count, &maps) || !checked_add(layout.total, extra, &total) ||
        !checked_add(total, maps, &total))
        return UINT64_MAX;
    return total;
}

// Of the largest group in which weights or sums travel.
static uint32_t members_most(const Plan *plan)
{
    uint32_t most = sums_of_plan(plan).members_most;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        uint64_t members = step->op == OP_GATHER ? group_size(&plan->cluster, &plan->groups[step->group]) : 0;
        most = members > most ? (uint32_t)members : most;
    }
    return most;
}

static bool memory_create(HostEngine *engine, Fault *fault)
{
    const Plan *plan = engine->plan;
    size_t channels = (size_t)(plan->group_count + 1) * STREAM_COUNT;
    engine->memory = aligned_alloc(BUFFER_ALIGNMENT, engine->layout.total);
    engine->steps = calloc(plan->step_count + 1, sizeof(*engine->steps));
    engine->channels = malloc(channels * sizeof(*engine->channels));
    engine->kinds = malloc((plan->buffer_count + 1) * sizeof(*engine->kinds));
    uint32_t counts = 2 * members_most(plan);
    engine->sum_counts[0] = malloc((2 * SUM_STREAMS * (size_t)counts + 1) * sizeof(**engine->sum_counts));
    if (engine->options.record) {
        engine->decisions = malloc(engine_decisions_bytes(plan) + 1);
        engine->final_x = malloc(engine_final_bytes(plan) + 1);
    }
    if (!engine->memory || !engine->steps || !engine->channels || !engine->kinds || !engine->sum_counts[0] ||
        (engine->options.record && (!engine->final_x || !engine->decisions)) ||
        !expert_maps_create(&engine->maps, plan, engine->comm->rank))
        return false;
    for (uint32_t s = 0; s < SUM_STREAMS; s++) {
        engine->sum_counts[s] = engine->sum_counts[0] + (size_t)s * counts;
        engine->gather_counts[s] = engine->sum_counts[0] + (size_t)(SUM_STREAMS + s) * counts;
    }
    for (size_t c = 0; c < channels; c++)
        engine->channels[c] = -1;
    bundle_kinds(plan, engine->kinds);
    memory_fill(engine);
    return weights_create(engine, fault);
}

static void host_destroy(Engine *base)
{
    HostEngine *engine = (HostEngine *)base;
    if (!engine)
        return;
    free(engine->memory);
    free(engine->steps);
    free(engine->channels);
    free(engine->kinds);
    free(engine->sum_counts[0]);
    free(engine->decisions);
    free(engine->final_x);
    expert_maps_destroy(&engine->maps);
    free(engine);
}

static Engine *host_create(const Plan *plan, Comm *comm, const EngineOptions *options, Fault *fault)
{
    HostEngine *engine = calloc(1, sizeof(*engine));
    if (!engine) {
        fault_set(fault, FAULT_MEMORY, "out of memory");
        return NULL;
    }
    *engine = (HostEngine){.ops = &host_engine, .plan = plan, .comm = comm, .options = *options};
    engine->capacity_rows = engine_capacity_rows(plan);
    host_memory_lay_out(plan, &engine->layout);
    char bytes[FORMAT_MAX];
    bool ok =
        memory_create(engine, fault) ||
        fault_set(fault, FAULT_MEMORY,
                  "out of memory for an arena of %s: look at the limits of the process (ulimit -v, -d) and of its "
                  "control group, and at what else runs on its machine",
                  format_bytes(bytes, (double)engine->layout.total));
    for (uint32_t s = 0; ok && s < plan->step_count; s++)
        ok = step_create(engine, s, fault);
    if (!ok) {
        host_destroy((Engine *)engine);
        return NULL;
    }
    int64_t final = engine_final_step(plan);
    if (final != NONE) {
        engine->steps[final].of.is_final = true;
        engine->x = buffer_tensor(engine, step_operand(plan, &plan->steps[final], OPERAND_y));
    }
    return (Engine *)engine;
}

static void host_begin(Engine *base, const EngineIteration *iteration)
{
    HostEngine *engine = (HostEngine *)base;
    engine->updates = iteration->update;
    engine->learning_rate = iteration->learning_rate;
    engine->whole = iteration->whole;
    engine->nonfinite_step = -1;
    uint64_t count = engine->tokens.rows * engine->tokens.cols;
    for (uint32_t i = 0; i < engine->plan->micro_batches && engine->tokens.data; i++)
        memcpy(engine_value(engine->tokens, i).data, iteration->tokens + i * count, count * sizeof(int32_t));
}

static bool host_execute(Engine *base, uint32_t step, Fault *fault)
{
    const HostStep *of = &((HostEngine *)base)->steps[step];
    return of->run(of, fault);
}

static EngineResult host_result(const Engine *base)
{
    const HostEngine *engine = (const HostEngine *)base;
    uint32_t last = engine->plan->micro_batches - 1;
    EngineResult result = {.decisions = engine_last_decisions(engine->plan, engine->decisions),
                           .all_decisions = engine->decisions,
                           .nonfinite_step = engine->nonfinite_step};
    if (engine->tokens.data)
        result.tokens = engine_value(engine->tokens, last).data;
    result.has_loss = engine->loss.data != NULL;
    for (uint32_t i = 0; i <= last && result.has_loss; i++) {
        result.last_loss = (double)*(const float *)engine_value(engine->loss, i).data;
        result.loss += result.last_loss / (last + 1);
    }
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
    memcpy(out, engine->memory + engine->plan->buffers[buffer].offset + offset, bytes);
    return true;
}

static bool host_write(Engine *base, uint32_t buffer, uint64_t offset, uint64_t bytes, const void *from, Fault *fault)
{
    (void)fault;
    HostEngine *engine = (HostEngine *)base;
    assert(offset + bytes <= buffer_bytes(&engine->plan->buffers[buffer]));
    memcpy(engine->memory + engine->plan->buffers[buffer].offset + offset, from, bytes);
    return true;
}

static bool host_available(Fault *fault)
{
    (void)fault;
    return true;
}

const EngineOps host_engine = {
    .name = "host",
    .kind = ENGINE_HOST,
    .available = host_available,
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
