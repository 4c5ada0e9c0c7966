// The cost model against one written anew from docs/cost-model.md, for random models, clusters and choices: layer after
// layer and lap after lap, with lists of what is sent instead of coefficients, and plain variables instead of a clock.
// It shares sizes of weights, packets and rows (ir/) with what it checks, and the load of skewed routing
// (test_routing.c), no formula of compiler/model besides.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "compiler/solve/stages.h"
#include "ir/bundle.h"
#include "specs.h"

enum { LAYERS = 5, WAYS = TOKEN_WAYS };

static double pick(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

static uint32_t one_of(uint32_t count)
{
    return (uint32_t)rand() % count;
}

// ---- what is sent ------------------------------------------------------------------------------

// Bytes that every GPU sends over a level to so many peers.
typedef struct {
    double bytes, peers, startups;
} Transfer;

typedef struct {
    Transfer at[LEVELS_MAX];
    double packing_s;
} Transfers;

static double below(const Spec *spec, uint32_t level)
{
    double gpus = 1;
    for (uint32_t j = level + 1; j < spec->cluster.level_count; j++)
        gpus *= spec->cluster.levels[j].count;
    return gpus;
}

static double transfer_s(const Spec *spec, const Transfers *all, uint32_t level)
{
    const Transfer *sent = &all->at[level];
    double slowest_s = 0;
    for (uint32_t j = level; j < spec->cluster.level_count; j++)
        slowest_s = fmax(slowest_s, below(spec, j) * sent->bytes / spec->cluster.levels[j].bandwidth_bytes_per_s);
    const Level *at = &spec->cluster.levels[level];
    return sent->peers > 0 ? sent->startups * (at->latency_s + at->overhead_s * sent->peers) + slowest_s : 0;
}

static double levels_s(const Spec *spec, const Transfers *all, uint32_t first, uint32_t end)
{
    double total_s = 0;
    for (uint32_t l = first; l < end; l++)
        total_s += transfer_s(spec, all, l);
    return total_s;
}

static double all_s(const Spec *spec, const Transfers *all)
{
    return levels_s(spec, all, 0, spec->cluster.level_count);
}

// How long all of it keeps a port busy: what passes a level passes those inside it, too.
static double port_s(const Spec *spec, const Transfers *all, uint32_t port)
{
    double bytes = 0;
    for (uint32_t l = 0; l <= port; l++)
        bytes += all->at[l].bytes;
    return bytes * below(spec, port) / spec->cluster.levels[port].bandwidth_bytes_per_s;
}

static Transfers from_level(const Transfers *all, uint32_t first, double packing_s)
{
    Transfers part = *all;
    for (uint32_t l = 0; l < first; l++)
        part.at[l] = (Transfer){0};
    part.packing_s = packing_s;
    return part;
}

// ---- one layer ---------------------------------------------------------------------------------

typedef struct {
    double attention_s, gate_s, dense_s, experts_s; // of one micro-batch
    double route_s[LEVELS_MAX];
    Transfers ways[WAYS];
    double beside[WAYS][LEVELS_MAX], padding[WAYS][LEVELS_MAX]; // bytes: of records and counts, of no rows
    double busiest[LEVELS_MAX];
    double packing[WAYS][2][LEVELS_MAX]; // before a level's exchange, after it
    double backward_attention_s, backward_dense_s, backward_experts_s;
    double expert_part_s, expert_once_s, dense_part_s, dense_once_s; // sums of gradients
    Transfers gather, again, home, lap_home, mean;
    double home_s; // on the way home besides
    Transfers dense, dense_again, dense_home, dense_lap_home;
    double dense_lap_s, lap_s;
    uint32_t levels_again; // gathered again from there on
    bool regather;
    bool dense_in_laps, in_laps; // gradients return in every lap over levels whose weights are kept
} Layer;

typedef struct {
    Arena *arena;
    Spec spec;
    Workload *work;
    Config configs[LAYERS];
    uint32_t prefetch;
    bool is_moe[LAYERS];
    // What follows from it.
    double tokens, element, gpus;
    uint32_t outer, laps, each;
    Layer layers[LAYERS];
    Transfers embedding, embedding_home;
    double embedding_sums_s, loss_s, backward_loss_s, owned_elements;
} Case;

static double share_of(const Case *in, double elements)
{
    return (double)share_elements((uint64_t)elements, (uint64_t)in->gpus);
}

static double computed_s(const Case *in, double flops, double rows, double rate)
{
    return flops / rate / (rows / (rows + in->spec.cluster.device.half_rate_rows));
}

static double backward_rate(const Case *in)
{
    const Device *device = &in->spec.cluster.device;
    return device->backward_flops > 0 ? device->backward_flops : device->compute_flops;
}

// Forward and backward time of products.
static void products(const Case *in, double flops, double times, double *forward_s, double *backward_s)
{
    *forward_s += computed_s(in, flops, in->tokens, in->spec.cluster.device.compute_flops);
    *backward_s += computed_s(in, flops * times, in->tokens, backward_rate(in));
}

static bool by_index(PacketForm form)
{
    return form == PACKET_LARGEST || form == PACKET_SHORT;
}

static double encode_s(const Case *in, PacketForm form, double bytes)
{
    const Device *device = &in->spec.cluster.device;
    return bytes / (by_index(form) ? device->encode_bandwidth : device->quantize_bandwidth);
}

static double decode_s(const Case *in, PacketForm form, double bytes)
{
    const Device *device = &in->spec.cluster.device;
    return bytes / (by_index(form) ? device->decode_bandwidth : device->dequantize_bandwidth);
}

static double sum_part_s(const Case *in, double elements)
{
    double rate = in->spec.cluster.device.memory_bandwidth;
    return in->spec.plan.micro_batches > 1 ? elements * (in->element + 8) / rate : 0;
}

static double sum_once_s(const Case *in, double elements)
{
    double rate = in->spec.cluster.device.memory_bandwidth;
    return in->spec.plan.micro_batches > 1 ? elements * (in->element < 4 ? 4 + 6 : 4) / rate : 0;
}

// A bundle that all GPUs own equal shares of.
static void bundle(const Case *in, double elements, Transfers *gather, Transfers *home)
{
    const Coding *coding = &in->spec.plan.dense;
    const CodecInfo *codec = codec_info(coding->codec);
    uint64_t share = (uint64_t)share_of(in, elements);
    double whole = (double)share * in->element, held = 1, coded = 1;
    Packing out = coding_packing(coding), back = coding_gradient_packing(coding);
    uint32_t crossed = in->spec.cluster.level_count - coding->whole_levels;
    *gather = *home = (Transfers){0};
    for (uint32_t l = 0; l < in->spec.cluster.level_count; l++) {
        double count = in->spec.cluster.levels[l].count;
        bool packets = l < crossed, returned = packets && coding->gradient != GRADIENT_DENSE;
        double sent = packets && codec->encodes ? (double)packing_bytes(out, share, in->spec.model.dtype) : whole;
        double gone = returned ? (double)packing_bytes(back, share, in->spec.model.dtype) : whole;
        gather->at[l] = (Transfer){sent * held * (count - 1), count - 1, 1};
        home->at[l] = (Transfer){gone * held * (count - 1), count - 1, 1};
        if (returned && count > 1)
            home->packing_s +=
                encode_s(in, back.form, whole * held * (count - 1)) + decode_s(in, back.form, whole * held);
        held *= count;
        coded *= packets ? count : 1;
    }
    if (codec->encodes && coded > 1)
        gather->packing_s = encode_s(in, out.form, whole) + decode_s(in, out.form, whole * coded);
}

// Levels outside the one from which on gradients return in every lap: none over which weights are gathered again.
static uint32_t gradient_levels(const Case *in, bool regather, uint32_t once)
{
    const SpecPlan *plan = &in->spec.plan;
    uint32_t kept = regather ? once : in->spec.cluster.level_count;
    return plan->returns_apart && plan->gradient_levels < kept ? plan->gradient_levels : kept;
}

static void dense_weights(const Case *in, uint32_t index, Layer *layer)
{
    const Spec *spec = &in->spec;
    ModelDims dims = spec_dims(&spec->model);
    double elements = (double)model_dense_elements(&dims, in->is_moe[index]);
    double share = share_of(in, elements), before = 1;
    bundle(in, elements, &layer->dense, &layer->dense_home);
    bool each_lap = false;
    uint32_t boundary = gradient_levels(in, spec->plan.regather_dense, spec->plan.dense_levels);
    if (spec->plan.regather_dense)
        layer->dense_again = from_level(&layer->dense, spec->plan.dense_levels,
                                        spec->plan.dense_levels == 0 ? layer->dense.packing_s : 0);
    for (uint32_t l = 0; l < spec->cluster.level_count; l++) {
        before *= l < boundary ? spec->cluster.levels[l].count : 1;
        each_lap |= in->laps > 1 && l >= boundary && spec->cluster.levels[l].count > 1;
    }
    layer->dense_in_laps = each_lap;
    layer->dense_part_s = sum_part_s(in, share * in->gpus);
    layer->dense_once_s = sum_once_s(in, share * in->gpus) / in->laps;
    if (!each_lap)
        return;
    // Whole sums of each lap; with one micro-batch there is nothing to add.
    layer->dense_once_s *= in->laps;
    if (in->each == 1)
        layer->dense_part_s = layer->dense_once_s = 0;
    layer->dense_lap_home = from_level(&layer->dense_home, boundary, 0);
    layer->dense_lap_s = sum_part_s(in, share * before) + sum_once_s(in, share * before) / in->laps;
}

static double places(const Case *in, const Config *config, uint32_t levels)
{
    double count = 1;
    for (uint32_t l = 0; l < levels; l++)
        count *= in->spec.cluster.levels[l].count / config->domain[l];
    return count;
}

// 1 - C(E - E/M, k) / C(E, k), as a product over the draws.
static double visited(double experts, double block, double top_k)
{
    double missed = 1;
    for (double drawn = 0; drawn < top_k; drawn++)
        missed *= fmax(0, experts - block - drawn) / (experts - drawn);
    return 1 - missed;
}

static void exchange(const Case *in, const Config *config, uint32_t l, Popularity *routing, Layer *layer)
{
    const Spec *spec = &in->spec;
    const Device *device = &spec->cluster.device;
    double count = spec->cluster.levels[l].count, peers = count / config->domain[l] - 1;
    if (peers <= 0)
        return;
    bool naive = spec->plan.dispatch == DISPATCH_NAIVE, padded = spec->plan.exchange == EXCHANGE_PADDED;
    double top_k = spec->model.top_k, experts = spec->model.experts, inside = places(in, config, l + 1);
    double copies = naive ? top_k : inside * visited(experts, experts / inside, top_k), busiest = 1;
    if (routing) {
        RoutingLoad load = routing_load(routing, config->domain, l, spec->plan.dispatch);
        copies = naive ? top_k : load.copies;
        busiest = load.busiest_exchange;
    }
    double full = spec->model.hidden * in->element, held = in->tokens * copies,
           sent = held * (1 - config->domain[l] / count);
    double expected = sent;
    layer->route_s[l] = 2 * busiest * held * full / device->memory_bandwidth;
    if (padded) {
        double block = experts / inside, own = in->tokens * (naive ? fmin(top_k, block) : 1);
        if (spec->plan.capacity > 0)
            own = fmin(own, block * ceil(spec->plan.capacity * in->tokens * top_k / experts));
        sent = peers * places(in, config, l) * own;
        expected = fmin(expected, sent);
        busiest = 1;
    }
    double records = naive ? 1 : top_k, counts = 4 * peers;
    const double beside[WAYS] = {[WAY_DISPATCH] = counts + 8 * records * sent,
                                 [WAY_COMBINE_GRADIENT] = counts,
                                 [WAY_DISPATCH_GRADIENT] = 4 * records * sent};
    layer->busiest[l] = busiest;
    for (uint32_t way = 0; way < WAYS; way++) {
        double row = (double)token_row_bytes(spec->plan.tokens[way], spec->model.hidden, spec->model.dtype);
        bool out = way == WAY_DISPATCH || way == WAY_COMBINE_GRADIENT;
        layer->ways[way].at[l] = (Transfer){sent * row, peers, out && !padded ? 2 : 1};
        layer->beside[way][l] = beside[way];
        layer->padding[way][l] = (sent - expected) * row;
        if (spec->plan.tokens[way] == TOKENS_FULL)
            continue;
        double *before = layer->packing[way][0], *after = layer->packing[way][1];
        if (!out) {
            before[l] = busiest * held * full / device->quantize_bandwidth;
            after[l] = busiest * sent * full / device->dequantize_bandwidth;
            continue;
        }
        bool first = true;
        for (uint32_t j = 0; j < l; j++) {
            first = first && before[j] <= 0;
            after[j] = 0;
        }
        before[l] = first ? in->tokens * full / device->quantize_bandwidth : 0;
        after[l] = busiest * held * full / device->dequantize_bandwidth;
    }
}

// What a transfer takes where the busiest GPU sends so much more; with what goes beside it. Bytes of records go with
// rows, and with gradients of rows no more than with rows.
static Transfers exchanged(const Layer *layer, TokenWay way)
{
    Transfers all = layer->ways[way];
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        bool records = way == WAY_DISPATCH || way == WAY_DISPATCH_GRADIENT;
        all.at[l].bytes += records ? layer->beside[WAY_DISPATCH][l] : 0;
        all.at[l].bytes *= layer->busiest[l];
        all.packing_s += layer->packing[way][0][l] + layer->packing[way][1][l];
    }
    return all;
}

