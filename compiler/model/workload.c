// The work of each layer, derived from the checked spec: see workload.h.
#include "compiler/model/workload.h"

#include <math.h>

#include "compiler/model/backward.h"
#include "ir/bundle.h"
#include "ir/codec.h"

static double matrix_s(const Device *device, double rate, double flops, double rows)
{
    if (flops <= 0 || rows <= 0)
        return 0;
    return flops / rate * (1 + device->half_rate_rows / rows);
}

double workload_matrix_s(const Device *device, double flops, double rows)
{
    return matrix_s(device, device->compute_flops, flops, rows);
}

double workload_backward_s(const Device *device, double flops, double rows)
{
    double rate = device->backward_flops > 0 ? device->backward_flops : device->compute_flops;
    return matrix_s(device, rate, flops, rows);
}

void workload_set_spec(Workload *work, const Spec *spec)
{
    work->spec = spec;
    work->outer_levels = spec_outer_levels(spec);
    work->bucket = spec_bucket(spec);
    work->bucket_level = work->bucket ? spec_bucket_level(spec) : 0;
}

bool workload_leads_bucket(const Workload *work, uint32_t layer)
{
    return work->bucket == 0 || layer % work->bucket == 0;
}

bool workload_experts_lead_bucket(const Workload *work, uint32_t layer, uint32_t domain)
{
    uint32_t bucket = work->bucket, first = bucket ? layer - layer % bucket : layer;
    if (bucket && domain == work->spec->cluster.levels[work->bucket_level].count)
        return false; // they join dense weights
    while (first < layer && !work->layers[first].is_moe)
        first++;
    return first == layer;
}

Workload workload_counted(const Workload *work, Spec *spec)
{
    Workload counted = *work;
    *spec = *work->spec;
    spec->plan.exchange = EXCHANGE_COUNTED;
    workload_set_spec(&counted, spec);
    return counted;
}

SumCost workload_sum_cost(const Spec *spec, double elements)
{
    if (spec->plan.micro_batches < 2)
        return (SumCost){0};
    double bytes = dtype_bytes(spec->model.dtype), sum_bytes = sizeof(float);
    double rounded = bytes < sum_bytes ? sum_bytes + bytes : 0, rate = spec->cluster.device.memory_bandwidth;
    return (SumCost){.part_s = elements * (bytes + 2 * sum_bytes) / rate,
                     .once_s = elements * (sum_bytes + rounded) / rate};
}

SumCost workload_lap_sum_cost(const Spec *spec, double elements, bool each_lap)
{
    SumCost cost = workload_sum_cost(spec, elements);
    Laps laps = spec_laps(spec);
    if (each_lap && laps.each == 1)
        return (SumCost){0}; // the one part is the sum
    cost.once_s /= each_lap ? 1 : laps.count;
    return cost;
}

bool workload_returns_dense_each_lap(const Spec *spec)
{
    return spec_laps(spec).count > 1 && spec_shared_levels(spec) >> spec_dense_gradient_levels(spec);
}

double workload_shards(const Spec *spec)
{
    return (double)share_gpus(&spec->cluster, spec->replica_levels);
}

static double share_bytes(const Spec *spec)
{
    ModelDims dims = spec_dims(&spec->model);
    uint64_t rows, cols;
    share_shape(&spec->cluster, spec->replica_levels, dims.experts, model_expert_units(&dims), &rows, &cols);
    return (double)rows * (double)cols * dtype_bytes(model_expert_dtype(&dims));
}

static void derive_abstract(const SpecModel *model, uint32_t index, LayerWork *layer)
{
    layer->pre_expert_s = spec_volume(model, VOLUME_PRE_EXPERT, index);
    layer->pre_expert_backward_s = BACKWARD_ABSTRACT * layer->pre_expert_s;
    layer->expert_backward = BACKWARD_ABSTRACT;
    if (!layer->is_moe)
        return;
    layer->expert_compute_s = spec_volume(model, VOLUME_EXPERT_COMPUTE, index);
    layer->data_bytes = spec_volume(model, VOLUME_DATA, index);
    layer->expert_bytes = spec_volume(model, VOLUME_EXPERT, index);
}

