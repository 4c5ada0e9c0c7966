// See advice.h. Nothing is advised that was not tried: what was asked for and could be otherwise, more GPUs, each of
// which owns less then, a capacity, smaller batches and sequences, more memory; two at a time where one is not enough.
#include "compiler/solve/advice.h"

#include <math.h>

#include "compiler/lowering/lower.h"
#include "ir/codec.h"
#include "ir/unroll.h"

enum { GROWN_MAX = 64 };  // times the GPUs there are
enum { TRIES_MAX = 300 }; // configurations measured for one question; what was not tried is not spoken of
enum { LOOKS_MAX = 60 };  // of them for one input

static const double EXTRAPOLATED = 1.01; // a deep model's figure is: one per cent more is certain to do
static const double ADVISED_CAPACITY = 2;

typedef struct {
    const Workload *work;
    const Candidate *smallest;
    Diag *diag;
    double memory;
    uint32_t tried; // for the present question
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
    double gathered;        // what is there however few the tokens: gathered weights, their gradients, scratch
    double tokens;          // activations and messages
    double owned;           // experts of a layer that a GPU owns, parts included
} Parts;

// What a rank takes besides weights when it has a single token.
static double least_rest(const Advising *a, double kept)
{
    Spec spec = *a->work->spec;
    spec.model.batch = spec.model.sequence = 1;
    return footprint_total(&spec, &a->smallest->config, a->smallest->prefetch, spec.plan.dispatch) - kept;
}

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
        double rest = total - kept - parts.replicas;
        parts.gathered = fmin(rest, fmax(0, least_rest(a, kept + parts.replicas)));
        parts.tokens = rest - parts.gathered;
    }
    plan_destroy(plan);
    arena_destroy(arena);
    return parts;
}

static void say_parts(const Advising *a, const Parts *parts)
{
    char experts[FORMAT_MAX], others[FORMAT_MAX], tokens[FORMAT_MAX], gathered[FORMAT_MAX], replicas[FORMAT_MAX];
    bool training = a->work->spec->plan.pass == PASS_TRAINING;
    if (parts->experts <= 0)
        return;
    format_bytes(replicas, parts->replicas);
    diag_help(a->diag,
              "%s are %s of %.3g expert%s per layer, %s of the rest of the model; %s%s%s are gathered weights%s and "
              "scratch, %s activations and messages",
              format_bytes(experts, parts->experts), training ? "weights, gradients and optimizer state" : "weights",
              parts->owned, parts->owned == 1 ? "" : "s", format_bytes(others, parts->others),
              parts->replicas > 0 ? replicas : "", parts->replicas > 0 ? " are what the codec remembers, " : "",
              format_bytes(gathered, parts->gathered), training ? ", their gradients" : "",
              format_bytes(tokens, parts->tokens));
}

// ---- what would fit --------------------------------------------------------------------------

// What a plan of one configuration takes, lowered as it would be.
static double lowered_bytes(const Spec *spec, const Config *config, uint32_t prefetch)
{
    Arena *arena = arena_create();
    const Workload *work = workload_derive(spec, arena);
    Mix mix = mix_uniform(work, config, prefetch, arena);
    double bytes = footprint_lowered(work, &mix, spec->plan.dispatch);
    arena_destroy(arena);
    return bytes;
}

// Estimates exclude, as the planner's do, and lowering decides.
static bool one_fits(Advising *a, const Spec *spec, const Config *config)
{
    a->tried++;
    return EXTRAPOLATED * footprint_total(spec, config, 0, spec->plan.dispatch) <= a->memory &&
           lowered_bytes(spec, config, 0) <= a->memory;
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
    bool regather = spec->plan.pass == PASS_TRAINING;
    if (regather && config_next_kept(spec, config))
        return true;
    config->regather = false;
    config->once = 0;
    bool more;
    do
        more = next_sizes(spec, config->domain);
    while (more && !spec_domain_is_valid(spec, config->domain));
    return more;
}

// Does any configuration fit? Those of the unchanged input that are smallest are tried first, then plain EP.
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
    spec_ep_domain(spec, config.domain);
    if (one_fits(a, spec, &config))
        return true;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        config.domain[l] = l < spec->replica_levels ? spec->cluster.levels[l].count : 1;
    uint32_t most = a->tried + LOOKS_MAX < TRIES_MAX ? a->tried + LOOKS_MAX : TRIES_MAX;
    do
        if (spec_domain_is_valid(spec, config.domain) && one_fits(a, spec, &config))
            return true;
    while (a->tried < most && next_config(spec, &config));
    return false;
}