static void migration(const Case *in, const Config *config, Layer *layer)
{
    const Spec *spec = &in->spec;
    const Coding *coding = &spec->plan.experts;
    const CodecInfo *codec = codec_info(coding->codec);
    ModelDims dims = spec_dims(&spec->model);
    uint64_t rows, cols;
    share_shape(&spec->cluster, spec->replica_levels, dims.experts, model_expert_units(&dims), &rows, &cols);
    double own = (double)rows * (double)cols * in->element, held = 1, coded = 1, outside = 1;
    uint32_t crossed = spec->cluster.level_count - coding->whole_levels;
    Packing out = coding_packing(coding), back = coding_gradient_packing(coding);
    layer->regather = config->regather;
    layer->levels_again = config->once;
    bool each_lap = false;
    uint32_t boundary = gradient_levels(in, config->regather, config->once);
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count; l++) {
        double peers = config->domain[l] - 1.0;
        bool packets = l < crossed, returned = packets && coding->gradient != GRADIENT_DENSE;
        double sent = packets && codec->encodes ? (double)rows * (double)packing_bytes(out, cols, dims.dtype) : own;
        double gone = returned ? (double)rows * (double)packing_bytes(back, cols, dims.dtype) : own;
        layer->gather.at[l] = (Transfer){sent * held * peers, peers, 1};
        layer->home.at[l] = (Transfer){gone * held * peers, peers, 1};
        if (returned && peers > 0)
            layer->home.packing_s += encode_s(in, back.form, own * held * peers) + decode_s(in, back.form, own * held);
        outside *= l < boundary ? config->domain[l] : 1;
        each_lap |= in->laps > 1 && l >= boundary && peers > 0;
        layer->in_laps |= each_lap && peers > 0 && (!config->regather || l < config->once);
        held *= config->domain[l];
        coded *= packets ? config->domain[l] : 1;
    }
    if (codec->encodes && coded > 1)
        layer->gather.packing_s = encode_s(in, out.form, own) + decode_s(in, out.form, own * coded);
    if (config->regather)
        layer->again = from_level(&layer->gather, config->once, config->once < crossed ? layer->gather.packing_s : 0);
    double rows_each = in->tokens * spec->model.top_k /
                       (spec->model.experts / (double)share_gpus(&spec->cluster, spec->replica_levels) * held);
    double matrices = spec->model.activation == ACTIVATION_SWIGLU ? 3 : 2;
    double flops = 2 * in->tokens * spec->model.top_k * matrices * spec->model.hidden * spec->model.inner;
    layer->experts_s = computed_s(in, flops, rows_each, spec->cluster.device.compute_flops);
    layer->backward_experts_s =
        computed_s(in, flops * (matrices == 3 ? 8 / 3.0 : 5 / 2.0), rows_each, backward_rate(in));
    if (spec->plan.pass == PASS_FORWARD)
        return;
    double elements = own / in->element;
    layer->expert_part_s = sum_part_s(in, elements * held);
    layer->expert_once_s = sum_once_s(in, elements * held) / (each_lap ? 1 : in->laps);
    if (each_lap) {
        layer->lap_home = from_level(&layer->home, boundary, 0);
        layer->lap_s = sum_part_s(in, elements * outside) + sum_once_s(in, elements * outside) / in->laps;
        if (in->each == 1)
            layer->expert_part_s = layer->expert_once_s = 0;
    }
    layer->home_s = layer->home.packing_s + layer->lap_s;
    if (!codec->has_mean || coded <= 1 || spec->plan.shared_every == 0)
        return;
    double expert = (double)model_expert_elements(&dims) * in->element;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++) {
        double count = spec->cluster.levels[l].count;
        layer->mean.at[l] = (Transfer){2 * (count - 1) / count * expert, count - 1, 2};
    }
    layer->home_s +=
        (all_s(spec, &layer->mean) + own / spec->cluster.device.memory_bandwidth) / spec->plan.shared_every;
}

