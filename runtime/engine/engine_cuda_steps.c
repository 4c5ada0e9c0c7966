// What a step of the CUDA engine needs, resolved when the engine is created: tensors, channels, places of experts, the
// steps it waits for.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/order.h"
#include "runtime/engine/engine_cuda_internal.h"

// Where the summands lie, in the order of the members; `own` where the plan has it.
static bool parts_upload(CudaStep *step, Tensor own, Fault *fault)
{
    uint32_t members = step->place.members;
    SumGroup group = cuda_sum_group(step);
    const void **parts = malloc(members * sizeof(*parts));
    if (!parts)
        return fault_set(fault, FAULT_MEMORY, "out of memory");
    for (uint32_t m = 0; m < members; m++)
        parts[m] = comm_summand(&group, own, m);
    cudaError_t error = cudaMemcpy(step->of.parts, parts, members * sizeof(*parts), cudaMemcpyHostToDevice);
    bool ok = cuda_check_settled(error, "copy the places of summands", fault);
    free(parts);
    return ok;
}

// ---- one step --------------------------------------------------------------------------------

static Tensor buffer_tensor(const CudaEngine *engine, int32_t buffer)
{
    if (buffer == NONE)
        return (Tensor){0};
    const Buffer *from = &engine->plan->buffers[buffer];
    return (Tensor){
        .data = engine->memory + from->offset, .dtype = from->dtype, .rows = from->rows, .cols = from->cols};
}

static bool channel_open(const CudaEngine *engine, CudaStep *step, Fault *fault)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[step->index];
    const Group *group = &plan->groups[of->group];
    int *channel = &engine->channels[(uint32_t)of->group * STREAM_COUNT + step->stream];
    if (*channel < 0)
        *channel = engine->comm->ops->open(engine->comm, group, step->stream, fault);
    step->channel = *channel;
    step->place = engine_step_place(plan, of, engine->comm->rank);
    return step->channel >= 0;
}

// A table of the host's maps, on the device.
static const int32_t *on_device(const CudaEngine *engine, const int32_t *map)
{
    return engine->device_maps + (map - engine->maps.memory);
}

// Rows that are there, and how many there can be. Where exchanges are padded, records say which are.
static CudaRows rows_present(const CudaEngine *engine, Tensor counts, uint64_t rows)
{
    if (engine->plan->exchange == EXCHANGE_PADDED)
        return (CudaRows){.rows = rows};
    return (CudaRows){.counts = counts.data, .members = (uint32_t)(counts.rows * counts.cols), .rows = rows};
}

// ---- what steps of some ops need -------------------------------------------------------------

static bool prepare_embed(CudaStep *step, Fault *fault)
{
    (void)fault;
    if (step->engine->plan->steps[step->index].micro_batch == 0)
        step->engine->tokens = step->operands.embed.tokens;
    return true;
}

static bool prepare_gate(CudaStep *step, Fault *fault)
{
    (void)fault;
    const Plan *plan = step->engine->plan;
    const Step *of = &plan->steps[step->index];
    const Choice *choice = plan_choice_of_layer(plan, of->layer);
    uint64_t records = model_tokens(&plan->model) * plan->model.top_k;
    if (choice && step->engine->kept_records)
        step->of.kept_records =
            step->engine->kept_records +
            ((uint64_t)of->micro_batch * plan->choice_count + (uint64_t)(choice - plan->choices)) * records;
    return true;
}

static bool route_create(CudaStep *step, Tensor counts, uint64_t rows, Fault *fault)
{
    const CudaEngine *engine = step->engine;
    StepRoute route;
    if (!engine_route_create(engine->plan, &engine->maps, engine->comm->rank, step->index, &route, fault))
        return false;
    step->of.route = (CudaRoute){.table = route.table, .fanout = route.fanout};
    step->of.route.table.member_of_expert = on_device(engine, route.table.member_of_expert);
    step->of.route.present = rows_present(engine, counts, rows);
    return true;
}

static bool prepare_route(CudaStep *step, Fault *fault)
{
    CudaEngine *engine = step->engine;
    const struct route_tensors *t = &step->operands.route;
    if (!route_create(step, t->counts, t->records.rows, fault))
        return false;
    if (engine->plan->exchange == EXCHANGE_PADDED) {
        step->of.route.kept_first = engine->kept_used;
        step->of.route.kept_counts = engine->kept_counts + engine->kept_used;
        engine->kept_used += t->send_counts.rows;
    }
    return true;
}

static bool prepare_unroute(CudaStep *step, Fault *fault)
{
    const struct unroute_tensors *t = &step->operands.unroute;
    bool ok = route_create(step, t->counts, t->rows.rows, fault);
    step->of.route.present.rows *= step->of.route.fanout;
    return ok;
}

