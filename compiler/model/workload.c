// The work of each layer, derived from the checked spec: see workload.h.
#include "compiler/model/workload.h"

#include <math.h>

#include "ir/bundle.h"
#include "ir/codec.h"

double workload_matrix_s(const Device *device, double flops, double rows)
{
    if (flops <= 0 || rows <= 0)
        return 0;
    return flops / device->compute_flops * (1 + device->half_rate_rows / rows);
}

Workload workload_counted(const Workload *work, Spec *spec)
{
    Workload counted = *work;
    *spec = *work->spec;
    spec->plan.exchange = EXCHANGE_COUNTED;
    counted.spec = spec;
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
    return spec_laps(spec).count > 1 && spec->plan.regather_dense &&
           cluster_wide_levels(&spec->cluster) >> spec->plan.dense_levels;
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

// Projections, then scores and weighted values, then what a recurrent state takes.
static double mixer_flops(const SpecModel *model, const SpecMixer *mixer, double tokens)
{
    return 2 * tokens * mixer->parameters + 4 * tokens * seen_tokens(model, mixer) * mixer->scored +
           tokens * mixer->state;
}

static void derive_executed(const Spec *spec, uint32_t index, LayerWork *layer)
{
    const SpecModel *model = &spec->model;
    const Device *device = &spec->cluster.device;
    double tokens = (double)model->sequence * model->batch, hidden = model->hidden;
    double matrices = activation_matrices(model->activation);
    ModelDims dims = spec_dims(model);
    SpecMixer mixer = spec_mixer(model, index);
    layer->tokens = tokens;
    layer->row_bytes = hidden * dtype_bytes(model->dtype);
    layer->pre_expert_s = workload_matrix_s(device, mixer_flops(model, &mixer, tokens), tokens);
    if (!layer->is_moe) {
        double inner = spec_layer_inner(model, index);
        layer->dense_s = workload_matrix_s(device, 2 * tokens * matrices * hidden * inner, tokens);
        return;
    }
    double outputs = (double)model->experts + model->zero_experts;
    layer->gate_s = workload_matrix_s(device, 2 * tokens * hidden * outputs, tokens);
    layer->pre_expert_s += layer->gate_s;
    layer->dense_s = workload_matrix_s(device, 2 * tokens * (double)model_shared_elements(&dims), tokens);
    double visited = model->top_k * spec_computing_part(model); // experts per token
    layer->expert_flops = 2 * tokens * visited * matrices * hidden * model->inner;
    layer->data_bytes = tokens * model->top_k * layer->row_bytes;
    layer->expert_bytes = share_bytes(spec);
}

// Times that were measured replace those derived; they grow with the tokens.
static void take_measured(const Spec *spec, uint32_t index, LayerWork *layer)
{
    const MeasuredTimes *times = spec->model.times;
    const MeasuredLayer *measured = &times->layers[index];
    double scale = layer->tokens / times->tokens;
    layer->gate_s = scale * measured->gate_s;
    layer->pre_expert_s = scale * measured->pre_expert_s + layer->gate_s;
    layer->dense_s = scale * measured->dense_s;
    double derived_s = workload_matrix_s(&spec->cluster.device, measured->expert_flops, measured->expert_rows);
    if (measured->expert_s > 0 && derived_s > 0)
        layer->expert_scale = measured->expert_s / derived_s;
}

double optimizer_bytes_per_parameter(Dtype dtype)
{
    double element = dtype_bytes(dtype), state = 4 * (element < 4 ? 3 : 2);
    return 3 * element + 2 * state;
}

// What a GPU owns of a bundle that all GPUs share, bytes.
static double bundle_share_bytes(const Spec *spec, uint64_t elements)
{
    return (double)share_elements(elements, cluster_gpus(&spec->cluster)) * dtype_bytes(spec->model.dtype);
}

// Of a bundle, whole, with the padding of its shares.
static double held_elements(const Spec *spec, double share_bytes)
{
    return share_bytes / dtype_bytes(spec->model.dtype) * (double)cluster_gpus(&spec->cluster);
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
           a->expert_scale == b->expert_scale && a->routing == b->routing &&
           a->dense_share_bytes == b->dense_share_bytes;
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

// What travels of experts and of their gradients: whole packets, or volumes over the ratio.
static void derive_packets(const Spec *spec, LayerWork *layer)
{
    const SpecPlan *plan = &spec->plan;
    layer->sent_bytes = layer->expert_bytes / plan->ratio;
    layer->returned_bytes = layer->expert_bytes / plan->gradient_ratio;
    if (spec->model.abstract || !layer->is_moe)
        return;
    ModelDims dims = spec_dims(&spec->model);
    uint64_t elements = model_expert_elements(&dims);
    double experts = layer->expert_bytes / ((double)elements * dtype_bytes(dims.dtype)); // not packed ones
    if (codec_info(plan->codec)->encodes)
        layer->sent_bytes = experts * (double)codec_packet_bytes(elements, dims.dtype, plan->ratio);
    if (plan->gradient != GRADIENT_DENSE)
        layer->returned_bytes = experts * (double)codec_packet_bytes(elements, dims.dtype, plan->gradient_ratio);
    if (codec_info(plan->codec)->has_mean && plan->shared_every > 0)
        layer->mean_bytes = (double)elements * dtype_bytes(dims.dtype);
}

Workload *workload_derive(const Spec *spec, Arena *arena)
{
    const SpecModel *model = &spec->model;
    Workload *work = arena_alloc(arena, sizeof(*work));
    work->spec = spec;
    work->layer_count = model->layers;
    Popularity *same = model->layer_popularity ? NULL : routing_create(spec, model->popularity, arena);
    work->layers = arena_alloc_array(arena, model->layers, sizeof(*work->layers));
    ModelDims dims = spec_dims(model);
    double element = dtype_bytes(model->dtype);
    for (uint32_t k = 0; k < model->layers; k++) {
        LayerWork *layer = &work->layers[k];
        layer->is_moe = spec_layer_is_moe(model, k);
        layer->expert_scale = 1;
        layer->routing = model->layer_popularity ? routing_create(spec, model->layer_popularity[k], arena) : same;
        if (model->abstract)
            derive_abstract(model, k, layer);
        else
            derive_executed(spec, k, layer);
        if (model->times)
            take_measured(spec, k, layer);
        derive_packets(spec, layer);
        work->moe_count += layer->is_moe;
        work->owned_gradient_bytes += layer->expert_bytes;
        if (!model->abstract)
            derive_dense(spec, k, layer, work);
    }
    if (!model->abstract) {
        double tokens = (double)model->sequence * model->batch;
        work->loss_s = workload_matrix_s(&spec->cluster.device, 2 * tokens * model->hidden * model->vocabulary, tokens);
        if (model->times)
            work->loss_s = model->times->loss_s * tokens / model->times->tokens;
        uint64_t embedding = model_embedding_elements(&dims);
        work->embedding_share_bytes = bundle_share_bytes(spec, embedding);
        work->dense_bytes += element * (double)embedding;
        work->owned_gradient_bytes += work->embedding_share_bytes;
        double held = held_elements(spec, work->embedding_share_bytes);
        SumCost sums = workload_sum_cost(spec, held);
        // Words are added to zeros, and then to what the loss made of the embedding.
        work->embedding_sums_s = 2 * sums.part_s + (spec->plan.micro_batches > 1 ? held * element : 0) /
                                                       spec->cluster.device.memory_bandwidth;
        work->embedding_round_s = sums.once_s;
    }
    classify(work);
    if (!model->abstract)
        work->optimizer_s = work->owned_gradient_bytes / element * optimizer_bytes_per_parameter(model->dtype) /
                            spec->cluster.device.memory_bandwidth;
    return work;
}
