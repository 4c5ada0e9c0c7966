// Lowering of migration: experts to those who gather them, encoded where the plan says so; their gradients home again;
// and the sums over ranks. The forward pass (lower.c) and the backward pass (lower_backward.c) call it.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "compiler/lowering/lowering.h"
#include "ir/bundle.h"
#include "ir/codec.h"
#include "ir/unroll.h"

static double dense_bytes(const Lowering *l, double rows)
{
    return rows * l->share_cols * dtype_bytes(l->plan->model.dtype);
}

static int32_t add_local(Lowering *l, Op op, uint32_t k, double cost_s, StepBuffers operands)
{
    StepSpec step = {.op = op, .layer = (int32_t)k, .level = NONE, .group = NONE, .cost_s = cost_s};
    return builder_add_step(l->builder, step, operands);
}

static int32_t add_experts(Lowering *l, uint32_t k, BufferKind kind, const char *name, double rows)
{
    BufferShape shape = {
        .dtype = l->plan->model.dtype, .rows = rows, .kind = kind, .layer = (int32_t)k, .cols = l->share_cols};
    return builder_add_buffer(l->builder, shape, "L%u.%s", k, name);
}

// ---- packets -----------------------------------------------------------------------------------

// A bundle that packets are made of: experts of a layer, its dense weights, or the embedding.
typedef struct {
    const Coding *coding;
    int32_t layer, own; // weights, as owned
    int32_t mean;       // subtracted; NONE without
    CodecMemory *memory;
    char prefix[BUFFER_NAME_MAX]; // of names
    double members;               // shares that packets bring together
} Coded;

static Coded coded_experts(Lowering *l, uint32_t k)
{
    LoweredLayer *layer = &l->layers[k];
    Coded of = {.coding = &l->spec->plan.experts,
                .layer = (int32_t)k,
                .own = layer->experts,
                .mean = layer->mean,
                .memory = &layer->memory,
                .members = config_coded_shards(l->spec, l->config)};
    snprintf(of.prefix, sizeof(of.prefix), "L%u", k);
    return of;
}

// A buffer of shares like those of the bundle, or of their packets.
static int32_t add_coded(Lowering *l, const Coded *of, BufferKind kind, const char *name, double rows)
{
    const Buffer *own = builder_buffer(l->builder, of->own);
    BufferShape shape = {
        .dtype = own->dtype, .rows = rows, .cols = (double)own->cols, .kind = kind, .layer = of->layer};
    return builder_add_buffer(l->builder, shape, "%s.%s", of->prefix, name);
}

static int32_t add_packets(Lowering *l, const Coded *of, Packing packing, const char *name, double rows)
{
    const Buffer *own = builder_buffer(l->builder, of->own);
    BufferShape shape = {.dtype = DTYPE_U8,
                         .rows = rows,
                         .cols = (double)plan_packet_bytes(l->plan, packing, own->cols),
                         .kind = BUFFER_TEMPORARY,
                         .layer = of->layer};
    return builder_add_buffer(l->builder, shape, "%s.%s", of->prefix, name);
}

static double coded_bytes(const Lowering *l, const Coded *of, double rows)
{
    const Buffer *own = builder_buffer(l->builder, of->own);
    return rows * (double)own->cols * dtype_bytes(own->dtype);
}

static double own_rows(const Lowering *l, const Coded *of)
{
    return (double)builder_buffer(l->builder, of->own)->rows;
}

static int32_t add_codec_step(Lowering *l, Op op, const Coded *of, double cost_s, StepBuffers operands)
{
    StepSpec step = {.op = op, .layer = of->layer, .level = NONE, .group = NONE, .cost_s = cost_s};
    return builder_add_step(l->builder, step, operands);
}

