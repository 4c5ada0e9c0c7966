// The way of the weights in the verifier's walk: shares to those who gather them, gradients back to their owners and
// their norm, and one update of everything. See verify_flow.h.
#include "ir/codec.h"
#include "ir/verify/verify_flow.h"

void flow_gather(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    Value shard = flow_value(flow, OPERAND_shard);
    int32_t *weights = &flow_layer(flow)->weights[flow_carried(flow, OPERAND_shard)];
    if (shard.holds == HOLDS_WEIGHT && *weights == NONE)
        *weights = shard.from;
    Holding holds = shard.holds == HOLDS_PACKET ? HOLDS_PACKET : HOLDS_WEIGHT;
    flow_take(flow, OPERAND_shard, value_split(holds, k, shard.levels, *weights));
    const Coding *dense = &flow->plan->dense; // of experts claims say so
    bool packed = codec_info(dense->codec)->encodes && level < coding_levels(dense, flow->plan->cluster.level_count);
    if (packed && holds != HOLDS_PACKET && flow_carried(flow, OPERAND_shard) != WEIGHT_EXPERTS)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "dense weights cross this level whole, not as packets");
    if (shard.levels >> level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "this level, or one inside it, was gathered before");
    flow_give(flow, OPERAND_gathered, value_split(holds, k, shard.levels | 1u << level, *weights));
}

// A half of the embedding's gradient, before both are added up: of the loss, or of the words.
static bool is_half(Value value)
{
    return value.holds == HOLDS_HALF_GRADIENT || value.holds == HOLDS_OTHER_HALF;
}

static bool returns_halves(const Flow *flow)
{
    return flow->plan->regather_embedding;
}

void flow_reduce_scatter(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    Value gathered = flow_value(flow, OPERAND_gathered);
    int32_t weights = flow_layer(flow)->weights[flow_carried(flow, OPERAND_gathered)];
    uint32_t left = gathered.levels & ~(1u << level);
    bool half = returns_halves(flow) && is_half(gathered);
    flow_take(flow, OPERAND_gathered,
              value_split(half ? gathered.holds : HOLDS_DGATHERED, k, gathered.levels, weights));
    if (flow_last_level(gathered.levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that was gathered");
    flow_give(flow, OPERAND_shard,
              half ? value_split(gathered.holds, k, left, weights) : flow_whole_gradient(k, left, weights));
}

void flow_clear(Flow *flow)
{
    flow_give(flow, OPERAND_sum, value_plain(HOLDS_ZEROS, flow->layer));
}

static bool is_gradient(Value value)
{
    return value.holds == HOLDS_DGATHERED || value.holds == HOLDS_GRADIENT;
}

// One micro-batch's gradient, which stands for those of all; that of the embedding is added in two halves, which may
// have sums of their own until both are where they meet.
void flow_accumulate(Flow *flow)
{
    Value part = flow_value(flow, OPERAND_part);
    bool apart = returns_halves(flow) && flow_value(flow, OPERAND_sum).holds == HOLDS_ZEROS;
    bool second = part.holds == HOLDS_OTHER_HALF && !apart, whole = second || is_gradient(part);
    if (!whole && !is_half(part))
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "adds '%.40s', which is no whole gradient of weights",
                    flow->plan->buffers[flow_operand(flow, OPERAND_part)].name);
    flow_take(flow, OPERAND_part, value_split(part.holds, flow->layer, part.levels, part.from));
    flow_take(flow, OPERAND_sum,
              second ? value_split(HOLDS_HALF_GRADIENT, flow->layer, part.levels, part.from)
                     : value_plain(HOLDS_ZEROS, flow->layer));
    flow_give(flow, OPERAND_sum,
              whole ? flow_whole_gradient(flow->layer, part.levels, part.from)
                    : value_split(part.holds, flow->layer, part.levels, part.from));
    flow_give(flow, OPERAND_part, value_plain(HOLDS_NOTHING, flow->layer));
}

void flow_round(Flow *flow)
{
    Value sum = flow_value(flow, OPERAND_sum);
    if (!is_gradient(sum) && !(returns_halves(flow) && is_half(sum)))
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "rounds '%.40s', which is no sum of gradients",
                    flow->plan->buffers[flow_operand(flow, OPERAND_sum)].name);
    flow_take(flow, OPERAND_sum, value_split(sum.holds, flow->layer, sum.levels, sum.from));
    flow_give(flow, OPERAND_gradient, sum);
}

