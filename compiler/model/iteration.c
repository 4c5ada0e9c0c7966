// The recursion over layers: see iteration.h.
#include "compiler/model/iteration.h"

#include <math.h>
#include <string.h>

#include "compiler/model/steady.h"

// Of two times. Not fmax, which asks for NaN and is a call: of deep models nothing is done as often.
static inline double later(double a_s, double b_s)
{
    return a_s > b_s ? a_s : b_s;
}

uint32_t mix_window(Pass pass, const Config *config, uint32_t prefetch)
{
    if (config->regather)
        return prefetch < PREFETCH_REGATHER ? prefetch : PREFETCH_REGATHER;
    return pass == PASS_TRAINING ? PREFETCH_UNLIMITED : prefetch;
}

uint32_t dense_window(const Workload *work, uint32_t prefetch)
{
    if (!work->spec->plan.regather_dense)
        return PREFETCH_UNLIMITED;
    return prefetch < PREFETCH_REGATHER ? prefetch : PREFETCH_REGATHER;
}

uint32_t mix_outer_window(const Workload *work, const Config *config, uint32_t prefetch)
{
    bool kept = config->regather && config->once >= work->outer_levels;
    return kept ? PREFETCH_UNLIMITED : mix_window(work->spec->plan.pass, config, prefetch);
}

uint32_t dense_outer_window(const Workload *work, uint32_t prefetch)
{
    bool kept = work->spec->plan.dense_levels >= work->outer_levels;
    return kept ? PREFETCH_UNLIMITED : dense_window(work, prefetch);
}

bool experts_gather_in_buckets(const Workload *work, const Config *config)
{
    return work->bucket && (!config->regather || config->once > work->bucket_level);
}

bool dense_gathers_in_buckets(const Workload *work)
{
    const SpecPlan *plan = &work->spec->plan;
    return work->bucket && (!plan->regather_dense || plan->dense_levels > work->bucket_level);
}

double dense_join_saves_s(const Workload *work, uint32_t layer, const BundleCost *dense, BundleWay way)
{
    bool joins = way == BUNDLE_RETURN || dense_gathers_in_buckets(work);
    return joins && !workload_leads_bucket(work, layer) ? dense->startup_s : 0;
}

double experts_join_saves_s(const Workload *work, uint32_t layer, const LayerCost *cost, const Config *config,
                            BundleWay way)
{
    uint32_t domain = work->bucket ? config->domain[work->bucket_level] : 1;
    bool joins = domain > 1 && (way == BUNDLE_RETURN || experts_gather_in_buckets(work, config));
    return joins && !workload_experts_lead_bucket(work, layer, domain) ? cost->startup_s : 0;
}

uint32_t embedding_window(uint32_t prefetch)
{
    return prefetch < PREFETCH_REGATHER ? prefetch : PREFETCH_REGATHER;
}

uint32_t embedding_outer_window(const Workload *work, uint32_t prefetch)
{
    bool kept = spec_embedding_levels(work->spec) >= work->outer_levels;
    return kept ? PREFETCH_UNLIMITED : embedding_window(prefetch);
}

double outer_levels_s(const Workload *work, const double of_level[LEVELS_MAX])
{
    double total_s = 0;
    for (uint32_t l = 0; l < work->outer_levels; l++)
        total_s += of_level[l];
    return total_s;
}

double inner_levels_s(const Workload *work, const double of_level[LEVELS_MAX])
{
    double total_s = 0;
    for (uint32_t l = work->outer_levels; l < LEVELS_MAX; l++)
        total_s += of_level[l];
    return total_s;
}

bool dense_returns_are_limited(const Workload *work)
{
    return work->spec->plan.regather_dense || work->spec->plan.recomputes ||
           workload_returns_dense_each_lap(work->spec);
}

bool expert_returns_are_limited(const Workload *work, const Config *config)
{
    return config->regather || config->returns_apart || work->spec->plan.recomputes;
}

static Clock clock_at(double s)
{
    Clock clock = {0};
    for (int i = CLOCK_READ; i < CLOCK_SIZE; i++)
        clock.at_s[i] = -INFINITY;
    for (int i = CLOCK_RETURN; i < CLOCK_PORT; i++)
        clock.at_s[i] = -INFINITY;
    clock.at_s[CLOCK_CHAIN] = clock.at_s[CLOCK_QUEUE] = clock.at_s[CLOCK_OUTER] = s;
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        clock.at_s[CLOCK_PORT + j] = s;
    return clock;
}

