// The ops of the host engine: kernels/host for local ones, the communicator for the others. Nothing is allocated here.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/comm/comm_sums.h"
#include "runtime/engine/engine_host_internal.h"
#include "runtime/engine/nonfinite.h"

static uint64_t counted_rows(Tensor counts)
{
    const int32_t *values = counts.data;
    uint64_t rows = 0;
    for (uint64_t i = 0; i < counts.rows * counts.cols; i++)
        rows += (uint64_t)values[i];
    return rows;
}

// Record rows of a stage of `rows` places. Padding is no row: its records say so.
static uint64_t stage_rows(const HostStep *step, Tensor counts, uint64_t rows)
{
    return counts.data && step->engine->plan->exchange == EXCHANGE_COUNTED ? counted_rows(counts) : rows;
}

static uint64_t row_bytes(Tensor tensor)
{
    return tensor.cols * dtype_bytes(tensor.dtype);
}

static void *row_at(Tensor tensor, uint64_t row)
{
    return (char *)tensor.data + row * row_bytes(tensor);
}

static const ModelDims *dims_of(const HostStep *step)
{
    return &step->engine->plan->model;
}

static bool run_embed(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct embed_tensors *t = &step->operands.embed;
    host_embed(dims_of(step), t->tokens, t->embedding, t->x);
    return true;
}

static bool run_pre_expert(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct pre_expert_tensors *t = &step->operands.pre_expert;
    host_pre_expert(dims_of(step), t->x, t->attention, t->y, t->work);
    return true;
}

static void keep_final(const HostStep *step, Tensor x)
{
    if (step->is_final && step->engine->final_x)
        memcpy(step->engine->final_x, x.data, x.rows * row_bytes(x));
}

static bool run_ffn(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct ffn_tensors *t = &step->operands.ffn;
    host_ffn(dims_of(step), t->x, t->ffn, t->y, t->work);
    keep_final(step, t->y);
    return true;
}

static bool run_gate(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct gate_tensors *t = &step->operands.gate;
    HostEngine *engine = step->engine;
    host_gate(dims_of(step), engine->options.routing, engine->capacity_rows, t->x, t->router, t->rows, t->records,
              t->work);
    if (step->decisions) {
        const Record *records = t->records.data;
        uint64_t count = model_tokens(dims_of(step)) * dims_of(step)->top_k;
        for (uint64_t i = 0; i < count; i++)
            step->decisions[i] = records[i].expert;
    }
    return true;
}

static bool run_route(const HostStep *step, Fault *fault)
{
    const struct route_tensors *t = &step->operands.route;
    Tensor rows = t->rows, records = t->records, counts = t->counts;
    uint64_t row_count = stage_rows(step, counts, records.rows);
    uint32_t fanout = counts.data ? 1 : (uint32_t)(records.rows / rows.rows);
    uint64_t lost = host_route(&step->route, row_count, fanout, rows, records, t->next_rows, t->next_records,
                               t->send_rows, t->send_records, t->send_counts, t->origin);
    if (lost > 0)
        return fault_set(fault, FAULT_RUN,
                         "%" PRIu64 " rows do not fit in buffers of %" PRIu64 " and %" PRIu64
                         " rows: more tokens chose experts of one domain than the plan reserves for",
                         lost, t->next_rows.rows, t->send_rows.rows);
    return true;
}

// `from` and `to` lie where the rows of others begin.
static ExchangePart part_of(const HostStep *step, const void *from, void *to, uint64_t bytes)
{
    return (ExchangePart){.send = from, .recv = to, .row_bytes = bytes, .fixed_rows = step->message_rows};
}

static bool check_padded(const HostStep *step, const int32_t *counts, Fault *fault)
{
    for (uint32_t m = 0; m < step->members; m++)
        if (counts[m] < 0 || (uint64_t)counts[m] > step->message_rows)
            return fault_set(fault, FAULT_RUN, "%" PRId32 " rows came in a message of %" PRIu64, counts[m],
                             step->message_rows);
    return true;
}