// The rank's own share as a packet, which is returned.
static int32_t encode_own(Lowering *l, const Coded *of, const char *suffix, int32_t after_step)
{
    const Packing packing = coding_packing(of->coding);
    double rows = own_rows(l, of);
    if (of->memory->sent == NONE && codec_info(of->coding->codec)->remembers) {
        of->memory->sent = add_coded(l, of, BUFFER_REPLICA, "sent", rows);
        of->memory->replicas = add_coded(l, of, BUFFER_REPLICA, "replicas", rows * of->members);
    }
    char name[BUFFER_NAME_MAX];
    snprintf(name, sizeof(name), "packet%s", suffix);
    int32_t packet = add_packets(l, of, packing, name, rows);
    StepBuffers operands = {.encode = {.own = of->own, .mean = of->mean, .sent = of->memory->sent, .packet = packet}};
    double encode_s = cost_encode_s(&l->spec->cluster.device, packing.form, coded_bytes(l, of, rows));
    int32_t step = add_codec_step(l, OP_ENCODE, of, encode_s, operands);
    if (after_step != NONE)
        builder_add_after(l->builder, step, after_step);
    return packet;
}

// What all packets that were brought together hold.
static int32_t decode_gathered(Lowering *l, const Coded *of, const char *suffix, int32_t packet)
{
    const PacketForm form = coding_packing(of->coding).form;
    double rows = own_rows(l, of) * of->members;
    int32_t decoded = NONE;
    if (of->memory->replicas == NONE) {
        char name[BUFFER_NAME_MAX];
        snprintf(name, sizeof(name), "decoded%s", suffix);
        decoded = add_coded(l, of, BUFFER_TEMPORARY, name, rows);
    }
    StepBuffers operands = {
        .decode = {
            .packet = packet, .own = of->own, .mean = of->mean, .gathered = decoded, .replicas = of->memory->replicas}};
    double decode_s = cost_decode_s(&l->spec->cluster.device, form, coded_bytes(l, of, rows));
    add_codec_step(l, OP_DECODE, of, decode_s, operands);
    return decoded == NONE ? of->memory->replicas : decoded;
}

// ---- how far gathers run ahead -----------------------------------------------------------------

// Does the next level alone read what this level brings?
static bool is_passed_on(const Lowering *l, const Gathering *of, uint32_t level)
{
    uint32_t next = level + 1, levels = l->spec->cluster.level_count;
    while (next < levels && of->sizes[next] == 1)
        next++;
    return next < levels && !(level < of->once && next >= of->once);
}

// From where on what was gathered is gathered again.
static uint32_t first_again(const Lowering *l, uint32_t once)
{
    return once > l->spec->replica_levels ? once : l->spec->replica_levels;
}

// A gather over an outer level runs ahead of those inside, with at most OUTER_SLOTS results that they have not read, or
// those of two buckets.
static void limit_gather(Lowering *l, Gathering *of, uint32_t level, int32_t step)
{
    if (of->after != NONE && level >= of->once)
        builder_add_after(l->builder, step, of->after);
    if (level < l->plan->outer_levels)
        l->outer_gather = step;
    if (of->passed_on) {
        memmove(l->outer_reads + 1, l->outer_reads, (OUTER_READS - 1) * sizeof(*l->outer_reads));
        l->outer_reads[0] = step;
    }
    of->passed_on = level < l->plan->outer_levels && is_passed_on(l, of, level);
    int32_t read = l->outer_reads[l->bucket > 0 ? 2 * l->bucket : OUTER_SLOTS - 1];
    if (of->passed_on && read != NONE)
        builder_add_after(l->builder, step, read);
}

// ---- experts ---------------------------------------------------------------------------------

// Levels, and the step that their gathers wait for.
typedef struct {
    uint32_t first, end;
    int32_t after_step; // NONE
} GatherRange;

// Of the layer that was entered, from what `shard` holds.
static Gathering begin_expert_gathers(const Lowering *l, int32_t shard)
{
    bool training = l->spec->plan.pass == PASS_TRAINING;
    Gathering of = {.once = !training ? 0 : l->config->regather ? l->config->once : UINT32_MAX, .shard = shard};
    memcpy(of.sizes, l->config->domain, sizeof(of.sizes));
    return of;
}