static void begin_with(const Workload *work, const BundleCost *gather, Clock *clock)
{
    clock->at_s[CLOCK_CHAIN] = clock->at_s[CLOCK_QUEUE] = cost_levels_s(gather->step_s) + gather->codec_s;
    clock->at_s[CLOCK_OUTER] = outer_levels_s(work, gather->step_s);
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        clock->at_s[CLOCK_PORT + j] = gather->port_s[j];
}

Clock clock_begin(const Workload *work)
{
    Clock clock = clock_at(0);
    if (work->spec->plan.pass == PASS_FORWARD)
        return clock;
    EmbeddingCost embedding;
    cost_embedding(work, &embedding);
    begin_with(work, &embedding.gather, &clock);
    return clock;
}

// Before laps after the first: the embedding is there, or gathered again.
static Clock clock_begin_lap(const Workload *work)
{
    Clock clock = clock_at(0);
    EmbeddingCost embedding;
    cost_embedding(work, &embedding);
    begin_with(work, &embedding.again, &clock);
    return clock;
}

// Adding up the embedding's gradient in a lap: the parts of the loss, and those of the words, which are added to zeros
// first. They have a sum each where they return apart.
static double loss_sums_s(const Workload *work)
{
    double round_s = spec_regathers_embedding(work->spec) ? work->embedding_round_s : 0;
    return spec_laps(work->spec).each * work->embedding_part_s + round_s;
}

static double words_sums_s(const Workload *work)
{
    return spec_laps(work->spec).each * (work->embedding_part_s + work->embedding_zeros_s) + work->embedding_round_s;
}

static double embedding_sums_s(const Workload *work)
{
    return loss_sums_s(work) + words_sums_s(work);
}

double iteration_loss_s(const Workload *work)
{
    return spec_laps(work->spec).each * work->loss_s;
}

static double loss_backward_s(const Workload *work)
{
    return spec_laps(work->spec).each * work->loss_backward_s;
}

// A gather: what crosses the outer levels, then the rest; each waits for what was read so many layers before.
typedef struct {
    double outer_s, inner_s;
    double saved_s; // over the slowest level, since it joins another
    uint32_t outer_window, window;
} Gathering;

static void advance(double *at_s, int queue, double gather_s, uint32_t window)
{
    if (window <= PREFETCH_MAX)
        at_s[queue] = later(at_s[queue], at_s[CLOCK_READ + window]);
    at_s[queue] += gather_s;
}

static void advance_queue(const Workload *work, double *at_s, const Gathering *of)
{
    bool outer = work->outer_levels > 0;
    if (outer) {
        advance(at_s, CLOCK_OUTER, of->outer_s - of->saved_s, of->outer_window);
        at_s[CLOCK_QUEUE] = later(at_s[CLOCK_QUEUE], at_s[CLOCK_OUTER]);
    }
    advance(at_s, CLOCK_QUEUE, of->inner_s - (outer ? 0 : of->saved_s), of->window);
}

// Gradients on their way home: levels inside first, the outer ones follow.
typedef struct {
    const double *step_s, *port_s; // [LEVELS_MAX]: of each level; how long ports are busy
    double more_s;                 // on the way besides
    double saved_s;                // over the slowest level, since it joins another
    bool every_port;               // they pass ports that they keep busy for no time, too
} Returning;

static void advance_returns(const Workload *work, double *at_s, const Returning *of)
{
    uint32_t outer = work->outer_levels;
    int home = outer ? CLOCK_OUTER_RETURN : CLOCK_RETURN;
    at_s[CLOCK_RETURN] += inner_levels_s(work, of->step_s) + of->more_s - (outer ? 0 : of->saved_s);
    for (uint32_t j = 0; j < work->spec->cluster.level_count; j++) {
        if (!of->every_port && of->port_s[j] <= 0)
            continue;
        at_s[CLOCK_PORT + j] += of->port_s[j];
        if (j >= outer)
            at_s[CLOCK_RETURN] = later(at_s[CLOCK_RETURN], at_s[CLOCK_PORT + j]);
    }
    if (!outer)
        return;
    at_s[home] = later(at_s[home], at_s[CLOCK_RETURN]) + outer_levels_s(work, of->step_s) - of->saved_s;
    for (uint32_t j = 0; j < outer; j++)
        if (of->every_port || of->port_s[j] > 0)
            at_s[home] = later(at_s[home], at_s[CLOCK_PORT + j]);
}

