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

static int32_t add_records(Lowering *l, uint32_t layer, const char *name, double rows)
{
    return lowering_add_temporary(l, layer, name, DTYPE_I32, rows, 2.0 * l->records);
}

static void add_dispatch(Lowering *l, uint32_t k, LoweredLayer *layer, uint32_t index, const char *suffix)
{
    Stage *from = &layer->stages[index], *to = from + 1;
    double hidden = l->spec->model.hidden;
    Dtype dtype = l->spec->model.dtype;
    uint32_t level = (uint32_t)from->level;
    double members = l->spec->cluster.levels[level].count / l->config->domain[level];
    const char *level_name = l->spec->cluster.levels[level].name;
    char name[BUFFER_NAME_MAX];
#define NAME(what) (snprintf(name, sizeof(name), "%s.%s%s", what, level_name, suffix), name)
    to->rows = lowering_add_temporary(l, k, NAME("rows"), dtype, to->row_capacity, hidden);
    to->records = add_records(l, k, NAME("records"), to->record_rows);
    to->counts = lowering_add_temporary(l, k, NAME("counts"), DTYPE_I32, members, 1);
    int32_t send_rows = lowering_add_temporary(l, k, NAME("send_rows"), dtype, from->send_capacity, hidden);
    int32_t send_records = add_records(l, k, NAME("send_records"), from->send_capacity);
    from->send_counts = lowering_add_temporary(l, k, NAME("send_counts"), DTYPE_I32, members, 1);
    from->origin = lowering_add_temporary(l, k, NAME("origin"), DTYPE_I32, from->origin_rows, 1);
    from->next_counts = to->counts;
#undef NAME
    StepBuffers route = {.route = {.rows = from->rows,
                                   .records = from->records,
                                   .counts = from->counts,
                                   .next_rows = to->rows,
                                   .next_records = to->records,
                                   .send_rows = send_rows,
                                   .send_records = send_records,
                                   .send_counts = from->send_counts,
                                   .origin = from->origin}};
    lowering_add_local(l, OP_ROUTE, (int32_t)k, l->cost.route_s[level] / 2, route); // the other half: out again
    StepBuffers dispatch = {.dispatch = {.send_rows = send_rows,
                                         .send_records = send_records,
                                         .send_counts = from->send_counts,
                                         .next_rows = to->rows,
                                         .next_records = to->records,
                                         .next_counts = to->counts}};
    builder_add_step(l->builder,
                     (StepSpec){.op = OP_DISPATCH,
                                .layer = (int32_t)k,
                                .level = from->level,
                                .group = from->group,
                                .cost_s = l->cost.dispatch_s[level],
                                .bytes = l->cost.payload_bytes[level] + l->cost.routing_bytes[level],
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
    for (uint32_t i = 0; i + 1 < layer->stage_count; i++)
        add_dispatch(l, k, layer, i, suffix);
}