static bool prepare_unroute_backward(CudaStep *step, Fault *fault)
{
    return route_create(step, (Tensor){0}, 0, fault); // takes what its counts say
}

static bool prepare_route_backward(CudaStep *step, Fault *fault)
{
    return route_create(step, step->operands.route_backward.counts, step->operands.route_backward.drecords.rows, fault);
}

static bool packed_create(CudaStep *step, Tensor counts, Tensor send_counts, uint64_t rows, Fault *fault)
{
    const CudaEngine *engine = step->engine;
    PackedRows packed;
    if (!engine_packed_rows(engine->plan, engine->comm->rank, step->index, &packed, fault))
        return false;
    CudaRows present = rows_present(engine, send_counts.data ? send_counts : counts, rows);
    present.skipped = send_counts.data && present.counts ? packed.own + 1 : 0;
    step->of.packed = (CudaPacked){.format = packed.format, .present = present};
    return true;
}

static bool prepare_encode_rows(CudaStep *step, Fault *fault)
{
    const struct encode_rows_tensors *t = &step->operands.encode_rows;
    return packed_create(step, t->counts, (Tensor){0}, t->rows.rows, fault);
}

static bool prepare_decode_rows(CudaStep *step, Fault *fault)
{
    const struct decode_rows_tensors *t = &step->operands.decode_rows;
    return packed_create(step, t->counts, t->send_counts, t->rows.rows, fault);
}

static bool experts_create(CudaStep *step, Tensor rows, Tensor records, Tensor counts, Fault *fault)
{
    const CudaEngine *engine = step->engine;
    const int32_t *slots = engine_slots(engine->plan, &engine->maps, step->index, fault);
    if (!slots)
        return false;
    uint64_t held_records = engine_held_records(engine->plan, &engine->plan->steps[step->index]);
    step->of.experts = (CudaExperts){.slots = {on_device(engine, slots), held_records},
                                     .present = rows_present(engine, counts, records.rows),
                                     .fanout = counts.data ? 1 : (uint32_t)(records.rows / rows.rows)};
    return true;
}

static bool prepare_expert(CudaStep *step, Fault *fault)
{
    const struct expert_tensors *t = &step->operands.expert;
    return experts_create(step, t->rows, t->records, t->counts, fault);
}

static bool prepare_expert_backward(CudaStep *step, Fault *fault)
{
    const struct expert_backward_tensors *t = &step->operands.expert_backward;
    return experts_create(step, t->rows, t->records, t->counts, fault);
}

// The counts of rows that go the way of earlier ones are known from there.
static bool prepare_exchange(CudaStep *step, Fault *fault)
{
    (void)fault;
    const CudaEngine *engine = step->engine;
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[step->index];
    int32_t counts[2];
    if (!cuda_counts_of(plan, of, counts))
        return true;
    step->of.exchange = (CudaExchange){.send_counts = engine->counts_of_buffer[counts[0]],
                                       .recv_counts = engine->counts_of_buffer[counts[1]],
                                       .counts_known = of->op != OP_DISPATCH};
    for (uint32_t s = 0; s < step->index && !step->of.exchange.counts_known; s++) {
        const Step *other = &plan->steps[s];
        if (other->op != OP_DISPATCH || other->group != of->group ||
            step_buffers(plan, other).dispatch.send_counts != counts[0])
            continue;
        step->of.exchange.recv_counts = engine->steps[s].of.exchange.recv_counts;
        step->of.exchange.counts_known = true;
    }
    return true;
}

static bool prepare_loss(CudaStep *step, Fault *fault)
{
    (void)fault;
    if (step->engine->plan->steps[step->index].micro_batch == 0)
        step->engine->loss = step->operands.loss.loss;
    return true;
}

static bool prepare_packets(CudaStep *step, Fault *fault)
{
    const CudaEngine *engine = step->engine;
    return engine_packet_place(engine->plan, engine->comm->rank, step->index, &step->place, fault);
}

static bool prepare_reduce_scatter(CudaStep *step, Fault *fault)
{
    const struct reduce_scatter_tensors *t = &step->operands.reduce_scatter;
    return parts_upload(step, comm_own_shard(t->gathered, t->shard, step->place.own), fault);
}

static bool prepare_all_reduce(CudaStep *step, Fault *fault)
{
    return parts_upload(step, comm_own_part(step->operands.all_reduce.gradient, step->place.members, step->place.own),
                        fault);
}

static bool prepare_optimizer(CudaStep *step, Fault *fault)
{
    (void)fault;
    const CudaEngine *engine = step->engine;
    step->of.undecayed = engine_undecayed(engine->plan, engine->kinds, engine->comm->rank, step->index);
    return true;
}

