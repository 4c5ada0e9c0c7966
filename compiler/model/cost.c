// Cost of one MoE layer: see cost.h. Formulas are those of docs/cost-model.md and of HybridEP (arXiv 2510.19470,
// section III); the level-by-level volumes follow from the topology rule.
#include "compiler/model/cost.h"

#include <math.h>
#include <string.h>

#include "ir/codec.h"
#include "ir/exchange.h"

bool config_equal(const Config *a, const Config *b)
{
    return a->regather == b->regather && a->once == b->once && a->returns_apart == b->returns_apart &&
           a->once_gradient == b->once_gradient && memcmp(a->domain, b->domain, sizeof(a->domain)) == 0;
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

// Pairs in the groups at level 0 that have so many peers.
static PairLines lines_of(const Spec *spec, GroupKind kind, double peers)
{
    const Outer *outer = spec->outer;
    uint32_t members = (uint32_t)peers + 1;
    uint32_t domain = kind == GROUP_GATHER ? members : spec->cluster.levels[0].count / members;
    PairLines lines = *outer_lines(outer, kind, domain);
    const WorstPair *worst = outer_group(outer, kind, domain);
    if (lines.count == 0)
        pair_lines_add(&lines,
                       (PairLine){worst->latency_s, fmax(outer->port_s_per_byte, worst->link_s_per_byte / peers)});
    return lines;
}

// With so many start-ups, one after another.
static double startups_s(const Spec *spec, GroupKind kind, uint32_t level, double bytes, double peers, double startups)
{
    const Cluster *cluster = &spec->cluster;
    if (level > 0 || !spec->outer || peers <= 0)
        return cost_collective_s(cluster, level, bytes, peers) +
               (startups - 1) * cost_collective_s(cluster, level, 0, peers);
    PairLines lines = lines_of(spec, kind, peers);
    for (uint32_t i = 0; i < lines.count; i++)
        lines.lines[i].latency_s *= startups;
    double inner_s = 0;
    for (uint32_t j = 1; j < cluster->level_count; j++)
        inner_s =
            fmax(inner_s, (double)cluster_gpus_below(cluster, j) * bytes / cluster->levels[j].bandwidth_bytes_per_s);
    double slowest_s = pair_lines_s(&lines, (double)cluster_gpus_below(cluster, 0) * bytes, inner_s);
    return startups * cluster->levels[0].overhead_s * peers + slowest_s;
}

double cost_group_s(const Spec *spec, GroupKind kind, uint32_t level, double bytes, double peers)
{
    return startups_s(spec, kind, level, bytes, peers, 1);
}

// What a gather, or a return, saves that joins another one.
static double joined_saves_s(const Spec *spec, uint32_t level, double bytes, double peers)
{
    return startups_s(spec, GROUP_GATHER, level, bytes, peers, 1) -
           startups_s(spec, GROUP_GATHER, level, bytes, peers, 0);
}

double cost_sum_s(const Spec *spec, uint32_t level, double bytes)
{
    return 2 * cost_group_s(spec, GROUP_LEVEL, level, bytes / 2, spec->cluster.levels[level].count - 1.0);
}

// Adds the time that bytes keep each port from `level` inwards busy.
static void add_port_bytes(const Spec *spec, uint32_t level, double bytes, double port_s[LEVELS_MAX])
{
    const Cluster *cluster = &spec->cluster;
    for (uint32_t j = level; j < cluster->level_count; j++) {
        double through = (double)cluster_gpus_below(cluster, j) * bytes;
        port_s[j] += spec->outer && j == 0 ? through * spec->outer->port_s_per_byte
                                           : through / cluster->levels[j].bandwidth_bytes_per_s;
    }
}

// What is on its way when the port of `level` has let the last bytes through: of workers that differ those of the
// slowest port.
static double port_latency_s(const Spec *spec, GroupKind kind, uint32_t level, double peers)
{
    if (peers <= 0)
        return 0;
    if (level > 0 || !spec->outer)
        return spec->cluster.levels[level].latency_s;
    return lines_of(spec, kind, peers).lines[0].latency_s;
}

double cost_levels_s(const double of_level[LEVELS_MAX])
{
    double total_s = 0;
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        total_s += of_level[l];
    return total_s;
}

double cost_port_s(const LayerCost *cost, uint32_t level)
{
    return cost->port_exchange_s[WAY_DISPATCH][level] + cost->port_exchange_s[WAY_COMBINE][level] +
           cost->port_gather_s[level] + cost->port_again_s[level] + cost->port_reduce_s[level] +
           cost->dense.port_s[level] + cost->dense_again.port_s[level] + cost->dense_return.port_s[level];
}

double cost_expected_copies(const Workload *work, const LayerWork *layer, Dispatch dispatch, const Config *config,
                            uint32_t level)
{
    const Spec *spec = work->spec;
    if (layer->routing && dispatch != DISPATCH_NAIVE)
        return routing_load(layer->routing, config->domain, level, dispatch).copies;
    if (dispatch == DISPATCH_NAIVE || spec->model.experts == 0)
        return spec->model.top_k * spec_computing_part(&spec->model);
    uint64_t prefixes = 1;
    for (uint32_t l = 0; l <= level; l++)
        prefixes *= spec->cluster.levels[l].count / config->domain[l];
    return routing_uniform_copies(&spec->model, prefixes);
}

double config_held_shards(const Spec *spec, const Config *config)
{
    double held = 1;
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count; l++)
        held *= config->domain[l];
    return held;
}