// From the outermost of the levels inwards; notes what levels that are gathered once left.
static int32_t continue_gathers(Lowering *l, uint32_t k, const char *suffix, Gathering *of, GatherRange range)
{
    const Spec *spec = l->spec;
    const Buffer *own = builder_buffer(l->builder, of->shard);
    double rows = (double)own->rows, cols = (double)own->cols;
    Dtype dtype = own->dtype;
    of->after = range.after_step;
    for (uint32_t level = range.first; level < range.end; level++) {
        if (level == first_again(l, l->config->once))
            l->layers[k].kept = of->shard;
        uint32_t domain = l->config->domain[level];
        if (domain == 1)
            continue;
        rows *= domain;
        char name[BUFFER_NAME_MAX];
        snprintf(name, sizeof(name), "gathered.%s%s", spec->cluster.levels[level].name, suffix);
        int32_t gathered = lowering_add_temporary(l, k, name, dtype, rows, cols);
        StepBuffers operands = {.gather = {.shard = of->shard, .gathered = gathered}};
        int32_t group = builder_add_group(l->builder, GROUP_GATHER, (int32_t)level, domain);
        int32_t step = builder_add_step(l->builder,
                                        (StepSpec){.op = OP_GATHER,
                                                   .layer = (int32_t)k,
                                                   .level = (int32_t)level,
                                                   .group = group,
                                                   .cost_s = l->cost.gather_s[level],
                                                   .bytes = l->cost.gather_bytes[level],
                                                   .each_lap = level >= of->once,
                                                   .joins = l->joins,
                                                   .startup_s = l->cost.startup_s},
                                        operands);
        limit_gather(l, of, level, step);
        of->shard = gathered;
    }
    return of->shard;
}

static int32_t gather_levels(Lowering *l, uint32_t k, const char *suffix, int32_t shard, GatherRange range)
{
    Gathering of = begin_expert_gathers(l, shard);
    return continue_gathers(l, k, suffix, &of, range);
}

// The slowest level alone.
static GatherRange slowest_level(const Lowering *l)
{
    uint32_t level = l->work->bucket_level;
    return (GatherRange){level, level + 1, NONE};
}

void lowering_gather_experts_ahead(Lowering *l, uint32_t k)
{
    LoweredLayer *layer = &l->layers[k];
    GatherRange range = slowest_level(l);
    layer->are_experts_ahead = experts_gather_in_buckets(l->work, l->config) && l->config->domain[range.first] > 1;
    if (!layer->are_experts_ahead)
        return;
    layer->experts_ahead = begin_expert_gathers(l, layer->experts);
    (void)continue_gathers(l, k, "", &layer->experts_ahead, range);
    l->joins = true;
}

// The experts as packets, over the levels that these cross; returns what is decoded of them.
static int32_t gather_packets(Lowering *l, uint32_t k, const char *suffix, int32_t after_step)
{
    LoweredLayer *layer = &l->layers[k];
    if (layer->mean == NONE && l->work->layers[k].mean_bytes > 0)
        layer->mean = add_experts(l, k, BUFFER_REPLICA, "mean", 1);
    Coded of = coded_experts(l, k);
    int32_t packet = encode_own(l, &of, suffix, after_step);
    GatherRange range = {l->spec->replica_levels, spec_coded_levels(l->spec), after_step};
    return decode_gathered(l, &of, suffix, gather_levels(l, k, suffix, packet, range));
}

int32_t lowering_add_gathers(Lowering *l, uint32_t k, bool again, int32_t after_step)
{
    LoweredLayer *layer = &l->layers[k];
    const char *suffix = again ? ".again" : "";
    double coded_rows = l->share_rows * config_coded_shards(l->spec, l->config);
    uint32_t coded = spec_coded_levels(l->spec), levels = l->spec->cluster.level_count;
    bool packets = codec_info(l->spec->plan.experts.codec)->encodes && coded_rows > l->share_rows;
    if (l->held_rows == l->share_rows)
        return layer->experts;
    if (again && (!packets || l->config->once >= coded))
        return gather_levels(l, k, suffix, layer->kept,
                             (GatherRange){first_again(l, l->config->once), levels, after_step});
    if (!again && layer->are_experts_ahead)
        return continue_gathers(l, k, suffix, &layer->experts_ahead,
                                (GatherRange){l->work->bucket_level + 1, levels, after_step});
    if (!packets)
        return gather_levels(l, k, suffix, layer->experts, (GatherRange){l->spec->replica_levels, levels, after_step});
    int32_t decoded = gather_packets(l, k, suffix, after_step);
    return gather_levels(l, k, suffix, decoded, (GatherRange){coded, levels, after_step});
}

// ---- bundles that all GPUs own shares of -------------------------------------------------------

