// Lowering of the backward pass and the optimizer: the forward schedule reversed. Result gradients go out the way rows
// went, row gradients come back; how gradients go home is lower_returns.c's matter.
#include <stdio.h>
#include <string.h>

#include "compiler/lowering/lowering.h"

// Adds the squares of a gradient to `before`; returns the sum.
static int32_t add_squares(Lowering *l, const WeightUpdate *update, int32_t before)
{
    const Buffer *gradient = builder_buffer(l->builder, update->gradient);
    double bytes = (double)gradient->rows * (double)gradient->cols * dtype_bytes(gradient->dtype);
    BufferShape shape = {.dtype = DTYPE_F32, .rows = 1, .cols = 1, .kind = BUFFER_TEMPORARY, .layer = update->layer};
    int32_t squares = builder_add_buffer(l->builder, shape, "%s.squares", gradient->name);
    StepBuffers operands = {.squares = {.gradient = update->gradient, .before = before, .squares = squares}};
    lowering_add_local(l, OP_SQUARES, update->layer, bytes / l->spec->cluster.device.memory_bandwidth, operands);
    return squares;
}

// The square of the whole gradient's norm: every GPU adds up what it owns, then all of them.
static int32_t add_norm(Lowering *l)
{
    int32_t squares = NONE;
    for (uint32_t i = 0; i < l->update_count; i++)
        squares = add_squares(l, &l->updates[i], squares);
    lowering_add_sums(l, NONE, squares, l->spec->replica_levels, l->spec->cluster.level_count, 1);
    return squares;
}

static void add_optimizer(Lowering *l, const WeightUpdate *update, int32_t squares)
{
    const Buffer *buffer = builder_buffer(l->builder, update->weight);
    // Two moments, and a master copy where weights are 16-bit.
    double values = dtype_bytes(buffer->dtype) < 4 ? 3 : 2;
    BufferShape shape = {.dtype = DTYPE_F32,
                         .rows = (double)buffer->rows,
                         .cols = values * (double)buffer->cols,
                         .kind = BUFFER_STATE,
                         .layer = update->layer};
    double bytes = (double)buffer->rows * (double)buffer->cols * optimizer_bytes_per_parameter(buffer->dtype);
    int32_t state = builder_add_buffer(l->builder, shape, "%s.state", buffer->name);
    StepBuffers operands = {
        .optimizer = {.weights = update->weight, .gradient = update->gradient, .state = state, .squares = squares}};
    lowering_add_local(l, OP_OPTIMIZER, update->layer, bytes / l->spec->cluster.device.memory_bandwidth, operands);
}

// Workers that train apart meet: what the weights moved since the last time is summed over them, and the outer
// optimizer goes on from there. It keeps where that was, and its momentum where it has one.
static void add_outer(Lowering *l, const WeightUpdate *update)
{
    const LocalSteps *sync = &l->spec->plan.sync;
    const Buffer *buffer = builder_buffer(l->builder, update->weight);
    double rows = (double)buffer->rows, cols = (double)buffer->cols, values = sync->optimizer == OUTER_AVERAGE ? 1 : 2;
    BufferShape kept = {
        .dtype = DTYPE_F32, .rows = rows, .cols = values * cols, .kind = BUFFER_STATE, .layer = update->layer};
    BufferShape moved = {
        .dtype = DTYPE_F32, .rows = rows, .cols = cols, .kind = BUFFER_TEMPORARY, .layer = update->layer};
    int32_t outer = builder_add_buffer(l->builder, kept, "%s.outer", buffer->name);
    int32_t gradient =
        builder_add_buffer(l->builder, moved, "%s.moved", builder_buffer(l->builder, update->weight)->name);
    OuterCost cost = cost_outer(l->spec, rows * cols * sizeof(float));
    StepBuffers before = {.outer_gradient = {.weights = update->weight, .outer = outer, .gradient = gradient}};
    StepBuffers after = {.outer_step = {.weights = update->weight, .gradient = gradient, .outer = outer}};
    lowering_add_local(l, OP_OUTER_GRADIENT, update->layer, cost.gradient_s, before);
    lowering_add_sums(l, update->layer, gradient, 0, l->spec->replica_levels, sync->every);
    lowering_add_local(l, OP_OUTER_STEP, update->layer, cost.step_s, after);
}