// When gradients are home.
static double returned_s(const Workload *work, const double *at_s)
{
    return at_s[work->outer_levels ? CLOCK_OUTER_RETURN : CLOCK_RETURN];
}

// Where gradients are not to wait in many layers: those of the layer RETURNS_MAX before are home.
static double returns_before(const double *at_s)
{
    return at_s[CLOCK_HOME + RETURNS_MAX - 1];
}

static void note_returns(const Workload *work, uint32_t layer, double *at_s)
{
    if (!workload_leads_bucket(work, layer)) // with the rest of its bucket
        return;
    memmove(at_s + CLOCK_HOME + 1, at_s + CLOCK_HOME, (RETURNS_MAX - 1) * sizeof(*at_s));
    at_s[CLOCK_HOME] = returned_s(work, at_s);
}

static void note_read(double *at_s, double read_s)
{
    memmove(at_s + CLOCK_READ + 1, at_s + CLOCK_READ, PREFETCH_MAX * sizeof(*at_s));
    at_s[CLOCK_READ] = read_s;
}

// Gradients of the embedding that the loss leaves are on their way home while layers compute, where it is gathered for
// each use.
Clock clock_begin_backward(const Workload *work, double forward_s)
{
    Clock clock = clock_at(forward_s); // gathers for the backward pass start with it
    clock.at_s[CLOCK_CHAIN] = forward_s + loss_backward_s(work) + embedding_sums_s(work);
    if (!spec_regathers_embedding(work->spec))
        return clock;
    EmbeddingCost embedding;
    cost_embedding(work, &embedding);
    clock.at_s[CLOCK_CHAIN] = forward_s + loss_backward_s(work) + loss_sums_s(work);
    clock.at_s[CLOCK_RETURN] = clock.at_s[CLOCK_CHAIN];
    advance_returns(work, clock.at_s,
                    &(Returning){.step_s = embedding.half.step_s,
                                 .port_s = embedding.half.port_s,
                                 .more_s = embedding.half_sums_s});
    note_returns(work, 0, clock.at_s);
    return clock;
}

// Computation goes on when a bundle is there.
static void await_bundle(const Workload *work, const BundleCost *dense, const uint32_t windows[2], double *at_s,
                         IterationCost *out)
{
    double ready_s = at_s[CLOCK_CHAIN];
    const Gathering gathering = {outer_levels_s(work, dense->step_s),
                                 inner_levels_s(work, dense->step_s) + dense->codec_s, 0, windows[0], windows[1]};
    advance_queue(work, at_s, &gathering);
    at_s[CLOCK_CHAIN] = later(at_s[CLOCK_CHAIN], at_s[CLOCK_QUEUE]);
    for (uint32_t j = 0; j < work->spec->cluster.level_count; j++) {
        if (dense->port_s[j] <= 0)
            continue;
        at_s[CLOCK_PORT + j] += dense->port_s[j];
        at_s[CLOCK_CHAIN] = later(at_s[CLOCK_CHAIN], at_s[CLOCK_PORT + j]);
    }
    if (out)
        out->gather_wait_s += at_s[CLOCK_CHAIN] - ready_s;
}

static void await_dense(const Workload *work, const ClockedLayer *of, const BundleCost *dense, double *at_s,
                        IterationCost *out)
{
    const uint32_t windows[2] = {dense_outer_window(work, of->prefetch), dense_window(work, of->prefetch)};
    BundleCost joining = *dense;
    if (of->first && work->bucket)
        joining.step_s[work->bucket_level] -= dense_join_saves_s(work, of->layer, dense, BUNDLE_GATHER);
    await_bundle(work, &joining, windows, at_s, out);
}

// After the last layer, where the loss takes the embedding, gathered again.
static void await_embedding(const Workload *work, const ClockedLayer *of, double *at_s, IterationCost *out)
{
    const uint32_t windows[2] = {embedding_outer_window(work, of->prefetch), embedding_window(of->prefetch)};
    EmbeddingCost embedding;
    if (of->layer + 1 < work->layer_count || !spec_regathers_embedding(work->spec))
        return;
    cost_embedding(work, &embedding);
    await_bundle(work, &embedding.again, windows, at_s, out);
}