double config_coded_shards(const Spec *spec, const Config *config)
{
    double coded = 1;
    for (uint32_t l = spec->replica_levels; l < spec_coded_levels(spec); l++)
        coded *= config->domain[l];
    return coded;
}

static bool gathers_among(const Config *config, uint32_t first, uint32_t end)
{
    bool any = false;
    for (uint32_t l = first; l < end; l++)
        any |= config->domain[l] > 1;
    return any;
}

double cost_encode_s(const Device *device, PacketForm form, double bytes)
{
    return bytes / (packet_has_ratio(form) ? device->encode_bandwidth : device->quantize_bandwidth);
}

double cost_decode_s(const Device *device, PacketForm form, double bytes)
{
    return bytes / (packet_has_ratio(form) ? device->decode_bandwidth : device->dequantize_bandwidth);
}

// Dense bytes that are encoded, then those that are decoded.
static double packet_s(const Spec *spec, PacketForm form, double encoded, double decoded)
{
    const Device *device = &spec->cluster.device;
    return cost_encode_s(device, form, encoded) + cost_decode_s(device, form, decoded);
}

// Packets are decoded after the levels that they cross: what is gathered again either begins inside of these, or with
// packets that are made again, which takes a codec that remembers nothing.
static bool can_gather_again(const Spec *spec, const Config *config, uint32_t once)
{
    const CodecInfo *codec = codec_info(spec->plan.experts.codec);
    if (!gathers_among(config, once > spec->replica_levels ? once : spec->replica_levels, spec->cluster.level_count))
        return false;
    if (codec->encodes && config_coded_shards(spec, config) > 1 && once < spec_coded_levels(spec))
        return once == 0 && !codec->remembers;
    return once == 0 || config->domain[once - 1] > 1 || once == spec_coded_levels(spec);
}

bool config_next_kept(const Spec *spec, Config *config)
{
    for (uint32_t once = config->regather ? config->once + 1 : 0; once < spec->cluster.level_count; once++) {
        if (!can_gather_again(spec, config, once))
            continue;
        config->regather = true;
        config->once = once;
        config_plan_gradients(spec, config);
        return true;
    }
    return false;
}

static bool next_gradients(const Spec *spec, Config *config)
{
    if (spec->plan.gradient_request != GRADIENTS_AUTO)
        return false;
    for (uint32_t levels = config_gradient_levels(spec, config); levels-- > spec->replica_levels;) {
        Config next = *config;
        config_set_gradient_levels(spec, &next, levels);
        if (!next.returns_apart || next.once_gradient != levels)
            continue;
        *config = next;
        return true;
    }
    return false;
}

bool config_next_way(const Spec *spec, Config *config)
{
    return next_gradients(spec, config) || config_next_kept(spec, config);
}

uint32_t config_kept_levels(const Spec *spec, const Config *config)
{
    return config->regather ? config->once : spec->cluster.level_count;
}

uint32_t config_gradient_levels(const Spec *spec, const Config *config)
{
    return config->returns_apart ? config->once_gradient : config_kept_levels(spec, config);
}