// Result gradients of every stage, ascending: what dispatch did for rows.
// Takes those of the first stage, returns those of the last one, as they travel.
static int32_t scatter_gradients(Lowering *l, uint32_t k, LoweredLayer *layer, int32_t dx)
{
    if (layer->stage_count == 1)
        return dx;
    int32_t before =
        lowering_encode_rows(l, k, WAY_COMBINE_GRADIENT, "packed_dx", lowering_first_end(&layer->stages[0], dx));
    for (uint32_t i = 0; i + 1 < layer->stage_count; i++) {
        Stage *from = &layer->stages[i], *to = from + 1;
        uint32_t level = (uint32_t)from->level;
        const char *level_name = l->spec->cluster.levels[level].name;
        char name[BUFFER_NAME_MAX];
        snprintf(name, sizeof(name), "dresults.%s", level_name);
        int32_t dresults = lowering_add_rows(l, k, WAY_COMBINE_GRADIENT, name, to->row_capacity);
        snprintf(name, sizeof(name), "send_dresults.%s", level_name);
        int32_t send = lowering_add_rows(l, k, WAY_COMBINE_GRADIENT, name, from->send_capacity);
        snprintf(name, sizeof(name), "dcounts.%s", level_name);
        int32_t counts = lowering_add_temporary(l, k, name, DTYPE_I32,
                                                l->spec->cluster.levels[level].count / l->config->domain[level], 1);
        StepBuffers unroute = {.unroute_backward = {.drows = before,
                                                    .send_counts = from->send_counts,
                                                    .origin = from->origin,
                                                    .dresults = dresults,
                                                    .send_rows = send}};
        lowering_add_local(l, OP_UNROUTE_BACKWARD, (int32_t)k, l->cost.route_s[level] / 2, unroute);
        StepBuffers dispatch = {.dispatch = {.send_rows = send,
                                             .send_records = NONE,
                                             .send_counts = from->send_counts,
                                             .next_rows = dresults,
                                             .next_records = NONE,
                                             .next_counts = counts}};
        builder_add_step(
            l->builder,
            (StepSpec){.op = OP_DISPATCH,
                       .layer = (int32_t)k,
                       .level = from->level,
                       .group = from->group,
                       .cost_s = l->cost.dispatch_backward_s[level],
                       .bytes = l->cost.payload_bytes[WAY_COMBINE_GRADIENT][level] + l->cost.counts_bytes[level],
                       .busiest = l->cost.busiest[level]},
            dispatch);
        before = dresults;
    }
    return before;
}

typedef struct {
    int32_t rows, records;
} RowGradients;