static bool run_dispatch(const HostStep *step, Fault *fault)
{
    const struct dispatch_tensors *t = &step->operands.dispatch;
    Tensor send_rows = t->send_rows, send_records = t->send_records, send_counts = t->send_counts,
           next_rows = t->next_rows, next_records = t->next_records;
    int32_t *next_counts = t->next_counts.data;
    uint64_t own_rows = (uint64_t)((const int32_t *)send_counts.data)[step->own];
    uint64_t own_places = step->message_rows ? step->message_rows : own_rows;
    Exchange exchange = {
        .part_count = 1,
        .parts = {part_of(step, send_rows.data, row_at(next_rows, own_places), row_bytes(send_rows))},
        .send_counts = send_counts.data,
        .recv_counts = next_counts,
        .recv_capacity = next_rows.rows - own_places,
    };
    if (send_records.data)
        exchange.parts[exchange.part_count++] =
            part_of(step, send_records.data, row_at(next_records, own_places), row_bytes(send_records));
    if (step->message_rows)
        exchange.parts[exchange.part_count++] = (ExchangePart){.send = send_counts.data,
                                                               .recv = next_counts,
                                                               .row_bytes = sizeof(int32_t),
                                                               .fixed_rows = 1,
                                                               .own_place = true};
    next_counts[step->own] = (int32_t)own_rows;
    Comm *comm = step->engine->comm;
    return comm->ops->exchange(comm, step->channel, &exchange, fault) &&
           (!step->message_rows || check_padded(step, next_counts, fault));
}

static bool run_expert(const HostStep *step, Fault *fault)
{
    const struct expert_tensors *t = &step->operands.expert;
    Tensor rows = t->rows, records = t->records, counts = t->counts;
    uint64_t row_count = stage_rows(step, counts, records.rows);
    uint32_t fanout = counts.data ? 1 : (uint32_t)(records.rows / rows.rows);
    uint64_t lost = host_expert(dims_of(step), step->slot_of_expert, row_count, fanout, rows, records, t->experts,
                                t->results, t->work);
    if (lost > 0)
        return fault_set(fault, FAULT_RUN, "%" PRIu64 " records name experts that this rank does not hold", lost);
    return true;
}

// What the rows of a dispatch became goes back to where they came from: parts as they lie on this rank, own rows
// first, and as they are to lie there.
static bool send_back(const HostStep *step, uint32_t part_count, const Tensor from[], const Tensor to[],
                      Tensor next_counts, Tensor send_counts, Fault *fault)
{
    uint64_t own_rows = (uint64_t)((const int32_t *)next_counts.data)[step->own];
    uint64_t own_places = step->message_rows ? step->message_rows : own_rows;
    Exchange exchange = {
        .part_count = part_count,
        .send_counts = next_counts.data,
        .recv_counts = send_counts.data,
        .counts_known = true,
        .recv_capacity = to[0].rows,
    };
    for (uint32_t p = 0; p < part_count; p++)
        exchange.parts[p] = part_of(step, row_at(from[p], own_places), to[p].data, row_bytes(from[p]));
    Comm *comm = step->engine->comm;
    return comm->ops->exchange(comm, step->channel, &exchange, fault);
}

static bool run_combine(const HostStep *step, Fault *fault)
{
    const struct combine_tensors *t = &step->operands.combine;
    return send_back(step, 1, &t->results, &t->returned, t->next_counts, t->send_counts, fault);
}

static bool run_unroute(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct unroute_tensors *t = &step->operands.unroute;
    Tensor counts = t->counts, rows = t->rows;
    uint32_t fanout = 1;
    if (!counts.data && step->engine->plan->dispatch == DISPATCH_NAIVE)
        fanout = dims_of(step)->top_k;
    uint64_t row_count = stage_rows(step, counts, rows.rows * fanout);
    host_unroute(&step->route, row_count, fanout, t->results, t->returned, t->send_counts, t->origin, rows, t->work);
    return true;
}

static bool run_shared_expert(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct shared_expert_tensors *t = &step->operands.shared_expert;
    host_shared_expert(dims_of(step), t->rows, t->shared, t->results, t->work);
    return true;
}

