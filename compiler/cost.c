// Cost model: see cost.h. Formulas are those of design section 3 and of HybridEP (arXiv 2510.19470,
// equations of section III); the level-by-level volumes follow from the topology rule.
#include "compiler/cost.h"

#include <math.h>

// Time of products of `rows` rows that cost `flops` in total on one GPU: rate halves at half_rate_rows.
static double matrix_time_s(const Device *device, double flops, double rows)
{
    if (flops <= 0 || rows <= 0)
        return 0;
    return flops / device->compute_flops * (1 + device->half_rate_rows / rows);
}

static double shards(const Spec *spec)
{
    double product = 1;
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count; l++)
        product *= spec->cluster.levels[l].count;
    return product;
}

static void derive_abstract(const SpecModel *model, LayerWork *layer)
{
    layer->pre_expert_s = model->pre_expert_s;
    if (!layer->is_moe)
        return;
    layer->expert_compute_s = model->expert_compute_s;
    layer->data_bytes = model->data_bytes;
    layer->expert_bytes = model->expert_bytes;
}

static ModelDims spec_dims(const Spec *spec)
{
    const SpecModel *model = &spec->model;
    return (ModelDims){
        .name = model->name, .abstract = model->abstract, .dtype = model->dtype, .layers = model->layers,
        .hidden = model->hidden, .heads = model->heads, .kv_heads = model->kv_heads, .head_dim = model->head_dim,
        .vocabulary = model->vocabulary, .sequence = model->sequence, .batch = model->batch,
        .ffn_inner = model->ffn_inner, .experts = model->experts, .top_k = model->top_k, .inner = model->inner,
        .shared_experts = model->shared_experts, .activation = model->activation,
    };
}

static void derive_executed(const Spec *spec, LayerWork *layer)
{
    const SpecModel *model = &spec->model;
    const Device *device = &spec->cluster.device;
    double tokens = (double)model->sequence * model->batch;
    double hidden = model->hidden, attended = (double)model->heads * model->head_dim;
    double shared_kv = (double)model->kv_heads * model->head_dim;
    double matrices = activation_matrices(model->activation);
    layer->tokens = tokens;
    layer->row_bytes = hidden * dtype_bytes(model->dtype);
    // Projections, then scores and weighted values over the causal half.
    double attention = 2 * tokens * hidden * (2 * attended + 2 * shared_kv) + 2 * tokens * model->sequence * attended;
    layer->pre_expert_s = matrix_time_s(device, attention, tokens);
    if (!layer->is_moe) {
        layer->dense_s = matrix_time_s(device, 2 * tokens * matrices * hidden * model->ffn_inner, tokens);
        return;
    }
    layer->pre_expert_s += matrix_time_s(device, 2 * tokens * hidden * model->experts, tokens);
    layer->dense_s =
        matrix_time_s(device, 2 * tokens * matrices * hidden * model->inner * model->shared_experts, tokens);
    layer->expert_flops = 2 * tokens * model->top_k * matrices * hidden * model->inner;
    layer->data_bytes = tokens * model->top_k * layer->row_bytes;
    layer->expert_bytes = model->experts / shards(spec) * matrices * hidden * model->inner * dtype_bytes(model->dtype);
}

double optimizer_bytes_per_parameter(Dtype dtype)
{
    double element = dtype_bytes(dtype), state = 4 * (element < 4 ? 3 : 2);
    return 3 * element + 2 * state;
}

// Buffers of replicated parameters a layer has: attention, and router and shared experts or the dense layer.
static uint32_t dense_buffers(const SpecModel *model, bool is_moe)
{
    return 2 + (is_moe && model->shared_experts > 0);
}