static void layer_of(Case *in, uint32_t index)
{
    const Spec *spec = &in->spec;
    const SpecModel *model = &spec->model;
    Layer *layer = &in->layers[index];
    *layer = (Layer){0};
    double heads = model->heads * (double)model->head_dim, shared = model->kv_heads * (double)model->head_dim;
    double hidden = model->hidden, matrices = model->activation == ACTIVATION_SWIGLU ? 3 : 2;
    double projections = 2 * in->tokens * hidden * (2 * heads + 2 * shared);
    double scores = 2 * 2 * in->tokens * (model->sequence / 2.0) * heads;
    // Queries, keys and values again, the output not; a fused kernel of `cuda` goes over scores three times more.
    double again = 2 * in->tokens * hidden * (heads + 2 * shared);
    bool cuda = spec->cluster.device.engine == ENGINE_CUDA;
    layer->attention_s = computed_s(in, projections + scores, in->tokens, spec->cluster.device.compute_flops);
    layer->backward_attention_s =
        computed_s(in, 2 * projections + again + (cuda ? 4.5 : 3) * scores, in->tokens, backward_rate(in));
    double gate_s = 0, gate_backward_s = 0;
    if (in->is_moe[index])
        products(in, 2 * in->tokens * hidden * model->experts, spec->training.balance > 0 ? 3 : 2, &gate_s,
                 &gate_backward_s);
    layer->attention_s += gate_s;
    layer->backward_attention_s += gate_backward_s;
    double inner = in->is_moe[index] ? (double)model->shared_experts * model->inner : model->ffn_inner;
    if (inner > 0)
        products(in, 2 * in->tokens * matrices * hidden * inner, matrices == 3 ? 8 / 3.0 : 5 / 2.0, &layer->dense_s,
                 &layer->backward_dense_s);
    if (spec->plan.pass == PASS_TRAINING)
        dense_weights(in, index, layer);
    if (!in->is_moe[index])
        return;
    const Config *config = &in->configs[index];
    Popularity *routing = in->work->layers[index].routing;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        exchange(in, config, l, routing, layer);
    migration(in, config, layer);
    if (routing) {
        RoutingLoad load = routing_load(routing, config->domain, spec->cluster.level_count - 1, spec->plan.dispatch);
        layer->experts_s *= load.busiest_experts;
        layer->backward_experts_s *= load.busiest_experts;
    }
}