static Coded coded_bundle(const Lowering *l, int32_t layer, int32_t bundle, CodecMemory *memory)
{
    const Cluster *cluster = &l->spec->cluster;
    Coded of = {
        .coding = &l->spec->plan.dense, .layer = layer, .own = bundle, .mean = NONE, .memory = memory, .members = 1};
    for (uint32_t level = 0; level < coding_levels(of.coding, cluster->level_count); level++)
        of.members *= cluster->levels[level].count;
    snprintf(of.prefix, sizeof(of.prefix), "%s", builder_buffer(l->builder, bundle)->name);
    return of;
}

static void return_packets(Lowering *l, const Coded *of, StepSpec step, int32_t dheld, int32_t shard)
{
    const Device *device = &l->spec->cluster.device;
    const char *level_name = l->spec->cluster.levels[step.level].name;
    double held = (double)builder_buffer(l->builder, dheld)->rows,
           own = (double)builder_buffer(l->builder, shard)->rows;
    Packing packing = coding_gradient_packing(of->coding);
    char name[BUFFER_NAME_MAX];
    snprintf(name, sizeof(name), "error.%s", level_name);
    int32_t error = add_coded(l, of, BUFFER_REPLICA, name, held);
    snprintf(name, sizeof(name), "dpackets.%s", level_name);
    int32_t packets = add_packets(l, of, packing, name, held);
    snprintf(name, sizeof(name), "received.%s", level_name);
    int32_t received = add_packets(l, of, packing, name, held);
    StepBuffers encode = {.encode_gradient = {.gathered = dheld, .error = error, .packets = packets}};
    StepBuffers send = {.return_packets = {.packets = packets, .received = received}};
    StepBuffers decode = {.decode_gradient = {.gathered = dheld, .received = received, .shard = shard}};
    double encode_s = cost_encode_s(device, packing.form, coded_bytes(l, of, held - own));
    add_codec_step(l, OP_ENCODE_GRADIENT, of, encode_s, encode);
    step.op = OP_RETURN_PACKETS;
    builder_add_step(l->builder, step, send);
    l->returned =
        add_codec_step(l, OP_DECODE_GRADIENT, of, cost_decode_s(device, packing.form, coded_bytes(l, of, own)), decode);
}

void lowering_return_packets(Lowering *l, int32_t weights, StepSpec step, int32_t gradient, int32_t shard)
{
    bool experts = step.layer != NONE && l->layers[step.layer].experts == weights;
    const Coded of = experts ? coded_experts(l, (uint32_t)step.layer) : coded_bundle(l, step.layer, weights, NULL);
    return_packets(l, &of, step, gradient, shard);
}

// Rows as long as those of `like`.
static int32_t add_rows_like(Lowering *l, int32_t layer, int32_t bundle, int32_t like, double rows, const char *what)
{
    const Buffer *of = builder_buffer(l->builder, like);
    BufferShape shape = {
        .dtype = of->dtype, .rows = rows, .cols = (double)of->cols, .kind = BUFFER_TEMPORARY, .layer = layer};
    return builder_add_buffer(l->builder, shape, "%s.%s", builder_buffer(l->builder, bundle)->name, what);
}

static int32_t add_held(Lowering *l, int32_t layer, int32_t bundle, double rows, const char *what)
{
    return add_rows_like(l, layer, bundle, bundle, rows, what);
}

// Does a level from `first` inwards bring several members together?
static bool crosses_inside(const Lowering *l, const uint32_t sizes[LEVELS_MAX], uint32_t first)
{
    bool crosses = false;
    for (uint32_t level = first; level < l->spec->cluster.level_count; level++)
        crosses = crosses || sizes[level] > 1;
    return crosses;
}

bool lowering_returns_each_lap(const Lowering *l)
{
    return plan_laps(l->plan).count > 1 &&
           crosses_inside(l, l->config->domain, config_gradient_levels(l->spec, l->config));
}

bool lowering_returns_dense_each_lap(const Lowering *l)
{
    return workload_returns_dense_each_lap(l->spec);
}

BundleCost lowering_bundle_cost(const Lowering *l, int32_t bundle, BundleWay way)
{
    BundleCost cost;
    cost_bundle(l->spec, (double)buffer_bytes(builder_buffer(l->builder, bundle)), way, &cost);
    return cost;
}

