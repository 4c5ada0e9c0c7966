// The way of the rows in the verifier's walk: out level by level, through the experts, and back the way they came;
// backward, gradients go the same ways. See verify_flow.h.
#include <inttypes.h>

#include "ir/verify/verify_flow.h"

// Counts that say how full the stage is: those of the exchange it came by.
static void take_stage_counts(const Flow *flow, uint32_t levels, int32_t k)
{
    if (levels == 0) {
        flow_take_none(flow, OPERAND_counts);
        return;
    }
    int32_t dispatch = flow_layer(flow)->dispatch[flow_last_level(levels)];
    flow_take(flow, OPERAND_counts, value_split(HOLDS_NEXT_COUNTS, k, levels, dispatch));
}

// Gradients of results in a stage; before anything was sent, those of the next layer's input.
static Value result_gradients(int32_t k, uint32_t levels)
{
    return levels ? value_staged(HOLDS_DRESULTS, k, levels) : value_plain(HOLDS_DINPUT, k + 1);
}

// As rows of a way travel.
static Value travelling(const Flow *flow, TokenWay way, Value value)
{
    return value_packed(value, flow->plan->tokens[way] != TOKENS_FULL);
}

// What may be packed, by what it holds; TOKEN_WAYS for anything else.
static TokenWay way_of(Holding holds)
{
    switch ((int)holds) {
    case HOLDS_ROWS:
        return WAY_DISPATCH;
    case HOLDS_RESULTS:
    case HOLDS_RETURNED:
        return WAY_COMBINE;
    case HOLDS_DROWS:
    case HOLDS_RETURNED_DROWS:
        return WAY_DISPATCH_GRADIENT;
    case HOLDS_DINPUT:
    case HOLDS_DRESULTS:
        return WAY_COMBINE_GRADIENT;
    default:
        return TOKEN_WAYS;
    }
}

// Packed rows are in the format of their way, which engines find out from who moves them.
static void take_way(const Flow *flow, Value rows)
{
    const Plan *plan = flow->plan;
    TokenWay way = way_of(rows.holds);
    const Buffer *packed = &plan->buffers[flow_operand(flow, OPERAND_packed_rows)];
    int8_t moved = flow->ways[flow_operand(flow, OPERAND_packed_rows)];
    if (way == TOKEN_WAYS || plan->tokens[way] == TOKENS_FULL) {
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "'%.40s' holds what is not packed in this plan",
                    packed->name);
        return;
    }
    uint64_t bytes = token_row_bytes(plan->tokens[way], plan->model.hidden, plan->model.dtype);
    if (packed->cols != bytes)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step,
                    "'%.40s' has rows of %" PRIu64 " bytes, expected %" PRIu64 " in '%s'", packed->name, packed->cols,
                    bytes, token_format_name(plan->tokens[way]));
    if (moved != (int8_t)way)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "'%.40s' is %s", packed->name,
                    moved < 0 ? "moved by no step" : "moved as something else, too");
}

// Counts that say how many rows there are: those of the stage, or of those that were sent from the one before.
static void take_packed_counts(const Flow *flow, Value rows)
{
    int32_t k = flow->layer, level = flow_last_level(rows.levels);
    bool returned = rows.holds == HOLDS_RETURNED || rows.holds == HOLDS_RETURNED_DROWS;
    if (!returned || level == NONE) {
        take_stage_counts(flow, rows.holds == HOLDS_DINPUT ? 0 : rows.levels, k);
        flow_take_none(flow, OPERAND_send_counts);
        return;
    }
    flow_take_none(flow, OPERAND_counts);
    flow_take(flow, OPERAND_send_counts,
              value_split(HOLDS_SEND_COUNTS, k, rows.levels & ~(1u << level), flow_layer(flow)->route[level]));
}

// The layer's own: gradients of results begin as those of the next layer's input.
static Value layer_rows(const Flow *flow, Value rows)
{
    rows.layer = flow->layer + (rows.holds == HOLDS_DINPUT);
    return rows;
}

void flow_encode_rows(Flow *flow)
{
    Value rows = layer_rows(flow, flow_value(flow, OPERAND_rows));
    flow_take(flow, OPERAND_rows, value_packed(rows, false));
    take_packed_counts(flow, rows);
    take_way(flow, rows);
    flow_give(flow, OPERAND_packed_rows, value_packed(rows, true));
}

void flow_decode_rows(Flow *flow)
{
    Value rows = layer_rows(flow, flow_value(flow, OPERAND_packed_rows));
    flow_take(flow, OPERAND_packed_rows, value_packed(rows, true));
    take_packed_counts(flow, rows);
    take_way(flow, rows);
    flow_give(flow, OPERAND_rows, value_packed(rows, false));
}