void config_set_gradient_levels(const Spec *spec, Config *config, uint32_t levels)
{
    uint32_t kept = config_kept_levels(spec, config);
    levels = levels > spec->replica_levels ? levels : spec->replica_levels;
    while (levels > spec->replica_levels && levels < kept &&
           config->domain[levels - 1] == 1) // the same as one level less
        levels--;
    config->returns_apart = spec_laps(spec).count > 1 && levels < kept && gathers_among(config, levels, kept);
    config->once_gradient = config->returns_apart ? levels : 0;
}

void config_plan_gradients(const Spec *spec, Config *config)
{
    const SpecPlan *plan = &spec->plan;
    config_set_gradient_levels(spec, config, plan->returns_apart ? plan->gradient_levels : spec->cluster.level_count);
}

// Every message has its largest size. What more is sent than the expected rows is padding.
static void pad(const Spec *spec, const LayerWork *layer, const Config *config, Dispatch dispatch, uint32_t level,
                LayerCost *cost)
{
    ModelDims dims = spec_dims(&spec->model);
    double peers = spec->cluster.levels[level].count / config->domain[level] - 1.0;
    double rows =
        peers * exchange_rows_bound(&spec->cluster, &dims, dispatch, spec->plan.capacity, config->domain, level);
    cost->send_rows[level] = fmin(cost->send_rows[level], rows);
    for (uint32_t way = 0; way < TOKEN_WAYS; way++) {
        double row_bytes = layer->row_bytes * layer->packed_share[way];
        cost->payload_bytes[way][level] = rows * row_bytes;
        cost->padding_bytes[way][level] = (rows - cost->send_rows[level]) * row_bytes;
    }
}

// Rows as activations that are packed where they begin, and unpacked where they end. `held`: of the stage inside the
// exchange, `sent`: of those that it sends.
static void cost_packing(const Spec *spec, const LayerWork *layer, double held, double sent, uint32_t level,
                         LayerCost *cost)
{
    const Device *device = &spec->cluster.device;
    for (uint32_t way = 0; way < TOKEN_WAYS; way++) {
        if (spec->plan.tokens[way] == TOKENS_FULL)
            continue;
        if (!way_goes_out((TokenWay)way)) {
            cost->encode_s[way][level] = held * layer->row_bytes / device->quantize_bandwidth;
            cost->decode_s[way][level] = sent * layer->row_bytes / device->dequantize_bandwidth;
            continue;
        }
        bool first = cost_levels_s(cost->encode_s[way]) <= 0;
        for (uint32_t outer = 0; outer < level; outer++)
            cost->decode_s[way][outer] = 0;
        cost->encode_s[way][level] = first ? layer->tokens * layer->row_bytes / device->quantize_bandwidth : 0;
        cost->decode_s[way][level] = held * layer->row_bytes / device->dequantize_bandwidth;
    }
}