// With so many workers of a level, of which each GPU owns fewer experts. What is kept of all weights is known without
// lowering anything; with that alone too large there is nothing to try.
static bool fits_with_count(Advising *a, const Spec *spec, uint32_t level, uint32_t count, const Parts *parts)
{
    Spec larger = *spec;
    larger.cluster.levels[level].count = count;
    if (spec->plan.sync.every == 0)
        larger.replica_levels = spec_replica_levels(&larger);
    double owned = larger.model.experts / workload_shards(&larger);
    double shared = (double)spec_owners(spec) / (double)spec_owners(&larger);
    double others = parts->others * (larger.plan.pass == PASS_TRAINING ? shared : 1);
    double kept = others + parts->experts * owned / parts->owned;
    bool encodable = !spec_needs_whole_experts(&larger) || spec_owns_whole_experts(&larger);
    return owned < parts->owned && encodable && kept < a->memory && fits(a, &larger);
}

// The smallest larger count of a level with which a plan fits, 0 if there is none: doubled until one does, then those
// since the last doubling.
static uint32_t count_that_fits(Advising *a, const Spec *spec, uint32_t level, const Parts *parts)
{
    uint32_t now = spec->cluster.levels[level].count;
    uint64_t enough = 2 * (uint64_t)now;
    a->tried = 0;
    while (enough <= (uint64_t)now * GROWN_MAX && !fits_with_count(a, spec, level, (uint32_t)enough, parts))
        enough *= 2;
    if (enough > (uint64_t)now * GROWN_MAX)
        return 0;
    a->tried = 0;
    for (uint32_t count = (uint32_t)enough / 2 + 1; count < enough && a->tried < TRIES_MAX; count++)
        if (fits_with_count(a, spec, level, count, parts))
            return count;
    return (uint32_t)enough;
}

// Says of each level how many workers would do. Returns whether any number does.
static bool advise_counts(Advising *a, const Spec *spec, const Parts *parts, const char *with)
{
    const Cluster *cluster = &spec->cluster;
    bool any = false;
    for (uint32_t l = 0; l < cluster->level_count && parts->owned > 0; l++) {
        bool heterogeneous = l == 0 && cluster->port_count; // which workers there would be besides, nobody knows
        uint32_t count = heterogeneous ? 0 : count_that_fits(a, spec, l, parts);
        if (!count)
            continue;
        diag_help(a->diag, "more GPUs help%s: level '%s' with 'count = %u' fits (%llu GPUs)", with,
                  cluster->levels[l].name, count,
                  (unsigned long long)(cluster_gpus(cluster) / cluster->levels[l].count * count));
        any = true;
    }
    return any;
}

// `bounded`: with a capacity, where the input has none and that alone is not enough; NULL otherwise.
static void advise_gpus(Advising *a, const Parts *parts, const Spec *bounded)
{
    if (advise_counts(a, a->work->spec, parts, ""))
        return;
    if (bounded && advise_counts(a, bounded, parts, " with 'capacity = 2'"))
        return;
    diag_help(a->diag, "more GPUs alone do not help: up to %d times as many were tried", GROWN_MAX);
}

// The largest value below `now` that fits, halving; 0 if not even 1 does.
static uint32_t halved_until_fits(Advising *a, Spec *spec, uint32_t *field)
{
    a->tried = 0;
    for (*field /= 2; *field > 0 && a->tried < TRIES_MAX; *field /= 2)
        if (fits(a, spec))
            return *field;
    return 0;
}

// Fewer tokens of a GPU: batches, then sequences. Returns whether that would do.
static bool advise_fewer_tokens(Advising *a, const Spec *spec, const char *with)
{
    Spec changed = *spec;
    uint32_t batch = halved_until_fits(a, &changed, &changed.model.batch);
    if (batch) {
        diag_help(a->diag, "a smaller batch helps%s: 'batch = %u' fits", with, batch);
        return true;
    }
    changed.model.batch = 1;
    changed.model.sequence = spec->model.sequence;
    uint32_t sequence = halved_until_fits(a, &changed, &changed.model.sequence);
    if (sequence)
        diag_help(a->diag, "shorter sequences help%s: 'sequence = %u'%s fits", with, sequence,
                  spec->model.batch > 1 ? " with 'batch = 1'" : "");
    return sequence > 0;
}

