// Lowering of the forward pass: see lower.h. Every buffer is sized for the worst case routing can
// produce (or for `capacity`, where given), so that nothing is allocated or dropped at run time.
#include "compiler/lowering/lower.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "compiler/lowering/loop.h"
#include "compiler/lowering/lowering.h"
#include "engines/engine_memory.h"
#include "ir/bundle.h"
#include "ir/codec.h"

static int32_t add_weight(Lowering *l, int32_t layer, const char *name, Dtype dtype, double rows, double cols)
{
    BufferShape shape = {.dtype = dtype, .rows = rows, .cols = cols, .kind = BUFFER_WEIGHT, .layer = layer};
    if (layer == NONE)
        return builder_add_buffer(l->builder, shape, "%s", name);
    return builder_add_buffer(l->builder, shape, "L%d.%s", layer, name);
}

// ---- layers ----------------------------------------------------------------------------------

// Returns the buffer with the results of the stage the exchange left.
static int32_t add_combine(Lowering *l, uint32_t k, LoweredLayer *layer, uint32_t index, int32_t results)
{
    Stage *from = &layer->stages[index];
    double hidden = l->spec->model.hidden;
    Dtype dtype = l->spec->model.dtype;
    uint32_t level = (uint32_t)from->level;
    const char *level_name = l->spec->cluster.levels[level].name;
    char name[BUFFER_NAME_MAX];
    snprintf(name, sizeof(name), "packed_results.%s", level_name);
    int32_t sent = lowering_encode_rows(l, k, WAY_COMBINE, name, lowering_arrived_end(from + 1, results));
    snprintf(name, sizeof(name), "returned.%s", level_name);
    int32_t returned = lowering_add_rows(l, k, WAY_COMBINE, name, from->send_capacity);
    StepBuffers combine = {
        .combine = {
            .results = sent, .next_counts = from->next_counts, .send_counts = from->send_counts, .returned = returned}};
    builder_add_step(l->builder,
                     (StepSpec){.op = OP_COMBINE,
                                .layer = (int32_t)k,
                                .level = from->level,
                                .group = from->group,
                                .cost_s = l->cost.combine_s[level],
                                .bytes = l->cost.payload_bytes[WAY_COMBINE][level],
                                .busiest = l->cost.busiest[level]},
                     combine);
    snprintf(name, sizeof(name), "unpacked_returned.%s", level_name);
    returned = lowering_decode_rows(l, k, WAY_COMBINE, name, lowering_returned_end(from, returned));
    snprintf(name, sizeof(name), "summed.%s", level_name);
    int32_t summed = lowering_add_temporary(l, k, name, dtype, from->row_capacity, hidden);
    StepBuffers unroute = {.unroute = {.results = results,
                                       .returned = returned,
                                       .send_counts = from->send_counts,
                                       .origin = from->origin,
                                       .counts = from->counts,
                                       .rows = summed}};
    lowering_add_local(l, OP_UNROUTE, (int32_t)k, l->cost.route_s[level] / 2, unroute);
    return summed;
}