// What exchanges of a layer at one level take, where that much of what they send is the busiest GPU's.
static void cost_exchange_times(const Spec *spec, uint32_t level, double busiest, double peers, LayerCost *cost)
{
    // Counts go ahead of what is dispatched.
    double startups = spec->model.abstract || spec->plan.exchange == EXCHANGE_PADDED ? 1 : 2;
    const double beside[TOKEN_WAYS] = {
        [WAY_DISPATCH] = cost->routing_bytes[level], [WAY_DISPATCH_GRADIENT] = cost->routing_bytes[level]};
    double *const times[TOKEN_WAYS] = {[WAY_DISPATCH] = cost->dispatch_s,
                                       [WAY_COMBINE] = cost->combine_s,
                                       [WAY_DISPATCH_GRADIENT] = cost->combine_backward_s,
                                       [WAY_COMBINE_GRADIENT] = cost->dispatch_backward_s};
    for (uint32_t way = 0; way < TOKEN_WAYS; way++) {
        // The group waits for its busiest member.
        double bytes = busiest * (cost->payload_bytes[way][level] + beside[way]);
        times[way][level] =
            startups_s(spec, GROUP_EXCHANGE, level, bytes, peers, way_goes_out((TokenWay)way) ? startups : 1);
        add_port_bytes(spec, level, bytes, cost->port_exchange_s[way]);
    }
    cost->busiest[level] = busiest;
    cost->port_latency_s[level] = fmax(cost->port_latency_s[level], port_latency_s(spec, GROUP_EXCHANGE, level, peers));
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
    double copies = cost_expected_copies(work, layer, dispatch, config, level), busiest = 1;
    if (layer->routing)
        busiest = routing_load(layer->routing, config->domain, level, dispatch).busiest_exchange;
    double moved = copies * (count - domain) / count; // rows per token that leave
    for (uint32_t way = 0; way < TOKEN_WAYS; way++)
        cost->payload_bytes[way][level] = layer->data_bytes * moved / top_k * layer->packed_share[way];
    cost->send_rows[level] = layer->tokens * moved;
    if (!spec->model.abstract) {
        double stage_rows = layer->tokens * copies;
        cost->route_s[level] = 2 * busiest * stage_rows * layer->row_bytes / cluster->device.memory_bandwidth;
        if (spec->plan.exchange == EXCHANGE_PADDED) {
            pad(spec, layer, config, dispatch, level, cost);
            busiest = 1; // all send as much
        }
        double rows = cost->payload_bytes[WAY_COMBINE][level] / (layer->row_bytes * layer->packed_share[WAY_COMBINE]);
        double records = dispatch == DISPATCH_NAIVE ? 1 : top_k;
        cost->routing_bytes[level] = exchange_routing_bytes(OP_DISPATCH, true, rows, records, peers);
        cost->counts_bytes[level] = exchange_routing_bytes(OP_DISPATCH, false, rows, records, peers);
        cost->weights_bytes[level] = exchange_routing_bytes(OP_COMBINE_BACKWARD, true, rows, records, peers);
        cost_packing(spec, layer, busiest * stage_rows, busiest * rows, level, cost);
    }
    cost_exchange_times(spec, level, busiest, peers, cost);
}

// Do gradients of experts go home over the levels inside their boundary once per lap?
static bool returns_each_lap(const Spec *spec, const Config *config)
{
    return spec_laps(spec).count > 1 &&
           gathers_among(config, config_gradient_levels(spec, config), spec->cluster.level_count);
}

// What is held of a bundle before the levels inside the boundary: shares.
static double shares_outside(const Spec *spec, const uint32_t sizes[LEVELS_MAX], uint32_t once)
{
    double shares = 1;
    for (uint32_t l = spec->replica_levels; l < once; l++)
        shares *= sizes[l];
    return shares;
}

double config_summed_shards(const Spec *spec, const Config *config)
{
    return shares_outside(spec, config->domain, config_gradient_levels(spec, config));
}

// Adding up what laps bring home: in each of them, and zeros and rounding once.
static double lap_sums_s(const Spec *spec, double elements)
{
    SumCost sums = workload_sum_cost(spec, elements);
    return sums.part_s + sums.once_s / spec_laps(spec).count;
}

static void cost_migration(const Workload *work, const LayerWork *layer, const Config *config, uint32_t level,
                           double shards_before, LayerCost *cost)
{
    double peers = config->domain[level] - 1.0;
    bool coded = level < spec_coded_levels(work->spec);
    cost->gather_bytes[level] = (coded ? layer->sent_bytes : layer->expert_bytes) * shards_before * peers;
    cost->gather_s[level] = cost_group_s(work->spec, GROUP_GATHER, level, cost->gather_bytes[level], peers);
    add_port_bytes(work->spec, level, cost->gather_bytes[level], cost->port_gather_s);
    if (work->bucket && level == work->bucket_level)
        cost->startup_s = joined_saves_s(work->spec, level, cost->gather_bytes[level], peers);
    cost->port_latency_s[level] =
        fmax(cost->port_latency_s[level], port_latency_s(work->spec, GROUP_GATHER, level, peers));
    if (work->spec->plan.pass == PASS_FORWARD)
        return;
    if (config->regather && level >= config->once) {
        cost->again_bytes[level] = cost->gather_bytes[level];
        *(level < work->outer_levels ? &cost->again_outer_s : &cost->again_s) += cost->gather_s[level];
        add_port_bytes(work->spec, level, cost->gather_bytes[level], cost->port_again_s);
    }
    // Gradients go home the gather reversed: whole sums, or packets of what the others are to get.
    cost->reduce_bytes[level] = (coded ? layer->returned_bytes : layer->expert_bytes) * shards_before * peers;
    if (coded && work->spec->plan.experts.gradient != GRADIENT_DENSE && peers > 0)
        cost->sync_s += packet_s(work->spec, coding_gradient_packing(&work->spec->plan.experts).form,
                                 layer->expert_bytes * shards_before * peers, layer->expert_bytes * shards_before);
    cost->reduce_s[level] = cost_group_s(work->spec, GROUP_GATHER, level, cost->reduce_bytes[level], peers);
    add_port_bytes(work->spec, level, cost->reduce_bytes[level], cost->port_reduce_s);
    if (returns_each_lap(work->spec, config) && level >= config_gradient_levels(work->spec, config)) {
        cost->lap_reduce_bytes[level] = cost->reduce_bytes[level];
        cost->lap_reduce_s[level] = cost->reduce_s[level];
        add_port_bytes(work->spec, level, cost->reduce_bytes[level], cost->port_lap_reduce_s);
    }
}