Workload *workload_derive(const Spec *spec, Arena *arena)
{
    const SpecModel *model = &spec->model;
    Workload *work = arena_alloc(arena, sizeof *work);
    work->spec = spec;
    work->layer_count = model->layers;
    work->layers = arena_alloc_array(arena, model->layers, sizeof *work->layers);
    double expert_parameters_bytes = 0, dense_bytes = 0;
    ModelDims dims = spec_dims(spec);
    double element = dtype_bytes(model->dtype);
    for (uint32_t k = 0; k < model->layers; k++) {
        LayerWork *layer = &work->layers[k];
        layer->is_moe = spec_layer_is_moe(model, k);
        if (model->abstract)
            derive_abstract(model, layer);
        else
            derive_executed(spec, layer);
        layer->sent_bytes = layer->expert_bytes / spec->plan.ratio;
        work->moe_count += layer->is_moe;
        expert_parameters_bytes += layer->expert_bytes;
        if (!model->abstract)
            work->dense_gradients += dense_buffers(model, layer->is_moe);
        if (!model->abstract)
            dense_bytes +=
                element * (double)(model_attention_elements(&dims) +
                                   (layer->is_moe ? model_router_elements(&dims) + model_shared_elements(&dims)
                                                  : model_ffn_elements(&dims)));
    }
    if (!model->abstract) {
        double tokens = (double)model->sequence * model->batch;
        work->loss_s = matrix_time_s(&spec->cluster.device, 2 * tokens * model->hidden * model->vocabulary, tokens);
        dense_bytes += element * (double)model_embedding_elements(&dims);
        work->dense_gradients++;
    }
    work->dense_gradient_bytes = dense_bytes;
    if (!model->abstract)
        work->optimizer_s = (expert_parameters_bytes + dense_bytes) / element *
                            optimizer_bytes_per_parameter(model->dtype) / spec->cluster.device.memory_bandwidth;
    return work;
}

double cost_collective_s(const Cluster *cluster, uint32_t level, double bytes, double peers)
{
    if (peers <= 0)
        return 0;
    double slowest_s = 0;
    for (uint32_t j = level; j < cluster->level_count; j++) {
        double below = (double)cluster_gpus_below(cluster, j);
        slowest_s = fmax(slowest_s, below * bytes / cluster->levels[j].bandwidth_bytes_per_s);
    }
    return cluster->levels[level].latency_s + cluster->levels[level].overhead_s * peers + slowest_s;
}

// Adds the time each port from `level` inwards is busy with a collective at `level`. Start-up cost is
// charged to the port of that level alone, which makes one layer on one tier the paper's formula.
static void add_port_time(const Cluster *cluster, uint32_t level, double bytes, double peers, double port_s[LEVELS_MAX])
{
    if (peers <= 0)
        return;
    double start_s = cluster->levels[level].latency_s + cluster->levels[level].overhead_s * peers;
    for (uint32_t j = level; j < cluster->level_count; j++)
        port_s[j] += (j == level ? start_s : 0) +
                     (double)cluster_gpus_below(cluster, j) * bytes / cluster->levels[j].bandwidth_bytes_per_s;
}

double cost_expected_copies(const Spec *spec, Dispatch dispatch, const Config *config, uint32_t level)
{
    double top_k = spec->model.top_k, experts = spec->model.experts;
    if (dispatch == DISPATCH_NAIVE || experts <= 0)
        return top_k;
    double prefixes = 1;
    for (uint32_t l = 0; l <= level; l++)
        prefixes *= spec->cluster.levels[l].count / config->domain[l];
    double missed = 1, inside = experts / prefixes;
    for (double i = 0; i < top_k && missed > 0; i++)
        missed *= fmax(0, experts - inside - i) / (experts - i);
    return prefixes * (1 - missed);
}

double config_held_shards(const Spec *spec, const Config *config)
{
    double held = 1;
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count; l++)
        held *= config->domain[l];
    return held;
}

static void cost_exchange(const Workload *work, const LayerWork *layer, const Config *config, Dispatch dispatch,
                          uint32_t level, LayerCost *cost)
{
    const Spec *spec = work->spec;
    const Cluster *cluster = &spec->cluster;
    double count = cluster->levels[level].count, domain = config->domain[level];
    double peers = count / domain - 1;
    if (peers <= 0)
        return;
    double top_k = spec->model.top_k;
    double copies = cost_expected_copies(spec, dispatch, config, level);
    double moved = copies * (count - domain) / count; // rows per token that leave
    cost->payload_bytes[level] = layer->data_bytes * moved / top_k;
    cost->send_rows[level] = layer->tokens * moved;
    if (!spec->model.abstract) {
        double records = dispatch == DISPATCH_NAIVE ? 1 : top_k;
        cost->routing_bytes[level] = cost->send_rows[level] * records * RECORD_BYTES + peers * sizeof(int32_t);
        double stage_rows = layer->tokens * copies;
        cost->route_s[level] = 2 * stage_rows * layer->row_bytes / cluster->device.memory_bandwidth;
    }
    double out_bytes = cost->payload_bytes[level] + cost->routing_bytes[level], back_bytes = cost->payload_bytes[level];
    cost->dispatch_s[level] = cost_collective_s(cluster, level, out_bytes, peers);
    cost->combine_s[level] = cost_collective_s(cluster, level, back_bytes, peers);
    add_port_time(cluster, level, out_bytes, peers, cost->port_dispatch_s);
    add_port_time(cluster, level, back_bytes, peers, cost->port_combine_s);
}