// Tokens that one sees on average, itself included as half: attention is causal.
static double seen_tokens(const SpecModel *model, const SpecMixer *mixer)
{
    double sequence = model->sequence, window = mixer->window;
    if (mixer->chunk > 0)
        return fmin(mixer->chunk, sequence) / 2;
    if (window <= 0 || window >= sequence)
        return sequence / 2;
    return window - window * window / (2 * sequence);
}

static MixerFlops mixer_flops(const SpecModel *model, const SpecMixer *mixer, double tokens)
{
    return (MixerFlops){.projected = 2 * tokens * mixer->parameters,
                        .scored = 4 * tokens * seen_tokens(model, mixer) * mixer->scored,
                        .state = tokens * mixer->state};
}

static void derive_mixer(const Spec *spec, uint32_t index, LayerWork *layer)
{
    const Device *device = &spec->cluster.device;
    SpecMixer mixer = spec_mixer(&spec->model, index);
    MixerFlops flops = mixer_flops(&spec->model, &mixer, layer->tokens);
    layer->pre_expert_s = workload_matrix_s(device, flops.projected + flops.scored + flops.state, layer->tokens);
    layer->pre_expert_backward_s = workload_backward_s(device, backward_mixer(spec, index, flops), layer->tokens);
}

static void derive_dense_layers(const Spec *spec, double flops, LayerWork *layer)
{
    const Device *device = &spec->cluster.device;
    layer->dense_s = workload_matrix_s(device, flops, layer->tokens);
    layer->dense_backward_s =
        workload_backward_s(device, flops * backward_feed_forward(spec->model.activation), layer->tokens);
}

static void derive_executed(const Spec *spec, uint32_t index, LayerWork *layer)
{
    const SpecModel *model = &spec->model;
    const Device *device = &spec->cluster.device;
    double tokens = (double)model->sequence * model->batch, hidden = model->hidden;
    double matrices = activation_matrices(model->activation);
    ModelDims dims = spec_dims(model);
    layer->tokens = tokens;
    layer->row_bytes = hidden * dtype_bytes(model->dtype);
    derive_mixer(spec, index, layer);
    if (!layer->is_moe) {
        derive_dense_layers(spec, 2 * tokens * matrices * hidden * spec_layer_inner(model, index), layer);
        return;
    }
    double gate_flops = 2 * tokens * hidden * ((double)model->experts + model->zero_experts);
    layer->gate_s = workload_matrix_s(device, gate_flops, tokens);
    layer->gate_backward_s = workload_backward_s(device, backward_gate(spec) * gate_flops, tokens);
    layer->pre_expert_s += layer->gate_s;
    layer->pre_expert_backward_s += layer->gate_backward_s;
    derive_dense_layers(spec, 2 * tokens * (double)model_shared_elements(&dims), layer);
    layer->expert_backward = backward_feed_forward(model->activation);
    double visited = model->top_k * spec_computing_part(model); // experts per token
    layer->expert_flops = 2 * tokens * visited * matrices * hidden * model->inner;
    layer->data_bytes = tokens * model->top_k * layer->row_bytes;
    layer->expert_bytes = share_bytes(spec);
}

// Of a backward pass that was not measured the time that was derived, as much longer or shorter as the forward pass
// was.
static double measured_backward_s(double derived_s, double derived_forward_s, double forward_s, double backward_s)
{
    if (backward_s > 0)
        return backward_s;
    return derived_forward_s > 0 ? derived_s * forward_s / derived_forward_s : 0;
}

static void take_measured_experts(const Device *device, const MeasuredLayer *measured, LayerWork *layer)
{
    double derived_s = workload_matrix_s(device, measured->expert_flops, measured->expert_rows);
    if (measured->expert_s <= 0 || derived_s <= 0)
        return;
    layer->expert_scale = layer->expert_backward_scale = measured->expert_s / derived_s;
    if (measured->expert_backward_s > 0)
        layer->expert_backward_scale =
            measured->expert_backward_s /
            workload_backward_s(device, layer->expert_backward * measured->expert_flops, measured->expert_rows);
}