static StepSpec bundle_step(Lowering *l, Op op, int32_t layer, uint32_t level, const BundleCost *cost)
{
    uint32_t count = l->spec->cluster.levels[level].count;
    return (StepSpec){.op = op,
                      .layer = layer,
                      .level = (int32_t)level,
                      .group = builder_add_group(l->builder, GROUP_GATHER, (int32_t)level, count),
                      .cost_s = cost->step_s[level],
                      .bytes = cost->bytes[level],
                      .joins = l->joins,
                      .startup_s = cost->startup_s};
}

uint32_t lowering_once_levels(const Lowering *l, int32_t layer)
{
    return layer == NONE ? spec_embedding_levels(l->spec) : l->spec->plan.dense_levels;
}

uint32_t lowering_gradient_levels(const Lowering *l, int32_t layer)
{
    return layer == NONE ? spec_embedding_levels(l->spec) : spec_dense_gradient_levels(l->spec);
}

static BundleGather begin_bundle_gather(const Lowering *l, int32_t layer, int32_t bundle, const char *suffix)
{
    const Cluster *cluster = &l->spec->cluster;
    bool again = layer == NONE ? spec_regathers_embedding(l->spec) : l->spec->plan.regather_dense;
    BundleGather of = {.layer = layer, .bundle = bundle, .kept = bundle, .suffix = suffix};
    of.levels = (Gathering){.once = again ? lowering_once_levels(l, layer) : UINT32_MAX, .shard = bundle};
    for (uint32_t level = 0; level < cluster->level_count; level++)
        of.levels.sizes[level] = cluster->levels[level].count;
    return of;
}

static void gather_bundle_levels(Lowering *l, BundleGather *of, GatherRange range)
{
    const Cluster *cluster = &l->spec->cluster;
    BundleCost cost = lowering_bundle_cost(l, of->bundle, BUNDLE_GATHER);
    Gathering *gathering = &of->levels;
    double rows = (double)builder_buffer(l->builder, gathering->shard)->rows;
    gathering->after = range.after_step;
    for (uint32_t level = range.first; level < range.end; level++) {
        if (level <= lowering_once_levels(l, of->layer))
            of->kept = gathering->shard;
        if (cluster->levels[level].count == 1)
            continue;
        rows *= cluster->levels[level].count;
        char name[BUFFER_NAME_MAX];
        snprintf(name, sizeof(name), "%s%s", cluster->levels[level].name, of->suffix);
        int32_t gathered = add_rows_like(l, of->layer, of->bundle, gathering->shard, rows, name);
        StepBuffers operands = {.gather = {.shard = gathering->shard, .gathered = gathered}};
        StepSpec spec = bundle_step(l, OP_GATHER, of->layer, level, &cost);
        spec.each_lap = level >= gathering->once;
        int32_t step = builder_add_step(l->builder, spec, operands);
        limit_gather(l, gathering, level, step);
        gathering->shard = gathered;
    }
}

int32_t lowering_gather_bundle(Lowering *l, int32_t layer, int32_t bundle, int32_t after_step, int32_t *kept)
{
    BundleGather of = begin_bundle_gather(l, layer, bundle, "");
    const Coding *coding = &l->spec->plan.dense;
    uint32_t levels = l->spec->cluster.level_count, first = l->spec->replica_levels;
    CodecMemory memory = {NONE, NONE};
    const Coded coded = coded_bundle(l, layer, bundle, &memory);
    *kept = bundle;
    if (l->spec->plan.pass == PASS_FORWARD)
        return bundle;
    if (codec_info(coding->codec)->encodes && coded.members > 1) {
        first = coding_levels(coding, levels);
        of.levels.shard = encode_own(l, &coded, "", after_step);
        gather_bundle_levels(l, &of, (GatherRange){0, first, after_step});
        of.kept = of.levels.shard = decode_gathered(l, &coded, "", of.levels.shard);
    }
    if (layer != NONE && l->layers[layer].is_dense_ahead) {
        of = l->layers[layer].dense_ahead;
        first = l->work->bucket_level + 1;
    }
    gather_bundle_levels(l, &of, (GatherRange){first, levels, after_step});
    *kept = of.kept;
    return of.levels.shard;
}

