// Lowering of what rows do on their way to the experts: attention, gate, and the exchanges level by level. The forward
// pass adds it once, the backward pass of a plan that recomputes activations a second time.
#include <math.h>
#include <stdio.h>

#include "compiler/lowering/lowering.h"
#include "ir/exchange.h"

// Capacities of the stages: what may arrive. A send buffer holds as much as the stage before can have for others or,
// where exchanges are padded, a whole message for each.
static void plan_stages(Lowering *l, LoweredLayer *layer)
{
    const Spec *spec = l->spec;
    const Cluster *cluster = &spec->cluster;
    Stage *stage = &layer->stages[0];
    *stage = (Stage){.level = NONE, .group = NONE, .row_capacity = l->tokens, .record_rows = l->tokens * l->fanout};
    layer->stage_count = 1;
    for (uint32_t level = 0; level < cluster->level_count; level++) {
        uint32_t members = cluster->levels[level].count / l->config->domain[level];
        if (members == 1)
            continue;
        double message =
            exchange_rows_bound(cluster, &l->plan->model, l->dispatch, spec->plan.capacity, l->config->domain, level);
        double sent = (members - 1) * message, rows = members * message;
        bool padded = spec->plan.exchange == EXCHANGE_PADDED;
        stage->level = (int32_t)level;
        stage->group = builder_add_group(l->builder, GROUP_EXCHANGE, (int32_t)level, l->config->domain[level]);
        stage->send_capacity = padded ? sent : fmin(stage->record_rows * fmin(l->records, members - 1), sent);
        double own = fmin(rows, stage->record_rows);
        stage->origin_rows = (padded ? message : own) + stage->send_capacity;
        stage[1] = (Stage){.level = NONE, .group = NONE, .row_capacity = rows, .record_rows = rows};
        stage++;
        layer->stage_count++;
    }
}

int32_t lowering_add_rows(Lowering *l, uint32_t layer, TokenWay way, const char *name, double rows)
{
    const SpecModel *model = &l->spec->model;
    TokenFormat format = l->spec->plan.tokens[way];
    double bytes = (double)token_row_bytes(format, model->hidden, model->dtype);
    return format == TOKENS_FULL ? lowering_add_temporary(l, layer, name, model->dtype, rows, model->hidden)
                                 : lowering_add_temporary(l, layer, name, DTYPE_U8, rows, bytes);
}

RowsEnd lowering_first_end(const Stage *first, int32_t rows)
{
    return (RowsEnd){rows, NONE, NONE, first->row_capacity, (uint32_t)first->level};
}

RowsEnd lowering_arrived_end(const Stage *stage, int32_t rows)
{
    return (RowsEnd){rows, stage->counts, NONE, stage->row_capacity, (uint32_t)stage[-1].level};
}

RowsEnd lowering_returned_end(const Stage *from, int32_t rows)
{
    return (RowsEnd){rows, NONE, from->send_counts, from->send_capacity, (uint32_t)from->level};
}

int32_t lowering_encode_rows(Lowering *l, uint32_t layer, TokenWay way, const char *name, RowsEnd from)
{
    if (l->spec->plan.tokens[way] == TOKENS_FULL)
        return from.rows;
    int32_t packed = lowering_add_rows(l, layer, way, name, from.capacity);
    StepBuffers encode = {.encode_rows = {.rows = from.rows, .counts = from.counts, .packed_rows = packed}};
    lowering_add_local(l, OP_ENCODE_ROWS, (int32_t)layer, l->cost.encode_s[way][from.level], encode);
    return packed;
}

int32_t lowering_decode_rows(Lowering *l, uint32_t layer, TokenWay way, const char *name, RowsEnd from)
{
    const SpecModel *model = &l->spec->model;
    if (l->spec->plan.tokens[way] == TOKENS_FULL)
        return from.rows;
    int32_t rows = lowering_add_temporary(l, layer, name, model->dtype, from.capacity, model->hidden);
    StepBuffers decode = {
        .decode_rows = {
            .packed_rows = from.rows, .counts = from.counts, .send_counts = from.send_counts, .rows = rows}};
    lowering_add_local(l, OP_DECODE_ROWS, (int32_t)layer, l->cost.decode_s[way][from.level], decode);
    return rows;
}

static int32_t add_records(Lowering *l, uint32_t layer, const char *name, double rows)
{
    return lowering_add_temporary(l, layer, name, DTYPE_I32, rows, 2.0 * l->records);
}

