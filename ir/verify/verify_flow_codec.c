// What codecs do in the verifier's walk: packets of experts, of dense weights and of gradients, and what is remembered
// from one iteration to the next. Each memory is used in one way by one bundle, and once an iteration: what is encoded
// and not decoded by all who need it would be lost. See verify_flow.h.
#include <string.h>

#include "ir/bundle.h"
#include "ir/codec.h"
#include "ir/verify/verify_flow.h"

// The bundle that a step encodes or decodes.
typedef struct {
    WeightKind kind;
    const Coding *coding;
    uint32_t coded; // levels that its packets cross, of those it is gathered over
    bool dense;
} FlowBundle;

static FlowBundle bundle_of(const Flow *flow, Operand operand)
{
    WeightKind kind = flow_carried(flow, operand);
    const Coding *coding = plan_coding(flow->plan, kind);
    bool dense = kind != WEIGHT_EXPERTS;
    uint32_t gathered = dense ? flow->shared : flow_layer(flow)->gathered;
    uint32_t levels = coding_levels(coding, flow->plan->cluster.level_count);
    return (FlowBundle){kind, coding, gathered & ((1u << levels) - 1), dense};
}

// The operand is the bundle's memory of its kind, which the last iteration left and no step has changed. Errors are one
// per level, other kinds have level 0.
static void take_remembered(Flow *flow, Operand operand, WeightKind kind, uint32_t level)
{
    LayerFlow *layer = flow_layer(flow);
    int32_t buffer = flow_operand(flow, operand), *known = &layer->remembered[kind][level];
    const int32_t *all = &layer->remembered[0][0];
    for (size_t other = 0; *known == NONE && other < (size_t)WEIGHT_KINDS * LEVELS_MAX; other++)
        if (all[other] == buffer)
            verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "'%s' is a memory of something else, too",
                        operand_name(operand));
    if (*known == NONE)
        *known = buffer;
    flow_take(flow, operand, value_split(HOLDS_REMEMBERED, flow->plan->steps[flow->step].layer, 0, *known));
}

// Of a codec that has one, if it is summed.
static void take_mean(Flow *flow, const FlowBundle *bundle)
{
    if (codec_info(bundle->coding->codec)->has_mean && flow->plan->shared_every > 0)
        take_remembered(flow, OPERAND_mean, WEIGHT_MEAN, 0);
    else
        flow_take_none(flow, OPERAND_mean);
}

// The bundle's weights as this rank owns them; noted where the step is the first to use them.
static int32_t take_own(Flow *flow, const FlowBundle *bundle)
{
    int32_t weights = flow_note_weights(flow, OPERAND_own, bundle->kind);
    flow_take(flow, OPERAND_own, value_split(HOLDS_WEIGHT, flow->layer, 0, weights));
    return weights;
}

void flow_encode(Flow *flow)
{
    int32_t k = flow->layer;
    const FlowBundle bundle = bundle_of(flow, OPERAND_packet);
    int32_t weights = take_own(flow, &bundle);
    take_mean(flow, &bundle);
    if (codec_info(bundle.coding->codec)->remembers) {
        take_remembered(flow, OPERAND_sent, bundle.dense ? WEIGHT_DENSE_SENT : WEIGHT_SENT, 0);
        flow_give(flow, OPERAND_sent, value_split(HOLDS_SENT, k, 0, weights));
    } else {
        flow_take_none(flow, OPERAND_sent);
    }
    flow_give(flow, OPERAND_packet, value_split(HOLDS_PACKET, k, 0, weights));
}

void flow_decode(Flow *flow)
{
    int32_t k = flow->layer;
    const FlowBundle bundle = bundle_of(flow, OPERAND_packet);
    int32_t weights = take_own(flow, &bundle);
    bool replicas = codec_info(bundle.coding->codec)->remembers;
    flow_take(flow, OPERAND_packet, value_split(HOLDS_PACKET, k, bundle.coded, weights));
    take_mean(flow, &bundle);
    if (replicas)
        take_remembered(flow, OPERAND_replicas, bundle.dense ? WEIGHT_DENSE_REPLICAS : WEIGHT_REPLICAS, 0);
    if (flow_operand(flow, OPERAND_gathered) == NONE && !replicas)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "misses operand 'gathered'");
    flow_take_none(flow, replicas ? OPERAND_gathered : OPERAND_replicas);
    flow_give(flow, replicas ? OPERAND_replicas : OPERAND_gathered,
              value_split(HOLDS_WEIGHT, k, bundle.coded, weights));
}

void flow_mean_expert(Flow *flow)
{
    int32_t k = flow->layer;
    int32_t weights = flow_take_weights(flow, OPERAND_own_experts), mean = flow_operand(flow, OPERAND_mean);
    take_remembered(flow, OPERAND_mean, WEIGHT_MEAN, 0);
    if (!codec_info(flow->plan->experts.codec)->has_mean || flow->plan->shared_every == 0)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the plan has no mean of experts");
    (void)weights;
    flow_give(flow, OPERAND_mean, value_split(HOLDS_MEAN, k, 0, mean));
}

void flow_encode_gradient(Flow *flow)
{
    int32_t k = flow->layer;
    Value gathered = flow_value(flow, OPERAND_gathered);
    const FlowBundle bundle = bundle_of(flow, OPERAND_gathered);
    int32_t weights = flow_layer(flow)->weights[bundle.kind], level = flow_last_level(gathered.levels);
    flow_take(flow, OPERAND_gathered, value_split(HOLDS_DGATHERED, k, gathered.levels, weights));
    if (level == NONE)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "these weights were gathered over no level");
    else
        take_remembered(flow, OPERAND_error, bundle.dense ? WEIGHT_DENSE_ERROR : WEIGHT_ERROR, (uint32_t)level);
    flow_give(flow, OPERAND_error, value_split(HOLDS_ERROR, k, gathered.levels, weights));
    flow_give(flow, OPERAND_packets, value_split(HOLDS_DPACKETS, k, gathered.levels, weights));
}

void flow_return_packets(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    Value packets = flow_value(flow, OPERAND_packets);
    int32_t weights = flow_layer(flow)->weights[flow_carried(flow, OPERAND_packets)];
    flow_take(flow, OPERAND_packets, value_split(HOLDS_DPACKETS, k, packets.levels, weights));
    if (flow_last_level(packets.levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that was gathered");
    flow_give(flow, OPERAND_received, value_split(HOLDS_DRECEIVED, k, packets.levels, weights));
}

void flow_decode_gradient(Flow *flow)
{
    int32_t k = flow->layer;
    Value received = flow_value(flow, OPERAND_received);
    int32_t weights = flow_layer(flow)->weights[flow_carried(flow, OPERAND_gathered)];
    int32_t level = flow_last_level(received.levels);
    flow_take(flow, OPERAND_received, value_split(HOLDS_DRECEIVED, k, received.levels, weights));
    flow_take(flow, OPERAND_gathered, value_split(HOLDS_DGATHERED, k, received.levels, weights));
    uint32_t left = level == NONE ? 0 : received.levels & ~(1u << level);
    flow_give(flow, OPERAND_shard, flow_whole_gradient(k, left, weights));
}