static int32_t add_moe(Lowering *l, uint32_t k, LoweredLayer *layer)
{
    const SpecModel *model = &l->spec->model;
    Dtype dtype = model->dtype;
    lowering_send_rows(l, k, "");
    const Stage *first = &layer->stages[0];
    int32_t shared = NONE;
    if (model_shared_inner(&l->plan->model)) { // runs while the dispatch is under way
        shared = lowering_add_temporary(l, k, "shared_results", dtype, l->tokens, model->hidden);
        StepBuffers operands = {.shared_expert = {.rows = first->rows, .dense = layer->held_dense, .results = shared}};
        lowering_add_local(l, OP_SHARED_EXPERT, (int32_t)k, l->work->layers[k].dense_s, operands);
    }
    lowering_receive_rows(l, k, "");
    Stage *last = &layer->stages[layer->stage_count - 1];
    int32_t results = lowering_add_temporary(l, k, "results", dtype, last->row_capacity, model->hidden);
    StepBuffers expert = {.expert = {.rows = last->rows,
                                     .records = last->records,
                                     .counts = last->counts,
                                     .experts = layer->held,
                                     .results = results}};
    lowering_note_read(l, lowering_add_local(l, OP_EXPERT, (int32_t)k, l->cost.expert_s, expert));
    for (uint32_t i = layer->stage_count - 1; i-- > 0;)
        results = add_combine(l, k, layer, i, results);
    int32_t x = lowering_add_temporary(l, k, "out", dtype, l->tokens, model->hidden);
    StepBuffers residual = {.residual = {.x = layer->y, .results = results, .shared_results = shared, .y = x}};
    lowering_add_local(l, OP_RESIDUAL, (int32_t)k,
                       lowering_move_s(l, 3 * l->tokens * model->hidden * dtype_bytes(dtype)), residual);
    return x;
}

// A bundle's weights as a rank owns them: its share when training, else all of it.
static int32_t add_bundle(Lowering *l, int32_t layer, WeightKind kind)
{
    BundleShape shape = bundle_shape(l->plan, kind, layer);
    return add_weight(l, layer, weight_kind_name(kind), shape.dtype, 1, (double)shape.share);
}

static void add_layer_weights(Lowering *l, uint32_t k, LoweredLayer *layer)
{
    layer->dense = add_bundle(l, (int32_t)k, WEIGHT_DENSE);
    layer->experts = layer->mean = NONE;
    layer->memory = (CodecMemory){NONE, NONE};
    if (l->work->layers[k].is_moe)
        layer->experts =
            add_weight(l, (int32_t)k, "experts", model_expert_dtype(&l->plan->model), l->share_rows, l->share_cols);
}

// The weights of the bucket's layers, and what gathers them over the slowest level: dense ones, then experts.
static void begin_bucket(Lowering *l, uint32_t first)
{
    uint32_t end = first + l->bucket < l->work->layer_count ? first + l->bucket : l->work->layer_count;
    l->joins = false;
    for (uint32_t k = first; k < end; k++)
        add_layer_weights(l, k, &l->layers[k]);
    for (uint32_t k = first; k < end; k++)
        lowering_gather_dense_ahead(l, k);
    for (uint32_t k = first; k < end; k++) {
        if (!l->work->layers[k].is_moe)
            continue;
        lowering_enter(l, k);
        lowering_gather_experts_ahead(l, k);
    }
    l->joins = false;
}

static int32_t add_layer(Lowering *l, uint32_t k, int32_t x)
{
    const LayerWork *work = &l->work->layers[k];
    LoweredLayer *layer = &l->layers[k];
    const SpecModel *model = &l->spec->model;
    if (l->bucket == 0)
        add_layer_weights(l, k, layer);
    else if (k % l->bucket == 0)
        begin_bucket(l, k);
    layer->held_dense =
        lowering_gather_bundle(l, (int32_t)k, layer->dense, lowering_dense_limit(l), &layer->kept_dense);
    if (work->is_moe)
        lowering_enter(l, k);
    if (work->is_moe)
        layer->held = lowering_add_gathers(l, k, false, lowering_prefetch_limit(l));
    layer->x = x;
    lowering_attend(l, k, "");
    if (work->is_moe)
        return add_moe(l, k, layer);
    int32_t out = lowering_add_temporary(l, k, "out", model->dtype, l->tokens, model->hidden);
    StepBuffers ffn = {.ffn = {.x = layer->y, .dense = layer->held_dense, .y = out}};
    lowering_add_local(l, OP_FFN, (int32_t)k, work->dense_s, ffn);
    return out;
}