static void await_returns(double *at_s, IterationCost *out)
{
    double ready_s = at_s[CLOCK_CHAIN];
    at_s[CLOCK_CHAIN] = later(ready_s, returns_before(at_s));
    if (out)
        out->gather_wait_s += at_s[CLOCK_CHAIN] - ready_s;
}

// Their gradient queues on its way home as soon as it is complete.
static void return_dense(const Workload *work, const ClockedLayer *of, double *at_s)
{
    const BundleCost *dense = of->last ? &of->cost->dense_return : &of->cost->dense_lap_return;
    at_s[CLOCK_RETURN] = later(at_s[CLOCK_RETURN], at_s[CLOCK_CHAIN]);
    advance_returns(work, at_s,
                    &(Returning){.step_s = dense->step_s,
                                 .port_s = dense->port_s,
                                 .saved_s = dense_join_saves_s(work, of->layer, dense, BUNDLE_RETURN),
                                 .more_s = dense->codec_s + of->cost->dense_lap_sums_s});
}

static bool shares_dense(const Workload *work)
{
    return work->spec->plan.pass == PASS_TRAINING && work->dense_bytes > 0;
}

// A layer without experts.
static void pass_dense(const Workload *work, const ClockedLayer *of, bool backward, double *at_s, IterationCost *out)
{
    const LayerWork *layer = &work->layers[of->layer];
    double all_s = cost_dense_pass_s(work, of->layer, backward);
    double own_s = backward ? layer->pre_expert_backward_s : layer->pre_expert_s;
    double again_s = backward && work->spec->plan.recomputes ? layer->pre_expert_s : 0;
    double attention_s = spec_laps(work->spec).each * (own_s + again_s);
    at_s[CLOCK_CHAIN] += all_s;
    if (!out)
        return;
    out->pre_expert_s += attention_s;
    out->other_s += all_s - attention_s;
}

static void note_spent(const PassCost *pass, double wait_s, IterationCost *out)
{
    if (!out)
        return;
    out->gather_wait_s += wait_s;
    out->pre_expert_s += pass->pre_expert_s;
    out->exchange_s += pass->exchange_s;
    out->expert_s += pass->expert_s;
    out->other_s += pass->other_s;
}

static void pass_forward(const Workload *work, const ClockedLayer *of, double *at_s, IterationCost *out)
{
    const LayerWork *layer = &work->layers[of->layer];
    const LayerCost *cost = of->cost;
    if (shares_dense(work) && (of->first || work->spec->plan.regather_dense))
        await_dense(work, of, of->first ? &cost->dense : &cost->dense_again, at_s, out);
    if (!layer->is_moe) {
        pass_dense(work, of, false, at_s, out);
        return;
    }
    const PassCost *pass = &of->passes[0];
    const Gathering gathering = {of->first ? outer_levels_s(work, cost->gather_s) : cost->again_outer_s,
                                 of->first ? inner_levels_s(work, cost->gather_s) + cost->codec_s : cost->again_s,
                                 of->first ? experts_join_saves_s(work, of->layer, cost, of->config, BUNDLE_GATHER) : 0,
                                 mix_outer_window(work, of->config, of->prefetch),
                                 mix_window(work->spec->plan.pass, of->config, of->prefetch)};
    advance_queue(work, at_s, &gathering);
    double ready_s = at_s[CLOCK_CHAIN] + pass->before_s;
    double start_s = later(ready_s, at_s[CLOCK_QUEUE]);
    for (uint32_t j = 0; j < work->spec->cluster.level_count; j++) {
        double *port_s = &at_s[CLOCK_PORT + j];
        *port_s += (of->first ? cost->port_gather_s[j] : cost->port_again_s[j]) + pass->port_before_s[j];
        start_s = later(start_s, *port_s);
        *port_s += pass->port_after_s[j];
    }
    note_read(at_s, start_s + pass->compute_s);
    at_s[CLOCK_CHAIN] = start_s + pass->compute_s + pass->after_s;
    note_spent(pass, start_s - ready_s, out);
}

