// See advice.h. Nothing is advised that was not tried: more GPUs, each of which owns less then, smaller batches and
// sequences, a capacity, more memory.
#include "compiler/solve/advice.h"

#include <math.h>

#include "compiler/lowering/lower.h"
#include "ir/codec.h"
#include "ir/unroll.h"

enum { GROWN_MAX = 64 };  // times the GPUs there are
enum { TRIES_MAX = 600 }; // configurations measured, all together; what was not tried is not spoken of

static const double EXTRAPOLATED = 1.01; // a deep model's figure is: one per cent more is certain to do

typedef struct {
    const Workload *work;
    const Candidate *smallest;
    Diag *diag;
    double memory;
    uint32_t tried;
} Advising;

// The next larger figure of three digits: what is advised must do when typed in.
static double round_up(double bytes)
{
    double unit = pow(10, floor(log10(bytes)) - 2);
    return ceil(bytes / unit) * unit;
}

// ---- where the memory goes -------------------------------------------------------------------

typedef struct {
    double experts, others; // weights with what training keeps for each: gradients, optimizer state
    double replicas;        // what codecs remember
    double rest;            // activations, messages, gathered experts
    double owned;           // experts of a layer that a GPU owns, parts included
} Parts;

static Parts parts_of(const Advising *a)
{
    Arena *arena = arena_create();
    const Spec *spec = a->work->spec;
    Mix mix = mix_uniform(a->work, &a->smallest->config, a->smallest->prefetch, arena);
    double total = 0, weights = 0, kept = 0;
    Plan *plan = lower(a->work, &mix, spec->plan.dispatch, &total);
    Parts parts = {0};
    for (uint32_t i = 0; plan && i < plan->buffer_count; i++) {
        const Buffer *buffer = &plan->buffers[i];
        double bytes = (double)buffer_bytes(buffer);
        weights += buffer->kind == BUFFER_WEIGHT ? bytes : 0;
        kept += buffer->kind == BUFFER_WEIGHT || buffer->kind == BUFFER_GRADIENT || buffer->kind == BUFFER_STATE ? bytes
                                                                                                                 : 0;
        parts.replicas += buffer->kind == BUFFER_REPLICA ? bytes : 0;
    }
    if (plan && weights > 0) {
        parts.owned = spec->model.experts / workload_shards(spec);
        double experts = 0;
        for (uint32_t k = 0; k < a->work->layer_count; k++)
            experts += a->work->layers[k].expert_bytes;
        parts.experts = kept * experts / weights;
        parts.others = kept - parts.experts;
        parts.rest = total - kept - parts.replicas;
    }
    plan_destroy(plan);
    arena_destroy(arena);
    return parts;
}

static void say_parts(const Advising *a, const Parts *parts)
{
    char experts[FORMAT_MAX], others[FORMAT_MAX], rest[FORMAT_MAX], replicas[FORMAT_MAX];
    bool training = a->work->spec->plan.pass == PASS_TRAINING;
    if (parts->experts <= 0)
        return;
    format_bytes(replicas, parts->replicas);
    diag_help(a->diag,
              "%s are %s of %.3g expert%s per layer, %s of the rest of the model; %s%s%s are activations and "
              "messages",
              format_bytes(experts, parts->experts), training ? "weights, gradients and optimizer state" : "weights",
              parts->owned, parts->owned == 1 ? "" : "s", format_bytes(others, parts->others),
              parts->replicas > 0 ? replicas : "", parts->replicas > 0 ? " are what the codec remembers, " : "",
              format_bytes(rest, parts->rest));
}

// ---- what would fit --------------------------------------------------------------------------

static bool one_fits(Advising *a, const Spec *spec, const Config *config)
{
    a->tried++;
    return EXTRAPOLATED * footprint_total(spec, config, 0, spec->plan.dispatch) <= a->memory;
}