static void derive(Case *in)
{
    const Spec *spec = &in->spec;
    const SpecModel *model = &spec->model;
    in->gpus = below(spec, 0) * spec->cluster.levels[0].count;
    in->tokens = model->batch * (double)model->sequence;
    in->element = model->dtype == DTYPE_F32 ? 4 : 2;
    in->each = spec->plan.lap ? spec->plan.lap : spec->plan.micro_batches;
    in->laps = spec->plan.micro_batches / in->each;
    ModelDims dims = spec_dims(model);
    double embedding = (double)model_embedding_elements(&dims), share = share_of(in, embedding);
    in->owned_elements = share;
    for (uint32_t k = 0; k < model->layers; k++) {
        layer_of(in, k);
        uint64_t rows, cols;
        share_shape(&spec->cluster, spec->replica_levels, dims.experts, model_expert_units(&dims), &rows, &cols);
        in->owned_elements += share_of(in, (double)model_dense_elements(&dims, in->is_moe[k]));
        in->owned_elements += in->is_moe[k] ? (double)rows * (double)cols : 0;
    }
    bool in_blocks = spec->cluster.device.engine == ENGINE_HOST && model->vocabulary > 1024;
    in->loss_s = in->backward_loss_s = 0;
    products(in, 2 * in->tokens * model->hidden * model->vocabulary, in_blocks ? 4 : 3, &in->loss_s,
             &in->backward_loss_s);
    bundle(in, embedding, &in->embedding, &in->embedding_home);
    // Two parts a micro-batch, one of which begins as zeros.
    double rate = spec->cluster.device.memory_bandwidth;
    double zeros_s = spec->plan.micro_batches > 1 ? share * in->gpus * in->element / rate : 0;
    in->embedding_sums_s =
        in->each * (2 * sum_part_s(in, share * in->gpus) + zeros_s) + sum_once_s(in, share * in->gpus) / in->laps;
}

// ---- an iteration ------------------------------------------------------------------------------

// When things are done in a lap, seconds since it began.
typedef struct {
    double chain_s, inner_s, outer_s; // computation; gathers
    double home_s, outer_home_s;      // gradients
    double port_s[LEVELS_MAX];
    double read_s[LAYERS], homes_s[2 * LAYERS]; // experts of the layers so far, gradients of the layers so far
    uint32_t reads, homes;
} Now;

static double earlier(const double *list, uint32_t count, uint32_t back)
{
    return back < count ? list[count - 1 - back] : -INFINITY;
}

static Now now_at(double s)
{
    Now now = {.chain_s = s, .inner_s = s, .outer_s = s, .home_s = -INFINITY, .outer_home_s = -INFINITY};
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        now.port_s[j] = s;
    return now;
}

// A gather queues: over the outer levels, then over those inside; `ahead` and `outer_ahead` layers before the one that
// reads it, or as far as it can.
static void gathered(const Case *in, const Transfers *all, uint32_t outer_ahead, uint32_t ahead, Now *now)
{
    const Spec *spec = &in->spec;
    if (in->outer > 0) {
        if (outer_ahead != PREFETCH_UNLIMITED)
            now->outer_s = fmax(now->outer_s, earlier(now->read_s, now->reads, outer_ahead));
        now->outer_s += levels_s(spec, all, 0, in->outer);
        now->inner_s = fmax(now->inner_s, now->outer_s);
    }
    if (ahead != PREFETCH_UNLIMITED)
        now->inner_s = fmax(now->inner_s, earlier(now->read_s, now->reads, ahead));
    now->inner_s += levels_s(spec, all, in->outer, spec->cluster.level_count) + all->packing_s;
}

static void returned(const Case *in, const Transfers *all, double more_s, double mean_part, const Transfers *mean,
                     Now *now)
{
    const Spec *spec = &in->spec;
    bool always = mean != NULL; // experts' gradients look at every port, dense weights' at those that they keep busy
    now->home_s += levels_s(spec, all, in->outer, spec->cluster.level_count) + more_s;
    double passed_s = -INFINITY;
    for (uint32_t j = 0; j < spec->cluster.level_count; j++) {
        double busy_s = port_s(spec, all, j) + (always ? mean_part * port_s(spec, mean, j) : 0);
        if (!always && busy_s <= 0)
            continue;
        now->port_s[j] += busy_s;
        if (j >= in->outer)
            now->home_s = fmax(now->home_s, now->port_s[j]);
        else
            passed_s = fmax(passed_s, now->port_s[j]);
    }
    if (in->outer > 0)
        now->outer_home_s = fmax(fmax(now->outer_home_s, now->home_s) + levels_s(spec, all, 0, in->outer), passed_s);
}

static double at_home_s(const Case *in, const Now *now)
{
    return in->outer > 0 ? now->outer_home_s : now->home_s;
}

// A micro-batch's pass of a layer, phase by phase: computation, then one exchange.
typedef struct {
    double compute_s[4 * LEVELS_MAX], exchange_s[4 * LEVELS_MAX];
    uint32_t count; // of phases that exchange
} Phases;

static void out_and_back(const Case *in, const Layer *layer, TokenWay way, bool out, Phases *phases)
{
    Transfers all = exchanged(layer, way);
    for (uint32_t i = 0; i < in->spec.cluster.level_count; i++) {
        uint32_t l = out ? i : in->spec.cluster.level_count - 1 - i;
        if (all.at[l].peers <= 0)
            continue;
        phases->compute_s[phases->count] += layer->packing[way][0][l] + (out ? layer->route_s[l] / 2 : 0);
        phases->exchange_s[phases->count++] = transfer_s(&in->spec, &all, l);
        phases->compute_s[phases->count] += layer->packing[way][1][l] + (out ? 0 : layer->route_s[l] / 2);
    }
}