// The shared expert is summed over all GPUs that hold different experts, a share of the sum in every iteration.
static void cost_mean(const Workload *work, const LayerWork *layer, LayerCost *cost)
{
    const Spec *spec = work->spec;
    double every = spec->plan.shared_every;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++) {
        double count = spec->cluster.levels[l].count, bytes = 2 * (count - 1) / count * layer->mean_bytes;
        double port_s[LEVELS_MAX] = {0};
        cost->mean_bytes[l] = bytes / every;
        cost->sync_s += cost_sum_s(spec, l, bytes) / every;
        add_port_bytes(spec, l, bytes, port_s);
        for (uint32_t j = 0; j < LEVELS_MAX; j++)
            cost->port_reduce_s[j] += port_s[j] / every;
    }
    cost->sync_s += layer->expert_bytes / every / spec->cluster.device.memory_bandwidth;
}

// How dense weights travel one way.
typedef struct {
    uint32_t levels; // that packets cross: 0 where nothing is encoded
    PacketForm form;
    double sent_bytes; // of a share's packet
} BundlePackets;

static BundlePackets bundle_packets(const Spec *spec, double share_bytes, BundleWay way)
{
    const Coding *coding = &spec->plan.dense;
    Packing packing = way == BUNDLE_GATHER ? coding_packing(coding) : coding_gradient_packing(coding);
    bool encodes = way == BUNDLE_GATHER ? codec_info(coding->codec)->encodes : coding->gradient != GRADIENT_DENSE;
    uint64_t elements = (uint64_t)(share_bytes / dtype_bytes(spec->model.dtype));
    return (BundlePackets){.levels = encodes ? coding_levels(coding, spec->cluster.level_count) : 0,
                           .form = packing.form,
                           .sent_bytes = (double)packing_bytes(packing, elements, spec->model.dtype)};
}

void cost_bundle_inside(const Spec *spec, double share_bytes, uint32_t first, BundleWay way, BundleCost *cost)
{
    BundlePackets packets = bundle_packets(spec, share_bytes, way);
    double shares = 1, coded = 1;
    *cost = (BundleCost){0};
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count && share_bytes > 0; l++) {
        double peers = spec->cluster.levels[l].count - 1.0, before = shares;
        bool packed = l < packets.levels;
        shares *= peers + 1;
        coded = packed ? shares : coded;
        if (l < first)
            continue;
        cost->bytes[l] = (packed ? packets.sent_bytes : share_bytes) * before * peers;
        cost->step_s[l] = cost_group_s(spec, GROUP_GATHER, l, cost->bytes[l], peers);
        if (spec_bucket(spec) && l == spec_bucket_level(spec))
            cost->startup_s = joined_saves_s(spec, l, cost->bytes[l], peers);
        add_port_bytes(spec, l, cost->bytes[l], cost->port_s);
        if (packed && peers > 0 && way == BUNDLE_RETURN)
            cost->codec_s += packet_s(spec, packets.form, share_bytes * before * peers, share_bytes * before);
    }
    if (way == BUNDLE_GATHER && coded > 1 && first == 0)
        cost->codec_s = packet_s(spec, packets.form, share_bytes, share_bytes * coded);
}

void cost_bundle(const Spec *spec, double share_bytes, BundleWay way, BundleCost *cost)
{
    cost_bundle_inside(spec, share_bytes, 0, way, cost);
}