static RowGradients collect_gradients(Lowering *l, uint32_t k, LoweredLayer *layer, RowGradients last)
{
    double hidden = l->spec->model.hidden;
    Dtype dtype = l->spec->model.dtype;
    for (uint32_t i = layer->stage_count - 1; i-- > 0;) {
        Stage *from = &layer->stages[i];
        uint32_t level = (uint32_t)from->level;
        const char *level_name = l->spec->cluster.levels[level].name;
        char name[BUFFER_NAME_MAX];
        snprintf(name, sizeof(name), "packed_drows.%s", level_name);
        int32_t sent =
            lowering_encode_rows(l, k, WAY_DISPATCH_GRADIENT, name, lowering_arrived_end(from + 1, last.rows));
        snprintf(name, sizeof(name), "returned_drows.%s", level_name);
        int32_t returned = lowering_add_rows(l, k, WAY_DISPATCH_GRADIENT, name, from->send_capacity);
        snprintf(name, sizeof(name), "returned_drecords.%s", level_name);
        int32_t returned_records = lowering_add_temporary(l, k, name, DTYPE_F32, from->send_capacity, l->records);
        StepBuffers combine = {.combine_backward = {.drows = sent,
                                                    .drecords = last.records,
                                                    .next_counts = from->next_counts,
                                                    .send_counts = from->send_counts,
                                                    .returned = returned,
                                                    .returned_records = returned_records}};
        builder_add_step(
            l->builder,
            (StepSpec){.op = OP_COMBINE_BACKWARD,
                       .layer = (int32_t)k,
                       .level = from->level,
                       .group = from->group,
                       .cost_s = l->cost.combine_backward_s[level],
                       .bytes = l->cost.payload_bytes[WAY_DISPATCH_GRADIENT][level] + l->cost.weights_bytes[level],
                       .busiest = l->cost.busiest[level]},
            combine);
        snprintf(name, sizeof(name), "unpacked_drows.%s", level_name);
        returned = lowering_decode_rows(l, k, WAY_DISPATCH_GRADIENT, name, lowering_returned_end(from, returned));
        RowGradients summed;
        snprintf(name, sizeof(name), "drows.%s", level_name);
        summed.rows = lowering_add_temporary(l, k, name, dtype, from->row_capacity, hidden);
        snprintf(name, sizeof(name), "drecords.%s", level_name);
        summed.records = lowering_add_temporary(l, k, name, DTYPE_F32, from->record_rows, l->records);
        StepBuffers route = {.route_backward = {.drows_next = last.rows,
                                                .drecords_next = last.records,
                                                .returned = returned,
                                                .returned_records = returned_records,
                                                .send_counts = from->send_counts,
                                                .origin = from->origin,
                                                .counts = from->counts,
                                                .drows = summed.rows,
                                                .drecords = summed.records}};
        lowering_add_local(l, OP_ROUTE_BACKWARD, (int32_t)k, l->cost.route_s[level] / 2, route);
        last = summed;
    }
    return last;
}

// Returns the gradient of the rows that the shared expert took.
static int32_t add_shared_backward(Lowering *l, uint32_t k, int32_t dx, int32_t ddense)
{
    const LoweredLayer *layer = &l->layers[k];
    const SpecModel *model = &l->spec->model;
    int32_t dshared_rows = lowering_add_temporary(l, k, "dshared_rows", model->dtype, l->tokens, model->hidden);
    StepBuffers operands = {.shared_expert_backward = {.rows = layer->stages[0].rows,
                                                       .dense = layer->held_dense,
                                                       .dx = dx,
                                                       .drows = dshared_rows,
                                                       .ddense = ddense}};
    lowering_add_local(l, OP_SHARED_EXPERT_BACKWARD, (int32_t)k, l->work->layers[k].dense_backward_s, operands);
    return dshared_rows;
}