static double abreast_s(const Case *in, const Layer *layer, bool backward, uint32_t abreast)
{
    Phases phases = {0};
    if (!backward || in->spec.plan.recomputes) {
        phases.compute_s[0] += layer->attention_s;
        out_and_back(in, layer, WAY_DISPATCH, true, &phases);
    }
    if (backward)
        out_and_back(in, layer, WAY_COMBINE_GRADIENT, true, &phases);
    phases.compute_s[phases.count] += backward ? layer->backward_experts_s + layer->expert_part_s : layer->experts_s;
    out_and_back(in, layer, backward ? WAY_DISPATCH_GRADIENT : WAY_COMBINE, false, &phases);
    phases.compute_s[phases.count] +=
        backward ? layer->backward_attention_s + layer->backward_dense_s + layer->dense_part_s : layer->dense_s;
    double there_s[3] = {0}, computed = 0, sent = 0;
    for (uint32_t p = 0; p <= phases.count; p++)
        for (uint32_t k = 0; k < abreast; k++) {
            computed = fmax(computed, there_s[k]) + phases.compute_s[p];
            sent = fmax(sent, computed) + phases.exchange_s[p];
            there_s[k] = sent;
        }
    return computed;
}

typedef struct {
    double pre_expert_s, exchange_s, expert_s, wait_s, other_s, return_s;
} Spent;

static double sum_levels(const double of[LEVELS_MAX])
{
    double sum = 0;
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        sum += of[l];
    return sum;
}

// All micro-batches of a lap pass a layer with experts.
static void pass_experts(const Case *in, const Layer *layer, bool backward, const Transfers *fetched, double wait_for_s,
                         Now *now, Spent *spent)
{
    const Spec *spec = &in->spec;
    bool again = backward && spec->plan.recomputes;
    Transfers out = exchanged(layer, backward ? WAY_COMBINE_GRADIENT : WAY_DISPATCH);
    Transfers back = exchanged(layer, backward ? WAY_DISPATCH_GRADIENT : WAY_COMBINE);
    Transfers first = exchanged(layer, WAY_DISPATCH);
    double route_s = sum_levels(layer->route_s), first_s = all_s(spec, &first) + first.packing_s;
    double before_s = route_s + all_s(spec, &out) + out.packing_s;
    double own_s = backward ? layer->backward_attention_s : layer->attention_s;
    double dense_s = backward ? layer->backward_dense_s : layer->dense_s;
    double expert_s = backward ? layer->backward_experts_s : layer->experts_s;
    double sums_s = backward ? layer->expert_part_s + layer->dense_part_s : 0;
    before_s += again ? layer->attention_s + route_s / 2 + first_s : 0;
    before_s += backward ? 0 : own_s;
    double compute_s = expert_s + (backward ? layer->expert_part_s : 0);
    double after_s = all_s(spec, &back) + back.packing_s + dense_s + (backward ? own_s + layer->dense_part_s : 0);
    double one_s = before_s + compute_s + after_s, lap_s = in->each * one_s;
    uint32_t abreast = !spec->plan.interleaves ? 1 : in->each % 2 == 0 ? 2 : in->each % 3 == 0 ? 3 : 1;
    if (abreast > 1)
        lap_s = in->each / abreast * abreast_s(in, layer, backward, abreast);
    double hidden_s = in->each * one_s - lap_s;
    // Ports, and experts, are waited for by the first micro-batch.
    double ready_s = now->chain_s + before_s, start_s = fmax(ready_s, wait_for_s);
    for (uint32_t j = 0; j < spec->cluster.level_count; j++) {
        double there_s = port_s(spec, &out, j) + (again ? port_s(spec, &first, j) : 0), latency_s = 0;
        const Transfers *experts = backward ? &layer->again : &layer->gather;
        if (experts->at[j].bytes > 0 || out.at[j].peers > 0)
            latency_s = spec->cluster.levels[j].latency_s;
        start_s = fmax(start_s, now->port_s[j] + port_s(spec, fetched, j) + there_s + latency_s);
        now->port_s[j] += port_s(spec, fetched, j) + in->each * (there_s + port_s(spec, &back, j));
    }
    double read_s = start_s + compute_s + lap_s - one_s + (backward ? layer->expert_once_s : 0);
    now->read_s[now->reads++] = read_s;
    now->chain_s = read_s + after_s + (backward ? layer->dense_once_s : 0);
    spent->wait_s += start_s - ready_s;
    spent->pre_expert_s += in->each * (own_s + (again ? layer->attention_s : 0));
    spent->exchange_s +=
        in->each * (all_s(spec, &out) + all_s(spec, &back) + (again ? all_s(spec, &first) : 0)) - hidden_s;
    spent->expert_s += in->each * expert_s;
    spent->other_s += in->each * (dense_s + route_s * (again ? 1.5 : 1) + out.packing_s + back.packing_s + sums_s +
                                  (again ? first.packing_s : 0));
    spent->other_s += backward ? layer->expert_once_s + layer->dense_once_s : 0;
}

static void pass_dense(const Case *in, const Layer *layer, bool backward, Now *now, Spent *spent)
{
    double own_s = backward ? layer->backward_attention_s : layer->attention_s;
    own_s += backward && in->spec.plan.recomputes ? layer->attention_s : 0;
    double other_s = in->each * (backward ? layer->backward_dense_s + layer->dense_part_s : layer->dense_s);
    other_s += backward ? layer->dense_once_s : 0;
    now->chain_s += in->each * own_s + other_s;
    spent->pre_expert_s += in->each * own_s;
    spent->other_s += other_s;
}

static void dense_arrives(const Case *in, const Transfers *dense, Now *now, Spent *spent)
{
    const SpecPlan *plan = &in->spec.plan;
    uint32_t ahead = !plan->regather_dense ? PREFETCH_UNLIMITED : in->prefetch < 1 ? in->prefetch : 1;
    gathered(in, dense, plan->dense_levels >= in->outer ? PREFETCH_UNLIMITED : ahead, ahead, now);
    double before_s = now->chain_s;
    now->chain_s = fmax(now->chain_s, now->inner_s);
    for (uint32_t j = 0; j < in->spec.cluster.level_count; j++) {
        double busy_s = port_s(&in->spec, dense, j);
        now->port_s[j] += busy_s;
        now->chain_s = busy_s > 0 ? fmax(now->chain_s, now->port_s[j]) : now->chain_s;
    }
    spent->wait_s += now->chain_s - before_s;
}