static bool run_residual(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct residual_tensors *t = &step->operands.residual;
    host_residual(t->x, t->results, t->shared_results, t->y);
    keep_final(step, t->y);
    return true;
}

static bool run_loss(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct loss_tensors *t = &step->operands.loss;
    HostEngine *engine = step->engine;
    host_loss(dims_of(step), t->x, t->tokens, t->embedding, t->loss, t->work);
    if (!isfinite(*(const float *)t->loss.data)) // what led to it is overwritten by the backward pass
        engine->nonfinite_step = nonfinite_step(engine->plan, engine->ops, (const Engine *)engine, step->index);
    return true;
}

static bool run_gather(const HostStep *step, Fault *fault)
{
    const struct gather_tensors *t = &step->operands.gather;
    Comm *comm = step->engine->comm;
    return comm->ops->all_gather(comm, step->channel, t->shard.data, t->gathered.data,
                                 t->shard.rows * row_bytes(t->shard), fault);
}

// ---- backward --------------------------------------------------------------------------------

static bool run_loss_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct loss_backward_tensors *t = &step->operands.loss_backward;
    host_loss_backward(dims_of(step), t->x, t->tokens, t->embedding, t->dx, t->dembedding, t->work);
    return true;
}

static bool run_embed_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct embed_backward_tensors *t = &step->operands.embed_backward;
    host_embed_backward(dims_of(step), t->tokens, t->dx, t->dembedding);
    return true;
}

static bool run_pre_expert_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct pre_expert_backward_tensors *t = &step->operands.pre_expert_backward;
    host_pre_expert_backward(dims_of(step), t->x, t->attention, t->dx, t->dattention, t->work);
    return true;
}

static bool run_ffn_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct ffn_backward_tensors *t = &step->operands.ffn_backward;
    host_ffn_backward(dims_of(step), t->x, t->ffn, t->dx, t->dffn, t->work);
    return true;
}

static bool run_shared_expert_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct shared_expert_backward_tensors *t = &step->operands.shared_expert_backward;
    host_shared_expert_backward(dims_of(step), t->rows, t->shared, t->dx, t->drows, t->dshared, t->work);
    return true;
}

static bool run_unroute_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct unroute_backward_tensors *t = &step->operands.unroute_backward;
    host_unroute_backward(&step->route, step->fanout, t->drows, t->send_counts, t->origin, t->dresults, t->send_rows);
    return true;
}

static bool run_expert_backward(const HostStep *step, Fault *fault)
{
    const struct expert_backward_tensors *t = &step->operands.expert_backward;
    Tensor rows = t->rows, records = t->records, counts = t->counts;
    uint64_t row_count = stage_rows(step, counts, records.rows);
    uint32_t fanout = counts.data ? 1 : (uint32_t)(records.rows / rows.rows);
    uint64_t lost = host_expert_backward(dims_of(step), step->slot_of_expert, row_count, fanout, rows, records,
                                         t->experts, t->dresults, t->drows, t->drecords, t->dexperts, t->work);
    if (lost > 0)
        return fault_set(fault, FAULT_RUN, "%" PRIu64 " records name experts that this rank does not hold", lost);
    return true;
}

static bool run_combine_backward(const HostStep *step, Fault *fault)
{
    const struct combine_backward_tensors *t = &step->operands.combine_backward;
    const Tensor from[] = {t->drows, t->drecords}, to[] = {t->returned, t->returned_records};
    return send_back(step, COUNT_OF(from), from, to, t->next_counts, t->send_counts, fault);
}

static bool run_route_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct route_backward_tensors *t = &step->operands.route_backward;
    Tensor counts = t->counts, drows = t->drows, drecords = t->drecords;
    uint64_t row_count = stage_rows(step, counts, drecords.rows);
    host_route_backward(&step->route, row_count, step->fanout, t->drows_next, t->drecords_next, t->returned,
                        t->returned_records, t->send_counts, t->origin, drows, drecords);
    return true;
}

static bool run_gate_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct gate_backward_tensors *t = &step->operands.gate_backward;
    float balance = (float)step->engine->options.training.balance;
    host_gate_backward(dims_of(step), balance, t->x, t->records, t->drows, t->drecords, t->dshared_rows, t->router,
                       t->dx, t->drouter, t->work);
    return true;
}

