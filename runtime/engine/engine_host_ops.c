// The ops of the host engine: kernels/host for local ones, the communicator for the others. Nothing is allocated here.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/comm/comm_sums.h"
#include "runtime/engine/engine_host_internal.h"
#include "runtime/engine/moves.h"
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

static const ModelDims *dims_of(const HostStep *step)
{
    return &step->engine->plan->model;
}

static Tensor dense_part(const HostStep *step, Tensor dense, DensePart part)
{
    return engine_dense_part(dims_of(step), dense, part);
}

static void clear(Tensor tensor)
{
    memset(tensor.data, 0, tensor.rows * row_bytes(tensor));
}

bool host_run_embed(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct embed_tensors *t = &step->operands.embed;
    host_embed(dims_of(step), t->tokens, t->embedding, t->x);
    return true;
}

bool host_run_pre_expert(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct pre_expert_tensors *t = &step->operands.pre_expert;
    host_pre_expert(dims_of(step), t->x, dense_part(step, t->dense, DENSE_ATTENTION), t->y, step->work);
    return true;
}

static void keep_final(const HostStep *step, Tensor x)
{
    if (step->of.is_final && step->engine->final_x)
        memcpy(step->engine->final_x, x.data, x.rows * row_bytes(x));
}

bool host_run_ffn(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct ffn_tensors *t = &step->operands.ffn;
    host_ffn(dims_of(step), t->x, dense_part(step, t->dense, DENSE_FFN), t->y, step->work);
    keep_final(step, t->y);
    return true;
}

bool host_run_gate(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct gate_tensors *t = &step->operands.gate;
    HostEngine *engine = step->engine;
    host_gate(dims_of(step), engine->options.routing, engine->capacity_rows, t->x,
              dense_part(step, t->dense, DENSE_ROUTER), t->rows, t->records, step->work);
    if (step->of.decisions) {
        const Record *records = t->records.data;
        uint64_t count = model_tokens(dims_of(step)) * dims_of(step)->top_k;
        for (uint64_t i = 0; i < count; i++)
            step->of.decisions[i] = records[i].expert;
    }
    return true;
}

bool host_run_route(const HostStep *step, Fault *fault)
{
    const struct route_tensors *t = &step->operands.route;
    Tensor rows = t->rows, records = t->records, counts = t->counts;
    uint64_t row_count = stage_rows(step, counts, records.rows);
    uint32_t fanout = counts.data ? 1 : (uint32_t)(records.rows / rows.rows);
    MoveRoute route = {.table = &step->of.route.table, .rows = row_count, .fanout = fanout};
    return host_moves.route(NULL, &route, t, fault);
}

static Meeting meeting_of(const HostStep *step)
{
    return (Meeting){.comm = step->engine->comm,
                     .channel = step->channel,
                     .place = step->place,
                     .call = {.layer = NONE},
                     .ops = &host_moves};
}

bool host_exchange(const HostStep *step, const Exchange *exchange, Fault *fault)
{
    Comm *comm = step->engine->comm;
    return comm->ops->exchange(comm, step->channel, exchange, fault);
}

bool host_run_dispatch(const HostStep *step, Fault *fault)
{
    Meeting meeting = meeting_of(step);
    const struct dispatch_tensors *t = &step->operands.dispatch;
    return move_dispatch(&meeting, t, (MoveCounts){t->send_counts.data, t->next_counts.data, false}, fault);
}

// Those that arrived, those that were sent, or all.
static uint64_t packed_count(const HostStep *step, Tensor counts, Tensor send_counts, uint64_t rows)
{
    bool counted = step->engine->plan->exchange == EXCHANGE_COUNTED;
    if (counted && send_counts.data)
        return counted_rows(send_counts) - (uint64_t)((const int32_t *)send_counts.data)[step->of.packed.own];
    return stage_rows(step, counts, rows);
}

bool host_run_encode_rows(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct encode_rows_tensors *t = &step->operands.encode_rows;
    host_encode_rows(step->of.packed.format, packed_count(step, t->counts, (Tensor){0}, t->rows.rows), t->rows,
                     t->packed_rows);
    return true;
}

bool host_run_decode_rows(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct decode_rows_tensors *t = &step->operands.decode_rows;
    host_decode_rows(step->of.packed.format, packed_count(step, t->counts, t->send_counts, t->rows.rows),
                     t->packed_rows, t->rows);
    return true;
}

bool host_run_expert(const HostStep *step, Fault *fault)
{
    const struct expert_tensors *t = &step->operands.expert;
    Tensor rows = t->rows, records = t->records, counts = t->counts;
    uint64_t row_count = stage_rows(step, counts, records.rows);
    uint32_t fanout = counts.data ? 1 : (uint32_t)(records.rows / rows.rows);
    uint64_t lost = host_expert(dims_of(step), step->of.slot_of_expert, row_count, fanout, rows, records, t->experts,
                                t->results, step->work);
    if (lost > 0)
        return fault_set(fault, FAULT_RUN, "%" PRIu64 " records name experts that this rank does not hold", lost);
    return true;
}