static void add_network(Lowering *l)
{
    const SpecModel *model = &l->spec->model;
    BufferShape tokens = {.dtype = DTYPE_I32,
                          .rows = model->batch,
                          .cols = (double)model->sequence + 1,
                          .kind = BUFFER_INPUT,
                          .layer = NONE};
    l->tokens_buffer = builder_add_buffer(l->builder, tokens, "tokens");
    l->embedding = add_bundle(l, NONE, WEIGHT_EMBEDDING);
    l->held_embedding = lowering_gather_bundle(l, NONE, l->embedding, NONE, &l->kept_embedding);
    BufferShape hidden = {
        .dtype = model->dtype, .rows = l->tokens, .cols = model->hidden, .kind = BUFFER_TEMPORARY, .layer = NONE};
    int32_t x = builder_add_buffer(l->builder, hidden, "x");
    StepBuffers embed = {.embed = {.tokens = l->tokens_buffer, .embedding = l->held_embedding, .x = x}};
    StepSpec step = {.op = OP_EMBED,
                     .layer = NONE,
                     .level = NONE,
                     .group = NONE,
                     .cost_s = lowering_move_s(l, 2 * l->tokens * model->hidden * dtype_bytes(model->dtype))};
    builder_add_step(l->builder, step, embed);
    for (uint32_t k = 0; k < l->work->layer_count; k++)
        x = add_layer(l, k, x);
    l->final_x = x;
    if (spec_regathers_embedding(l->spec))
        l->held_embedding =
            lowering_gather_bundle_again(l, NONE, l->embedding, l->kept_embedding, lowering_embedding_limit(l));
    BufferShape scalar = {.dtype = DTYPE_F32, .rows = 1, .cols = 1, .kind = BUFFER_TEMPORARY, .layer = NONE};
    int32_t loss_buffer = builder_add_buffer(l->builder, scalar, "loss");
    StepBuffers loss = {
        .loss = {.x = x, .tokens = l->tokens_buffer, .embedding = l->held_embedding, .loss = loss_buffer}};
    step.op = OP_LOSS;
    step.cost_s = l->work->loss_s;
    builder_add_step(l->builder, step, loss);
    if (l->spec->plan.pass == PASS_TRAINING)
        lowering_add_backward(l);
}

// ---- abstract workloads ----------------------------------------------------------------------

// Volumes and times without tensors: the same steps in the same order on the same streams, with no
// operands, and the edges written out.
typedef struct {
    Lowering *l;
    int32_t last; // end of the chain of computation and exchanges
} AbstractChain;

static int32_t add_bare_step(Lowering *l, StepSpec step, int32_t after)
{
    static const StepBuffers none = {{NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE}};
    int32_t index = builder_add_step(l->builder, step, none);
    if (after != NONE)
        builder_add_after(l->builder, index, after);
    return index;
}

static void chain_compute(AbstractChain *chain, Op op, uint32_t k, double cost_s)
{
    StepSpec step = {.op = op, .layer = (int32_t)k, .level = NONE, .group = NONE, .cost_s = cost_s};
    chain->last = add_bare_step(chain->l, step, chain->last);
}

static void chain_exchange(AbstractChain *chain, Op op, uint32_t k, uint32_t level, double cost_s)
{
    Lowering *l = chain->l;
    uint32_t domain = l->config->domain[level];
    if (domain == l->spec->cluster.levels[level].count)
        return;
    StepSpec step = {.op = op,
                     .layer = (int32_t)k,
                     .level = (int32_t)level,
                     .group = builder_add_group(l->builder, GROUP_EXCHANGE, (int32_t)level, domain),
                     .cost_s = cost_s,
                     .bytes = l->cost.payload_bytes[WAY_DISPATCH][level], // as of all ways, without dimensions
                     .busiest = l->cost.busiest[level]};
    chain->last = add_bare_step(l, step, chain->last);
}