static void add_dispatch(Lowering *l, uint32_t k, LoweredLayer *layer, uint32_t index, const char *suffix)
{
    Stage *from = &layer->stages[index], *to = from + 1;
    uint32_t level = (uint32_t)from->level;
    double members = l->spec->cluster.levels[level].count / l->config->domain[level];
    const char *level_name = l->spec->cluster.levels[level].name;
    char name[BUFFER_NAME_MAX];
#define NAME(what) (snprintf(name, sizeof(name), "%s.%s%s", what, level_name, suffix), name)
    to->packed = lowering_add_rows(l, k, WAY_DISPATCH, NAME("rows"), to->row_capacity);
    to->records = add_records(l, k, NAME("records"), to->record_rows);
    to->counts = lowering_add_temporary(l, k, NAME("counts"), DTYPE_I32, members, 1);
    int32_t send_rows = lowering_add_rows(l, k, WAY_DISPATCH, NAME("send_rows"), from->send_capacity);
    int32_t send_records = add_records(l, k, NAME("send_records"), from->send_capacity);
    from->send_counts = lowering_add_temporary(l, k, NAME("send_counts"), DTYPE_I32, members, 1);
    from->origin = lowering_add_temporary(l, k, NAME("origin"), DTYPE_I32, from->origin_rows, 1);
    from->next_counts = to->counts;
#undef NAME
    StepBuffers route = {.route = {.rows = from->packed,
                                   .records = from->records,
                                   .counts = from->counts,
                                   .next_rows = to->packed,
                                   .next_records = to->records,
                                   .send_rows = send_rows,
                                   .send_records = send_records,
                                   .send_counts = from->send_counts,
                                   .origin = from->origin}};
    lowering_add_local(l, OP_ROUTE, (int32_t)k, l->cost.route_s[level] / 2, route); // the other half: out again
    StepBuffers dispatch = {.dispatch = {.send_rows = send_rows,
                                         .send_records = send_records,
                                         .send_counts = from->send_counts,
                                         .next_rows = to->packed,
                                         .next_records = to->records,
                                         .next_counts = to->counts}};
    builder_add_step(l->builder,
                     (StepSpec){.op = OP_DISPATCH,
                                .layer = (int32_t)k,
                                .level = from->level,
                                .group = from->group,
                                .cost_s = l->cost.dispatch_s[level],
                                .bytes = l->cost.payload_bytes[WAY_DISPATCH][level] + l->cost.routing_bytes[level],
                                .busiest = l->cost.busiest[level]},
                     dispatch);
}

void lowering_attend(Lowering *l, uint32_t k, const char *suffix)
{
    const LayerWork *work = &l->work->layers[k];
    LoweredLayer *layer = &l->layers[k];
    char name[BUFFER_NAME_MAX];
    snprintf(name, sizeof(name), "y%s", suffix);
    layer->y = lowering_add_temporary(l, k, name, l->spec->model.dtype, l->tokens, l->spec->model.hidden);
    StepBuffers attention = {.pre_expert = {.x = layer->x, .dense = layer->held_dense, .y = layer->y}};
    lowering_add_local(l, OP_PRE_EXPERT, (int32_t)k, work->pre_expert_s - work->gate_s, attention);
}

void lowering_send_rows(Lowering *l, uint32_t k, const char *suffix)
{
    LoweredLayer *layer = &l->layers[k];
    char name[BUFFER_NAME_MAX];
    plan_stages(l, layer);
    Stage *first = &layer->stages[0];
    first->counts = NONE;
    snprintf(name, sizeof(name), "rows%s", suffix);
    first->rows = lowering_add_temporary(l, k, name, l->spec->model.dtype, l->tokens, l->spec->model.hidden);
    snprintf(name, sizeof(name), "records%s", suffix);
    first->records = add_records(l, k, name, first->record_rows);
    StepBuffers gate = {
        .gate = {.x = layer->y, .dense = layer->held_dense, .rows = first->rows, .records = first->records}};
    lowering_add_local(l, OP_GATE, (int32_t)k, l->work->layers[k].gate_s, gate);
    first->packed = first->rows;
    if (layer->stage_count == 1)
        return;
    snprintf(name, sizeof(name), "packed_rows%s", suffix);
    first->packed = lowering_encode_rows(l, k, WAY_DISPATCH, name, lowering_first_end(first, first->rows));
    for (uint32_t i = 0; i + 1 < layer->stage_count; i++)
        add_dispatch(l, k, layer, i, suffix);
}

void lowering_receive_rows(Lowering *l, uint32_t k, const char *suffix)
{
    LoweredLayer *layer = &l->layers[k];
    Stage *last = &layer->stages[layer->stage_count - 1];
    char name[BUFFER_NAME_MAX];
    if (layer->stage_count == 1)
        return;
    snprintf(name, sizeof(name), "unpacked_rows%s", suffix);
    last->rows = lowering_decode_rows(l, k, WAY_DISPATCH, name, lowering_arrived_end(last, last->packed));
}
