// The way of the weights in the verifier's walk: experts to those who gather them, encoded or not, gradients back to
// their owners and summed over copies, and one update of everything. See verify_flow.h.
#include "ir/verify_flow.h"

void flow_gather(Flow *flow, int32_t k, uint32_t level)
{
    Value shard = flow_value(flow, "shard");
    LayerFlow *layer = flow_layer(flow);
    if (shard.holds == HOLDS_WEIGHT && layer->weights[WEIGHTS_EXPERTS] == NONE)
        layer->weights[WEIGHTS_EXPERTS] = shard.from;
    Holding holds = shard.holds == HOLDS_PACKET ? HOLDS_PACKET : HOLDS_WEIGHT;
    flow_take(flow, "shard", value_split(holds, k, shard.levels, layer->weights[WEIGHTS_EXPERTS]));
    if (shard.levels >> level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "this level, or one inside it, was gathered before");
    flow_give(flow, "gathered", value_split(holds, k, shard.levels | 1u << level, layer->weights[WEIGHTS_EXPERTS]));
}

void flow_reduce_scatter(Flow *flow, int32_t k, uint32_t level)
{
    Value gathered = flow_value(flow, "gathered");
    int32_t weights = flow_layer(flow)->weights[WEIGHTS_EXPERTS];
    flow_take(flow, "gathered", value_split(HOLDS_DEXPERTS, k, gathered.levels, weights));
    if (flow_last_level(gathered.levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that was gathered");
    uint32_t left = gathered.levels & ~(1u << level);
    flow_give(flow, "shard", value_split(left ? HOLDS_DEXPERTS : HOLDS_GRADIENT, k, left, weights));
}

void flow_all_reduce(Flow *flow)
{
    const Step *step = &flow->plan->steps[flow->step];
    Value gradient = flow_value(flow, "gradient");
    uint32_t over = flow->all & (step->level == NONE ? flow->all : 1u << step->level);
    flow_take(flow, "gradient", value_split(HOLDS_GRADIENT, step->layer, gradient.levels, gradient.from));
    if (gradient.levels & over)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the gradient was summed over this level before");
    gradient.levels |= over;
    flow_give(flow, "gradient", gradient);
}

void flow_optimizer(Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer, weights = flow_operand(flow, "weights");
    uint32_t over = flow_layer(flow)->weights[WEIGHTS_EXPERTS] == weights ? flow->replicas : flow->all;
    flow_take(flow, "weights", value_split(HOLDS_WEIGHT, layer, 0, weights));
    flow_take(flow, "gradient", value_split(HOLDS_GRADIENT, layer, over, weights));
    flow_take(flow, "state", value_plain(HOLDS_STATE, layer));
    flow_give(flow, "weights", value_split(HOLDS_UPDATED, layer, 0, weights));
    flow_give(flow, "state", value_plain(HOLDS_NOTHING, layer)); // of this step's weights from now on
}

void flow_encode(Flow *flow, int32_t k)
{
    flow_give(flow, "packet", value_split(HOLDS_PACKET, k, 0, flow_take_weights(flow, WEIGHTS_EXPERTS)));
}

void flow_decode(Flow *flow, int32_t k)
{
    const LayerFlow *layer = flow_layer(flow);
    flow_take(flow, "packet", value_split(HOLDS_PACKET, k, layer->gathered, layer->weights[WEIGHTS_EXPERTS]));
    flow_give(flow, "experts", value_split(HOLDS_WEIGHT, k, layer->gathered, layer->weights[WEIGHTS_EXPERTS]));
}