// The next configuration of domain sizes that divide.
static bool next_sizes(const Spec *spec, uint32_t domain[LEVELS_MAX])
{
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count; l++) {
        uint32_t count = spec->cluster.levels[l].count;
        do
            domain[l]++;
        while (domain[l] <= count && count % domain[l] != 0);
        if (domain[l] <= count)
            return true;
        domain[l] = 1;
    }
    return false;
}

// The next valid configuration, replicas kept and, where they can be, gathered again.
static bool next_config(const Spec *spec, Config *config)
{
    bool regather = spec->plan.pass == PASS_TRAINING && !codec_info(spec->plan.codec)->remembers;
    if (regather && !config->regather && config_held_shards(spec, config) > 1) {
        config->regather = true;
        return true;
    }
    config->regather = false;
    bool more;
    do
        more = next_sizes(spec, config->domain);
    while (more && !spec_domain_is_valid(spec, config->domain));
    return more;
}

// Does any configuration fit? Those of the unchanged input that are smallest are tried first.
static bool fits(Advising *a, const Spec *spec)
{
    Config config = a->smallest->config;
    bool divides = true;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++) {
        uint32_t count = spec->cluster.levels[l].count;
        config.domain[l] = l < spec->replica_levels ? count : config.domain[l];
        divides = divides && count % config.domain[l] == 0;
    }
    if (divides && spec_domain_is_valid(spec, config.domain) && one_fits(a, spec, &config))
        return true;
    if (spec->plan.domain_request != DOMAIN_AUTO)
        return false;
    config = (Config){0};
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        config.domain[l] = l < spec->replica_levels ? spec->cluster.levels[l].count : 1;
    do
        if (spec_domain_is_valid(spec, config.domain) && one_fits(a, spec, &config))
            return true;
    while (a->tried < TRIES_MAX && next_config(spec, &config));
    return false;
}

// The smallest larger count of a level with which GPUs own fewer experts and a plan fits; 0 if there is none. What the
// rest of the model needs stays; with it alone too large there is nothing to try.
static uint32_t count_that_fits(Advising *a, uint32_t level, const Parts *parts)
{
    Spec larger = *a->work->spec;
    uint32_t *count = &larger.cluster.levels[level].count;
    uint64_t most = (uint64_t)*count * GROWN_MAX;
    for (++*count; *count <= most && a->tried < TRIES_MAX; ++*count) {
        larger.replica_levels = spec_replica_levels(&larger.cluster, larger.plan.pass, larger.model.experts);
        double owned = larger.model.experts / workload_shards(&larger);
        double kept = parts->others + parts->experts * owned / parts->owned;
        bool encodable = !spec_encodes_experts(&larger) || spec_owns_whole_experts(&larger);
        if (owned < parts->owned && encodable && kept < a->memory && fits(a, &larger))
            return *count;
    }
    return 0;
}

static void advise_gpus(Advising *a, const Parts *parts)
{
    const Spec *spec = a->work->spec;
    const Cluster *cluster = &spec->cluster;
    bool any = false;
    for (uint32_t l = 0; l < cluster->level_count && parts->owned > 0; l++) {
        bool heterogeneous = l == 0 && cluster->port_count; // which workers there would be besides, nobody knows
        uint32_t count = heterogeneous ? 0 : count_that_fits(a, l, parts);
        if (!count)
            continue;
        diag_help(a->diag, "more GPUs help: level '%s' with 'count = %u' fits (%llu GPUs)", cluster->levels[l].name,
                  count, (unsigned long long)(cluster_gpus(cluster) / cluster->levels[l].count * count));
        any = true;
    }
    if (!any && a->tried < TRIES_MAX)
        diag_help(a->diag, "more GPUs alone do not help, not even %d times as many", GROWN_MAX);
}