OuterCost cost_outer(const Spec *spec, double bytes)
{
    const LocalSteps *sync = &spec->plan.sync;
    double every = sync->every, memory_s = bytes / spec->cluster.device.memory_bandwidth / every;
    OuterCost cost = {.gradient_s = 3 * memory_s, .step_s = (sync->optimizer == OUTER_AVERAGE ? 4 : 6) * memory_s};
    for (uint32_t l = 0; l < spec->replica_levels; l++) {
        double count = spec->cluster.levels[l].count, sent = 2 * (count - 1) / count * bytes;
        cost.sum_bytes[l] = sent / every;
        cost.sum_s[l] = cost_sum_s(spec, l, sent) / every;
    }
    return cost;
}

static double dense_lap_sums_s(const Spec *spec, double share_bytes, uint32_t once)
{
    uint32_t counts[LEVELS_MAX] = {0};
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        counts[l] = spec->cluster.levels[l].count;
    return lap_sums_s(spec, share_bytes / dtype_bytes(spec->model.dtype) * shares_outside(spec, counts, once));
}

void cost_embedding(const Workload *work, EmbeddingCost *cost)
{
    const Spec *spec = work->spec;
    double share_bytes = work->embedding_share_bytes;
    uint32_t once = spec_embedding_levels(spec);
    *cost = (EmbeddingCost){0};
    cost_bundle(spec, share_bytes, BUNDLE_GATHER, &cost->gather);
    cost_bundle(spec, share_bytes, BUNDLE_RETURN, &cost->home);
    if (!spec_regathers_embedding(spec))
        return;
    cost_bundle_inside(spec, share_bytes, once, BUNDLE_GATHER, &cost->again);
    cost_bundle_inside(spec, share_bytes, once, BUNDLE_RETURN, &cost->half);
    cost->half_sums_s = dense_lap_sums_s(spec, share_bytes, once);
}

// Packing and unpacking the rows of an exchange.
static double packing_s(const LayerCost *cost, TokenWay way)
{
    return cost_levels_s(cost->encode_s[way]) + cost_levels_s(cost->decode_s[way]);
}

// From the layer's input to the experts, a second time.
static double again_s(const LayerWork *layer, const LayerCost *cost)
{
    return layer->pre_expert_s + cost_levels_s(cost->route_s) / 2 + cost_levels_s(cost->dispatch_s) +
           packing_s(cost, WAY_DISPATCH);
}

// What one micro-batch's pass of a layer does in turn: it computes, then rows travel over a level.
typedef struct {
    double compute_s[3 * LEVELS_MAX + 1], exchange_s[3 * LEVELS_MAX + 1];
    uint32_t count;
} Turns;

static void compute_in_turn(Turns *turns, double s)
{
    turns->compute_s[turns->count] += s;
}

static void exchange_in_turn(Turns *turns, double s)
{
    if (s > 0)
        turns->exchange_s[turns->count++] = s;
}

// Rows out to the experts, over the outer levels first.
static void go_out(Turns *turns, const LayerCost *cost, TokenWay way, const double out_s[LEVELS_MAX])
{
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        compute_in_turn(turns, cost->route_s[l] / 2 + cost->encode_s[way][l]);
        exchange_in_turn(turns, out_s[l]);
        compute_in_turn(turns, cost->decode_s[way][l]);
    }
}

static void come_back(Turns *turns, const LayerCost *cost, TokenWay way, const double back_s[LEVELS_MAX])
{
    for (uint32_t l = LEVELS_MAX; l-- > 0;) {
        compute_in_turn(turns, cost->encode_s[way][l]);
        exchange_in_turn(turns, back_s[l]);
        compute_in_turn(turns, cost->decode_s[way][l] + cost->route_s[l] / 2);
    }
}

// So many micro-batches abreast, each of which computes in turn while rows of others travel: of either kind one at a
// time, in the order of the phases (ir/unroll.h).
static double abreast_s(const Turns *turns, uint32_t abreast)
{
    enum { PLACES_MAX = 3 };
    double computed_s = 0, exchanged_s = 0, there_s[PLACES_MAX] = {0};
    for (uint32_t turn = 0; turn <= turns->count; turn++)
        for (uint32_t k = 0; k < abreast; k++) {
            computed_s = fmax(computed_s, there_s[k]) + turns->compute_s[turn];
            exchanged_s = fmax(exchanged_s, computed_s) + turns->exchange_s[turn];
            there_s[k] = exchanged_s;
        }
    return computed_s;
}