// What the input asks for that a plan could do without.
static void advise_requests(Advising *a)
{
    Spec freely = *a->work->spec;
    freely.plan.domain_request = DOMAIN_AUTO;
    a->tried = 0;
    if (a->work->spec->plan.domain_request != DOMAIN_AUTO && fits(a, &freely))
        diag_help(a->diag, "another domain fits: 'domain = auto' finds it");
    freely = *a->work->spec;
    freely.plan.regather_dense = true;
    a->tried = 0;
    if (a->work->spec->plan.once_dense == ONCE_DENSE_ALL && fits(a, &freely))
        diag_help(a->diag, "gathering dense weights again for the backward pass helps: 'once_dense = auto' fits");
    freely = *a->work->spec;
    freely.plan.regather_embedding = true;
    a->tried = 0;
    if (a->work->spec->plan.once_embedding == ONCE_DENSE_ALL && spec_regathers_embedding(&freely) && fits(a, &freely))
        diag_help(a->diag, "gathering the embedding for each use helps: 'once_embedding = auto' fits");
    freely = *a->work->spec;
    freely.plan.experts.codec = CODEC_DENSE;
    freely.plan.experts.whole_levels =
        freely.plan.experts.gradient == GRADIENT_DENSE ? 0 : freely.plan.experts.whole_levels;
    freely.plan.experts.ratio = 1;
    a->tried = 0;
    if (codec_info(a->work->spec->plan.experts.codec)->remembers && fits(a, &freely))
        diag_help(a->diag, "without what the codec remembers a plan fits: 'codec = dense'");
}

// Of those smaller than what is asked for; 0 if none does, or nothing is asked for, and all were tried.
static uint32_t largest_lap_that_fits(Advising *a)
{
    Spec changed = *a->work->spec;
    for (uint32_t lap = changed.plan.lap_request; lap-- > 1;) {
        changed.plan.lap = lap;
        a->tried = 0;
        if (changed.plan.micro_batches % lap == 0 && fits(a, &changed))
            return lap;
    }
    return 0;
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
    uint32_t *batch = &changed.model.batch, *count = &changed.plan.micro_batches;
    bool found = false;
    while (!found && *batch % 2 == 0 && *count <= PLAN_MICRO_BATCHES_MAX / 2 && a->tried < TRIES_MAX) {
        *batch /= 2;
        *count *= 2;
        found = fits(a, &changed);
    }
    if (found)
        diag_help(a->diag, "smaller micro-batches help: 'batch = %u' with 'micro_batches = %u' fits", *batch, *count);
    uint32_t lap = largest_lap_that_fits(a);
    if (lap)
        diag_help(a->diag, "smaller laps help: 'lap = %u' fits", lap);
    changed = *spec;
    changed.plan.lap = 0; // which another number need not be a multiple of
    if (halved_until_fits(a, &changed, count))
        diag_help(a->diag, "fewer micro-batches help: 'micro_batches = %u' fits", *count);
}

void advise_memory(const Workload *work, const Candidate *smallest, Diag *diag)
{
    Advising a = {.work = work, .smallest = smallest, .diag = diag, .memory = work->spec->cluster.device.memory_bytes};
    char value[FORMAT_MAX];
    Parts parts = parts_of(&a);
    DomainRequest request = work->spec->plan.domain_request;
    Spec bounded = *work->spec;
    bounded.plan.capacity = ADVISED_CAPACITY;
    bool unbounded = work->spec->plan.capacity == 0, capacity_does = unbounded && fits(&a, &bounded);
    bool tries_both = unbounded && !capacity_does;
    say_parts(&a, &parts);
    advise_requests(&a);
    if (request == DOMAIN_AUTO ||
        request == DOMAIN_EP) // sizes that were asked for mean another plan on another cluster
        advise_gpus(&a, &parts, tries_both ? &bounded : NULL);
    if (capacity_does)
        diag_help(diag, "nothing may be dropped, so exchange buffers hold the worst case; 'capacity = 2' in the plan "
                        "block bounds them at twice the balanced load, and fits");
    // Fewer tokens are in vain where what is kept is too much.
    bool leaves_room = parts.experts + parts.others + parts.replicas < a.memory;
    a.tried = 0;
    if (leaves_room)
        advise_update(&a);
    a.tried = 0;
    if (leaves_room && !advise_fewer_tokens(&a, work->spec, "") && tries_both)
        advise_fewer_tokens(&a, &bounded, " with 'capacity = 2' in the plan block");
    diag_help(diag, "'memory = %s' per GPU is enough",
              format_bytes(value, round_up(EXTRAPOLATED * smallest->memory_bytes)));
}