// The largest value below `now` that fits, halving; 0 if not even 1 does.
static uint32_t halved_until_fits(Advising *a, Spec *spec, uint32_t *field)
{
    for (*field /= 2; *field > 0 && a->tried < TRIES_MAX; *field /= 2)
        if (fits(a, spec))
            return *field;
    return 0;
}

// What activations and messages grow with. In vain where the rest alone is too much.
static void advise_tokens(Advising *a)
{
    const Spec *spec = a->work->spec;
    Spec changed = *spec;
    changed.plan.capacity = 2;
    if (spec->plan.capacity == 0 && fits(a, &changed))
        diag_help(a->diag, "nothing may be dropped, so exchange buffers hold the worst case; "
                           "'capacity = 2' in the plan block bounds them at twice the balanced load, and fits");
    changed = *spec;
    uint32_t batch = halved_until_fits(a, &changed, &changed.model.batch);
    if (batch) {
        diag_help(a->diag, "a smaller batch helps: 'batch = %u' fits", batch);
        return;
    }
    changed.model.batch = 1;
    changed.model.sequence = spec->model.sequence;
    uint32_t sequence = halved_until_fits(a, &changed, &changed.model.sequence);
    if (sequence)
        diag_help(a->diag, "shorter sequences help: 'sequence = %u'%s fits", sequence,
                  spec->model.batch > 1 ? " with 'batch = 1'" : "");
}

// What an update needs less memory with: what is kept of the forward pass, and how its tokens are cut.
static void advise_update(Advising *a)
{
    const Spec *spec = a->work->spec;
    Spec changed = *spec;
    if (spec->plan.pass == PASS_FORWARD || spec->model.abstract)
        return;
    changed.plan.recomputes = true;
    if (spec->plan.recompute == RECOMPUTE_NONE && fits(a, &changed))
        diag_help(a->diag, "recomputing activations helps: 'recompute = full' fits");
    changed = *spec;
    changed.plan.regather_dense = true;
    if (spec->plan.once_dense == ONCE_DENSE_ALL && fits(a, &changed))
        diag_help(a->diag, "gathering dense weights again helps: 'once_dense = none' fits");
    changed = *spec;
    uint32_t *batch = &changed.model.batch, *count = &changed.plan.micro_batches;
    bool found = false;
    while (!found && *batch % 2 == 0 && *count <= PLAN_MICRO_BATCHES_MAX / 2 && a->tried < TRIES_MAX) {
        *batch /= 2;
        *count *= 2;
        found = fits(a, &changed);
    }
    if (found)
        diag_help(a->diag, "smaller micro-batches help: 'batch = %u' with 'micro_batches = %u' fits", *batch, *count);
    changed = *spec;
    if (halved_until_fits(a, &changed, count))
        diag_help(a->diag, "fewer micro-batches help: 'micro_batches = %u' fits", *count);
}

void advise_memory(const Workload *work, const Candidate *smallest, Diag *diag)
{
    Advising a = {.work = work, .smallest = smallest, .diag = diag, .memory = work->spec->cluster.device.memory_bytes};
    char value[FORMAT_MAX];
    Parts parts = parts_of(&a);
    say_parts(&a, &parts);
    Spec freely = *work->spec;
    freely.plan.domain_request = DOMAIN_AUTO;
    if (work->spec->plan.domain_request != DOMAIN_AUTO && fits(&a, &freely))
        diag_help(diag, "another domain fits: 'domain = auto' finds it");
    if (freely.plan.domain_request == work->spec->plan.domain_request || work->spec->plan.domain_request == DOMAIN_EP)
        advise_gpus(&a, &parts); // sizes that were asked for mean another plan on another cluster
    if (parts.experts + parts.others + parts.replicas < a.memory) {
        a.tried = 0; // however many clusters were tried
        advise_update(&a);
        advise_tokens(&a);
    }
    diag_help(diag, "'memory = %s' per GPU is enough",
              format_bytes(value, round_up(EXTRAPOLATED * smallest->memory_bytes)));
}
