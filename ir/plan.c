// Life of a plan, and what follows from one of its buffers or steps.
#include "ir/plan.h"

Plan *plan_create(void)
{
    Arena *arena = arena_create();
    Plan *plan = arena_alloc(arena, sizeof(*plan));
    plan->arena = arena;
    plan->experts.ratio = plan->experts.gradient_ratio = plan->dense.ratio = plan->dense.gradient_ratio = 1;
    plan->micro_batches = 1;
    plan->solver = "";
    return plan;
}

void plan_destroy(Plan *plan)
{
    if (plan)
        arena_destroy(plan->arena);
}

double plan_memory_bytes(const Plan *plan)
{
    return (double)plan->arena_bytes + (double)plan->engine_bytes;
}

uint64_t buffer_bytes(const Buffer *buffer)
{
    return buffer->rows * buffer->cols * dtype_bytes(buffer->dtype);
}

bool buffer_aligned_bytes(const Buffer *buffer, uint64_t *out)
{
    uint64_t elements, bytes;
    if (!checked_mul(buffer->rows, buffer->cols, &elements) ||
        !checked_mul(elements, dtype_bytes(buffer->dtype), &bytes) || bytes > INT64_MAX - BUFFER_ALIGNMENT) {
        return false;
    }
    *out = (bytes + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
    return true;
}

int32_t step_operand(const Plan *plan, const Step *step, Operand operand)
{
    int32_t index = op_operand_index(op_info((int)step->op), operand);
    return index < 0 ? NONE : step_operands(plan, step)[index];
}

const Buffer *step_buffer(const Plan *plan, const Step *step, Operand operand)
{
    int32_t buffer = step_operand(plan, step, operand);
    return buffer == NONE ? NULL : &plan->buffers[buffer];
}

Stream step_stream(const Plan *plan, const Step *step)
{
    const OpInfo *info = op_info((int)step->op);
    if (step->level < 0 || (uint32_t)step->level >= plan->outer_levels)
        return info->stream;
    return info->shape == SHAPE_GATHER    ? STREAM_MIGRATE_OUTER
           : info->shape == SHAPE_SCATTER ? STREAM_SYNC_OUTER
                                          : info->stream;
}

bool plan_has_stream(const Plan *plan, Stream stream)
{
    return plan->outer_levels > 0 || (stream != STREAM_MIGRATE_OUTER && stream != STREAM_SYNC_OUTER);
}

const Buffer *step_sent(const Plan *plan, const Step *step)
{
    return &plan->buffers[step_buffers(plan, step).all[0]];
}

int64_t plan_run_next(const Plan *plan, uint32_t step)
{
    Stream stream = step_stream(plan, &plan->steps[step]);
    for (uint32_t next = step + 1; next < plan->step_count; next++)
        if (step_stream(plan, &plan->steps[next]) == stream)
            return plan->steps[next].joined ? (int64_t)next : NONE;
    return NONE;
}

uint32_t plan_step_startups(const Plan *plan, const Step *step)
{
    if (step->joined)
        return 0;
    if (op_info((int)step->op)->shape == SHAPE_REDUCE)
        return 2;
    return step->op == OP_DISPATCH && plan->exchange == EXCHANGE_COUNTED && !plan->model.abstract ? 2 : 1;
}

TokenWay plan_exchange_way(const Plan *plan, const Step *step)
{
    bool dispatch = step->op == OP_DISPATCH && step->operand_first < plan->operand_count;
    return exchange_way(step->op, dispatch && step_buffers(plan, step).dispatch.send_records != NONE);
}

bool plan_packs_rows(const Plan *plan)
{
    bool packs = false;
    for (uint32_t way = 0; way < TOKEN_WAYS; way++)
        packs |= plan->tokens[way] != TOKENS_FULL;
    return packs;
}

bool plan_moves_rows(Op op)
{
    return op == OP_ROUTE || op == OP_UNROUTE_BACKWARD || op_info((int)op)->shape == SHAPE_EXCHANGE;
}

// The way of rows that a step moves; -1 where it moves none.
static int8_t moved_way(const Plan *plan, const Step *step)
{
    if (!plan_moves_rows(step->op))
        return -1;
    return (int8_t)(step->op == OP_ROUTE              ? WAY_DISPATCH
                    : step->op == OP_UNROUTE_BACKWARD ? WAY_COMBINE_GRADIENT
                                                      : plan_exchange_way(plan, step));
}

int plan_packed_way(const Plan *plan, int32_t buffer)
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        int8_t way = moved_way(plan, step);
        for (uint32_t o = 0; o < op_info((int)step->op)->operand_count && way >= 0; o++)
            if (step_operands(plan, step)[o] == buffer)
                return way;
    }
    return -1;
}

void plan_packed_ways(const Plan *plan, int8_t ways[])
{
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        ways[b] = -1;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        const OpInfo *info = op_info((int)step->op);
        int8_t way = moved_way(plan, step);
        for (uint32_t o = 0; o < info->operand_count && way >= 0; o++) {
            int32_t b = step_operands(plan, step)[o];
            if (b != NONE && plan->buffers[b].dtype == DTYPE_U8)
                ways[b] = (int8_t)(ways[b] < 0 || ways[b] == way ? way : TOKEN_WAYS);
        }
    }
}

bool choices_equal(const Choice *a, const Choice *b)
{
    return a->regather == b->regather && a->once == b->once && a->returns_apart == b->returns_apart &&
           a->once_gradient == b->once_gradient && memcmp(a->domain, b->domain, sizeof(a->domain)) == 0;
}

uint32_t plan_gradient_levels(const Plan *plan, const Choice *choice)
{
    if (choice->returns_apart)
        return choice->once_gradient;
    return choice->regather ? choice->once : plan->cluster.level_count;
}

uint32_t plan_dense_gradient_levels(const Plan *plan)
{
    if (plan->returns_dense_apart)
        return plan->once_dense_gradient;
    return plan->regather_dense ? plan->once_dense : plan->cluster.level_count;
}

// A step by which workers that train apart meet.
static bool is_outer(const Plan *plan, const Step *step)
{
    bool outside = step->level != NONE && (uint32_t)step->level < plan->replica_levels;
    return step->op == OP_OUTER_GRADIENT || step->op == OP_OUTER_STEP ||
           (step->op == OP_ALL_REDUCE && outside && plan->sync.every > 0);
}

uint32_t plan_step_period(const Plan *plan, const Step *step)
{
    if (is_outer(plan, step))
        return plan->sync.every;
    if (step->op == OP_MEAN_EXPERT)
        return plan->shared_every;
    int32_t summed = step->op == OP_ALL_REDUCE && step->operand_first < plan->operand_count
                         ? step_operand(plan, step, OPERAND_gradient)
                         : NONE;
    return summed != NONE && plan->buffers[summed].kind == BUFFER_REPLICA ? plan->shared_every : 1;
}

bool plan_step_is_due(const Plan *plan, const Step *step, uint64_t iteration)
{
    return (iteration + is_outer(plan, step)) % plan_step_period(plan, step) == 0;
}
