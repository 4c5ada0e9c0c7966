// The recursion over layers: see iteration.h.
#include "compiler/model/iteration.h"

#include <math.h>
#include <string.h>

uint32_t mix_window(Pass pass, const Config *config, uint32_t prefetch)
{
    if (config->regather)
        return prefetch < PREFETCH_REGATHER ? prefetch : PREFETCH_REGATHER;
    return pass == PASS_TRAINING ? PREFETCH_UNLIMITED : prefetch;
}

Clock clock_begin(void)
{
    Clock clock = {0};
    for (int i = CLOCK_READ; i < CLOCK_SIZE; i++)
        clock.at_s[i] = -INFINITY;
    clock.at_s[CLOCK_RETURN] = -INFINITY;
    return clock;
}

Clock clock_begin_backward(const Workload *work, double forward_s)
{
    Clock clock = clock_begin();
    clock.at_s[CLOCK_CHAIN] = forward_s + 2 * work->loss_s;
    clock.at_s[CLOCK_QUEUE] = forward_s; // gathers for the backward pass start with it
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        clock.at_s[CLOCK_PORT + j] = forward_s;
    return clock;
}

static void advance_queue(double *at_s, double gather_s, uint32_t window)
{
    if (window <= PREFETCH_MAX)
        at_s[CLOCK_QUEUE] = fmax(at_s[CLOCK_QUEUE], at_s[CLOCK_READ + window]);
    at_s[CLOCK_QUEUE] += gather_s;
}

static void note_read(double *at_s, double read_s)
{
    memmove(at_s + CLOCK_READ + 1, at_s + CLOCK_READ, PREFETCH_MAX * sizeof *at_s);
    at_s[CLOCK_READ] = read_s;
}

void clock_forward(const Workload *work, const ClockedLayer *of, Clock *clock, IterationCost *out)
{
    const LayerWork *layer = &work->layers[of->layer];
    const LayerCost *cost = of->cost;
    double *at_s = clock->at_s;
    if (out)
        out->pre_expert_s += layer->pre_expert_s;
    if (!layer->is_moe) {
        at_s[CLOCK_CHAIN] += layer->pre_expert_s + layer->dense_s;
        if (out)
            out->other_s += layer->dense_s;
        return;
    }
    double dispatch_s = cost_levels_s(cost->dispatch_s), combine_s = cost_levels_s(cost->combine_s);
    double route_s = cost_levels_s(cost->route_s), gather_s = cost_levels_s(cost->gather_s) + cost->codec_s;
    advance_queue(at_s, gather_s, mix_window(work->spec->plan.pass, of->config, of->prefetch));
    double ready_s = at_s[CLOCK_CHAIN] + layer->pre_expert_s + route_s + dispatch_s;
    double start_s = fmax(ready_s, at_s[CLOCK_QUEUE]);
    for (uint32_t j = 0; j < work->spec->cluster.level_count; j++) {
        double *port_s = &at_s[CLOCK_PORT + j];
        *port_s += cost->port_gather_s[j] + cost->port_dispatch_s[j];
        start_s = fmax(start_s, *port_s);
        *port_s += cost->port_combine_s[j];
    }
    note_read(at_s, start_s + cost->expert_s);
    at_s[CLOCK_CHAIN] = start_s + cost->expert_s + layer->dense_s + combine_s;
    if (!out)
        return;
    out->gather_wait_s += start_s - ready_s;
    out->exchange_s += dispatch_s + combine_s;
    out->expert_s += cost->expert_s;
    out->other_s += layer->dense_s + route_s;
}