static void experts_arrive(const Case *in, const Layer *layer, const Transfers *experts, Now *now)
{
    bool training = in->spec.plan.pass == PASS_TRAINING;
    uint32_t ahead = training ? PREFETCH_UNLIMITED : in->prefetch;
    if (layer->regather)
        ahead = in->prefetch < 1 ? in->prefetch : 1;
    bool kept = layer->regather && layer->levels_again >= in->outer;
    gathered(in, experts, kept ? PREFETCH_UNLIMITED : ahead, ahead, now);
}

static void forward(const Case *in, bool first, Now *now, Spent *spent)
{
    bool training = in->spec.plan.pass == PASS_TRAINING;
    for (uint32_t k = 0; k < in->spec.model.layers; k++) {
        const Layer *layer = &in->layers[k];
        if (training && (first || in->spec.plan.regather_dense))
            dense_arrives(in, first ? &layer->dense : &layer->dense_again, now, spent);
        if (!in->is_moe[k]) {
            pass_dense(in, layer, false, now, spent);
            continue;
        }
        const Transfers *experts = first ? &layer->gather : &layer->again;
        experts_arrive(in, layer, experts, now);
        pass_experts(in, layer, false, experts, now->inner_s, now, spent);
    }
}

static void backward(const Case *in, bool last, Now *now, Spent *spent)
{
    const SpecPlan *plan = &in->spec.plan;
    static const Transfers none = {0};
    for (uint32_t k = in->spec.model.layers; k-- > 0;) {
        const Layer *layer = &in->layers[k];
        const Transfers *dense_home = last ? &layer->dense_home : &layer->dense_lap_home;
        double two_before_s = earlier(now->homes_s, now->homes, 1);
        if (plan->regather_dense)
            dense_arrives(in, &layer->dense_again, now, spent);
        if (plan->regather_dense || layer->dense_in_laps || plan->recomputes) {
            spent->wait_s += fmax(0, two_before_s - now->chain_s);
            now->chain_s = fmax(now->chain_s, two_before_s);
        }
        if (in->is_moe[k]) {
            double wait_for_s = layer->regather || layer->in_laps || plan->recomputes ? two_before_s : -INFINITY;
            if (layer->regather) {
                experts_arrive(in, layer, &layer->again, now);
                wait_for_s = fmax(wait_for_s, now->inner_s);
            }
            pass_experts(in, layer, true, layer->regather ? &layer->again : &none, wait_for_s, now, spent);
            now->home_s = fmax(now->home_s, earlier(now->read_s, now->reads, 0));
            returned(in, last ? &layer->home : &layer->lap_home, layer->home_s,
                     last && plan->shared_every > 0 ? 1.0 / plan->shared_every : 0, &layer->mean, now);
        } else {
            pass_dense(in, layer, true, now, spent);
        }
        now->home_s = fmax(now->home_s, now->chain_s);
        returned(in, dense_home, dense_home->packing_s + layer->dense_lap_s, 0, NULL, now);
        now->homes_s[now->homes++] = at_home_s(in, now);
    }
}

static double lap(const Case *in, bool first, bool last, Spent *spent)
{
    bool training = in->spec.plan.pass == PASS_TRAINING;
    Now now = now_at(0);
    if (first && training) {
        gathered(in, &in->embedding, PREFETCH_UNLIMITED, PREFETCH_UNLIMITED, &now);
        now.inner_s = all_s(&in->spec, &in->embedding) + in->embedding.packing_s;
        now.chain_s = spent->wait_s = now.inner_s;
        now.outer_s = levels_s(&in->spec, &in->embedding, 0, in->outer);
        for (uint32_t j = 0; j < in->spec.cluster.level_count; j++)
            now.port_s[j] = port_s(&in->spec, &in->embedding, j);
    }
    forward(in, first, &now, spent);
    spent->other_s += in->each * in->loss_s;
    if (!training)
        return now.chain_s + in->each * in->loss_s;
    double loss_s = in->each * in->backward_loss_s + in->embedding_sums_s;
    now = now_at(now.chain_s + in->each * in->loss_s);
    now.chain_s += loss_s;
    spent->other_s += loss_s;
    backward(in, last, &now, spent);
    double end_s = fmax(now.chain_s, at_home_s(in, &now));
    spent->return_s += end_s - now.chain_s;
    return end_s;
}

static double iteration(const Case *in, Spent *spent)
{
    double total_s = 0;
    for (uint32_t i = 0; i < in->laps; i++)
        total_s += lap(in, i == 0, i + 1 == in->laps, spent);
    if (in->spec.plan.pass == PASS_FORWARD)
        return total_s;
    double rate = in->spec.cluster.device.memory_bandwidth;
    double home_s = all_s(&in->spec, &in->embedding_home) + in->embedding_home.packing_s;
    // Weight and gradient read, the weight written; two moments, and of 16 bits a copy in f32, read and written.
    double update_s = in->owned_elements * (3 * in->element + (in->element < 4 ? 24 : 16)) / rate;
    if (in->spec.training.clip > 0) {
        Transfers norm = {0};
        for (uint32_t l = 0; l < in->spec.cluster.level_count; l++) {
            double count = in->spec.cluster.levels[l].count;
            norm.at[l] = (Transfer){2 * (count - 1) / count * 4, count - 1, 2};
        }
        update_s += all_s(&in->spec, &norm) + in->owned_elements * in->element / rate;
    }
    spent->return_s += home_s;
    spent->other_s += update_s;
    return total_s + home_s + update_s;
}

