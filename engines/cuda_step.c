// See cuda_step.h.
#include "engines/cuda_step.h"

#include "engines/cuda_scratch.h"
#include "engines/engine_facts.h"
#include "engines/saturating.h"

typedef struct {
    CudaScratch taken; // without memory
    const ModelDims *dims;
    const StepTensors *operands;
    uint64_t most;
} StepSizes;

static uint64_t pairs_of(Tensor records)
{
    return saturating_mul(records.rows, records.cols / 2);
}

static void take_pre_expert(StepSizes *s)
{
    cuda_attention_take(&s->taken, s->dims, s->operands->pre_expert.dense.dtype, false);
}

static void take_pre_expert_backward(StepSizes *s)
{
    cuda_attention_take(&s->taken, s->dims, s->operands->pre_expert_backward.dense.dtype, true);
}

static void take_ffn(StepSizes *s)
{
    cuda_ffn_take(&s->taken, s->dims, s->operands->ffn.dense.dtype, s->operands->ffn.x.rows, false);
}

static void take_ffn_backward(StepSizes *s)
{
    const struct ffn_backward_tensors *t = &s->operands->ffn_backward;
    cuda_ffn_take(&s->taken, s->dims, t->dense.dtype, t->x.rows, true);
}

static void take_gate(StepSizes *s)
{
    cuda_gate_take(&s->taken, s->dims, s->operands->gate.dense.dtype, s->operands->gate.x.rows, false);
}

static void take_gate_backward(StepSizes *s)
{
    const struct gate_backward_tensors *t = &s->operands->gate_backward;
    cuda_gate_take(&s->taken, s->dims, t->dense.dtype, t->x.rows, true);
}

static void take_route(StepSizes *s)
{
    cuda_ranking_take(&s->taken, s->operands->route.records.rows, s->most);
}

static void take_unroute(StepSizes *s)
{
    cuda_copy_lists_take(&s->taken, s->operands->unroute.rows.rows, s->dims->top_k);
}

static void take_route_backward(StepSizes *s)
{
    cuda_copy_lists_take(&s->taken, s->operands->route_backward.drows.rows, s->dims->top_k);
}

static void take_expert(StepSizes *s)
{
    const struct expert_tensors *t = &s->operands->expert;
    cuda_expert_take(&s->taken, s->dims, t->experts, pairs_of(t->records), s->most, false);
}

static void take_expert_backward(StepSizes *s)
{
    const struct expert_backward_tensors *t = &s->operands->expert_backward;
    cuda_expert_take(&s->taken, s->dims, t->experts, pairs_of(t->records), s->most, true);
}

static void take_shared_expert(StepSizes *s)
{
    const struct shared_expert_tensors *t = &s->operands->shared_expert;
    cuda_shared_take(&s->taken, s->dims, t->dense.dtype, t->rows.rows, false);
}

static void take_shared_expert_backward(StepSizes *s)
{
    const struct shared_expert_backward_tensors *t = &s->operands->shared_expert_backward;
    cuda_shared_take(&s->taken, s->dims, t->dense.dtype, t->rows.rows, true);
}

static void take_embed_backward(StepSizes *s)
{
    cuda_embed_take(&s->taken, s->dims);
}

static void take_loss(StepSizes *s)
{
    cuda_loss_take(&s->taken, s->dims, s->operands->loss.embedding.dtype, false);
}

static void take_loss_backward(StepSizes *s)
{
    cuda_loss_take(&s->taken, s->dims, s->operands->loss_backward.embedding.dtype, true);
}

static void take_squares(StepSizes *s)
{
    cuda_squares_take(&s->taken);
}

// Of ops that take any.
static void (*const takes[])(StepSizes *) = {
    [OP_PRE_EXPERT] = take_pre_expert,
    [OP_FFN] = take_ffn,
    [OP_GATE] = take_gate,
    [OP_ROUTE] = take_route,
    [OP_EXPERT] = take_expert,
    [OP_UNROUTE] = take_unroute,
    [OP_SHARED_EXPERT] = take_shared_expert,
    [OP_LOSS] = take_loss,
    [OP_LOSS_BACKWARD] = take_loss_backward,
    [OP_EXPERT_BACKWARD] = take_expert_backward,
    [OP_ROUTE_BACKWARD] = take_route_backward,
    [OP_GATE_BACKWARD] = take_gate_backward,
    [OP_SHARED_EXPERT_BACKWARD] = take_shared_expert_backward,
    [OP_FFN_BACKWARD] = take_ffn_backward,
    [OP_PRE_EXPERT_BACKWARD] = take_pre_expert_backward,
    [OP_EMBED_BACKWARD] = take_embed_backward,
    [OP_SQUARES] = take_squares,
};

uint64_t cuda_op_scratch(const ModelDims *dims, Op op, const StepTensors *operands, uint64_t most)
{
    StepSizes sizes = {.dims = dims, .operands = operands, .most = most};
    if ((size_t)op < COUNT_OF(takes) && takes[op])
        takes[op](&sizes);
    return sizes.taken.used;
}

uint64_t cuda_step_scratch(const Plan *plan, const Step *step)
{
    StepTensors operands = step_tensors(plan, step, NULL);
    const Step *dispatch = step->op == OP_ROUTE ? engine_route_dispatch(plan, step) : NULL;
    bool meets = dispatch && dispatch->group != NONE;
    bool experts = step->op == OP_EXPERT || step->op == OP_EXPERT_BACKWARD;
    uint64_t most = meets ? group_size(&plan->cluster, &plan->groups[dispatch->group]) : 1;
    return cuda_op_scratch(&plan->model, step->op, &operands, experts ? engine_held_records(plan, step) : most);
}