// Times that were measured replace those derived; they grow with the tokens.
static void take_measured(const Spec *spec, uint32_t index, LayerWork *layer)
{
    const MeasuredTimes *times = spec->model.times;
    const MeasuredLayer *measured = &times->layers[index];
    double scale = layer->tokens / times->tokens;
    double gate_s = scale * measured->gate_s, dense_s = scale * measured->dense_s;
    double attention_s = scale * measured->pre_expert_s;
    double attention_backward_s =
        measured_backward_s(layer->pre_expert_backward_s - layer->gate_backward_s, layer->pre_expert_s - layer->gate_s,
                            attention_s, scale * measured->pre_expert_backward_s);
    layer->gate_backward_s =
        measured_backward_s(layer->gate_backward_s, layer->gate_s, gate_s, scale * measured->gate_backward_s);
    layer->dense_backward_s =
        measured_backward_s(layer->dense_backward_s, layer->dense_s, dense_s, scale * measured->dense_backward_s);
    layer->pre_expert_backward_s = attention_backward_s + layer->gate_backward_s;
    layer->gate_s = gate_s;
    layer->pre_expert_s = attention_s + gate_s;
    layer->dense_s = dense_s;
    take_measured_experts(&spec->cluster.device, measured, layer);
}

double optimizer_bytes_per_parameter(Dtype dtype)
{
    double element = dtype_bytes(dtype), state = 4 * (element < 4 ? 3 : 2);
    return 3 * element + 2 * state;
}

// What a GPU owns of a bundle that all GPUs share, bytes.
static double bundle_share_bytes(const Spec *spec, uint64_t elements)
{
    return (double)share_elements(elements, spec_owners(spec)) * dtype_bytes(spec->model.dtype);
}

// Of a bundle, whole, with the padding of its shares.
static double held_elements(const Spec *spec, double share_bytes)
{
    return share_bytes / dtype_bytes(spec->model.dtype) * (double)spec_owners(spec);
}

static void derive_dense(const Spec *spec, uint32_t index, LayerWork *layer, Workload *work)
{
    const SpecModel *model = &spec->model;
    uint64_t elements = spec_dense_elements(model, index);
    double bits = spec_dense_bits(model, index);
    layer->dense_share_bytes = bundle_share_bytes(spec, elements);
    SumCost sums = workload_lap_sum_cost(spec, held_elements(spec, layer->dense_share_bytes),
                                         workload_returns_dense_each_lap(spec));
    layer->dense_sums_s = sums.part_s;
    layer->dense_round_s = sums.once_s;
    work->dense_bytes +=
        bits > 0 ? (double)model_packed_bytes(elements, bits) : (double)elements * dtype_bytes(model->dtype);
    work->owned_gradient_bytes += layer->dense_share_bytes;
}

static bool layers_alike(const LayerWork *a, const LayerWork *b)
{
    return a->is_moe == b->is_moe && a->pre_expert_s == b->pre_expert_s && a->dense_s == b->dense_s &&
           a->expert_flops == b->expert_flops && a->expert_compute_s == b->expert_compute_s &&
           a->data_bytes == b->data_bytes && a->expert_bytes == b->expert_bytes && a->sent_bytes == b->sent_bytes &&
           a->tokens == b->tokens && a->row_bytes == b->row_bytes && a->gate_s == b->gate_s &&
           a->expert_scale == b->expert_scale && a->pre_expert_backward_s == b->pre_expert_backward_s &&
           a->dense_backward_s == b->dense_backward_s && a->gate_backward_s == b->gate_backward_s &&
           a->expert_backward == b->expert_backward && a->expert_backward_scale == b->expert_backward_scale &&
           a->routing == b->routing && a->dense_share_bytes == b->dense_share_bytes;
}

// Looks back along the kinds only, of which there are few.
static void classify(Workload *work)
{
    for (uint32_t k = 0; k < work->layer_count; k++) {
        uint32_t kind = 0;
        while (kind < k && (work->layers[kind].kind != kind || !layers_alike(&work->layers[kind], &work->layers[k])))
            kind++;
        work->layers[k].kind = kind;
    }
}

// What travels of token rows.
static void derive_rows(const Spec *spec, LayerWork *layer)
{
    const SpecModel *model = &spec->model;
    for (uint32_t way = 0; way < TOKEN_WAYS; way++)
        layer->packed_share[way] =
            model->abstract
                ? 1
                : (double)token_row_bytes(spec->plan.tokens[way], model->hidden, model->dtype) / layer->row_bytes;
}