static void cost_migration(const Workload *work, const LayerWork *layer, const Config *config, uint32_t level,
                           double shards_before, LayerCost *cost)
{
    const Cluster *cluster = &work->spec->cluster;
    double peers = config->domain[level] - 1.0;
    cost->gather_bytes[level] = layer->sent_bytes * shards_before * peers;
    cost->gather_s[level] = cost_collective_s(cluster, level, cost->gather_bytes[level], peers);
    add_port_time(cluster, level, cost->gather_bytes[level], peers, cost->port_gather_s);
    if (work->spec->plan.pass == PASS_FORWARD)
        return;
    // Gradients go home uncompressed, the gather reversed.
    cost->reduce_bytes[level] = layer->expert_bytes * shards_before * peers;
    cost->reduce_s[level] = cost_collective_s(cluster, level, cost->reduce_bytes[level], peers);
    add_port_time(cluster, level, cost->reduce_bytes[level], peers, cost->port_reduce_s);
}

void cost_layer(const Workload *work, uint32_t index, const Config *config, Dispatch dispatch, LayerCost *cost)
{
    const Spec *spec = work->spec;
    const LayerWork *layer = &work->layers[index];
    *cost = (LayerCost){0};
    if (!layer->is_moe)
        return;
    double held = 1;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++) {
        cost_exchange(work, layer, config, dispatch, l, cost);
        if (l < spec->replica_levels)
            continue;
        cost_migration(work, layer, config, l, held, cost);
        held *= config->domain[l];
    }
    cost->expert_s = layer->expert_compute_s;
    if (layer->expert_flops > 0) {
        double experts_held = spec->model.experts / shards(spec) * held;
        cost->expert_s += matrix_time_s(&spec->cluster.device, layer->expert_flops,
                                        layer->tokens * spec->model.top_k / experts_held);
    }
    if (held > 1 && spec->plan.codec != CODEC_DENSE) // read and write: own experts once, received ones once
        cost->codec_s = 2 * layer->expert_bytes * (1 + held) / spec->cluster.device.memory_bandwidth;
}

static double sum(const double values[LEVELS_MAX])
{
    double total = 0;
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        total += values[l];
    return total;
}

// The recursion over layers: where the chain, the gather queue and each port stand.
typedef struct {
    double chain_s, queue_s, port_s[LEVELS_MAX];
} Clock;

static void advance_forward(const Workload *work, const LayerWork *layer, const LayerCost *cost, Clock *clock,
                            IterationCost *out)
{
    uint32_t levels = work->spec->cluster.level_count;
    out->pre_expert_s += layer->pre_expert_s;
    if (!layer->is_moe) {
        clock->chain_s += layer->pre_expert_s + layer->dense_s;
        out->other_s += layer->dense_s;
        return;
    }
    double dispatch_s = sum(cost->dispatch_s), combine_s = sum(cost->combine_s), route_s = sum(cost->route_s);
    clock->queue_s += sum(cost->gather_s) + cost->codec_s;
    double ready_s = clock->chain_s + layer->pre_expert_s + route_s + dispatch_s;
    double start_s = fmax(ready_s, clock->queue_s);
    for (uint32_t j = 0; j < levels; j++) {
        clock->port_s[j] += cost->port_gather_s[j] + cost->port_dispatch_s[j];
        start_s = fmax(start_s, clock->port_s[j]);
        clock->port_s[j] += cost->port_combine_s[j];
    }
    clock->chain_s = start_s + cost->expert_s + layer->dense_s + combine_s;
    out->gather_wait_s += start_s - ready_s;
    out->exchange_s += dispatch_s + combine_s;
    out->expert_s += cost->expert_s;
    out->other_s += layer->dense_s + route_s;
}

