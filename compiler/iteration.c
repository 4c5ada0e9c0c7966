// The recursion over layers: see iteration.h.
#include "compiler/iteration.h"

#include <math.h>

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
        double start_s = cost_group_s(work->spec, GROUP_LEVEL, l, 0, count - 1);
        total_s += cost_group_s(work->spec, GROUP_LEVEL, l, bytes, count - 1) + (collectives - 1) * start_s;
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
