// See verify_flow.h: values as steps take and give them, and what messages call them.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ir/bundle.h"
#include "ir/verify/verify_flow.h"

static const char *const holding_names[] = {
#define X(name, text) text,
    HOLDINGS(X)
#undef X
};

int32_t flow_operand(const Flow *flow, Operand operand)
{
    return step_operand(flow->plan, &flow->plan->steps[flow->step], operand);
}

Value flow_value(const Flow *flow, Operand operand)
{
    int32_t buffer = flow_operand(flow, operand);
    return buffer == NONE ? (Value){.from = NONE} : flow->values[buffer];
}

static const char *describe_value(const Flow *flow, Value value, char out[160])
{
    int length = snprintf(out, 160, "%s%s", value.packed ? "packed " : "", holding_names[value.holds]);
    if (value.holds != HOLDS_NOTHING && value.layer != NONE)
        length += snprintf(out + length, 160 - (size_t)length, " of layer %" PRId32, value.layer);
    for (uint32_t l = 0; value.holds != HOLDS_PARTS && l < flow->plan->cluster.level_count && length < 120; l++)
        if (value.levels >> l & 1)
            length +=
                snprintf(out + length, 160 - (size_t)length, ", over '%.16s'", flow->plan->cluster.levels[l].name);
    if (value.from == NONE)
        return out;
    if (value.holds == HOLDS_WEIGHT || value.holds == HOLDS_UPDATED || value.holds == HOLDS_PACKET ||
        value.holds == HOLDS_DGATHERED || value.holds == HOLDS_GRADIENT || value.holds == HOLDS_HALF_GRADIENT ||
        value.holds == HOLDS_PARTS || value.holds == HOLDS_REMEMBERED || value.holds == HOLDS_COUNTED)
        snprintf(out + length, 160 - (size_t)length, " ('%.16s')", flow->plan->buffers[value.from].name);
    else
        snprintf(out + length, 160 - (size_t)length, ", from step %" PRId32, value.from);
    return out;
}

static bool value_equal(Value a, Value b)
{
    return a.holds == b.holds && a.layer == b.layer && a.levels == b.levels && a.from == b.from && a.packed == b.packed;
}

void flow_take(const Flow *flow, Operand operand, Value expected)
{
    int32_t buffer = flow_operand(flow, operand);
    if (buffer != NONE && value_equal(flow->values[buffer], expected))
        return;
    char have[160], want[160];
    describe_value(flow, expected, want);
    if (buffer == NONE)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "misses operand '%s': expected %s",
                    operand_name(operand), want);
    else
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "operand '%s', '%.40s', holds %s: expected %s",
                    operand_name(operand), flow->plan->buffers[buffer].name,
                    describe_value(flow, flow->values[buffer], have), want);
}

void flow_take_none(const Flow *flow, Operand operand)
{
    if (flow_operand(flow, operand) != NONE)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "operand '%s' is '%.40s': expected none",
                    operand_name(operand), flow->plan->buffers[flow_operand(flow, operand)].name);
}

void flow_give(Flow *flow, Operand operand, Value value)
{
    int32_t buffer = flow_operand(flow, operand);
    if (buffer != NONE)
        flow->values[buffer] = value;
}

Value value_plain(Holding holds, int32_t layer)
{
    return (Value){.holds = holds, .layer = layer, .from = NONE};
}

Value value_staged(Holding holds, int32_t layer, uint32_t levels)
{
    return (Value){.holds = holds, .layer = layer, .levels = levels, .from = NONE};
}

Value value_packed(Value value, bool packed)
{
    value.packed = packed;
    return value;
}

Value value_split(Holding holds, int32_t layer, uint32_t levels, int32_t route)
{
    return (Value){.holds = holds, .layer = layer, .levels = levels, .from = route};
}

int32_t flow_last_level(uint32_t levels)
{
    int32_t last = NONE;
    for (int32_t l = 0; l < LEVELS_MAX; l++)
        if (levels >> l & 1)
            last = l;
    return last;
}

LayerFlow *flow_layer(const Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer;
    return &flow->layers[layer == NONE ? (int32_t)flow->plan->model.layers : layer];
}

void flow_take_tokens(const Flow *flow)
{
    flow_take(flow, OPERAND_tokens, value_plain(HOLDS_TOKENS, NONE));
}

uint32_t flow_gathered(const Flow *flow, Operand weights)
{
    if (weights == OPERAND_experts)
        return flow_layer(flow)->gathered;
    return weights == OPERAND_dense || weights == OPERAND_embedding ? flow->shared : 0;
}

WeightKind flow_carried(const Flow *flow, Operand operand)
{
    int32_t buffer = flow_operand(flow, operand);
    WeightKind kind = buffer == NONE ? WEIGHT_NONE : flow->kinds[buffer];
    kind = bundle_weights(kind, flow->plan->steps[flow->step].layer);
    return kind == WEIGHT_DENSE || kind == WEIGHT_EMBEDDING ? kind : WEIGHT_EXPERTS;
}

int32_t flow_note_weights(Flow *flow, Operand weights, WeightKind kind)
{
    LayerFlow *layer = flow_layer(flow);
    for (uint32_t other = 0; layer->weights[kind] == NONE && other < WEIGHT_KINDS; other++)
        if (layer->weights[other] != NONE && layer->weights[other] == flow_value(flow, weights).from)
            verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the layer's '%s' are its '%s', too",
                        operand_name(weights), weight_kind_name((WeightKind)other));
    if (layer->weights[kind] == NONE)
        layer->weights[kind] = flow_value(flow, weights).from;
    return layer->weights[kind];
}

int32_t flow_take_weights(Flow *flow, Operand weights)
{
    LayerFlow *layer = flow_layer(flow);
    WeightKind kind = operand_weight(weights);
    (void)flow_note_weights(flow, weights, kind);
    flow_take(flow, weights,
              value_split(HOLDS_WEIGHT, flow->plan->steps[flow->step].layer, flow_gathered(flow, weights),
                          layer->weights[kind]));
    return layer->weights[kind];
}

Value flow_whole_gradient(int32_t layer, uint32_t levels, int32_t weights)
{
    return value_split(levels ? HOLDS_DGATHERED : HOLDS_GRADIENT, layer, levels, weights);
}

static bool is_whole(const Flow *flow, int32_t layer, uint32_t parts)
{
    bool whole = true;
    for (int part = 0; part < DENSE_PARTS; part++)
        if (model_has_part(&flow->plan->model, (DensePart)part, plan_layer_is_moe(flow->plan, layer)))
            whole &= parts >> part & 1;
    return whole;
}

void flow_give_part(Flow *flow, DensePart part)
{
    int32_t layer = flow->layer, weights = flow_take_weights(flow, OPERAND_dense);
    Value value = flow_value(flow, OPERAND_ddense);
    uint32_t parts = value.holds == HOLDS_PARTS && value.layer == layer && value.from == weights ? value.levels : 0;
    if (parts >> part & 1)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "this part of the gradient was written before");
    parts |= 1u << part;
    flow_give(flow, OPERAND_ddense,
              is_whole(flow, layer, parts) ? flow_whole_gradient(layer, flow->shared, weights)
                                           : value_split(HOLDS_PARTS, layer, parts, weights));
}