// A gather, or a reduce-scatter, at `level` after step `after`; NONE where the domain is one worker.
static int32_t add_abstract_migration(Lowering *l, Op op, uint32_t k, uint32_t level, int32_t after)
{
    uint32_t domain = l->config->domain[level];
    if (domain == 1)
        return NONE;
    bool gather = op == OP_GATHER;
    StepSpec step = {.op = op,
                     .layer = (int32_t)k,
                     .level = (int32_t)level,
                     .group = builder_add_group(l->builder, GROUP_GATHER, (int32_t)level, domain),
                     .cost_s = gather ? l->cost.gather_s[level] : l->cost.reduce_s[level],
                     .bytes = gather ? l->cost.gather_bytes[level] : l->cost.reduce_bytes[level]};
    return add_bare_step(l, step, after);
}

static int32_t add_abstract_gathers(Lowering *l, uint32_t k, int32_t after)
{
    int32_t gathered = NONE;
    for (uint32_t level = l->spec->replica_levels; level < l->spec->cluster.level_count; level++) {
        int32_t step = add_abstract_migration(l, OP_GATHER, k, level, after);
        gathered = step == NONE ? gathered : step;
    }
    return gathered;
}

static void add_abstract_forward(AbstractChain *chain, uint32_t k)
{
    Lowering *l = chain->l;
    const LayerWork *work = &l->work->layers[k];
    uint32_t levels = l->spec->cluster.level_count;
    int32_t gathered = NONE;
    if (work->is_moe) {
        lowering_enter(l, k);
        gathered = add_abstract_gathers(l, k, lowering_prefetch_limit(l));
    }
    chain_compute(chain, OP_PRE_EXPERT, k, work->pre_expert_s);
    if (!work->is_moe)
        return;
    for (uint32_t level = 0; level < levels; level++)
        chain_exchange(chain, OP_DISPATCH, k, level, l->cost.dispatch_s[level]);
    chain_compute(chain, OP_EXPERT, k, l->cost.expert_s);
    lowering_note_read(l, chain->last);
    if (gathered != NONE)
        builder_add_after(l->builder, chain->last, gathered);
    for (uint32_t level = levels; level-- > 0;)
        chain_exchange(chain, OP_COMBINE, k, level, l->cost.combine_s[level]);
    chain_compute(chain, OP_RESIDUAL, k, 0);
}

static void add_abstract_backward(AbstractChain *chain, uint32_t k)
{
    Lowering *l = chain->l;
    const LayerWork *work = &l->work->layers[k];
    uint32_t levels = l->spec->cluster.level_count;
    if (work->is_moe) {
        lowering_enter(l, k);
        int32_t gathered = l->config->regather ? add_abstract_gathers(l, k, lowering_prefetch_limit(l)) : NONE;
        for (uint32_t level = 0; level < levels; level++)
            chain_exchange(chain, OP_DISPATCH, k, level, l->cost.dispatch_backward_s[level]);
        chain_compute(chain, OP_EXPERT_BACKWARD, k, l->cost.expert_backward_s);
        if (gathered != NONE)
            builder_add_after(l->builder, chain->last, gathered);
        int32_t computed = chain->last;
        Op home = l->spec->plan.experts.gradient == GRADIENT_DENSE ? OP_REDUCE_SCATTER : OP_RETURN_PACKETS;
        lowering_note_read(l, computed);
        for (uint32_t level = levels; level-- > 0;)
            add_abstract_migration(l, home, k, level, computed);
        for (uint32_t level = levels; level-- > 0;)
            chain_exchange(chain, OP_COMBINE_BACKWARD, k, level, l->cost.combine_backward_s[level]);
    }
    chain_compute(chain, OP_PRE_EXPERT_BACKWARD, k, work->pre_expert_backward_s);
}

static void add_abstract(Lowering *l)
{
    AbstractChain chain = {.l = l, .last = NONE};
    for (uint32_t k = 0; k < l->work->layer_count; k++)
        add_abstract_forward(&chain, k);
    l->read_count = 0;
    for (uint32_t k = l->work->layer_count; l->spec->plan.pass == PASS_TRAINING && k-- > 0;)
        add_abstract_backward(&chain, k);
}