static double interleaved_s(const Workload *work, const LayerWork *layer, const LayerCost *cost, bool backward)
{
    Turns turns = {0};
    if (!backward || work->spec->plan.recomputes) {
        compute_in_turn(&turns, layer->pre_expert_s);
        go_out(&turns, cost, WAY_DISPATCH, cost->dispatch_s);
    }
    if (backward)
        go_out(&turns, cost, WAY_COMBINE_GRADIENT, cost->dispatch_backward_s);
    compute_in_turn(&turns, backward ? cost->expert_backward_s + cost->expert_sums_s : cost->expert_s);
    if (backward)
        come_back(&turns, cost, WAY_DISPATCH_GRADIENT, cost->combine_backward_s);
    else
        come_back(&turns, cost, WAY_COMBINE, cost->combine_s);
    compute_in_turn(&turns, backward ? layer->pre_expert_backward_s + layer->dense_backward_s + layer->dense_sums_s
                                     : layer->dense_s);
    return abreast_s(&turns, spec_abreast(work->spec));
}

void cost_pass(const Workload *work, uint32_t index, const LayerCost *cost, bool backward, PassCost *pass)
{
    const LayerWork *layer = &work->layers[index];
    // Backward: gradients of rows go out as combine brought rows, those of rows and weights come back as dispatch took
    // them. The forward pass's way out may come before it.
    const double *out_s = backward ? cost->dispatch_backward_s : cost->dispatch_s;
    const double *back_s = backward ? cost->combine_backward_s : cost->combine_s;
    double count = spec_laps(work->spec).each;
    double again = backward && work->spec->plan.recomputes ? 1 : 0;
    TokenWay out_way = backward ? WAY_COMBINE_GRADIENT : WAY_DISPATCH;
    TokenWay back_way = backward ? WAY_DISPATCH_GRADIENT : WAY_COMBINE;
    double packed_s = packing_s(cost, out_way) + packing_s(cost, back_way) + again * packing_s(cost, WAY_DISPATCH);
    double route_s = cost_levels_s(cost->route_s), exchange_s = cost_levels_s(out_s) + cost_levels_s(back_s);
    double own_s = backward ? layer->pre_expert_backward_s : layer->pre_expert_s, sums_s = 0, once_s = 0;
    double dense_s = backward ? layer->dense_backward_s : layer->dense_s;
    double expert_s = backward ? cost->expert_backward_s : cost->expert_s;
    *pass =
        (PassCost){.before_s = route_s + cost_levels_s(out_s) + packing_s(cost, out_way) + again * again_s(layer, cost),
                   .compute_s = expert_s,
                   .after_s = cost_levels_s(back_s) + packing_s(cost, back_way) + dense_s};
    *(backward ? &pass->after_s : &pass->before_s) += own_s;
    if (backward) {
        pass->compute_s += cost->expert_sums_s;
        pass->after_s += layer->dense_sums_s;
        sums_s = cost->expert_sums_s + layer->dense_sums_s;
        once_s = cost->expert_round_s + layer->dense_round_s;
    }
    pass->pre_expert_s = count * (own_s + again * layer->pre_expert_s);
    pass->exchange_s = count * (exchange_s + again * cost_levels_s(cost->dispatch_s));
    pass->expert_s = count * expert_s;
    pass->other_s = count * (dense_s + route_s * (1 + again / 2) + packed_s + sums_s) + once_s;
    double one_s = pass->before_s + pass->compute_s + pass->after_s, others_s = (count - 1) * one_s;
    if (spec_abreast(work->spec) > 1) { // of what they take together, what is no computation was not hidden
        double all_s = count / spec_abreast(work->spec) * interleaved_s(work, layer, cost, backward);
        pass->exchange_s = fmax(0, pass->exchange_s - (one_s + others_s - all_s)); // what is left may be rounding
        others_s = all_s - one_s;
    }
    pass->compute_s += others_s + (backward ? cost->expert_round_s : 0);
    pass->after_s += backward ? layer->dense_round_s : 0;
    for (uint32_t j = 0; j < LEVELS_MAX; j++) {
        double out = cost->port_exchange_s[out_way][j] + again * cost->port_exchange_s[WAY_DISPATCH][j];
        double back = cost->port_exchange_s[back_way][j];
        // Latencies keep no port busy, but the last one before the wait is waited for.
        bool gathers = (backward ? cost->again_bytes[j] : cost->gather_bytes[j]) > 0;
        double latency_s = gathers || out_s[j] > 0 ? cost->port_latency_s[j] : 0;
        pass->port_before_s[j] = out + latency_s;
        pass->port_after_s[j] = back + (count - 1) * (out + back) - latency_s;
    }
}