static void traffic_of(const Case *in, uint32_t l, Traffic *out)
{
    const SpecPlan *plan = &in->spec.plan;
    bool training = plan->pass == PASS_TRAINING;
    double count = in->spec.cluster.levels[l].count, m = plan->micro_batches;
    double again = 2.0 * in->laps - 1; // in every lap's backward pass, and forward in all but the first
    *out = (Traffic){0};
    if (training) {
        out->dense_gather_bytes = in->embedding.at[l].bytes;
        out->dense_reduce_bytes = in->embedding_home.at[l].bytes;
        out->reduce_bytes = in->spec.training.clip > 0 ? 2 * (count - 1) / count * 4 : 0;
    }
    for (uint32_t k = 0; k < in->spec.model.layers; k++) {
        const Layer *layer = &in->layers[k];
        if (training) {
            out->dense_gather_bytes += layer->dense.at[l].bytes + again * layer->dense_again.at[l].bytes;
            out->dense_reduce_bytes +=
                layer->dense_home.at[l].bytes + (in->laps - 1.0) * layer->dense_lap_home.at[l].bytes;
            out->reduce_bytes += layer->home.at[l].bytes + (in->laps - 1.0) * layer->lap_home.at[l].bytes;
            out->reduce_bytes += plan->shared_every > 0 ? layer->mean.at[l].bytes / plan->shared_every : 0;
        }
        out->gather_bytes += layer->gather.at[l].bytes + (training ? again * layer->again.at[l].bytes : 0);
        for (uint32_t way = 0; way < WAYS; way++) {
            bool gradient = way == WAY_DISPATCH_GRADIENT || way == WAY_COMBINE_GRADIENT;
            double times = gradient && !training ? 0 : way == WAY_DISPATCH && plan->recomputes ? 2 * m : m;
            out->exchange_bytes += times * layer->ways[way].at[l].bytes;
            out->padding_bytes += times * layer->padding[way][l];
            out->routing_bytes += times * layer->beside[way][l];
        }
    }
}

// ---- random cases ------------------------------------------------------------------------------

static uint32_t divisor_of(uint32_t count)
{
    uint32_t divisor = 1 + one_of(count);
    while (count % divisor != 0)
        divisor--;
    return divisor;
}

static void random_cluster(Spec *spec)
{
    static const uint32_t counts[] = {1, 2, 3, 4};
    Device *device = &spec->cluster.device;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++) {
        Level *level = &spec->cluster.levels[l];
        level->count = counts[one_of(4)];
        level->bandwidth_bytes_per_s = pow(10, pick(6, 9));
        level->latency_s = pow(10, pick(-6, -3));
        level->overhead_s = one_of(2) ? pick(0, 1e-4) : 0;
    }
    device->compute_flops = pow(10, pick(8, 11));
    device->backward_flops = one_of(2) ? device->compute_flops * pick(0.5, 2) : 0;
    device->memory_bandwidth = pow(10, pick(8, 10));
    device->encode_bandwidth = pow(10, pick(7, 9));
    device->decode_bandwidth = pow(10, pick(7, 9));
    device->quantize_bandwidth = pow(10, pick(7, 9));
    device->dequantize_bandwidth = pow(10, pick(7, 9));
    device->engine = one_of(2) ? ENGINE_HOST : ENGINE_CUDA;
}

static void random_model(Case *in)
{
    SpecModel *model = &in->spec.model;
    model->layers = 1 + one_of(LAYERS);
    model->dtype = one_of(2) ? DTYPE_F32 : DTYPE_BF16;
    model->kv_heads = 1 + one_of(2);
    model->vocabulary = one_of(3) ? 64 : 2000;
    model->activation = one_of(2) ? ACTIVATION_GELU : ACTIVATION_SWIGLU;
    model->shared_experts = one_of(3);
    model->ffn_inner = 24;
    model->is_moe = in->is_moe;
    for (uint32_t k = 0; k < LAYERS; k++)
        in->is_moe[k] = one_of(4) > 0;
    double gpus = below(&in->spec, 0) * in->spec.cluster.levels[0].count;
    model->experts = (uint32_t)gpus * (1 + one_of(3));
    model->top_k = 1 + one_of(model->experts < 4 ? model->experts : 4);
    if (one_of(4) > 0)
        return;
    model->popularity = arena_alloc_array(in->arena, model->experts, sizeof(double));
    for (uint32_t e = 0; e < model->experts; e++)
        model->popularity[e] = pick(0.2, 1);
}

static void random_training(Spec *spec)
{
    static const uint32_t laps[] = {0, 0, 1, 2, 3, 6};
    SpecPlan *plan = &spec->plan;
    plan->pass = PASS_TRAINING;
    plan->micro_batches = one_of(2) ? 1 : one_of(2) ? 6 : 12;
    plan->lap = plan->micro_batches > 1 ? laps[one_of(6)] : 0;
    plan->recomputes = one_of(2);
    plan->interleaves = one_of(2);
    plan->regather_dense = one_of(2);
    plan->dense_levels = plan->regather_dense ? one_of(spec->cluster.level_count) : 0;
    plan->returns_apart = one_of(2);
    plan->gradient_levels = plan->returns_apart ? one_of(spec->cluster.level_count) : 0;
    spec->training.clip = one_of(2) ? 1 : 0;
    spec->training.balance = one_of(2) ? 0.01 : 0;
}

static void random_codecs(Spec *spec)
{
    static const Codec codecs[] = {CODEC_DENSE, CODEC_SR, CODEC_DELTA, CODEC_SIGN, CODEC_Q4};
    static const GradientReturn gradients[] = {GRADIENT_DENSE, GRADIENT_TOPK, GRADIENT_Q4};
    SpecPlan *plan = &spec->plan;
    plan->returns_apart = false;
    Codec codec = codecs[one_of(5)];
    bool sized = codec == CODEC_SR || codec == CODEC_DELTA;
    plan->experts =
        (Coding){codec, sized ? pick(2, 80) : 1, gradients[one_of(3)], pick(2, 20), one_of(spec->cluster.level_count)};
    plan->shared_every = codec == CODEC_SR ? one_of(3) : 0;
    if (one_of(2) || plan->regather_dense)
        return;
    plan->dense =
        (Coding){one_of(2) ? CODEC_SIGN : CODEC_DELTA, 8, gradients[one_of(3)], 4, one_of(spec->cluster.level_count)};
}

static void random_choice(const Case *in, Config *config)
{
    *config = (Config){0};
    for (uint32_t l = 0; l < in->spec.cluster.level_count; l++)
        config->domain[l] = divisor_of(in->spec.cluster.levels[l].count);
    Config next = *config;
    while (in->spec.plan.pass == PASS_TRAINING && one_of(3) > 0 && config_next_kept(&in->spec, &next))
        *config = next;
    config_plan_gradients(&in->spec, config);
}