void lowering_gather_dense_ahead(Lowering *l, uint32_t k)
{
    LoweredLayer *layer = &l->layers[k];
    layer->is_dense_ahead = dense_gathers_in_buckets(l->work);
    if (!layer->is_dense_ahead)
        return;
    layer->dense_ahead = begin_bundle_gather(l, (int32_t)k, layer->dense, "");
    gather_bundle_levels(l, &layer->dense_ahead, slowest_level(l));
    l->joins = true;
}

int32_t lowering_gather_bundle_again(Lowering *l, int32_t layer, int32_t bundle, int32_t kept, int32_t after_step)
{
    BundleGather of = begin_bundle_gather(l, layer, bundle, ".again");
    GatherRange range = {first_again(l, lowering_once_levels(l, layer)), l->spec->cluster.level_count, after_step};
    of.levels.shard = kept;
    gather_bundle_levels(l, &of, range);
    return of.levels.shard;
}

int32_t lowering_add_bundle_gradient(Lowering *l, int32_t layer, int32_t bundle, int32_t held)
{
    return held == bundle ? lowering_add_gradient_sum(l, bundle, layer)
                          : add_held(l, layer, bundle, (double)builder_buffer(l->builder, held)->rows, "dwhole");
}

int32_t lowering_add_half_gradient(Lowering *l, const char *suffix)
{
    char name[BUFFER_NAME_MAX];
    snprintf(name, sizeof(name), "dwhole%s", suffix);
    return add_held(l, NONE, l->embedding, (double)builder_buffer(l->builder, l->held_embedding)->rows, name);
}

// ---- gradients -------------------------------------------------------------------------------

static int32_t add_gradient(Lowering *l, int32_t weight, int32_t layer, bool is_sum)
{
    const Buffer *buffer = builder_buffer(l->builder, weight);
    BufferShape shape = {.dtype = is_sum ? DTYPE_F32 : buffer->dtype,
                         .rows = (double)buffer->rows,
                         .cols = (double)buffer->cols,
                         .kind = BUFFER_GRADIENT,
                         .layer = layer};
    return builder_add_buffer(l->builder, shape, "%s.gradient", buffer->name);
}

int32_t lowering_add_gradient(Lowering *l, int32_t weight, int32_t layer)
{
    return add_gradient(l, weight, layer, false);
}

int32_t lowering_add_gradient_sum(Lowering *l, int32_t weight, int32_t layer)
{
    return add_gradient(l, weight, layer, l->plan->micro_batches > 1);
}

void lowering_add_sums(Lowering *l, int32_t layer, int32_t summed, uint32_t from_level, uint32_t to_level, double every)
{
    const Cluster *cluster = &l->spec->cluster;
    const Buffer *buffer = builder_buffer(l->builder, summed);
    double bytes = (double)buffer->rows * (double)buffer->cols * dtype_bytes(buffer->dtype);
    for (uint32_t level = to_level; level-- > from_level;) {
        double count = cluster->levels[level].count;
        if (count < 2)
            continue;
        double sent = 2 * (count - 1) / count * bytes;
        StepBuffers operands = {.all_reduce = {.gradient = summed}};
        builder_add_step(l->builder,
                         (StepSpec){.op = OP_ALL_REDUCE,
                                    .layer = layer,
                                    .level = (int32_t)level,
                                    .group = builder_add_group(l->builder, GROUP_LEVEL, (int32_t)level, 1),
                                    .cost_s = cost_sum_s(l->spec, level, sent) / every,
                                    .bytes = sent / every},
                         operands);
    }
}

void lowering_add_mean(Lowering *l, uint32_t k)
{
    const LoweredLayer *layer = &l->layers[k];
    if (layer->mean == NONE)
        return;
    double every = l->spec->plan.shared_every;
    StepBuffers operands = {.mean_expert = {.own_experts = layer->experts, .mean = layer->mean}};
    add_local(l, OP_MEAN_EXPERT, k, lowering_move_s(l, dense_bytes(l, l->share_rows)) / every, operands);
    lowering_add_sums(l, (int32_t)k, layer->mean, 0, l->spec->cluster.level_count, every);
}