static void add_moe_backward(Lowering *l, uint32_t k, int32_t dx, int32_t ddense)
{
    lowering_enter(l, k);
    LoweredLayer *layer = &l->layers[k];
    const SpecModel *model = &l->spec->model;
    Stage *first = &layer->stages[0], *last = &layer->stages[layer->stage_count - 1];
    int32_t dresults = scatter_gradients(l, k, layer, dx);
    // While the gradients travel:
    int32_t dshared_rows = model_shared_inner(&l->plan->model) ? add_shared_backward(l, k, dx, ddense) : NONE;
    if (last != first)
        dresults =
            lowering_decode_rows(l, k, WAY_COMBINE_GRADIENT, "unpacked_dresults", lowering_arrived_end(last, dresults));
    bool migrated = l->held_rows > l->share_rows;
    RowGradients drows = {
        lowering_add_temporary(l, k, "drows", model->dtype, last->row_capacity, model->hidden),
        lowering_add_temporary(l, k, "drecords", DTYPE_F32, last->record_rows, l->records),
    };
    int32_t dheld = migrated ? lowering_add_temporary(l, k, "dheld", model->dtype, l->held_rows, l->share_cols)
                             : lowering_add_gradient_sum(l, layer->experts, (int32_t)k);
    if (expert_returns_are_limited(l->work, l->config))
        l->limit = lowering_return_limit(l);
    GradientSum sum = lowering_begin_sum(l, (int32_t)k, dheld, lowering_returns_each_lap(l));
    StepBuffers expert = {.expert_backward = {.rows = last->rows,
                                              .records = last->records,
                                              .counts = last->counts,
                                              .experts = layer->held,
                                              .dresults = dresults,
                                              .drows = drows.rows,
                                              .drecords = drows.records,
                                              .dexperts = sum.part}};
    StepSpec step = {.op = OP_EXPERT_BACKWARD,
                     .layer = (int32_t)k,
                     .level = NONE,
                     .group = NONE,
                     .cost_s = l->cost.expert_backward_s};
    lowering_note_read(l, lowering_limited(l, builder_add_step(l->builder, step, expert)));
    lowering_accumulate(l, &sum, sum.part);
    lowering_end_sum(l, &sum);
    lowering_add_mean(l, k);
    lowering_return_experts(l, k, dheld);
    drows = collect_gradients(l, k, layer, drows);
    StepBuffers gate = {.gate_backward = {.x = layer->y,
                                          .records = first->records,
                                          .drows = drows.rows,
                                          .drecords = drows.records,
                                          .dshared_rows = dshared_rows,
                                          .dense = layer->held_dense,
                                          .dx = dx,
                                          .ddense = ddense}};
    lowering_add_local(l, OP_GATE_BACKWARD, (int32_t)k, l->work->layers[k].gate_backward_s, gate);
}

// What the backward pass reads of the forward pass, from the layer's input: rows travel to the experts again, results
// need not come back.
static void add_again(Lowering *l, uint32_t k)
{
    lowering_attend(l, k, ".again");
    if (!l->work->layers[k].is_moe)
        return;
    lowering_enter(l, k);
    lowering_send_rows(l, k, ".again");
    lowering_receive_rows(l, k, ".again");
}

static void add_words(Lowering *l, int32_t dx, const GradientSum *sum, int32_t part)
{
    StepBuffers embed = {.embed_backward = {.tokens = l->tokens_buffer, .dx = dx, .dembedding = part}};
    lowering_add_local(l, OP_EMBED_BACKWARD, NONE, 0, embed);
    lowering_accumulate(l, sum, part);
    lowering_end_sum(l, sum);
}

// The words' half of the embedding's gradient, where each half goes home after its use.
static void add_words_half(Lowering *l, int32_t dx)
{
    l->limit = lowering_return_limit(l);
    GradientSum sum = lowering_begin_sum(l, NONE, lowering_add_half_gradient(l, ".words"), true);
    add_words(l, dx, &sum, lowering_clear_part(l, &sum));
    lowering_return_words_half(l, sum.whole);
}

// What the backward pass of a layer reads of weights that were not kept.
static void gather_again(Lowering *l, uint32_t k)
{
    LoweredLayer *layer = &l->layers[k];
    if (l->spec->plan.regather_dense)
        layer->held_dense =
            lowering_gather_bundle_again(l, (int32_t)k, layer->dense, layer->kept_dense, lowering_dense_limit(l));
    if (!l->work->layers[k].is_moe)
        return;
    lowering_enter(l, k);
    if (l->config->regather)
        layer->held = lowering_add_gathers(l, k, true, lowering_prefetch_limit(l));
}