static void advance_backward(const Workload *work, const LayerWork *layer, const LayerCost *cost, const Config *config,
                             Clock *clock, double *return_s, IterationCost *out)
{
    uint32_t levels = work->spec->cluster.level_count;
    out->pre_expert_s += 2 * layer->pre_expert_s;
    out->other_s += 2 * layer->dense_s;
    if (!layer->is_moe) {
        clock->chain_s += 2 * (layer->pre_expert_s + layer->dense_s);
        return;
    }
    double dispatch_s = sum(cost->combine_s),
           combine_s = sum(cost->dispatch_s); // gradients: rows out, rows and weights back
    double route_s = sum(cost->route_s);
    double ready_s = clock->chain_s + route_s + dispatch_s;
    double start_s = ready_s;
    if (config->regather) {
        clock->queue_s += sum(cost->gather_s) + cost->codec_s;
        start_s = fmax(start_s, clock->queue_s);
    }
    for (uint32_t j = 0; j < levels; j++) {
        clock->port_s[j] += cost->port_combine_s[j] + (config->regather ? cost->port_gather_s[j] : 0);
        start_s = fmax(start_s, clock->port_s[j]);
        clock->port_s[j] += cost->port_dispatch_s[j];
    }
    double computed_s = start_s + 2 * cost->expert_s;
    *return_s = fmax(*return_s, computed_s) + sum(cost->reduce_s);
    for (uint32_t j = 0; j < levels; j++) {
        clock->port_s[j] += cost->port_reduce_s[j];
        *return_s = fmax(*return_s, clock->port_s[j]);
    }
    clock->chain_s = computed_s + combine_s + 2 * (layer->dense_s + layer->pre_expert_s);
    out->gather_wait_s += start_s - ready_s;
    out->exchange_s += dispatch_s + combine_s;
    out->expert_s += 2 * cost->expert_s;
    out->other_s += route_s;
}

// Dense gradients are summed level by level, each a direct all-reduce: 2 (n - 1) / n of the bytes; so are
// those of experts over the levels that replicate them. Every buffer is a collective of its own.
static double dense_reduce_s(const Workload *work, Traffic traffic[LEVELS_MAX])
{
    const Cluster *cluster = &work->spec->cluster;
    double total_s = 0;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        double count = cluster->levels[l].count, gradient_bytes = work->dense_gradient_bytes;
        double collectives = work->dense_gradients;
        for (uint32_t k = 0; l < work->spec->replica_levels && k < work->layer_count; k++) {
            gradient_bytes += work->layers[k].expert_bytes;
            collectives += work->layers[k].is_moe;
        }
        double bytes = 2 * (count - 1) / count * gradient_bytes;
        if (count < 2 || bytes <= 0)
            continue;
        traffic[l].reduce_bytes += bytes;
        double start_s = cost_collective_s(cluster, l, 0, count - 1);
        total_s += cost_collective_s(cluster, l, bytes, count - 1) + (collectives - 1) * start_s;
    }
    return total_s;
}

static void add_traffic(const Workload *work, const LayerCost *cost, const Config *config, Traffic traffic[LEVELS_MAX])
{
    bool training = work->spec->plan.pass == PASS_TRAINING;
    for (uint32_t l = 0; l < work->spec->cluster.level_count; l++) {
        traffic[l].exchange_bytes += (training ? 4 : 2) * cost->payload_bytes[l];
        traffic[l].routing_bytes += (training ? 2 : 1) * cost->routing_bytes[l];
        traffic[l].gather_bytes += (training && config->regather ? 2 : 1) * cost->gather_bytes[l];
        traffic[l].reduce_bytes += cost->reduce_bytes[l];
    }
}

void cost_iteration(const Workload *work, const Config *config, Dispatch dispatch, IterationCost *out)
{
    *out = (IterationCost){0};
    LayerCost moe = {0};
    for (uint32_t k = 0; k < work->layer_count; k++)
        if (work->layers[k].is_moe) { // all MoE layers of a model are alike
            cost_layer(work, k, config, dispatch, &moe);
            break;
        }
    Clock clock = {0};
    for (uint32_t k = 0; k < work->layer_count; k++) {
        advance_forward(work, &work->layers[k], &moe, &clock, out);
        if (work->layers[k].is_moe)
            add_traffic(work, &moe, config, out->traffic);
    }
    clock.chain_s += work->loss_s;
    out->other_s += work->loss_s;
    out->iteration_s = clock.chain_s;
    if (work->spec->plan.pass == PASS_FORWARD)
        return;

    double return_s = 0;
    clock.queue_s = clock.chain_s; // gathers for the backward pass start with it
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        clock.port_s[j] = clock.chain_s;
    clock.chain_s += 2 * work->loss_s;
    for (uint32_t k = work->layer_count; k-- > 0;)
        advance_backward(work, &work->layers[k], &moe, config, &clock, &return_s, out);
    double end_s = fmax(clock.chain_s, return_s);
    out->all_reduce_s = dense_reduce_s(work, out->traffic);
    out->tail_s = out->all_reduce_s + work->optimizer_s;
    out->iteration_s = end_s + out->tail_s;
    out->gather_wait_s += end_s - clock.chain_s;
    out->other_s += 2 * work->loss_s + work->optimizer_s;
}