static bool send_back(const HostStep *step, Op op, Fault *fault)
{
    ReturnTensors t = engine_return_tensors(op, &step->operands);
    Meeting meeting = meeting_of(step);
    return move_back(&meeting, &t, (MoveCounts){t.send_counts.data, t.next_counts.data, true}, fault);
}

bool host_run_combine(const HostStep *step, Fault *fault)
{
    return send_back(step, OP_COMBINE, fault);
}

bool host_run_unroute(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct unroute_tensors *t = &step->operands.unroute;
    Tensor counts = t->counts, rows = t->rows;
    uint32_t fanout = 1;
    if (!counts.data && step->engine->plan->dispatch == DISPATCH_NAIVE)
        fanout = dims_of(step)->top_k;
    uint64_t row_count = stage_rows(step, counts, rows.rows * fanout);
    host_unroute(&step->of.route.table, row_count, fanout, t->results, t->returned, t->send_counts, t->origin, rows,
                 step->work);
    return true;
}

bool host_run_shared_expert(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct shared_expert_tensors *t = &step->operands.shared_expert;
    host_shared_expert(dims_of(step), t->rows, dense_part(step, t->dense, DENSE_SHARED), t->results, step->work);
    return true;
}

bool host_run_residual(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct residual_tensors *t = &step->operands.residual;
    host_residual(t->x, t->results, t->shared_results, t->y);
    keep_final(step, t->y);
    return true;
}

bool host_run_loss(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct loss_tensors *t = &step->operands.loss;
    HostEngine *engine = step->engine;
    host_loss(dims_of(step), t->x, t->tokens, t->embedding, t->loss, step->work);
    if (!isfinite(*(const float *)t->loss.data)) // what led to it is overwritten by the backward pass
        engine->nonfinite_step = nonfinite_step(engine->plan, engine->ops, (const Engine *)engine, step->index);
    return true;
}

bool host_run_gather(const HostStep *step, Fault *fault)
{
    const HostEngine *engine = step->engine;
    Meeting meeting = meeting_of(step);
    Stream stream = step_stream(engine->plan, &engine->plan->steps[step->index]);
    MovedShards shards = {.counts = engine->gather_counts[stream == STREAM_MIGRATE_OUTER]};
    if (step->joined)
        return true;
    for (const HostStep *of = step; of; of = of->next) {
        const struct gather_tensors *t = &of->operands.gather;
        shards.shard[shards.count] = engine_packets(&of->packets, engine->whole, t->shard);
        shards.gathered[shards.count++] = t->gathered;
    }
    return move_gather(&meeting, &shards, fault);
}

// ---- backward --------------------------------------------------------------------------------

bool host_run_loss_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct loss_backward_tensors *t = &step->operands.loss_backward;
    host_loss_backward(dims_of(step), t->x, t->tokens, t->embedding, t->dx, t->dembedding, step->work);
    clear(engine_embedding_padding(step->engine->plan, t->dembedding));
    return true;
}

bool host_run_embed_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct embed_backward_tensors *t = &step->operands.embed_backward;
    host_embed_backward(dims_of(step), t->tokens, t->dx, t->dembedding);
    return true;
}

bool host_run_pre_expert_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct pre_expert_backward_tensors *t = &step->operands.pre_expert_backward;
    host_pre_expert_backward(dims_of(step), t->x, dense_part(step, t->dense, DENSE_ATTENTION), t->dx,
                             dense_part(step, t->ddense, DENSE_ATTENTION), step->work);
    clear(engine_dense_padding(step->engine->plan, &step->engine->plan->steps[step->index], t->ddense));
    return true;
}

bool host_run_ffn_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct ffn_backward_tensors *t = &step->operands.ffn_backward;
    host_ffn_backward(dims_of(step), t->x, dense_part(step, t->dense, DENSE_FFN), t->dx,
                      dense_part(step, t->ddense, DENSE_FFN), step->work);
    return true;
}

bool host_run_shared_expert_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct shared_expert_backward_tensors *t = &step->operands.shared_expert_backward;
    host_shared_expert_backward(dims_of(step), t->rows, dense_part(step, t->dense, DENSE_SHARED), t->dx, t->drows,
                                dense_part(step, t->ddense, DENSE_SHARED), step->work);
    return true;
}

bool host_run_unroute_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct unroute_backward_tensors *t = &step->operands.unroute_backward;
    host_unroute_backward(&step->of.route.table, step->of.route.fanout, t->drows, t->send_counts, t->origin,
                          t->dresults, t->send_rows);
    return true;
}