// What travels of experts and of their gradients: whole packets, or volumes over the ratio.
static void derive_packets(const Spec *spec, LayerWork *layer)
{
    const SpecPlan *plan = &spec->plan;
    bool encodes = codec_info(plan->experts.codec)->encodes, returns = plan->experts.gradient != GRADIENT_DENSE;
    Packing sent = coding_packing(&spec->plan.experts), returned = coding_gradient_packing(&spec->plan.experts);
    layer->sent_bytes = layer->expert_bytes / (encodes ? packing_ratio(sent, spec->model.dtype) : 1);
    layer->returned_bytes = layer->expert_bytes / (returns ? packing_ratio(returned, spec->model.dtype) : 1);
    if (spec->model.abstract || !layer->is_moe)
        return;
    ModelDims dims = spec_dims(&spec->model);
    uint64_t rows, cols; // of a share: a packet each
    share_shape(&spec->cluster, spec->replica_levels, dims.experts, model_expert_units(&dims), &rows, &cols);
    if (encodes)
        layer->sent_bytes = (double)rows * (double)packing_bytes(sent, cols, dims.dtype);
    if (returns)
        layer->returned_bytes = (double)rows * (double)packing_bytes(returned, cols, dims.dtype);
    if (codec_info(plan->experts.codec)->has_mean && plan->shared_every > 0)
        layer->mean_bytes = (double)model_expert_elements(&dims) * dtype_bytes(dims.dtype);
}

static void derive_loss(const Spec *spec, double tokens, Workload *work)
{
    const SpecModel *model = &spec->model;
    const MeasuredTimes *times = model->times;
    double flops = 2 * tokens * model->hidden * model->vocabulary;
    work->loss_s = workload_matrix_s(&spec->cluster.device, flops, tokens);
    work->loss_backward_s = workload_backward_s(&spec->cluster.device, flops * backward_loss(spec), tokens);
    if (!times)
        return;
    double scale = tokens / times->tokens;
    work->loss_backward_s =
        measured_backward_s(work->loss_backward_s, work->loss_s, scale * times->loss_s, scale * times->loss_backward_s);
    work->loss_s = scale * times->loss_s;
}

Workload *workload_derive(const Spec *spec, Arena *arena)
{
    const SpecModel *model = &spec->model;
    Workload *work = arena_alloc(arena, sizeof(*work));
    workload_set_spec(work, spec);
    work->layer_count = model->layers;
    Popularity *same = model->layer_popularity ? NULL : routing_create(spec, model->popularity, arena);
    work->layers = arena_alloc_array(arena, model->layers, sizeof(*work->layers));
    ModelDims dims = spec_dims(model);
    double element = dtype_bytes(model->dtype);
    for (uint32_t k = 0; k < model->layers; k++) {
        LayerWork *layer = &work->layers[k];
        layer->is_moe = spec_layer_is_moe(model, k);
        layer->expert_scale = layer->expert_backward_scale = 1;
        layer->routing = model->layer_popularity ? routing_create(spec, model->layer_popularity[k], arena) : same;
        if (model->abstract)
            derive_abstract(model, k, layer);
        else
            derive_executed(spec, k, layer);
        if (model->times)
            take_measured(spec, k, layer);
        derive_rows(spec, layer);
        derive_packets(spec, layer);
        work->moe_count += layer->is_moe;
        work->owned_gradient_bytes += layer->expert_bytes;
        if (!model->abstract)
            derive_dense(spec, k, layer, work);
    }
    if (!model->abstract) {
        double tokens = (double)model->sequence * model->batch;
        derive_loss(spec, tokens, work);
        uint64_t embedding = model_embedding_elements(&dims);
        work->embedding_share_bytes = bundle_share_bytes(spec, embedding);
        work->dense_bytes += element * (double)embedding;
        work->owned_gradient_bytes += work->embedding_share_bytes;
        double held = held_elements(spec, work->embedding_share_bytes);
        SumCost sums = workload_lap_sum_cost(spec, held, spec_regathers_embedding(spec));
        work->embedding_part_s = sums.part_s;
        if (spec->plan.micro_batches > 1)
            work->embedding_zeros_s = held * element / spec->cluster.device.memory_bandwidth;
        work->embedding_round_s = sums.once_s;
    }
    classify(work);
    if (!model->abstract)
        work->optimizer_s = work->owned_gradient_bytes / element * optimizer_bytes_per_parameter(model->dtype) /
                            spec->cluster.device.memory_bandwidth;
    return work;
}