static void add_layer_backward(Lowering *l, uint32_t k, int32_t dx)
{
    const LayerWork *work = &l->work->layers[k];
    LoweredLayer *layer = &l->layers[k];
    gather_again(l, k);
    if (l->bucket == 0 || k + 1 == l->work->layer_count || (k + 1) % l->bucket == 0)
        lowering_go_home(l);
    if (l->plan->recompute)
        add_again(l, k);
    l->limit = dense_returns_are_limited(l->work) ? lowering_return_limit(l) : NONE;
    GradientSum sum =
        lowering_begin_sum(l, (int32_t)k, lowering_add_bundle_gradient(l, (int32_t)k, layer->dense, layer->held_dense),
                           lowering_returns_dense_each_lap(l));
    if (work->is_moe) {
        add_moe_backward(l, k, dx, sum.part);
    } else {
        StepBuffers ffn = {.ffn_backward = {.x = layer->y, .dense = layer->held_dense, .dx = dx, .ddense = sum.part}};
        lowering_add_local(l, OP_FFN_BACKWARD, (int32_t)k, work->dense_backward_s, ffn);
    }
    StepBuffers attention = {
        .pre_expert_backward = {.x = layer->x, .dense = layer->held_dense, .dx = dx, .ddense = sum.part}};
    lowering_add_local(l, OP_PRE_EXPERT_BACKWARD, (int32_t)k, work->pre_expert_backward_s - work->gate_backward_s,
                       attention);
    lowering_accumulate(l, &sum, sum.part);
    lowering_end_sum(l, &sum);
    lowering_return_bundle(l, (int32_t)k, layer->dense, sum.whole);
}

void lowering_add_backward(Lowering *l)
{
    const SpecModel *model = &l->spec->model;
    l->updates =
        arena_alloc_array(l->arena, 1 + (size_t)UPDATES_PER_LAYER_MAX * l->work->layer_count, sizeof(*l->updates));
    l->leaving.buffers =
        arena_alloc_array(l->arena, 1 + (size_t)2 * LEVELS_MAX * l->work->layer_count, sizeof(*l->leaving.buffers));
    BufferShape shape = {
        .dtype = model->dtype, .rows = l->tokens, .cols = model->hidden, .kind = BUFFER_TEMPORARY, .layer = NONE};
    int32_t dx = builder_add_buffer(l->builder, shape, "dx");
    bool halves = spec_regathers_embedding(l->spec);
    int32_t whole = halves ? lowering_add_half_gradient(l, "")
                           : lowering_add_bundle_gradient(l, NONE, l->embedding, l->held_embedding);
    GradientSum sum = lowering_begin_sum(l, NONE, whole, halves);
    StepBuffers loss = {.loss_backward = {.x = l->final_x,
                                          .tokens = l->tokens_buffer,
                                          .embedding = l->held_embedding,
                                          .dx = dx,
                                          .dembedding = sum.part}};
    lowering_add_local(l, OP_LOSS_BACKWARD, NONE, l->work->loss_backward_s, loss);
    lowering_accumulate(l, &sum, sum.part);
    l->read_count = 0;
    l->returned = l->limit = NONE;
    for (unsigned i = 0; i < RETURNS_MAX; i++)
        l->home[i] = NONE;
    if (halves) {
        lowering_end_sum(l, &sum);
        lowering_return_loss_half(l, sum.whole);
    }
    for (uint32_t k = l->work->layer_count; k-- > 0;)
        add_layer_backward(l, k, dx);
    lowering_go_home(l);
    if (halves) {
        add_words_half(l, dx);
    } else {
        add_words(l, dx, &sum, lowering_add_cleared_part(l, &sum, "words"));
        lowering_return_bundle(l, NONE, l->embedding, sum.whole);
    }
    lowering_go_home(l);
    int32_t squares = l->spec->training.clip > 0 ? add_norm(l) : NONE;
    for (uint32_t i = 0; i < l->update_count; i++)
        add_optimizer(l, &l->updates[i], squares);
    for (uint32_t i = 0; i < l->update_count && l->spec->plan.sync.every > 0; i++)
        add_outer(l, &l->updates[i]);
}
