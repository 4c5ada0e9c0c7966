// What codecs do in the verifier's walk: packets of experts and of gradients, and what is remembered from one
// iteration to the next. Each memory is used in one way by one layer, and once an iteration: what is encoded and not
// decoded by all who need it would be lost. See verify_flow.h.
#include <string.h>

#include "ir/codec.h"
#include "ir/verify/verify_flow.h"

// The operand is the layer's memory of its kind, which the last iteration left and no step has changed. Errors are one
// per level, other kinds have level 0.
static void take_remembered(Flow *flow, Operand operand, uint32_t level)
{
    LayerFlow *layer = flow_layer(flow);
    int32_t buffer = flow_operand(flow, operand), *known = &layer->remembered[operand_weight(operand) + level];
    for (size_t other = 0; *known == NONE && other < COUNT_OF(layer->remembered); other++)
        if (layer->remembered[other] == buffer)
            verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "'%s' is a memory of something else, too",
                        operand_name(operand));
    if (*known == NONE)
        *known = buffer;
    flow_take(flow, operand, value_split(HOLDS_REMEMBERED, flow->plan->steps[flow->step].layer, 0, *known));
}

// Of a codec that has one, if it is summed.
static void take_mean(Flow *flow)
{
    if (codec_info(flow->plan->codec)->has_mean && flow->plan->shared_every > 0)
        take_remembered(flow, OPERAND_mean, 0);
    else
        flow_take_none(flow, OPERAND_mean);
}

void flow_encode(Flow *flow)
{
    int32_t k = flow->layer;
    int32_t weights = flow_take_weights(flow, OPERAND_own_experts);
    take_mean(flow);
    if (codec_info(flow->plan->codec)->remembers) {
        take_remembered(flow, OPERAND_sent, 0);
        flow_give(flow, OPERAND_sent, value_split(HOLDS_SENT, k, 0, weights));
    } else {
        flow_take_none(flow, OPERAND_sent);
    }
    flow_give(flow, OPERAND_packet, value_split(HOLDS_PACKET, k, 0, weights));
}

void flow_decode(Flow *flow)
{
    int32_t k = flow->layer;
    const LayerFlow *layer = flow_layer(flow);
    int32_t weights = layer->weights[WEIGHT_EXPERTS];
    bool replicas = codec_info(flow->plan->codec)->remembers;
    uint32_t levels = layer->gathered & ((1u << plan_coded_levels(flow->plan)) - 1);
    flow_take(flow, OPERAND_packet, value_split(HOLDS_PACKET, k, levels, weights));
    flow_take(flow, OPERAND_own, value_split(HOLDS_WEIGHT, k, 0, weights));
    take_mean(flow);
    if (replicas)
        take_remembered(flow, OPERAND_replicas, 0);
    if (flow_operand(flow, OPERAND_experts) == NONE && !replicas)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "misses operand 'experts'");
    flow_take_none(flow, replicas ? OPERAND_experts : OPERAND_replicas);
    flow_give(flow, replicas ? OPERAND_replicas : OPERAND_experts, value_split(HOLDS_WEIGHT, k, levels, weights));
}

void flow_mean_expert(Flow *flow)
{
    int32_t k = flow->layer;
    int32_t weights = flow_take_weights(flow, OPERAND_own_experts), mean = flow_operand(flow, OPERAND_mean);
    take_remembered(flow, OPERAND_mean, 0);
    if (!codec_info(flow->plan->codec)->has_mean || flow->plan->shared_every == 0)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the plan has no mean of experts");
    (void)weights;
    flow_give(flow, OPERAND_mean, value_split(HOLDS_MEAN, k, 0, mean));
}

void flow_encode_gradient(Flow *flow)
{
    int32_t k = flow->layer;
    Value gathered = flow_value(flow, OPERAND_gathered);
    int32_t weights = flow_layer(flow)->weights[WEIGHT_EXPERTS], level = flow_last_level(gathered.levels);
    flow_take(flow, OPERAND_gathered, value_split(HOLDS_DGATHERED, k, gathered.levels, weights));
    if (level == NONE)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "these experts were gathered over no level");
    else
        take_remembered(flow, OPERAND_error, (uint32_t)level);
    flow_give(flow, OPERAND_error, value_split(HOLDS_ERROR, k, gathered.levels, weights));
    flow_give(flow, OPERAND_packets, value_split(HOLDS_DPACKETS, k, gathered.levels, weights));
}

void flow_return_packets(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    Value packets = flow_value(flow, OPERAND_packets);
    int32_t weights = flow_layer(flow)->weights[WEIGHT_EXPERTS];
    flow_take(flow, OPERAND_packets, value_split(HOLDS_DPACKETS, k, packets.levels, weights));
    if (flow_last_level(packets.levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that was gathered");
    flow_give(flow, OPERAND_received, value_split(HOLDS_DRECEIVED, k, packets.levels, weights));
}

void flow_decode_gradient(Flow *flow)
{
    int32_t k = flow->layer;
    Value received = flow_value(flow, OPERAND_received);
    int32_t weights = flow_layer(flow)->weights[WEIGHT_EXPERTS], level = flow_last_level(received.levels);
    flow_take(flow, OPERAND_received, value_split(HOLDS_DRECEIVED, k, received.levels, weights));
    flow_take(flow, OPERAND_gathered, value_split(HOLDS_DGATHERED, k, received.levels, weights));
    uint32_t left = level == NONE ? 0 : received.levels & ~(1u << level);
    flow_give(flow, OPERAND_shard, flow_whole_gradient(k, left, weights));
}