// ---- the plan --------------------------------------------------------------------------------

static const char *copy(Arena *arena, const char *text)
{
    return arena_copy_string(arena, text, strlen(text));
}

// Layers whose dense weights the dimensions do not give.
static void describe_layers(Lowering *l)
{
    const SpecModel *model = &l->spec->model;
    Plan *plan = l->plan;
    if (!spec_lists_layers(model))
        return;
    plan->layer_count = model->layers;
    plan->layers = arena_alloc_array(plan->arena, model->layers, sizeof(*plan->layers));
    for (uint32_t k = 0; k < model->layers; k++)
        plan->layers[k] = (LayerDims){.mixer = copy(plan->arena, spec_mixer(model, k).name),
                                      .elements = spec_dense_elements(model, k),
                                      .bits = spec_dense_bits(model, k)};
}

static void describe(Lowering *l)
{
    const Spec *spec = l->spec;
    Plan *plan = l->plan;
    const SpecModel *model = &spec->model;
    plan->cluster = spec->cluster;
    plan->cluster.ports = NULL; // outer_describe adds what the groups need
    plan->cluster.links = NULL;
    plan->cluster.port_count = plan->cluster.link_count = 0;
    plan->cluster.name = copy(plan->arena, spec->cluster.name);
    for (uint32_t i = 0; i < spec->cluster.level_count; i++)
        plan->cluster.levels[i].name = copy(plan->arena, spec->cluster.levels[i].name);
    plan->model = spec_dims(model);
    plan->model.name = copy(plan->arena, model->name);
    describe_layers(l);
    plan->pass = spec->plan.pass;
    plan->dispatch = l->dispatch;
    plan->exchange = spec->plan.exchange;
    plan->experts = spec->plan.experts;
    plan->dense = spec->plan.dense;
    plan->shared_every = codec_info(spec->plan.experts.codec)->has_mean ? spec->plan.shared_every : 0;
    plan->whole_iterations = spec_encodes(spec) ? spec->plan.whole_iterations : 0;
    memcpy(plan->tokens, spec->plan.tokens, sizeof(plan->tokens));
    plan->training = spec->training;
    plan->capacity = spec->plan.capacity;
    plan->replica_levels = spec->replica_levels;
    plan->sync = spec->plan.sync;
    plan->outer_levels = l->work->outer_levels;
    plan->regather_dense = spec->plan.regather_dense;
    plan->once_dense = spec->plan.regather_dense ? spec->plan.dense_levels : 0;
    uint32_t kept_dense = spec->plan.regather_dense ? spec->plan.dense_levels : spec->cluster.level_count;
    plan->returns_dense_apart = workload_returns_dense_each_lap(spec) && spec_dense_gradient_levels(spec) < kept_dense;
    plan->once_dense_gradient = plan->returns_dense_apart ? spec_dense_gradient_levels(spec) : 0;
    plan->regather_embedding = spec_regathers_embedding(spec);
    plan->micro_batches = spec->plan.micro_batches;
    Laps laps = spec_laps(spec);
    plan->lap = laps.count > 1 ? laps.each : 0;
    plan->abreast = spec_abreast(spec) > 1 ? spec_abreast(spec) : 0;
    plan->bucket = l->work->bucket;
    plan->recompute = spec->plan.recomputes;
    plan->replica_slots = l->mix->prefetch == PREFETCH_UNLIMITED ? 0 : l->mix->prefetch + 1;
    plan->choices = arena_alloc_array(plan->arena, l->work->moe_count, sizeof(*plan->choices));
    for (uint32_t k = 0; k < l->work->layer_count; k++) {
        if (!l->work->layers[k].is_moe)
            continue;
        const LayerWork *work = &l->work->layers[k];
        plan->model.data_bytes = work->data_bytes;
        plan->model.expert_bytes = work->sent_bytes;
        plan->model.pre_expert_s = work->pre_expert_s;
        Choice *choice = &plan->choices[plan->choice_count++];
        choice->layer = k;
        const Config *config = &l->mix->configs[l->moe_index[k]];
        choice->regather = config->regather;
        choice->once = config->once;
        choice->returns_apart = config->returns_apart;
        choice->once_gradient = config->once_gradient;
        memcpy(choice->domain, config->domain, sizeof(choice->domain));
    }
}