void clock_forward(const Workload *work, const ClockedLayer *of, Clock *clock, IterationCost *out)
{
    pass_forward(work, of, clock->at_s, out);
    await_embedding(work, of, clock->at_s, out);
}

void clock_backward(const Workload *work, const ClockedLayer *of, Clock *clock, IterationCost *out)
{
    const LayerWork *layer = &work->layers[of->layer];
    const LayerCost *cost = of->cost;
    const Config *config = of->config;
    double *at_s = clock->at_s;
    if (work->spec->plan.regather_dense)
        await_dense(work, of, &cost->dense_again, at_s, out);
    if (dense_returns_are_limited(work))
        await_returns(at_s, out);
    if (!layer->is_moe) {
        pass_dense(work, of, true, at_s, out);
        if (shares_dense(work))
            return_dense(work, of, at_s);
        note_returns(work, of->layer, at_s);
        return;
    }
    const PassCost *pass = &of->passes[1];
    double ready_s = at_s[CLOCK_CHAIN] + pass->before_s;
    double start_s = ready_s;
    if (config->regather) {
        const Gathering gathering = {cost->again_outer_s, cost->again_s, 0,
                                     mix_outer_window(work, config, of->prefetch),
                                     mix_window(PASS_TRAINING, config, of->prefetch)};
        advance_queue(work, at_s, &gathering);
        start_s = later(start_s, at_s[CLOCK_QUEUE]);
    }
    if (expert_returns_are_limited(work, config))
        start_s = later(start_s, returns_before(at_s));
    uint32_t levels = work->spec->cluster.level_count;
    for (uint32_t j = 0; j < levels; j++) {
        double *port_s = &at_s[CLOCK_PORT + j];
        *port_s += pass->port_before_s[j] + cost->port_again_s[j];
        start_s = later(start_s, *port_s);
        *port_s += pass->port_after_s[j];
    }
    double computed_s = start_s + pass->compute_s;
    note_read(at_s, computed_s);
    at_s[CLOCK_RETURN] = later(at_s[CLOCK_RETURN], computed_s);
    const Returning returning = {.step_s = of->last ? cost->reduce_s : cost->lap_reduce_s,
                                 .port_s = of->last ? cost->port_reduce_s : cost->port_lap_reduce_s,
                                 .saved_s = experts_join_saves_s(work, of->layer, cost, config, BUNDLE_RETURN),
                                 .more_s = cost->sync_s + cost->lap_sums_s,
                                 .every_port = true};
    advance_returns(work, at_s, &returning);
    at_s[CLOCK_CHAIN] = computed_s + pass->after_s;
    if (shares_dense(work))
        return_dense(work, of, at_s);
    note_returns(work, of->layer, at_s);
    note_spent(pass, start_s - ready_s, out);
}

static void add_bundle_traffic(const BundleCost *gathered, const BundleCost *returned, uint32_t levels,
                               Traffic traffic[LEVELS_MAX])
{
    for (uint32_t l = 0; l < levels; l++) {
        traffic[l].dense_gather_bytes += gathered->bytes[l];
        traffic[l].dense_reduce_bytes += returned->bytes[l];
    }
}

// Gathers of a bundle again, and returns over the levels inside the boundary, in several laps.
static double gathers_again(const Spec *spec)
{
    return 2.0 * spec_laps(spec).count - 1; // forward in all laps but the first, backward in all
}

static double laps_before_last(const Spec *spec)
{
    return spec_laps(spec).count - 1.0;
}

// The embedding's gradient, whose last part is known when everything else is, on its way home: over the levels that
// laps cross, in each of them, and over the others, at the end of the iteration.
static double words_return_s(const Workload *work)
{
    EmbeddingCost embedding;
    cost_embedding(work, &embedding);
    return cost_levels_s(embedding.half.step_s) + embedding.half_sums_s;
}

static double embedding_home_s(const Workload *work)
{
    EmbeddingCost embedding;
    cost_embedding(work, &embedding);
    return cost_levels_s(embedding.home.step_s) + embedding.home.codec_s - cost_levels_s(embedding.half.step_s);
}

