// What codecs do in the verifier's walk: packets of experts and of gradients, and what is remembered from one
// iteration to the next. Each memory is used in one way by one layer, and once an iteration: what is encoded and not
// decoded by all who need it would be lost. See verify_flow.h.
#include <string.h>

#include "ir/verify/verify_flow.h"

static const char *const remembered_names[] = {
#define X(name, text) text,
    REMEMBERED(X)
#undef X
};

// The operand is the layer's memory of that kind, which the last iteration left and no step has changed.
static void take_remembered(Flow *flow, Remembered what, const char *operand)
{
    LayerFlow *layer = flow_layer(flow);
    int32_t buffer = flow_operand(flow, operand);
    for (uint32_t other = 0; layer->remembered[what] == NONE && other < REMEMBER_COUNT; other++)
        if (layer->remembered[other] == buffer)
            verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "'%s' is a memory of something else, too", operand);
    if (layer->remembered[what] == NONE)
        layer->remembered[what] = buffer;
    flow_take(flow, operand,
              value_split(HOLDS_REMEMBERED, flow->plan->steps[flow->step].layer, 0, layer->remembered[what]));
}

// With `sr`, if it has a mean; `delta` has none.
static void take_mean(Flow *flow)
{
    if (flow->plan->codec == CODEC_SR && flow->plan->shared_every > 0)
        take_remembered(flow, REMEMBERS_MEAN, remembered_names[REMEMBERS_MEAN]);
    else
        flow_take_none(flow, "mean");
}

void flow_encode(Flow *flow, int32_t k)
{
    int32_t weights = flow_take_weights(flow, WEIGHTS_EXPERTS);
    take_mean(flow);
    if (flow->plan->codec == CODEC_DELTA) {
        take_remembered(flow, REMEMBERS_SENT, remembered_names[REMEMBERS_SENT]);
        flow_give(flow, "sent", value_split(HOLDS_SENT, k, 0, weights));
    } else {
        flow_take_none(flow, "sent");
    }
    flow_give(flow, "packet", value_split(HOLDS_PACKET, k, 0, weights));
}

void flow_decode(Flow *flow, int32_t k)
{
    const LayerFlow *layer = flow_layer(flow);
    int32_t weights = layer->weights[WEIGHTS_EXPERTS];
    bool replicas = flow->plan->codec == CODEC_DELTA;
    flow_take(flow, "packet", value_split(HOLDS_PACKET, k, layer->gathered, weights));
    flow_take(flow, "own", value_split(HOLDS_WEIGHT, k, 0, weights));
    take_mean(flow);
    if (replicas)
        take_remembered(flow, REMEMBERS_REPLICAS, remembered_names[REMEMBERS_REPLICAS]);
    if (flow_operand(flow, "experts") == NONE && !replicas)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "misses operand 'experts'");
    flow_take_none(flow, replicas ? "experts" : "replicas");
    flow_give(flow, replicas ? "replicas" : "experts", value_split(HOLDS_WEIGHT, k, layer->gathered, weights));
}

void flow_mean_expert(Flow *flow, int32_t k)
{
    int32_t weights = flow_take_weights(flow, WEIGHTS_EXPERTS), mean = flow_operand(flow, "mean");
    take_remembered(flow, REMEMBERS_MEAN, remembered_names[REMEMBERS_MEAN]);
    if (flow->plan->codec != CODEC_SR || flow->plan->shared_every == 0)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the plan has no mean of experts");
    (void)weights;
    flow_give(flow, "mean", value_split(HOLDS_MEAN, k, 0, mean));
}

void flow_encode_gradient(Flow *flow, int32_t k)
{
    Value gathered = flow_value(flow, "gathered");
    int32_t weights = flow_layer(flow)->weights[WEIGHTS_EXPERTS], level = flow_last_level(gathered.levels);
    flow_take(flow, "gathered", value_split(HOLDS_DEXPERTS, k, gathered.levels, weights));
    if (level == NONE)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "these experts were gathered over no level");
    else
        take_remembered(flow, (Remembered)(REMEMBERS_ERRORS + level), "error");
    flow_give(flow, "error", value_split(HOLDS_ERROR, k, gathered.levels, weights));
    flow_give(flow, "packets", value_split(HOLDS_DPACKETS, k, gathered.levels, weights));
}

void flow_return_packets(Flow *flow, int32_t k, uint32_t level)
{
    Value packets = flow_value(flow, "packets");
    int32_t weights = flow_layer(flow)->weights[WEIGHTS_EXPERTS];
    flow_take(flow, "packets", value_split(HOLDS_DPACKETS, k, packets.levels, weights));
    if (flow_last_level(packets.levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that was gathered");
    flow_give(flow, "received", value_split(HOLDS_DRECEIVED, k, packets.levels, weights));
}

void flow_decode_gradient(Flow *flow, int32_t k)
{
    Value received = flow_value(flow, "received");
    int32_t weights = flow_layer(flow)->weights[WEIGHTS_EXPERTS], level = flow_last_level(received.levels);
    flow_take(flow, "received", value_split(HOLDS_DRECEIVED, k, received.levels, weights));
    flow_take(flow, "gathered", value_split(HOLDS_DEXPERTS, k, received.levels, weights));
    uint32_t left = level == NONE ? 0 : received.levels & ~(1u << level);
    flow_give(flow, "shard", value_split(left ? HOLDS_DEXPERTS : HOLDS_GRADIENT, k, left, weights));
}