double cost_dense_pass_s(const Workload *work, uint32_t index, bool backward)
{
    const LayerWork *layer = &work->layers[index];
    double count = spec_laps(work->spec).each;
    if (!backward)
        return count * (layer->pre_expert_s + layer->dense_s);
    double again_s = work->spec->plan.recomputes ? layer->pre_expert_s : 0;
    return count * (layer->pre_expert_backward_s + layer->dense_backward_s + again_s + layer->dense_sums_s) +
           layer->dense_round_s;
}

// `held`: shares of the layer's experts that a GPU holds.
static void cost_experts(const Workload *work, const LayerWork *layer, const Config *config, Dispatch dispatch,
                         double held, LayerCost *cost)
{
    const Spec *spec = work->spec;
    const Device *device = &spec->cluster.device;
    cost->expert_s = layer->expert_compute_s;
    cost->expert_backward_s = layer->expert_backward * layer->expert_compute_s;
    if (layer->expert_flops > 0) {
        double experts_held = spec->model.experts / workload_shards(spec) * held;
        double rows = layer->tokens * spec->model.top_k * spec_computing_part(&spec->model) / experts_held;
        cost->expert_s += layer->expert_scale * workload_matrix_s(device, layer->expert_flops, rows);
        cost->expert_backward_s += layer->expert_backward_scale *
                                   workload_backward_s(device, layer->expert_backward * layer->expert_flops, rows);
    }
    if (!layer->routing)
        return;
    // What all GPUs of a domain hold is computed by all of them.
    double busiest =
        routing_load(layer->routing, config->domain, spec->cluster.level_count - 1, dispatch).busiest_experts;
    cost->expert_s *= busiest;
    cost->expert_backward_s *= busiest;
}

void cost_layer(const Workload *work, uint32_t index, const Config *config, Dispatch dispatch, LayerCost *cost)
{
    const Spec *spec = work->spec;
    const LayerWork *layer = &work->layers[index];
    *cost = (LayerCost){0};
    if (spec->plan.pass == PASS_TRAINING)
        cost_bundle(spec, layer->dense_share_bytes, BUNDLE_GATHER, &cost->dense);
    if (spec->plan.pass == PASS_TRAINING)
        cost_bundle(spec, layer->dense_share_bytes, BUNDLE_RETURN, &cost->dense_return);
    if (spec->plan.pass == PASS_TRAINING && spec->plan.regather_dense)
        cost_bundle_inside(spec, layer->dense_share_bytes, spec->plan.dense_levels, BUNDLE_GATHER, &cost->dense_again);
    if (workload_returns_dense_each_lap(spec)) {
        uint32_t once = spec_dense_gradient_levels(spec);
        cost_bundle_inside(spec, layer->dense_share_bytes, once, BUNDLE_RETURN, &cost->dense_lap_return);
        cost->dense_lap_sums_s = dense_lap_sums_s(spec, layer->dense_share_bytes, once);
    }
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
    cost_experts(work, layer, config, dispatch, held, cost);
    double coded = config_coded_shards(spec, config);
    if (coded > 1 && codec_info(spec->plan.experts.codec)->encodes)
        cost->codec_s =
            packet_s(spec, coding_packing(&spec->plan.experts).form, layer->expert_bytes, coded * layer->expert_bytes);
    cost->again_s += config->regather && config->once < spec_coded_levels(spec) ? cost->codec_s : 0;
    if (spec->plan.pass == PASS_FORWARD)
        return;
    if (!spec->model.abstract) {
        bool each_lap = returns_each_lap(spec, config);
        double elements = layer->expert_bytes / dtype_bytes(spec->model.dtype);
        SumCost sums = workload_lap_sum_cost(spec, elements * held, each_lap);
        if (each_lap)
            cost->lap_sums_s =
                lap_sums_s(spec, elements * shares_outside(spec, config->domain, config_gradient_levels(spec, config)));
        cost->expert_sums_s = sums.part_s;
        cost->expert_round_s = sums.once_s;
    }
    if (coded > 1 && layer->mean_bytes > 0)
        cost_mean(work, layer, cost);
}