bool host_run_expert_backward(const HostStep *step, Fault *fault)
{
    const struct expert_backward_tensors *t = &step->operands.expert_backward;
    Tensor rows = t->rows, records = t->records, counts = t->counts;
    uint64_t row_count = stage_rows(step, counts, records.rows);
    uint32_t fanout = counts.data ? 1 : (uint32_t)(records.rows / rows.rows);
    uint64_t lost = host_expert_backward(dims_of(step), step->of.slot_of_expert, row_count, fanout, rows, records,
                                         t->experts, t->dresults, t->drows, t->drecords, t->dexperts, step->work);
    if (lost > 0)
        return fault_set(fault, FAULT_RUN, "%" PRIu64 " records name experts that this rank does not hold", lost);
    return true;
}

bool host_run_combine_backward(const HostStep *step, Fault *fault)
{
    return send_back(step, OP_COMBINE_BACKWARD, fault);
}

bool host_run_route_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct route_backward_tensors *t = &step->operands.route_backward;
    Tensor counts = t->counts, drows = t->drows, drecords = t->drecords;
    uint64_t row_count = stage_rows(step, counts, drecords.rows);
    host_route_backward(&step->of.route.table, row_count, step->of.route.fanout, t->drows_next, t->drecords_next,
                        t->returned, t->returned_records, t->send_counts, t->origin, drows, drecords);
    return true;
}

bool host_run_gate_backward(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct gate_backward_tensors *t = &step->operands.gate_backward;
    float balance = (float)step->engine->options.training.balance;
    host_gate_backward(dims_of(step), balance, t->x, t->records, t->drows, t->drecords, t->dshared_rows,
                       dense_part(step, t->dense, DENSE_ROUTER), t->dx, dense_part(step, t->ddense, DENSE_ROUTER),
                       step->work);
    return true;
}

bool host_run_clear(const HostStep *step, Fault *fault)
{
    (void)fault;
    clear(step->operands.clear.sum);
    return true;
}

bool host_run_accumulate(const HostStep *step, Fault *fault)
{
    (void)fault;
    host_accumulate(step->operands.accumulate.part, step->operands.accumulate.sum);
    return true;
}

bool host_run_round(const HostStep *step, Fault *fault)
{
    (void)fault;
    host_round(step->operands.round.sum, step->operands.round.gradient);
    return true;
}

bool host_run_add_returned(const HostStep *step, Fault *fault)
{
    (void)fault;
    host_accumulate(step->operands.add_returned.part, step->operands.add_returned.sum);
    return true;
}

bool host_run_round_returned(const HostStep *step, Fault *fault)
{
    (void)fault;
    host_round(step->operands.round_returned.sum, step->operands.round_returned.gradient);
    return true;
}

bool host_run_squares(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct squares_tensors *t = &step->operands.squares;
    host_squares(t->gradient, t->before, t->squares);
    return true;
}

bool host_run_optimizer(const HostStep *step, Fault *fault)
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
                   .gradient_scale = (float)engine_gradient_scale(settings, engine_summands(engine->plan), squares),
                   .step = engine->updates};
    host_optimizer(&adamw, &step->of.undecayed, t->weights, t->gradient, t->state);
    return true;
}

bool host_run_outer_gradient(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct outer_gradient_tensors *t = &step->operands.outer_gradient;
    host_outer_gradient(t->weights, t->outer, t->gradient);
    return true;
}

bool host_run_outer_step(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct outer_step_tensors *t = &step->operands.outer_step;
    const LocalSteps *sync = &step->engine->plan->sync;
    OuterStep outer = {(float)sync->learning_rate, (float)sync->momentum, engine_apart(step->engine->plan)};
    host_outer_step(&outer, t->gradient, t->outer, t->weights);
    return true;
}

static SumGroup sum_group(const HostStep *step)
{
    const HostEngine *engine = step->engine;
    uint32_t stream = sums_stream(engine->plan, &engine->plan->steps[step->index]);
    return (SumGroup){.comm = engine->comm,
                      .channel = step->channel,
                      .members = step->place.members,
                      .own = step->place.own,
                      .counts = engine->sum_counts[stream],
                      .scratch = engine->memory + engine->layout.sums[stream].offset};
}

bool host_run_reduce_scatter(const HostStep *step, Fault *fault)
{
    SumGroup group = sum_group(step);
    Meeting meeting = meeting_of(step);
    MovedShards shards = {.counts = group.counts};
    if (step->joined)
        return true;
    for (const HostStep *of = step; of; of = of->next) {
        shards.shard[shards.count] = of->operands.reduce_scatter.shard;
        shards.gathered[shards.count++] = of->operands.reduce_scatter.gathered;
    }
    return move_scatter(&meeting, &shards, group.scratch, fault);
}

bool host_run_all_reduce(const HostStep *step, Fault *fault)
{
    SumGroup group = sum_group(step);
    Meeting meeting = meeting_of(step);
    return move_sum(&meeting, step->operands.all_reduce.gradient, group.counts, group.scratch, fault);
}