// Nothing, where there is none.
static bool (*const prepares[])(CudaStep *, Fault *) = {
    [OP_EMBED] = prepare_embed,
    [OP_GATE] = prepare_gate,
    [OP_ROUTE] = prepare_route,
    [OP_UNROUTE] = prepare_unroute,
    [OP_ENCODE_ROWS] = prepare_encode_rows,
    [OP_DECODE_ROWS] = prepare_decode_rows,
    [OP_UNROUTE_BACKWARD] = prepare_unroute_backward,
    [OP_ROUTE_BACKWARD] = prepare_route_backward,
    [OP_EXPERT] = prepare_expert,
    [OP_EXPERT_BACKWARD] = prepare_expert_backward,
    [OP_DISPATCH] = prepare_exchange,
    [OP_COMBINE] = prepare_exchange,
    [OP_COMBINE_BACKWARD] = prepare_exchange,
    [OP_LOSS] = prepare_loss,
    [OP_ENCODE_GRADIENT] = prepare_packets,
    [OP_DECODE_GRADIENT] = prepare_packets,
    [OP_REDUCE_SCATTER] = prepare_reduce_scatter,
    [OP_ALL_REDUCE] = prepare_all_reduce,
    [OP_OPTIMIZER] = prepare_optimizer,
};

static const CudaHandler handlers[] = {
#define HEP_OP(name, text, ...) [OP_##name] = cuda_run_##text,
#include "ir/ops.def"
};

CudaHandler cuda_handler(Op op)
{
    return (size_t)op < COUNT_OF(handlers) ? handlers[op] : NULL;
}

static bool step_create(CudaEngine *engine, uint32_t index, Fault *fault)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[index];
    const OpInfo *info = op_info(of->op);
    CudaStep *step = &engine->steps[index];
    step->engine = engine;
    step->run = cuda_handler(of->op);
    step->index = index;
    step->stream = step_stream(plan, of);
    if (engine->first_step[step->stream] == UINT32_MAX)
        engine->first_step[step->stream] = index;
    snprintf(step->label, sizeof(step->label), of->layer == NONE ? "%s" : "%s %" PRId32, info->name, of->layer);
    step->operands = step_tensors(plan, of, engine->memory);
    step->packets = engine_step_packets(plan, engine->kinds, engine->comm->rank, index);
    if (of->group != NONE && !channel_open(engine, step, fault))
        return false;
    if ((size_t)of->op < COUNT_OF(prepares) && prepares[of->op] && !prepares[of->op](step, fault))
        return false;
    return (!engine->options.begins || cuda_check(cudaEventCreate(&step->begun), "create an event", fault)) &&
           cuda_check(cudaEventCreate(&step->done), "create an event", fault) &&
           cuda_check(cudaEventCreateWithFlags(&step->counted, cudaEventDisableTiming), "create an event", fault);
}

// ---- all steps -------------------------------------------------------------------------------

// The step of its own stream that comes before it, or NONE.
static int64_t step_before(const Plan *plan, uint32_t index)
{
    Stream stream = step_stream(plan, &plan->steps[index]);
    for (uint32_t s = index; s-- > 0;)
        if (step_stream(plan, &plan->steps[s]) == stream)
            return s;
    return NONE;
}

// Is `after`, one of the steps that `index` names, before another of them, or before the step ahead in the stream?
static bool is_implied(const Plan *plan, const Order *order, uint32_t index, uint32_t after)
{
    const Step *step = &plan->steps[index];
    int64_t ahead = step_before(plan, index);
    bool implied = ahead != NONE && order_before(order, after, (uint32_t)ahead);
    for (uint32_t a = 0; a < step->after_count && !implied; a++)
        implied = order_before(order, after, plan->after[step->after_first + a]);
    return implied;
}

static void waits_resolve(void *context)
{
    CudaEngine *engine = context;
    const Plan *plan = engine->plan;
    Arena *scratch = arena_create();
    const Order *order = order_create(plan, scratch);
    uint32_t *next = engine->awaited_memory;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        CudaStep *step = &engine->steps[s];
        step->awaited = next;
        for (uint32_t a = 0; a < plan->steps[s].after_count; a++) {
            uint32_t after = plan->after[plan->steps[s].after_first + a];
            if (!is_implied(plan, order, s, after))
                next[step->awaited_count++] = after;
        }
        next += step->awaited_count;
    }
    arena_destroy(scratch);
}

bool cuda_steps_create(CudaEngine *engine, Fault *fault)
{
    for (uint32_t s = 0; s < engine->plan->step_count; s++)
        if (!step_create(engine, s, fault))
            return false;
    int64_t final = engine_final_step(engine->plan);
    if (final != NONE) {
        engine->steps[final].of.is_final = true;
        engine->x = buffer_tensor(engine, step_operand(engine->plan, &engine->plan->steps[final], OPERAND_y));
    }
    return memory_guard(waits_resolve, engine, fault);
}