Plan *lower_with(const Workload *work, const Mix *mix, Dispatch dispatch, PlanPassSet passes, double *bytes)
{
    const Spec *spec = work->spec;
    Plan *plan = plan_create();
    Arena *arena = arena_create();
    Lowering l = {.work = work,
                  .spec = spec,
                  .mix = mix,
                  .dispatch = dispatch,
                  .arena = arena,
                  .plan = plan,
                  .builder = builder_create(arena, plan),
                  .limit = NONE,
                  .outer_gather = NONE,
                  .gathered_first = NONE,
                  .bucket = work->bucket};
    memset(l.outer_reads, 0xff, sizeof(l.outer_reads)); // NONE
    l.layers = arena_alloc_array(arena, work->layer_count, sizeof(*l.layers));
    l.moe_index = arena_alloc_array(arena, work->layer_count, sizeof(*l.moe_index));
    l.reads = arena_alloc_array(arena, work->layer_count, sizeof(*l.reads));
    for (uint32_t k = 1; k < work->layer_count; k++)
        l.moe_index[k] = l.moe_index[k - 1] + work->layers[k - 1].is_moe;
    describe(&l);
    if (spec->model.abstract) {
        add_abstract(&l);
    } else {
        l.tokens = (double)spec->model.sequence * spec->model.batch;
        l.fanout = dispatch == DISPATCH_NAIVE ? spec->model.top_k : 1;
        l.records = dispatch == DISPATCH_NAIVE ? 1 : spec->model.top_k;
        ShareShape share = plan_share_shape(plan);
        l.share_rows = (double)share.rows;
        l.share_cols = (double)share.cols;
        add_network(&l);
    }
    *bytes = builder_total_bytes(l.builder);
    bool addressable = *bytes <= 0x1p62;
    if (addressable) {
        builder_finish(l.builder);
        loop_complete(plan, arena);
        outer_describe(&spec->cluster, plan);
        addressable = plan_passes_run(plan, passes, arena);
        plan->engine_bytes = addressable ? engine_own_bytes(plan, plan->cluster.device.engine) : 0;
        *bytes = plan_memory_bytes(plan);
    }
    arena_destroy(arena);
    if (addressable)
        return plan;
    plan_destroy(plan);
    return NULL;
}

Plan *lower(const Workload *work, const Mix *mix, Dispatch dispatch, double *bytes)
{
    return lower_with(work, mix, dispatch, PLAN_PASSES_ALL, bytes);
}

Plan *lower_uniform(const Workload *work, const Config *config, Dispatch dispatch, double *bytes)
{
    Arena *arena = arena_create();
    Mix mix = mix_uniform(work, config, PREFETCH_UNLIMITED, arena);
    Plan *plan = lower(work, &mix, dispatch, bytes);
    arena_destroy(arena);
    return plan;
}

double lower_memory_bytes(const Spec *spec, const Config *config, uint32_t prefetch, Dispatch dispatch, uint32_t layers)
{
    Arena *arena = arena_create();
    Spec prefix = *spec;
    prefix.model.layers = layers;
    prefix.outer = NULL; // no matter of memory, nor is routing
    prefix.model.popularity = NULL;
    prefix.model.layer_popularity = NULL;
    prefix.cluster.port_count = prefix.cluster.link_count = 0;
    double bytes = 0;
    const Workload *work = workload_derive(&prefix, arena);
    Mix mix = mix_uniform(work, config, prefetch, arena);
    plan_destroy(lower(work, &mix, dispatch, &bytes));
    arena_destroy(arena);
    return bytes;
}