static void add_embedding_traffic(const Workload *work, Traffic traffic[LEVELS_MAX])
{
    EmbeddingCost embedding;
    uint32_t levels = work->spec->cluster.level_count;
    cost_embedding(work, &embedding);
    add_bundle_traffic(&embedding.gather, &embedding.home, levels, traffic);
    for (uint32_t l = 0; l < levels; l++) {
        traffic[l].dense_gather_bytes += gathers_again(work->spec) * embedding.again.bytes[l];
        traffic[l].dense_reduce_bytes += gathers_again(work->spec) * embedding.half.bytes[l];
    }
}

// The norm of the gradient, where it is limited: one pass over what a GPU owns, one number summed over all GPUs.
static double norm_s(const Workload *work, Traffic traffic[LEVELS_MAX])
{
    const Spec *spec = work->spec;
    double total_s = 0;
    if (spec->training.clip <= 0 || spec->model.abstract)
        return 0;
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count; l++) {
        double count = spec->cluster.levels[l].count, bytes = 2 * (count - 1) / count * sizeof(float);
        traffic[l].reduce_bytes += bytes;
        total_s += cost_sum_s(spec, l, bytes);
    }
    return total_s + work->owned_gradient_bytes / spec->cluster.device.memory_bandwidth;
}

// Workers that train apart meet now and then: what that takes of an iteration. Experts' sums are a layer's own, those
// of dense weights cross with them.
static double outer_s(const Workload *work, Traffic traffic[LEVELS_MAX])
{
    const Spec *spec = work->spec;
    double total_s = 0;
    for (uint32_t k = 0; k <= work->layer_count && spec->plan.sync.every > 0; k++) {
        const LayerWork *layer = k < work->layer_count ? &work->layers[k] : NULL;
        const double owned[] = {layer ? layer->dense_share_bytes : work->embedding_share_bytes,
                                layer && layer->is_moe ? layer->expert_bytes : 0};
        for (size_t i = 0; i < COUNT_OF(owned) && owned[i] > 0; i++) {
            OuterCost cost = cost_outer(spec, owned[i]);
            total_s += cost.gradient_s + cost.step_s + cost_levels_s(cost.sum_s);
            for (uint32_t l = 0; l < spec->replica_levels; l++)
                traffic[l].reduce_bytes += cost.sum_bytes[l];
        }
    }
    return total_s;
}

// What follows the backward pass in every lap.
static double lap_tail_s(const Workload *work)
{
    return spec_regathers_embedding(work->spec) ? words_sums_s(work) + words_return_s(work) : 0;
}

double iteration_tail_s(const Workload *work)
{
    Traffic traffic[LEVELS_MAX] = {0};
    if (work->spec->plan.pass == PASS_FORWARD)
        return 0;
    return lap_tail_s(work) + embedding_home_s(work) + norm_s(work, traffic) + work->optimizer_s +
           outer_s(work, traffic);
}

// Of a micro-batch, over all exchanges at a level.
static double sent_bytes(const double of[TOKEN_WAYS][LEVELS_MAX], uint32_t level, bool training, double again)
{
    double gradients = of[WAY_DISPATCH_GRADIENT][level] + of[WAY_COMBINE_GRADIENT][level];
    return of[WAY_DISPATCH][level] + of[WAY_COMBINE][level] + (training ? gradients : 0) +
           again * of[WAY_DISPATCH][level];
}

static void add_traffic(const Workload *work, uint32_t layer, const LayerCost *cost, Traffic traffic[LEVELS_MAX])
{
    bool training = work->spec->plan.pass == PASS_TRAINING;
    uint32_t levels = work->spec->cluster.level_count;
    double count = work->spec->plan.micro_batches, again = work->spec->plan.recomputes ? 1 : 0;
    add_bundle_traffic(&cost->dense, &cost->dense_return, levels, traffic);
    double gathers = gathers_again(work->spec), returns = laps_before_last(work->spec);
    for (uint32_t l = 0; l < levels; l++) {
        traffic[l].dense_gather_bytes += gathers * cost->dense_again.bytes[l];
        traffic[l].dense_reduce_bytes += returns * cost->dense_lap_return.bytes[l];
    }
    for (uint32_t l = 0; l < levels && work->layers[layer].is_moe; l++) {
        traffic[l].exchange_bytes += count * sent_bytes(cost->payload_bytes, l, training, again);
        traffic[l].padding_bytes += count * sent_bytes(cost->padding_bytes, l, training, again);
        traffic[l].routing_bytes += count * (1 + again) * cost->routing_bytes[l];
        if (training)
            traffic[l].routing_bytes += count * (cost->counts_bytes[l] + cost->weights_bytes[l]);
        traffic[l].gather_bytes += cost->gather_bytes[l] + gathers * cost->again_bytes[l];
        traffic[l].reduce_bytes += cost->reduce_bytes[l] + returns * cost->lap_reduce_bytes[l] + cost->mean_bytes[l];
    }
}