static bool run_squares(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct squares_tensors *t = &step->operands.squares;
    host_squares(t->gradient, t->before, t->squares);
    return true;
}

static bool run_optimizer(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct optimizer_tensors *t = &step->operands.optimizer;
    const HostEngine *engine = step->engine;
    const TrainingSettings *settings = &engine->options.training;
    double squares = t->squares.data ? (double)*(const float *)t->squares.data : 0; // of sums over all ranks
    AdamW adamw = {.learning_rate = engine->learning_rate,
                   .beta1 = (float)settings->beta1,
                   .beta2 = (float)settings->beta2,
                   .epsilon = (float)settings->epsilon,
                   .weight_decay = (float)settings->weight_decay,
                   .gradient_scale = (float)engine_gradient_scale(settings, engine->comm->size, squares),
                   .step = engine->updates};
    host_optimizer(&adamw, t->weights, t->gradient, t->state);
    return true;
}

static SumGroup sum_group(const HostStep *step)
{
    const HostEngine *engine = step->engine;
    return (SumGroup){.comm = engine->comm,
                      .channel = step->channel,
                      .members = step->members,
                      .own = step->own,
                      .counts = engine->sum_counts,
                      .scratch = engine->sum_scratch};
}

static bool run_reduce_scatter(const HostStep *step, Fault *fault)
{
    SumGroup group = sum_group(step);
    return comm_reduce_scatter(&group, step->operands.reduce_scatter.gathered, step->operands.reduce_scatter.shard,
                               fault);
}

static bool run_all_reduce(const HostStep *step, Fault *fault)
{
    SumGroup group = sum_group(step);
    return comm_all_reduce(&group, step->operands.all_reduce.gradient, fault);
}

HostHandler host_handler(Op op)
{
    switch (op) {
    case OP_EMBED:
        return run_embed;
    case OP_PRE_EXPERT:
        return run_pre_expert;
    case OP_FFN:
        return run_ffn;
    case OP_GATE:
        return run_gate;
    case OP_ROUTE:
        return run_route;
    case OP_DISPATCH:
        return run_dispatch;
    case OP_EXPERT:
        return run_expert;
    case OP_COMBINE:
        return run_combine;
    case OP_UNROUTE:
        return run_unroute;
    case OP_SHARED_EXPERT:
        return run_shared_expert;
    case OP_RESIDUAL:
        return run_residual;
    case OP_LOSS:
        return run_loss;
    case OP_GATHER:
        return run_gather;
    case OP_REDUCE_SCATTER:
        return run_reduce_scatter;
    case OP_ALL_REDUCE:
        return run_all_reduce;
    case OP_LOSS_BACKWARD:
        return run_loss_backward;
    case OP_COMBINE_BACKWARD:
        return run_combine_backward;
    case OP_UNROUTE_BACKWARD:
        return run_unroute_backward;
    case OP_EXPERT_BACKWARD:
        return run_expert_backward;
    case OP_ROUTE_BACKWARD:
        return run_route_backward;
    case OP_GATE_BACKWARD:
        return run_gate_backward;
    case OP_SHARED_EXPERT_BACKWARD:
        return run_shared_expert_backward;
    case OP_FFN_BACKWARD:
        return run_ffn_backward;
    case OP_PRE_EXPERT_BACKWARD:
        return run_pre_expert_backward;
    case OP_EMBED_BACKWARD:
        return run_embed_backward;
    case OP_OPTIMIZER:
        return run_optimizer;
    case OP_SQUARES:
        return run_squares;
    case OP_ENCODE:
        return host_run_encode;
    case OP_DECODE:
        return host_run_decode;
    case OP_MEAN_EXPERT:
        return host_run_mean_expert;
    case OP_ENCODE_GRADIENT:
        return host_run_encode_gradient;
    case OP_RETURN_PACKETS:
        return host_run_return_packets;
    case OP_DECODE_GRADIENT:
        return host_run_decode_gradient;
    }
    return NULL;
}