void flow_add_returned(Flow *flow)
{
    flow_accumulate(flow);
}

void flow_round_returned(Flow *flow)
{
    flow_round(flow);
}

// Sums the mean of experts, squares, or what weights moved; what it is of, and where it comes from, stays.
void flow_all_reduce(Flow *flow)
{
    const Step *step = &flow->plan->steps[flow->step];
    Value value = flow_value(flow, OPERAND_gradient);
    uint32_t levels = value.holds == HOLDS_MOVED ? flow->apart : flow->all;
    uint32_t over = levels & (step->level == NONE ? levels : 1u << step->level);
    bool other = value.holds == HOLDS_MEAN || value.holds == HOLDS_MOVED;
    Holding holds = other ? value.holds : HOLDS_SQUARES;
    flow_take(flow, OPERAND_gradient, value_split(holds, step->layer, value.levels, value.from));
    if (value.levels & over)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "it was summed over this level before");
    value.levels |= over;
    flow_give(flow, OPERAND_gradient, value);
}

// Every square is of a gradient at its owner; all of them are added before they are summed over the ranks. `from`
// counts the gradients.
void flow_squares(Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer, weights = flow_value(flow, OPERAND_gradient).from;
    flow_take(flow, OPERAND_gradient, value_split(HOLDS_GRADIENT, layer, 0, weights));
    Value before = {.holds = HOLDS_SQUARES, .layer = NONE};
    if (flow_operand(flow, OPERAND_before) != NONE) {
        before.from = flow_value(flow, OPERAND_before).from;
        flow_take(flow, OPERAND_before, before);
    }
    before.from++;
    flow_give(flow, OPERAND_squares, before);
    flow_give(flow, OPERAND_gradient, value_split(HOLDS_COUNTED, layer, 0, weights));
}

void flow_optimizer(Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer, weights = flow_operand(flow, OPERAND_weights);
    bool clips = flow->plan->training.clip > 0;
    flow_take(flow, OPERAND_weights, value_split(HOLDS_WEIGHT, layer, 0, weights));
    flow_take(flow, OPERAND_gradient, value_split(clips ? HOLDS_COUNTED : HOLDS_GRADIENT, layer, 0, weights));
    flow_take(flow, OPERAND_state, value_plain(HOLDS_STATE, layer));
    if (clips)
        flow_take(flow, OPERAND_squares, value_split(HOLDS_SQUARES, NONE, flow->all, flow->weight_count));
    else
        flow_take_none(flow, OPERAND_squares);
    flow_give(flow, OPERAND_weights, value_split(HOLDS_UPDATED, layer, 0, weights));
    flow_give(flow, OPERAND_state, value_plain(HOLDS_NOTHING, layer)); // of this step's weights from now on
}

// What the weights are after their update differs where workers train apart. Where they met last is the same there, and
// is each bundle's own.
void flow_outer_gradient(Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer, weights = flow_operand(flow, OPERAND_weights);
    flow_take(flow, OPERAND_weights, value_split(HOLDS_UPDATED, layer, 0, weights));
    flow_take(flow, OPERAND_outer, value_plain(HOLDS_STATE, layer));
    flow_give(flow, OPERAND_outer, value_split(HOLDS_OUTER, layer, 0, weights));
    flow_give(flow, OPERAND_gradient, value_split(HOLDS_MOVED, layer, 0, weights));
}

// A sum over all who train apart, from where they met last: the same everywhere.
void flow_outer_step(Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer, weights = flow_operand(flow, OPERAND_weights);
    flow_take(flow, OPERAND_weights, value_split(HOLDS_UPDATED, layer, 0, weights));
    flow_take(flow, OPERAND_gradient, value_split(HOLDS_MOVED, layer, flow->apart, weights));
    flow_take(flow, OPERAND_outer, value_split(HOLDS_OUTER, layer, 0, weights));
    flow_give(flow, OPERAND_weights, value_split(HOLDS_EQUAL, layer, 0, weights));
    flow_give(flow, OPERAND_outer, value_plain(HOLDS_NOTHING, layer));
}
