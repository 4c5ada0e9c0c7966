// What a step of the CUDA engine needs, resolved when the engine is created: tensors, channels, places of experts, the
// steps it waits for, scratch.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/exchange.h"
#include "ir/order.h"
#include "runtime/comm/comm_sums.h"
#include "runtime/engine/engine_cuda_internal.h"

// ---- scratch ---------------------------------------------------------------------------------

static uint32_t members_of(const Plan *plan, const Step *step)
{
    if (step->group != NONE)
        return (uint32_t)group_size(&plan->cluster, &plan->groups[step->group]);
    RouteFacts facts = engine_route_facts(plan, step);
    return facts.dispatch && facts.dispatch->group != NONE ? members_of(plan, facts.dispatch) : 1;
}

uint64_t cuda_stream_work(const Plan *plan, Stream stream)
{
    uint64_t most = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        const OpInfo *info = op_info(step->op);
        StepTensors operands = {0};
        if (info->stream != stream)
            continue;
        for (uint32_t o = 0; o < info->operand_count; o++) {
            int32_t b = step_operands(plan, step)[o];
            if (b != NONE)
                operands.all[o] = (Tensor){
                    .dtype = plan->buffers[b].dtype, .rows = plan->buffers[b].rows, .cols = plan->buffers[b].cols};
        }
        uint64_t bytes = cuda_work_bytes(&plan->model, step->op, &operands, members_of(plan, step));
        most = bytes > most ? bytes : most;
    }
    return most;
}

uint64_t cuda_sum_scratch(const Plan *plan, uint32_t *members_max)
{
    uint64_t most = 0;
    *members_max = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (step->op != OP_REDUCE_SCATTER && step->op != OP_ALL_REDUCE)
            continue;
        uint32_t members = members_of(plan, step);
        const Buffer *buffer =
            step_buffer(plan, step, step->op == OP_REDUCE_SCATTER ? OPERAND_shard : OPERAND_gradient);
        uint64_t elements = buffer->rows * buffer->cols;
        uint64_t bytes = step->op == OP_REDUCE_SCATTER ? comm_scatter_scratch(members, elements, buffer->dtype)
                                                       : comm_reduce_scratch(members, elements, buffer->dtype);
        most = bytes > most ? bytes : most;
        *members_max = members > *members_max ? members : *members_max;
    }
    return most;
}

// Where the summands lie: the own one where the plan has it, the others', in the order of the members, in the scratch.
static bool parts_upload(CudaEngine *engine, CudaStep *step, Fault *fault)
{
    bool scatters = engine->plan->steps[step->index].op == OP_REDUCE_SCATTER;
    Tensor summed = scatters ? step->operands.reduce_scatter.gathered : step->operands.all_reduce.gradient;
    Tensor shard = step->operands.reduce_scatter.shard;
    uint64_t elements = summed.rows * summed.cols, size = dtype_bytes(summed.dtype);
    uint64_t part = scatters ? shard.rows * shard.cols : comm_part_size(elements, step->members, step->own);
    uint64_t own = scatters ? step->own * part : comm_part_begin(elements, step->members, step->own);
    const void **parts = malloc(step->members * sizeof(*parts));
    if (!parts)
        return fault_set(fault, FAULT_MEMORY, "out of memory");
    for (uint32_t m = 0; m < step->members; m++)
        parts[m] = m == step->own ? (const char *)summed.data + own * size
                                  : (const char *)engine->sum_scratch + (m - (m > step->own)) * part * size;
    cudaError_t error = cudaMemcpy(step->parts, parts, step->members * sizeof(*parts), cudaMemcpyHostToDevice);
    free(parts);
    return cuda_check(error, "copy the places of summands", fault);
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
    step->own = (uint32_t)group_index(&plan->cluster, group, engine->comm->rank);
    step->members = members_of(plan, of);
    return step->channel >= 0;
}

// A table of the host's maps, on the device.
static const int32_t *on_device(const CudaEngine *engine, const int32_t *map)
{
    return engine->device_maps + (map - engine->maps.memory);
}

static bool route_resolve(const CudaEngine *engine, CudaStep *step, const ExpertMap *map, Fault *fault)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[step->index];
    if (!engine_is_route(of->op))
        return true;
    RouteFacts facts = engine_route_facts(plan, of);
    step->fanout = facts.fanout;
    if (!facts.dispatch || facts.dispatch->group == NONE || !map)
        return fault_set(fault, FAULT_INPUT, "step %" PRIu32 " ('%s') belongs to no dispatch of an MoE layer",
                         step->index, op_info(of->op)->name);
    const Group *group = &plan->groups[facts.dispatch->group];
    step->route = (RouteTable){
        .member_of_expert = on_device(engine, map->member_of_expert[facts.dispatch->level]),
        .experts = plan->model.experts,
        .members = (uint32_t)group_size(&plan->cluster, group),
        .own = (uint32_t)group_index(&plan->cluster, group, engine->comm->rank),
        .place_rows = plan_message_rows(plan, facts.dispatch),
    };
    return true;
}

// Rows that are there, and how many there can be. Where exchanges are padded, records say which are.
static CudaRows rows_present(const CudaEngine *engine, Tensor counts, uint64_t rows)
{
    if (engine->plan->exchange == EXCHANGE_PADDED)
        return (CudaRows){.rows = rows};
    return (CudaRows){.counts = counts.data, .members = (uint32_t)(counts.rows * counts.cols), .rows = rows};
}