// Costs of layers, computed once for equal layers under one configuration, of the few that mixes alternate between.
enum { CACHED_MAX = 8 };

typedef struct {
    uint32_t kind;
    Config config;
    LayerCost cost;
    PassCost passes[2]; // where the layer has experts
} CachedCost;

typedef struct {
    const Workload *work;
    const Mix *mix;
    Dispatch dispatch;
    bool without_gradients;
    uint32_t count, oldest;
    CachedCost costs[CACHED_MAX];
} CostCache;

// Costs are large, and of no meaning before `count`.
static void begin_cache(CostCache *cache, const Workload *work, const Mix *mix, Dispatch dispatch)
{
    cache->work = work;
    cache->mix = mix;
    cache->dispatch = dispatch;
    cache->without_gradients = false;
    cache->count = cache->oldest = 0;
}

static void compute_cost(const CostCache *cache, uint32_t layer, CachedCost *out)
{
    const LayerWork *of = &cache->work->layers[layer];
    cost_layer(cache->work, layer, &out->config, cache->dispatch, &out->cost);
    for (uint32_t l = 0; l < LEVELS_MAX && cache->without_gradients; l++)
        out->cost.port_reduce_s[l] = out->cost.dense_return.port_s[l] = out->cost.port_lap_reduce_s[l] =
            out->cost.dense_lap_return.port_s[l] = 0;
    for (int backward = 0; backward < 2 && of->is_moe; backward++)
        cost_pass(cache->work, layer, &out->cost, backward, &out->passes[backward]);
}

static const CachedCost *cached_cost(CostCache *cache, uint32_t layer, uint32_t moe)
{
    const LayerWork *of = &cache->work->layers[layer];
    static const Config none = {0};
    const Config *config = of->is_moe ? &cache->mix->configs[moe] : &none;
    for (uint32_t i = 0; i < cache->count; i++)
        if (cache->costs[i].kind == of->kind && config_equal(config, &cache->costs[i].config))
            return &cache->costs[i];
    CachedCost *fresh = &cache->costs[cache->count < CACHED_MAX ? cache->count++ : cache->oldest++ % CACHED_MAX];
    fresh->kind = of->kind;
    fresh->config = *config;
    compute_cost(cache, layer, fresh);
    return fresh;
}

// The layer under the mix.
static void clock_layer(CostCache *cache, uint32_t layer, uint32_t moe, ClockedLayer *of)
{
    static const Config none = {0};
    const CachedCost *cached = cached_cost(cache, layer, moe);
    of->layer = layer;
    of->config = cache->work->layers[layer].is_moe ? &cache->mix->configs[moe] : &none;
    of->cost = &cached->cost;
    of->passes = cached->passes;
}

static bool are_alike(const CostCache *cache, uint32_t a, uint32_t moe_a, uint32_t b, uint32_t moe_b)
{
    const LayerWork *layers = cache->work->layers;
    const Config *configs = cache->mix->configs;
    return layers[a].kind == layers[b].kind && (!layers[a].is_moe || config_equal(&configs[moe_a], &configs[moe_b]));
}

// From `first` on, or up to `end`: layers that differ in their number alone. The last one may have more to wait for,
// and in buckets it matters which layer it is.
static uint32_t count_alike(const CostCache *cache, uint32_t first, uint32_t moe)
{
    const Workload *work = cache->work;
    uint32_t count = 1, step = work->layers[first].is_moe;
    while (!work->bucket && first + count + 1 < work->layer_count &&
           are_alike(cache, first, moe, first + count, moe + step * count))
        count++;
    return count;
}

static uint32_t count_alike_before(const CostCache *cache, uint32_t end, uint32_t moe)
{
    const Workload *work = cache->work;
    uint32_t count = 1, last = end - 1, step = work->layers[last].is_moe;
    while (!work->bucket && end < work->layer_count && count < end &&
           are_alike(cache, last, moe - step, last - count, moe - step * (count + 1)))
        count++;
    return count;
}