void clock_backward(const Workload *work, const ClockedLayer *of, Clock *clock, IterationCost *out)
{
    const LayerWork *layer = &work->layers[of->layer];
    const LayerCost *cost = of->cost;
    const Config *config = of->config;
    double *at_s = clock->at_s;
    if (out) {
        out->pre_expert_s += 2 * layer->pre_expert_s;
        out->other_s += 2 * layer->dense_s;
    }
    if (!layer->is_moe) {
        at_s[CLOCK_CHAIN] += 2 * (layer->pre_expert_s + layer->dense_s);
        return;
    }
    // Gradients: rows out as combine brought them, rows and weights back as dispatch took them.
    double dispatch_s = cost_levels_s(cost->combine_s), combine_s = cost_levels_s(cost->dispatch_s);
    double route_s = cost_levels_s(cost->route_s);
    double ready_s = at_s[CLOCK_CHAIN] + route_s + dispatch_s;
    double start_s = ready_s;
    if (config->regather) {
        advance_queue(at_s, cost_levels_s(cost->gather_s) + cost->codec_s,
                      mix_window(PASS_TRAINING, config, of->prefetch));
        start_s = fmax(start_s, at_s[CLOCK_QUEUE]);
    }
    uint32_t levels = work->spec->cluster.level_count;
    for (uint32_t j = 0; j < levels; j++) {
        double *port_s = &at_s[CLOCK_PORT + j];
        *port_s += cost->port_combine_s[j] + (config->regather ? cost->port_gather_s[j] : 0);
        start_s = fmax(start_s, *port_s);
        *port_s += cost->port_dispatch_s[j];
    }
    double computed_s = start_s + 2 * cost->expert_s;
    note_read(at_s, computed_s);
    double return_s = fmax(at_s[CLOCK_RETURN], computed_s) + cost_levels_s(cost->reduce_s) + cost->sync_s;
    for (uint32_t j = 0; j < levels; j++) {
        at_s[CLOCK_PORT + j] += cost->port_reduce_s[j];
        return_s = fmax(return_s, at_s[CLOCK_PORT + j]);
    }
    // Sums of the layer's other gradients queue after those, as they become known.
    double gate_s = computed_s + combine_s + 2 * layer->dense_s;
    at_s[CLOCK_CHAIN] = gate_s + 2 * layer->pre_expert_s;
    return_s = fmax(return_s, gate_s) + cost->gate_sums_s;
    at_s[CLOCK_RETURN] = fmax(return_s, at_s[CLOCK_CHAIN]) + cost->attention_sums_s;
    for (uint32_t j = 0; j < levels; j++) {
        at_s[CLOCK_PORT + j] += cost->port_sums_s[j];
        at_s[CLOCK_RETURN] = fmax(at_s[CLOCK_RETURN], at_s[CLOCK_PORT + j]);
    }
    if (!out)
        return;
    out->gather_wait_s += start_s - ready_s;
    out->exchange_s += dispatch_s + combine_s;
    out->expert_s += 2 * cost->expert_s;
    out->other_s += route_s;
}

// What no layer's sums run beside: those of layers without experts and of the embedding, level by level, each a direct
// all-reduce of 2 (n - 1) / n of the bytes. The traffic is that of all sums.
static double last_sums_s(const Workload *work, Traffic traffic[LEVELS_MAX])
{
    const Cluster *cluster = &work->spec->cluster;
    double total_s = 0;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        double count = cluster->levels[l].count, share = 2 * (count - 1) / count;
        if (count < 2)
            continue;
        traffic[l].reduce_bytes += share * work->dense_gradient_bytes;
        for (uint32_t k = 0; l < work->spec->replica_levels && k < work->layer_count; k++)
            traffic[l].reduce_bytes += share * work->layers[k].expert_bytes;
        if (work->last_gradients == 0)
            continue;
        total_s += cost_group_s(work->spec, GROUP_LEVEL, l, share * work->last_gradient_bytes, count - 1) +
                   (work->last_gradients - 1) * cost_group_s(work->spec, GROUP_LEVEL, l, 0, count - 1);
    }
    return total_s;
}

// The norm of the gradient, where it is limited: one pass over all gradients, one number summed over all GPUs.
static double norm_s(const Workload *work, Traffic traffic[LEVELS_MAX])
{
    const Spec *spec = work->spec;
    double total_s = 0, gradient_bytes = work->dense_gradient_bytes;
    if (spec->training.clip <= 0 || spec->model.abstract)
        return 0;
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count; l++) {
        double count = spec->cluster.levels[l].count, bytes = 2 * (count - 1) / count * sizeof(float);
        traffic[l].reduce_bytes += bytes;
        total_s += cost_group_s(spec, GROUP_LEVEL, l, bytes, count - 1);
    }
    for (uint32_t k = 0; k < work->layer_count; k++)
        gradient_bytes += work->layers[k].expert_bytes;
    return total_s + gradient_bytes / spec->cluster.device.memory_bandwidth;
}

double iteration_tail_s(const Workload *work)
{
    Traffic traffic[LEVELS_MAX] = {0};
    if (work->spec->plan.pass == PASS_FORWARD)
        return 0;
    return last_sums_s(work, traffic) + norm_s(work, traffic) + work->optimizer_s;
}

static void add_traffic(const Workload *work, const LayerCost *cost, const Config *config, Traffic traffic[LEVELS_MAX])
{
    bool training = work->spec->plan.pass == PASS_TRAINING;
    for (uint32_t l = 0; l < work->spec->cluster.level_count; l++) {
        traffic[l].exchange_bytes += (training ? 4 : 2) * cost->payload_bytes[l];
        traffic[l].padding_bytes += (training ? 4 : 2) * cost->padding_bytes[l];
        traffic[l].routing_bytes += cost->routing_bytes[l];
        if (training)
            traffic[l].routing_bytes += cost->counts_bytes[l] + cost->weights_bytes[l];
        traffic[l].gather_bytes += (training && config->regather ? 2 : 1) * cost->gather_bytes[l];
        traffic[l].reduce_bytes += cost->reduce_bytes[l] + cost->mean_bytes[l];
    }
}

