// The way of the weights in the verifier's walk: experts to those who gather them, gradients back to their owners and
// summed over copies, their norm, and one update of everything. See verify_flow.h.
#include "ir/verify/verify_flow.h"

void flow_gather(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    Value shard = flow_value(flow, OPERAND_shard);
    LayerFlow *layer = flow_layer(flow);
    if (shard.holds == HOLDS_WEIGHT && layer->weights[WEIGHT_EXPERTS] == NONE)
        layer->weights[WEIGHT_EXPERTS] = shard.from;
    Holding holds = shard.holds == HOLDS_PACKET ? HOLDS_PACKET : HOLDS_WEIGHT;
    flow_take(flow, OPERAND_shard, value_split(holds, k, shard.levels, layer->weights[WEIGHT_EXPERTS]));
    if (shard.levels >> level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "this level, or one inside it, was gathered before");
    flow_give(flow, OPERAND_gathered,
              value_split(holds, k, shard.levels | 1u << level, layer->weights[WEIGHT_EXPERTS]));
}

void flow_reduce_scatter(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    Value gathered = flow_value(flow, OPERAND_gathered);
    int32_t weights = flow_layer(flow)->weights[WEIGHT_EXPERTS];
    flow_take(flow, OPERAND_gathered, value_split(HOLDS_DEXPERTS, k, gathered.levels, weights));
    if (flow_last_level(gathered.levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that was gathered");
    uint32_t left = gathered.levels & ~(1u << level);
    flow_give(flow, OPERAND_shard, value_split(left ? HOLDS_DEXPERTS : HOLDS_GRADIENT, k, left, weights));
}

// Sums gradients, the mean of experts, or squares; what it is of, and where it comes from, stays.
void flow_all_reduce(Flow *flow)
{
    const Step *step = &flow->plan->steps[flow->step];
    Value value = flow_value(flow, OPERAND_gradient);
    uint32_t over = flow->all & (step->level == NONE ? flow->all : 1u << step->level);
    Holding holds = value.holds == HOLDS_MEAN || value.holds == HOLDS_SQUARES ? value.holds : HOLDS_GRADIENT;
    flow_take(flow, OPERAND_gradient, value_split(holds, step->layer, value.levels, value.from));
    if (value.levels & over)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the gradient was summed over this level before");
    if (holds != HOLDS_GRADIENT && over & flow->replicas)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "whole copies of the experts would count twice");
    value.levels |= over;
    flow_give(flow, OPERAND_gradient, value);
}

static bool updates_experts(const Flow *flow, int32_t weights)
{
    return flow_layer(flow)->weights[WEIGHT_EXPERTS] == weights;
}

static uint32_t summed_over(const Flow *flow, int32_t weights)
{
    return updates_experts(flow, weights) ? flow->replicas : flow->all;
}

// Squares of experts' gradients are summed over the ranks that share them before those of dense gradients, which
// all ranks have, are added. `from` counts the gradients.
void flow_squares(Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer, weights = flow_value(flow, OPERAND_gradient).from;
    flow_take(flow, OPERAND_gradient, value_split(HOLDS_GRADIENT, layer, summed_over(flow, weights), weights));
    Value before = {.holds = HOLDS_SQUARES, .layer = NONE};
    if (flow_operand(flow, OPERAND_before) != NONE) {
        before.from = flow_value(flow, OPERAND_before).from;
        before.levels = updates_experts(flow, weights) ? 0 : flow->all & ~flow->replicas;
        flow_take(flow, OPERAND_before, before);
    } else if (!updates_experts(flow, weights)) {
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "squares of dense gradients go to those of experts");
    }
    before.from++;
    flow_give(flow, OPERAND_squares, before);
    flow_give(flow, OPERAND_gradient, value_split(HOLDS_COUNTED, layer, summed_over(flow, weights), weights));
}

void flow_optimizer(Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer, weights = flow_operand(flow, OPERAND_weights);
    bool clips = flow->plan->training.clip > 0;
    flow_take(flow, OPERAND_weights, value_split(HOLDS_WEIGHT, layer, 0, weights));
    flow_take(flow, OPERAND_gradient,
              value_split(clips ? HOLDS_COUNTED : HOLDS_GRADIENT, layer, summed_over(flow, weights), weights));
    flow_take(flow, OPERAND_state, value_plain(HOLDS_STATE, layer));
    if (clips)
        flow_take(flow, OPERAND_squares,
                  value_split(HOLDS_SQUARES, NONE, flow->all & ~flow->replicas, flow->weight_count));
    else
        flow_take_none(flow, OPERAND_squares);
    flow_give(flow, OPERAND_weights, value_split(HOLDS_UPDATED, layer, 0, weights));
    flow_give(flow, OPERAND_state, value_plain(HOLDS_NOTHING, layer)); // of this step's weights from now on
}