// One lap: where the time of its chain went, and when everything that it began is done.
static double add_lap(CostCache *cache, ClockedLayer of, Clock clock, IterationCost *out)
{
    const Workload *work = cache->work;
    double loss_s = iteration_loss_s(work);
    uint32_t moe = 0;
    for (uint32_t k = 0, count = 0; k < work->layer_count; k += count) {
        count = count_alike(cache, k, moe);
        clock_layer(cache, k, moe, &of);
        steady_pass(clock_forward, work, &of, count, &clock, out);
        moe += work->layers[k].is_moe * count;
    }
    out->other_s += loss_s;
    if (work->spec->plan.pass == PASS_FORWARD)
        return clock.at_s[CLOCK_CHAIN] + loss_s;
    clock = clock_begin_backward(work, clock.at_s[CLOCK_CHAIN] + loss_s);
    for (uint32_t end = work->layer_count, count = 0; end > 0; end -= count) {
        bool is_moe = work->layers[end - 1].is_moe;
        count = count_alike_before(cache, end, moe);
        moe -= is_moe * count;
        clock_layer(cache, end - count, moe, &of);
        steady_pass(clock_backward, work, &of, count, &clock, out);
    }
    double end_s = later(clock.at_s[CLOCK_CHAIN], returned_s(work, clock.at_s));
    out->return_s += end_s - clock.at_s[CLOCK_CHAIN];
    out->return_s += spec_regathers_embedding(work->spec) ? words_return_s(work) : 0;
    out->other_s += loss_backward_s(work) + embedding_sums_s(work);
    return end_s + lap_tail_s(work);
}

// Laps alike: one begins when the one before has ended.
static double add_laps(CostCache *cache, ClockedLayer of, uint32_t count, IterationCost *out)
{
    IterationCost lap = {0};
    if (count == 0)
        return 0;
    Clock begin = clock_begin_lap(cache->work);
    lap.gather_wait_s = begin.at_s[CLOCK_CHAIN];
    double lap_s = add_lap(cache, of, begin, &lap);
    steady_add_spent(out, &lap, count);
    return count * lap_s;
}

static void add_costs(CostCache *cache, IterationCost *out)
{
    const Workload *work = cache->work;
    *out = (IterationCost){0};
    for (uint32_t k = 0, moe = 0; k < work->layer_count; moe += work->layers[k++].is_moe)
        add_traffic(work, k, &cached_cost(cache, k, moe)->cost, out->traffic);
    uint32_t laps = spec_laps(work->spec).count;
    ClockedLayer of = {.prefetch = cache->mix->prefetch, .first = true, .last = laps == 1};
    Clock begin = clock_begin(work);
    out->gather_wait_s = begin.at_s[CLOCK_CHAIN];
    double end_s = add_lap(cache, of, begin, out);
    of.first = false;
    end_s += laps > 2 ? add_laps(cache, of, laps - 2, out) : 0;
    of.last = true;
    end_s += laps > 1 ? add_laps(cache, of, 1, out) : 0;
    out->iteration_s = end_s;
    if (work->spec->plan.pass == PASS_FORWARD)
        return;
    double last_s = embedding_home_s(work),
           update_s = norm_s(work, out->traffic) + work->optimizer_s + outer_s(work, out->traffic);
    add_embedding_traffic(work, out->traffic);
    out->return_s += last_s;
    out->iteration_s += last_s + update_s;
    out->other_s += update_s;
}

void cost_mix(const Workload *work, const Mix *mix, Dispatch dispatch, IterationCost *out)
{
    CostCache cache;
    begin_cache(&cache, work, mix, dispatch);
    add_costs(&cache, out);
}

double cost_gradient_wait_s(const Workload *work, const Mix *mix, Dispatch dispatch)
{
    IterationCost with, without;
    CostCache cache;
    begin_cache(&cache, work, mix, dispatch);
    cache.without_gradients = true;
    add_costs(&cache, &without);
    cost_mix(work, mix, dispatch, &with);
    return later(0, with.gather_wait_s - without.gather_wait_s);
}

Mix mix_uniform(const Workload *work, const Config *config, uint32_t prefetch, Arena *arena)
{
    Config *configs = arena_alloc_array(arena, work->moe_count ? work->moe_count : 1, sizeof(*configs));
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