void flow_route(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t levels = flow_value(flow, OPERAND_rows).levels;
    int32_t step = (int32_t)flow->step;
    flow_take(flow, OPERAND_rows, travelling(flow, WAY_DISPATCH, value_staged(HOLDS_ROWS, k, levels)));
    flow_take(flow, OPERAND_records, value_staged(HOLDS_RECORDS, k, levels));
    take_stage_counts(flow, levels, k);
    flow_give(flow, OPERAND_next_rows, travelling(flow, WAY_DISPATCH, value_split(HOLDS_OWN_ROWS, k, levels, step)));
    flow_give(flow, OPERAND_next_records, value_split(HOLDS_OWN_RECORDS, k, levels, step));
    flow_give(flow, OPERAND_send_rows, travelling(flow, WAY_DISPATCH, value_split(HOLDS_SENT_ROWS, k, levels, step)));
    flow_give(flow, OPERAND_send_records, value_split(HOLDS_SENT_RECORDS, k, levels, step));
    flow_give(flow, OPERAND_send_counts, value_split(HOLDS_SEND_COUNTS, k, levels, step));
    flow_give(flow, OPERAND_origin, value_split(HOLDS_ORIGIN, k, levels, step));
}

// Rows and their records; or, without records, gradients the way the rows went.
void flow_dispatch(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    LayerFlow *layer = flow_layer(flow);
    Value sent = flow_value(flow, OPERAND_send_rows);
    uint32_t levels = sent.levels, after = levels | 1u << level;
    bool rows = flow_operand(flow, OPERAND_send_records) != NONE;
    if (rows)
        layer->route[level] = sent.from;
    int32_t route = layer->route[level];
    TokenWay way = rows ? WAY_DISPATCH : WAY_COMBINE_GRADIENT;
    Value others = value_split(rows ? HOLDS_SENT_ROWS : HOLDS_SENT_DRESULTS, k, levels, route);
    Value own = value_split(rows ? HOLDS_OWN_ROWS : HOLDS_OWN_DRESULTS, k, levels, route);
    flow_take(flow, OPERAND_send_rows, travelling(flow, way, others));
    flow_take(flow, OPERAND_next_rows, travelling(flow, way, own));
    flow_take(flow, OPERAND_send_counts, value_split(HOLDS_SEND_COUNTS, k, levels, route));
    if (levels >> level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the rows crossed this level, or one inside it, before");
    if (rows) {
        layer->dispatch[level] = (int32_t)flow->step;
        flow_take(flow, OPERAND_send_records, value_split(HOLDS_SENT_RECORDS, k, levels, route));
        flow_take(flow, OPERAND_next_records, value_split(HOLDS_OWN_RECORDS, k, levels, route));
        flow_give(flow, OPERAND_next_records, value_staged(HOLDS_RECORDS, k, after));
    } else {
        flow_take_none(flow, OPERAND_next_records);
    }
    flow_give(flow, OPERAND_next_rows,
              travelling(flow, way, value_staged(rows ? HOLDS_ROWS : HOLDS_DRESULTS, k, after)));
    flow_give(flow, OPERAND_next_counts,
              value_split(rows ? HOLDS_NEXT_COUNTS : HOLDS_COUNTS_AGAIN, k, after, (int32_t)flow->step));
}

static void take_experts(Flow *flow, bool backward)
{
    int32_t k = flow->layer;
    uint32_t levels = flow_layer(flow)->exchanged;
    flow_take(flow, OPERAND_rows, value_staged(HOLDS_ROWS, k, levels));
    flow_take(flow, OPERAND_records, value_staged(HOLDS_RECORDS, k, levels));
    take_stage_counts(flow, levels, k);
    int32_t weights = flow_take_weights(flow, OPERAND_experts);
    if (!backward) {
        flow_give(flow, OPERAND_results, value_staged(HOLDS_RESULTS, k, levels));
        return;
    }
    flow_take(flow, OPERAND_dresults, result_gradients(k, levels));
    flow_give(flow, OPERAND_drows, value_staged(HOLDS_DROWS, k, levels));
    flow_give(flow, OPERAND_drecords, value_staged(HOLDS_DRECORDS, k, levels));
    flow_give(flow, OPERAND_dexperts, flow_whole_gradient(k, flow_layer(flow)->gathered, weights));
}

void flow_expert(Flow *flow)
{
    take_experts(flow, false);
}

void flow_expert_backward(Flow *flow)
{
    take_experts(flow, true);
}

// What a way back at `level` needs of the way out: the counts of both ends.
static uint32_t take_ways(const Flow *flow, int32_t k, Operand rows, Holding holds, uint32_t level)
{
    uint32_t levels = flow_value(flow, rows).levels;
    flow_take(flow, rows, travelling(flow, way_of(holds), value_staged(holds, k, levels)));
    if (flow_last_level(levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that the rows crossed");
    LayerFlow *layer = flow_layer(flow);
    flow_take(flow, OPERAND_next_counts, value_split(HOLDS_NEXT_COUNTS, k, levels, layer->dispatch[level]));
    flow_take(flow, OPERAND_send_counts,
              value_split(HOLDS_SEND_COUNTS, k, levels & ~(1u << level), layer->route[level]));
    return levels;
}

void flow_combine(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    uint32_t levels = take_ways(flow, k, OPERAND_results, HOLDS_RESULTS, level);
    flow_give(flow, OPERAND_returned, travelling(flow, WAY_COMBINE, value_staged(HOLDS_RETURNED, k, levels)));
}

void flow_combine_backward(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t level = flow->level;
    uint32_t levels = take_ways(flow, k, OPERAND_drows, HOLDS_DROWS, level);
    flow_take(flow, OPERAND_drecords, value_staged(HOLDS_DRECORDS, k, levels));
    flow_give(flow, OPERAND_returned,
              travelling(flow, WAY_DISPATCH_GRADIENT, value_staged(HOLDS_RETURNED_DROWS, k, levels)));
    flow_give(flow, OPERAND_returned_records, value_staged(HOLDS_RETURNED_DRECORDS, k, levels));
}

// The stage that rows of a stage came from, put together again by what its route step wrote.
static uint32_t take_origin(const Flow *flow, int32_t k, uint32_t levels)
{
    int32_t level = flow_last_level(levels);
    if (level == NONE) {
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "puts back rows that were not sent");
        return 0;
    }
    uint32_t before = levels & ~(1u << level);
    flow_take(flow, OPERAND_send_counts, value_split(HOLDS_SEND_COUNTS, k, before, flow_layer(flow)->route[level]));
    flow_take(flow, OPERAND_origin, value_split(HOLDS_ORIGIN, k, before, flow_layer(flow)->route[level]));
    take_stage_counts(flow, before, k);
    return before;
}

void flow_unroute(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t levels = flow_value(flow, OPERAND_results).levels;
    flow_take(flow, OPERAND_results, value_staged(HOLDS_RESULTS, k, levels));
    flow_take(flow, OPERAND_returned, value_staged(HOLDS_RETURNED, k, levels));
    flow_give(flow, OPERAND_rows, value_staged(HOLDS_RESULTS, k, take_origin(flow, k, levels)));
}

void flow_route_backward(Flow *flow)
{
    int32_t k = flow->layer;
    uint32_t levels = flow_value(flow, OPERAND_drows_next).levels;
    flow_take(flow, OPERAND_drows_next, value_staged(HOLDS_DROWS, k, levels));
    flow_take(flow, OPERAND_drecords_next, value_staged(HOLDS_DRECORDS, k, levels));
    flow_take(flow, OPERAND_returned, value_staged(HOLDS_RETURNED_DROWS, k, levels));
    flow_take(flow, OPERAND_returned_records, value_staged(HOLDS_RETURNED_DRECORDS, k, levels));
    uint32_t before = take_origin(flow, k, levels);
    flow_give(flow, OPERAND_drows, value_staged(HOLDS_DROWS, k, before));
    flow_give(flow, OPERAND_drecords, value_staged(HOLDS_DRECORDS, k, before));
}

void flow_unroute_backward(Flow *flow)
{
    int32_t k = flow->layer;
    Value sent = flow_value(flow, OPERAND_drows);
    uint32_t levels = sent.holds == HOLDS_DINPUT ? 0 : sent.levels;
    int32_t route = flow_value(flow, OPERAND_send_counts).from;
    flow_take(flow, OPERAND_drows, travelling(flow, WAY_COMBINE_GRADIENT, result_gradients(k, levels)));
    flow_take(flow, OPERAND_send_counts, value_split(HOLDS_SEND_COUNTS, k, levels, route));
    flow_take(flow, OPERAND_origin, value_split(HOLDS_ORIGIN, k, levels, route));
    flow_give(flow, OPERAND_dresults,
              travelling(flow, WAY_COMBINE_GRADIENT, value_split(HOLDS_OWN_DRESULTS, k, levels, route)));
    flow_give(flow, OPERAND_send_rows,
              travelling(flow, WAY_COMBINE_GRADIENT, value_split(HOLDS_SENT_DRESULTS, k, levels, route)));
}