static Case *random_case(void)
{
    Arena *arena = arena_create();
    Case *in = arena_alloc(arena, sizeof(*in));
    in->arena = arena;
    in->spec = spec_small_gpt((uint32_t[]){2, one_of(3) ? 2 : 0, one_of(2) ? 2 : 0}, 4, 1);
    Spec *spec = &in->spec;
    random_cluster(spec);
    random_model(in);
    spec->plan.dispatch = one_of(3) ? DISPATCH_DEDUP : DISPATCH_NAIVE;
    if (one_of(4) > 0)
        random_training(spec);
    spec->plan.exchange = one_of(3) ? EXCHANGE_COUNTED : EXCHANGE_PADDED;
    spec->plan.capacity = spec->plan.exchange == EXCHANGE_PADDED && one_of(2) ? pick(0.5, 2) : 0;
    for (uint32_t way = 0; way < WAYS; way++)
        spec->plan.tokens[way] = one_of(2) ? TOKENS_FULL : one_of(2) ? TOKENS_FP8 : TOKENS_INT4;
    if (spec->plan.pass == PASS_TRAINING && one_of(3) == 0)
        random_codecs(spec);
    in->prefetch = one_of(2) ? PREFETCH_UNLIMITED : one_of(3);
    in->outer = spec_outer_levels(spec);
    in->work = workload_derive(spec, arena);
    for (uint32_t k = 0; k < LAYERS; k++)
        random_choice(in, &in->configs[k]);
    derive(in);
    return in;
}

static bool agree(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fmax(fabs(a), fabs(b));
}

Test(cost_independent, times_and_traffic_of_random_plans)
{
    srand(17);
    for (int i = 0; i < 2000; i++) {
        Case *in = random_case();
        Config configs[LAYERS];
        uint32_t moe = 0;
        for (uint32_t k = 0; k < in->spec.model.layers; k++)
            if (in->is_moe[k])
                configs[moe++] = in->configs[k];
        IterationCost cost;
        Spent spent = {0};
        double expected_s = iteration(in, &spent);
        cost_mix(in->work, &(Mix){configs, in->prefetch}, in->spec.plan.dispatch, &cost);
        cr_assert(agree(cost.iteration_s, expected_s), "case %d: %.12g, not %.12g", i, cost.iteration_s, expected_s);
        const double parts[][2] = {{cost.pre_expert_s, spent.pre_expert_s}, {cost.exchange_s, spent.exchange_s},
                                   {cost.expert_s, spent.expert_s},         {cost.gather_wait_s, spent.wait_s},
                                   {cost.other_s, spent.other_s},           {cost.return_s, spent.return_s}};
        for (size_t p = 0; p < COUNT_OF(parts); p++)
            cr_assert(fabs(parts[p][0] - parts[p][1]) <= 1e-9 * expected_s, "case %d: part %zu is %.12g, not %.12g", i,
                      p, parts[p][0], parts[p][1]);
        for (uint32_t l = 0; l < LEVELS_MAX; l++) {
            Traffic expected = {0};
            if (l < in->spec.cluster.level_count)
                traffic_of(in, l, &expected);
            const double *is = (const double *)&cost.traffic[l], *should = (const double *)&expected;
            for (size_t t = 0; t < sizeof(Traffic) / sizeof(double); t++)
                cr_assert(agree(is[t], should[t]), "case %d: traffic %zu of level %u is %.12g, not %.12g", i, t, l,
                          is[t], should[t]);
        }
        arena_destroy(in->arena);
    }
}

// How busy a layer keeps each port.
Test(cost_independent, ports_are_busy_with_all_that_passes_them)
{
    srand(19);
    for (int i = 0; i < 320; i++) {
        Case *in = random_case();
        for (uint32_t k = 0; k < in->spec.model.layers; k++) {
            const Layer *layer = &in->layers[k];
            double every = in->spec.plan.shared_every > 0 ? in->spec.plan.shared_every : 1;
            LayerCost cost;
            cost_layer(in->work, k, &in->configs[k], in->spec.plan.dispatch, &cost);
            Transfers ways[] = {exchanged(layer, WAY_DISPATCH), exchanged(layer, WAY_COMBINE)};
            for (uint32_t j = 0; j < in->spec.cluster.level_count; j++) {
                const Transfers *all[] = {&ways[0],          &ways[1],      &layer->gather,
                                          &layer->dense,     &layer->again, &layer->dense_again,
                                          &layer->dense_home};
                double expected_s = port_s(&in->spec, &layer->mean, j) / every;
                bool training = in->spec.plan.pass == PASS_TRAINING;
                expected_s += training ? port_s(&in->spec, &layer->home, j) : 0;
                for (size_t t = 0; t < COUNT_OF(all); t++)
                    expected_s += port_s(&in->spec, all[t], j);
                cr_assert(agree(cost_port_s(&cost, j), expected_s), "case %d: %.12g, not %.12g", i,
                          cost_port_s(&cost, j), expected_s);
            }
        }
        arena_destroy(in->arena);
    }
}

// What the search adds up of every mix: max-plus maps stage by stage. Iterations of one lap.
Test(cost_independent, stages_add_up_to_the_same)
{
    srand(18);
    uint32_t compared = 0;
    for (int i = 0; i < 600; i++) {
        Case *in = random_case();
        uint32_t moe = in->work->moe_count, choice[LAYERS] = {0};
        StageCandidate candidates[LAYERS];
        for (uint32_t c = 0; c < LAYERS; c++)
            candidates[c] = (StageCandidate){in->configs[c], pick(1, 10), c};
        for (uint32_t repeat = 0; repeat < 3 && moe > 0 && in->laps == 1; repeat++) {
            StageProblem *problem = stages_build(in->work, candidates, LAYERS, in->prefetch, 20, in->arena);
            Config of_layer[LAYERS];
            double memory = 0;
            memcpy(of_layer, in->configs, sizeof(of_layer));
            for (uint32_t k = 0, m = 0; k < in->spec.model.layers; k++)
                if (in->is_moe[k]) {
                    choice[m] = one_of(LAYERS);
                    memory += candidates[choice[m]].memory;
                    in->configs[k] = of_layer[choice[m++]];
                }
            derive(in);
            Spent spent = {0};
            double expected_s = iteration(in, &spent);
            cr_assert(agree(stages_evaluate(problem, choice), expected_s), "case %d: %.12g, not %.12g", i,
                      stages_evaluate(problem, choice), expected_s);
            cr_assert(agree(stages_memory(problem, choice), memory));
            cr_assert_eq(problem->stages[0].options[choice[0]].candidate, choice[0]);
            memcpy(in->configs, of_layer, sizeof(of_layer));
            compared++;
        }
        arena_destroy(in->arena);
    }
    cr_assert_gt(compared, 600);
}