// Costs of all MoE layers, computed once for a run of equal layers under one configuration.
typedef struct {
    const Workload *work;
    const Mix *mix;
    Dispatch dispatch;
    uint32_t layer, moe; // of `cost`
    bool known, without_gradients;
    LayerCost cost;
} CostCache;

static const LayerCost *cached_cost(CostCache *cache, uint32_t layer, uint32_t moe)
{
    const LayerWork *layers = cache->work->layers;
    const Config *configs = cache->mix->configs;
    if (!cache->known || layers[layer].kind != layers[cache->layer].kind ||
        !config_equal(&configs[moe], &configs[cache->moe])) {
        cost_layer(cache->work, layer, &configs[moe], cache->dispatch, &cache->cost);
        for (uint32_t l = 0; l < LEVELS_MAX && cache->without_gradients; l++)
            cache->cost.port_reduce_s[l] = cache->cost.port_sums_s[l] = 0;
        cache->layer = layer;
        cache->moe = moe;
        cache->known = true;
    }
    return &cache->cost;
}

static void add_costs(CostCache *cache, IterationCost *out)
{
    const Workload *work = cache->work;
    const Mix *mix = cache->mix;
    *out = (IterationCost){0};
    Clock clock = clock_begin();
    uint32_t moe = 0;
    static const LayerCost nothing = {0};
    static const Config none = {0};
    for (uint32_t k = 0; k < work->layer_count; k++) {
        bool is_moe = work->layers[k].is_moe;
        const Config *config = is_moe ? &mix->configs[moe] : &none;
        const LayerCost *cost = is_moe ? cached_cost(cache, k, moe) : &nothing;
        clock_forward(work, &(ClockedLayer){k, cost, config, mix->prefetch}, &clock, out);
        if (is_moe)
            add_traffic(work, cost, config, out->traffic);
        moe += is_moe;
    }
    double forward_s = clock.at_s[CLOCK_CHAIN] + work->loss_s;
    out->other_s += work->loss_s;
    out->iteration_s = forward_s;
    if (work->spec->plan.pass == PASS_FORWARD)
        return;

    clock = clock_begin_backward(work, forward_s);
    for (uint32_t k = work->layer_count; k-- > 0;) {
        bool is_moe = work->layers[k].is_moe;
        moe -= is_moe;
        const LayerCost *cost = is_moe ? cached_cost(cache, k, moe) : &nothing;
        const Config *config = is_moe ? &mix->configs[moe] : &none;
        clock_backward(work, &(ClockedLayer){k, cost, config, mix->prefetch}, &clock, out);
    }
    double end_s = fmax(clock.at_s[CLOCK_CHAIN], clock.at_s[CLOCK_RETURN]);
    double last_s = last_sums_s(work, out->traffic), update_s = norm_s(work, out->traffic) + work->optimizer_s;
    out->all_reduce_s = end_s - clock.at_s[CLOCK_CHAIN] + last_s;
    out->iteration_s = end_s + last_s + update_s;
    out->other_s += 2 * work->loss_s + update_s;
}

void cost_mix(const Workload *work, const Mix *mix, Dispatch dispatch, IterationCost *out)
{
    CostCache cache = {.work = work, .mix = mix, .dispatch = dispatch};
    add_costs(&cache, out);
}

double cost_gradient_wait_s(const Workload *work, const Mix *mix, Dispatch dispatch)
{
    IterationCost with, without;
    CostCache cache = {.work = work, .mix = mix, .dispatch = dispatch, .without_gradients = true};
    add_costs(&cache, &without);
    cost_mix(work, mix, dispatch, &with);
    return fmax(0, with.gather_wait_s - without.gather_wait_s);
}

Mix mix_uniform(const Workload *work, const Config *config, uint32_t prefetch, Arena *arena)
{
    Config *configs = arena_alloc_array(arena, work->moe_count ? work->moe_count : 1, sizeof *configs);
    for (uint32_t i = 0; i < work->moe_count; i++)
        configs[i] = *config;
    return (Mix){.configs = configs, .prefetch = prefetch};
}

void cost_iteration(const Workload *work, const Config *config, Dispatch dispatch, IterationCost *out)
{
    Arena *arena = arena_create();
    Mix mix = mix_uniform(work, config, PREFETCH_UNLIMITED, arena);
    cost_mix(work, &mix, dispatch, out);
    arena_destroy(arena);
}