static void expert_resolve(const CudaEngine *engine, CudaStep *step, Tensor rows, Tensor records, Tensor counts)
{
    step->present = rows_present(engine, counts, records.rows);
    step->fanout = counts.data ? 1 : (uint32_t)(records.rows / rows.rows);
}

static void present_resolve(const CudaEngine *engine, CudaStep *step)
{
    const StepTensors *t = &step->operands;
    switch ((int)engine->plan->steps[step->index].op) {
    case OP_ROUTE:
        step->present = rows_present(engine, t->route.counts, t->route.records.rows);
        break;
    case OP_EXPERT:
        expert_resolve(engine, step, t->expert.rows, t->expert.records, t->expert.counts);
        break;
    case OP_EXPERT_BACKWARD:
        expert_resolve(engine, step, t->expert_backward.rows, t->expert_backward.records, t->expert_backward.counts);
        break;
    case OP_UNROUTE:
        step->present = rows_present(engine, t->unroute.counts, t->unroute.rows.rows * step->fanout);
        break;
    case OP_ROUTE_BACKWARD:
        step->present = rows_present(engine, t->route_backward.counts, t->route_backward.drecords.rows);
        break;
    }
}

// The counts of rows that go the way of earlier ones are known from there.
static void counts_resolve(const CudaEngine *engine, CudaStep *step)
{
    const Plan *plan = engine->plan;
    const Step *of = &plan->steps[step->index];
    int32_t counts[2];
    if (!cuda_counts_of(plan, of, counts))
        return;
    step->send_counts = engine->counts_of_buffer[counts[0]];
    step->recv_counts = engine->counts_of_buffer[counts[1]];
    step->counts_known = of->op != OP_DISPATCH;
    for (uint32_t s = 0; s < step->index && of->op == OP_DISPATCH && !step->counts_known; s++) {
        const Step *other = &plan->steps[s];
        if (other->op != OP_DISPATCH || other->group != of->group ||
            step_buffers(plan, other).dispatch.send_counts != counts[0])
            continue;
        step->recv_counts = engine->steps[s].recv_counts;
        step->counts_known = true;
    }
}

static void result_resolve(CudaEngine *engine, CudaStep *step, const Choice *choice)
{
    const Plan *plan = engine->plan;
    Op op = plan->steps[step->index].op;
    if (op == OP_GATE && choice && engine->kept_records)
        step->kept_records =
            engine->kept_records + (uint64_t)(choice - plan->choices) * model_tokens(&plan->model) * plan->model.top_k;
    if (op == OP_LOSS)
        engine->loss = step->operands.loss.loss;
    if (op == OP_EMBED)
        engine->tokens = step->operands.embed.tokens;
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
    step->stream = info->stream;
    step->fanout = 1;
    step->lost = engine->lost + index;
    if (engine->first_step[info->stream] == UINT32_MAX)
        engine->first_step[info->stream] = index;
    snprintf(step->label, sizeof(step->label), of->layer == NONE ? "%s" : "%s %" PRId32, info->name, of->layer);
    for (uint32_t o = 0; o < info->operand_count; o++)
        step->operands.all[o] = buffer_tensor(engine, step_operands(plan, of)[o]);
    const ExpertMap *map = expert_map_of_layer(&engine->maps, plan, of->layer);
    if (of->group != NONE && !channel_open(engine, step, fault))
        return false;
    if (of->op == OP_EXPERT || of->op == OP_EXPERT_BACKWARD) {
        if (!map)
            return fault_set(fault, FAULT_INPUT, "step %" PRIu32 " ('%s') is of no MoE layer", index, info->name);
        step->slot_of_expert = on_device(engine, map->slot_of_expert);
    }
    step->message_rows = plan_message_rows(plan, of);
    if (of->op == OP_ROUTE && plan->exchange == EXCHANGE_PADDED) {
        step->kept_first = engine->kept_used;
        step->kept_counts = engine->kept_counts + engine->kept_used;
        engine->kept_used += step->operands.route.send_counts.rows;
    }
    if (!route_resolve(engine, step, map, fault) || !cuda_codec_resolve(step, fault))
        return false;
    present_resolve(engine, step);
    counts_resolve(engine, step);
    result_resolve(engine, step, plan_choice_of_layer(plan, of->layer));
    if ((of->op == OP_REDUCE_SCATTER || of->op == OP_ALL_REDUCE) && !parts_upload(engine, step, fault))
        return false;
    return (!engine->options.begins || cuda_check(cudaEventCreate(&step->begun), "create an event", fault)) &&
           cuda_check(cudaEventCreate(&step->done), "create an event", fault) &&
           cuda_check(cudaEventCreateWithFlags(&step->counted, cudaEventDisableTiming), "create an event", fault);
}

// ---- all steps -------------------------------------------------------------------------------

// The step of its own stream that comes before it, or NONE.
static int64_t step_before(const Plan *plan, uint32_t index)
{
    Stream stream = op_info(plan->steps[index].op)->stream;
    for (uint32_t s = index; s-- > 0;)
        if (op_info(plan->steps[s].op)->stream == stream)
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
        engine->steps[final].is_final = true;
        engine->x = buffer_tensor(engine, step_operand(engine->plan, &engine->plan->steps[final], OPERAND_y));
    }
    return memory_guard(waits_resolve, engine, fault);
}
