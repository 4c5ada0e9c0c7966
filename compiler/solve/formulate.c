// See formulate.h. The rows mirror iteration.c term by term.
#include "compiler/solve/formulate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// Longer names are cut; other solvers read up to 255 characters.
enum { LP_NAME_MAX = 160 };

// One MoE layer's coefficients under one configuration, in time units.
typedef struct {
    double before, outer, queue, compute, after;
    double backward_before, backward_outer, backward_queue, backward_compute, backward_after, reduce, outer_reduce;
    // Minus the horizon where a row does not hold.
    double backward_kept, returns_free, unlimited, backward_unlimited, outer_unlimited, backward_outer_unlimited;
    double port_before[LEVELS_MAX], port_after[LEVELS_MAX];
    double backward_port_before[LEVELS_MAX], backward_port_after[LEVELS_MAX], port_reduce[LEVELS_MAX];
} Terms;

typedef struct {
    Milp *milp;
    const Programme *programme;
    const Workload *work;
    int *binary;         // [moe_count x count]
    Terms **terms;       // [layers]: [count], shared by layers of a kind
    uint32_t layer, moe; // being written, layer_count: none; its index among those with experts
    double unit_s, horizon;
    bool port_used[LEVELS_MAX];
    // Columns of the layer before; -1 stands for time 0.
    int end, queue, port[LEVELS_MAX], returned, *read; // read: [moe_count], of this pass
    int outer, outer_returned;                         // where there are outer levels
    int home[RETURNS_MAX];                             // `returned` after the layers before, latest first
    uint32_t read_count;
} Formulation;

static void fill_terms(const Formulation *f, uint32_t layer, const LayerCost *cost, const Config *config, Terms *terms)
{
    double unit_s = f->unit_s, horizon = f->horizon;
    uint32_t window = mix_window(f->work->spec->plan.pass, config, f->programme->prefetch);
    uint32_t outer_window = mix_outer_window(f->work, config, f->programme->prefetch);
    PassCost forward, backward;
    cost_pass(f->work, layer, cost, false, &forward);
    cost_pass(f->work, layer, cost, true, &backward);
    double saved_s = experts_join_saves_s(f->work, layer, cost, config, BUNDLE_GATHER), inner_saved_s = saved_s;
    double return_saved_s = experts_join_saves_s(f->work, layer, cost, config, BUNDLE_RETURN);
    double inner_return_saved_s = return_saved_s;
    *(f->work->outer_levels ? &inner_saved_s : &saved_s) = 0;
    *(f->work->outer_levels ? &inner_return_saved_s : &return_saved_s) = 0;
    *terms = (Terms){
        .before = forward.before_s / unit_s,
        .outer = (outer_levels_s(f->work, cost->gather_s) - saved_s) / unit_s,
        .queue = (inner_levels_s(f->work, cost->gather_s) + cost->codec_s - inner_saved_s) / unit_s,
        .compute = forward.compute_s / unit_s,
        .after = forward.after_s / unit_s,
        .backward_before = backward.before_s / unit_s,
        .backward_outer = cost->again_outer_s / unit_s,
        .backward_queue = cost->again_s / unit_s,
        .backward_compute = backward.compute_s / unit_s,
        .backward_after = backward.after_s / unit_s,
        .reduce = (inner_levels_s(f->work, cost->reduce_s) + cost->sync_s - inner_return_saved_s) / unit_s,
        .outer_reduce = (outer_levels_s(f->work, cost->reduce_s) - return_saved_s) / unit_s,
        .backward_kept = config->regather ? 0 : -horizon,
        .returns_free = expert_returns_are_limited(f->work, config) ? 0 : -horizon,
        .unlimited = window <= PREFETCH_MAX ? 0 : -horizon,
        .outer_unlimited = outer_window <= PREFETCH_MAX ? 0 : -horizon,
        .backward_unlimited = config->regather && window <= PREFETCH_MAX ? 0 : -horizon,
        .backward_outer_unlimited = config->regather && outer_window <= PREFETCH_MAX ? 0 : -horizon,
    };
    for (uint32_t j = 0; j < LEVELS_MAX; j++) {
        terms->port_before[j] = (cost->port_gather_s[j] + forward.port_before_s[j]) / unit_s;
        terms->port_after[j] = forward.port_after_s[j] / unit_s;
        terms->backward_port_before[j] = (backward.port_before_s[j] + cost->port_again_s[j]) / unit_s;
        terms->backward_port_after[j] = backward.port_after_s[j] / unit_s;
        terms->port_reduce[j] = cost->port_reduce_s[j] / unit_s;
    }
}

static int add_time(Formulation *f, const char *what)
{
    char name[LP_NAME_MAX];
    snprintf(name, sizeof(name), "%.120s_L%u", what, f->layer);
    return milp_add_continuous(f->milp, name, 0);
}

#define TERM(field) offsetof(Terms, field)
#define NO_TERM     SIZE_MAX

// later - earlier - sum_c coefficient(c) use_c >= constant; `offset` locates the coefficient in Terms.
static void row_after(Formulation *f, const char *what, int later, int earlier, size_t offset, double constant)
{
    char name[LP_NAME_MAX];
    snprintf(name, sizeof(name), "%.120s_L%u", what, f->layer);
    milp_row_begin(f->milp, name);
    milp_row_term(f->milp, later, 1);
    if (earlier >= 0)
        milp_row_term(f->milp, earlier, -1);
    for (uint32_t c = 0; offset != NO_TERM && c < f->programme->count; c++) {
        int binary = f->binary[(size_t)f->moe * f->programme->count + c];
        if (binary >= 0)
            milp_row_term(f->milp, binary, -*(const double *)((const char *)&f->terms[f->layer][c] + offset));
    }
    milp_row_end_at_least(f->milp, constant);
}

static void formulate_ports(Formulation *f, const char *pass, int start, size_t before, size_t after)
{
    const Cluster *cluster = &f->work->spec->cluster;
    for (uint32_t j = 0; j < cluster->level_count; j++) {
        if (!f->port_used[j])
            continue;
        char name[LP_NAME_MAX];
        snprintf(name, sizeof(name), "%sport_%s_before", pass, cluster->levels[j].name);
        int busy_before = add_time(f, name);
        row_after(f, name, busy_before, f->port[j], before + j * sizeof(double), 0);
        snprintf(name, sizeof(name), "%sport_%s_free", pass, cluster->levels[j].name);
        row_after(f, name, start, busy_before, NO_TERM, 0);
        snprintf(name, sizeof(name), "%sport_%s", pass, cluster->levels[j].name);
        int busy = add_time(f, name);
        row_after(f, name, busy, busy_before, after + j * sizeof(double), 0);
        f->port[j] = busy;
    }
}

// A queue of gathers in one pass: what a layer adds to it, and where its gather does not wait for a free slot.
typedef struct {
    const char *slot, *begins, *then; // names of rows and columns
    size_t gather, lifted;            // terms
} GatherQueue;

static const GatherQueue queues[2] = {
    {"room_for_replica", "gather_begins", "gathers_then", TERM(queue), TERM(unlimited)},
    {"back_room_for_replica", "back_gather_begins", "back_gathers_then", TERM(backward_queue),
     TERM(backward_unlimited)},
};
static const GatherQueue outer_queues[2] = {
    {"outer_room", "outer_gather_begins", "outer_gathers_then", TERM(outer), TERM(outer_unlimited)},
    {"back_outer_room", "back_outer_gather_begins", "back_outer_gathers_then", TERM(backward_outer),
     TERM(backward_outer_unlimited)},
};

// The gather waits until the experts `window` + 1 MoE layers before were read.
static void formulate_window(Formulation *f, const GatherQueue *of, int queue)
{
    bool limited[PREFETCH_MAX + 1] = {false};
    for (uint32_t c = 0; c < f->programme->count; c++) {
        uint32_t window = mix_window(f->work->spec->plan.pass, &f->programme->configs[c], f->programme->prefetch);
        if (window <= PREFETCH_MAX)
            limited[window] = true;
    }
    for (uint32_t window = 0; window <= PREFETCH_MAX; window++) {
        if (!limited[window] || window >= f->read_count)
            continue;
        int begun = add_time(f, of->begins);
        row_after(f, of->slot, begun, f->read[f->read_count - window - 1], of->lifted, 0);
        row_after(f, of->then, queue, begun, of->gather, 0);
    }
}

// What crosses the outer levels comes before the rest.
static void formulate_outer(Formulation *f, int queue, bool backward)
{
    if (f->work->outer_levels == 0)
        return;
    int outer = add_time(f, backward ? "back_outer_queue" : "outer_queue");
    row_after(f, backward ? "back_outer_gathered" : "outer_gathered", outer, f->outer, outer_queues[backward].gather,
              0);
    formulate_window(f, &outer_queues[backward], outer);
    row_after(f, backward ? "back_outer_there" : "outer_there", queue, outer, queues[backward].gather, 0);
    f->outer = outer;
}

// What a layer's dense weights take one way, in time units; all 0 where every GPU has them whole.
static BundleCost dense_cost(const Formulation *f, uint32_t layer, bool again, BundleWay way)
{
    BundleCost cost = {0};
    const Spec *spec = f->work->spec;
    if (spec->plan.pass == PASS_TRAINING)
        cost_bundle_inside(spec, f->work->layers[layer].dense_share_bytes, again ? spec->plan.dense_levels : 0, way,
                           &cost);
    if (!again && f->work->bucket)
        cost.step_s[f->work->bucket_level] -= dense_join_saves_s(f->work, layer, &cost, way);
    return cost;
}

// Columns that come no sooner than what passed the ports of inner levels, and those of the outer ones.
typedef struct {
    int inner, outer;
} Arrival;

static int arrival_at(const Formulation *f, Arrival there, uint32_t level)
{
    return level < f->work->outer_levels ? there.outer : there.inner;
}

// A port carries a layer's dense weights, or their gradients.
static void formulate_dense_ports(Formulation *f, const char *pass, const BundleCost *dense, Arrival there)
{
    for (uint32_t j = 0; j < f->work->spec->cluster.level_count; j++) {
        if (dense->port_s[j] <= 0)
            continue;
        char name[LP_NAME_MAX];
        snprintf(name, sizeof(name), "%sport_%s", pass, f->work->spec->cluster.levels[j].name);
        int busy = add_time(f, name);
        row_after(f, name, busy, f->port[j], NO_TERM, dense->port_s[j] / f->unit_s);
        snprintf(name, sizeof(name), "%spassed_%s", pass, f->work->spec->cluster.levels[j].name);
        row_after(f, name, arrival_at(f, there, j), busy, NO_TERM, 0);
        f->port[j] = busy;
    }
}

static void formulate_dense_outer(Formulation *f, const char *pass, const BundleCost *dense, int queue, uint32_t window)
{
    if (f->work->outer_levels == 0)
        return;
    double crossing = outer_levels_s(f->work, dense->step_s) / f->unit_s;
    char name[LP_NAME_MAX];
    snprintf(name, sizeof(name), "%souter_queue", pass);
    int outer = add_time(f, name);
    row_after(f, name, outer, f->outer, NO_TERM, crossing);
    if (window < f->read_count) {
        snprintf(name, sizeof(name), "%souter_room", pass);
        row_after(f, name, outer, f->read[f->read_count - window - 1], NO_TERM, crossing);
    }
    snprintf(name, sizeof(name), "%souter_there", pass);
    row_after(f, name, queue, outer, NO_TERM, inner_levels_s(f->work, dense->step_s) / f->unit_s);
    f->outer = outer;
}

// Computation goes on when a bundle is there; f->end becomes that time.
static void formulate_gathered(Formulation *f, const char *pass, const BundleCost *dense, const uint32_t windows[2])
{
    double gather = (inner_levels_s(f->work, dense->step_s) + dense->codec_s) / f->unit_s;
    char name[LP_NAME_MAX];
    snprintf(name, sizeof(name), "%squeue", pass);
    int queue = add_time(f, name);
    row_after(f, name, queue, f->queue, NO_TERM, gather);
    formulate_dense_outer(f, pass, dense, queue, windows[0]);
    if (windows[1] < f->read_count) {
        snprintf(name, sizeof(name), "%sroom", pass);
        row_after(f, name, queue, f->read[f->read_count - windows[1] - 1], NO_TERM, gather);
    }
    snprintf(name, sizeof(name), "%sbegin", pass);
    int begin = add_time(f, name);
    row_after(f, name, begin, f->end, NO_TERM, 0);
    snprintf(name, sizeof(name), "%sthere", pass);
    row_after(f, name, begin, queue, NO_TERM, 0);
    formulate_dense_ports(f, pass, dense, (Arrival){begin, begin});
    f->queue = queue;
    f->end = begin;
}

// The layer begins when its dense weights are there.
static void formulate_dense(Formulation *f, uint32_t layer, bool backward)
{
    const Workload *work = f->work;
    uint32_t prefetch = f->programme->prefetch;
    const uint32_t windows[2] = {dense_outer_window(work, prefetch), dense_window(work, prefetch)};
    if (work->spec->plan.pass == PASS_FORWARD || work->dense_bytes <= 0 ||
        (backward && !work->spec->plan.regather_dense))
        return;
    BundleCost dense = dense_cost(f, layer, backward, BUNDLE_GATHER);
    formulate_gathered(f, backward ? "back_dense_" : "dense_", &dense, windows);
}

// The loss takes the embedding, where that is gathered again.
static void formulate_embedding_again(Formulation *f)
{
    uint32_t prefetch = f->programme->prefetch;
    const uint32_t windows[2] = {embedding_outer_window(f->work, prefetch), embedding_window(prefetch)};
    EmbeddingCost embedding;
    if (!spec_regathers_embedding(f->work->spec))
        return;
    cost_embedding(f->work, &embedding);
    formulate_gathered(f, "embedding_again_", &embedding.again, windows);
}

// When gradients are home: over the outer levels, where there are.
static int *home_column(Formulation *f)
{
    return f->work->outer_levels ? &f->outer_returned : &f->returned;
}

// Gradients of a bundle queue on their way home behind what is there, once the computation has come so far.
static void formulate_return(Formulation *f, const BundleCost *dense, double more_s)
{
    double home = (inner_levels_s(f->work, dense->step_s) + dense->codec_s + more_s) / f->unit_s;
    int returned = add_time(f, "dense_returned"), outer = returned;
    row_after(f, "dense_return", returned, f->end, NO_TERM, home);
    if (f->returned >= 0)
        row_after(f, "dense_return_queue", returned, f->returned, NO_TERM, home);
    if (f->work->outer_levels) {
        double crossing = outer_levels_s(f->work, dense->step_s) / f->unit_s;
        outer = add_time(f, "dense_outer_returned");
        row_after(f, "dense_outer_return", outer, returned, NO_TERM, crossing);
        if (f->outer_returned >= 0)
            row_after(f, "dense_outer_return_queue", outer, f->outer_returned, NO_TERM, crossing);
    }
    formulate_dense_ports(f, "dense_return_", dense, (Arrival){returned, outer});
    f->returned = returned;
    f->outer_returned = outer;
}

// Gradients of dense weights queue on their way home behind what is there, once the layer is done.
static void formulate_dense_return(Formulation *f, uint32_t layer)
{
    if (f->work->dense_bytes <= 0)
        return;
    BundleCost dense = dense_cost(f, layer, false, BUNDLE_RETURN);
    formulate_return(f, &dense, 0);
}

static void note_returns(Formulation *f, uint32_t layer)
{
    if (!workload_leads_bucket(f->work, layer)) // with the rest of its bucket
        return;
    memmove(f->home + 1, f->home, (RETURNS_MAX - 1) * sizeof(*f->home));
    f->home[0] = *home_column(f);
}

// What the loss leaves of the embedding's gradient, where that returns in halves.
static void formulate_loss_half(Formulation *f)
{
    EmbeddingCost embedding;
    if (!spec_regathers_embedding(f->work->spec))
        return;
    cost_embedding(f->work, &embedding);
    formulate_return(f, &embedding.half, embedding.half_sums_s);
    note_returns(f, 0);
}

static void formulate_forward(Formulation *f, uint32_t layer)
{
    const LayerWork *work = &f->work->layers[layer];
    f->layer = layer;
    formulate_dense(f, layer, false);
    int end = add_time(f, "end");
    if (!work->is_moe) {
        row_after(f, "dense", end, f->end, NO_TERM, cost_dense_pass_s(f->work, layer, false) / f->unit_s);
        f->end = end;
        return;
    }
    int start = add_time(f, "start"), queue = add_time(f, "queue");
    row_after(f, "gathered", queue, f->queue, TERM(queue), 0);
    formulate_outer(f, queue, false);
    formulate_window(f, &queues[false], queue);
    row_after(f, "tokens_there", start, f->end, TERM(before), 0);
    row_after(f, "experts_there", start, queue, NO_TERM, 0);
    formulate_ports(f, "", start, TERM(port_before), TERM(port_after));
    int read = add_time(f, "read");
    row_after(f, "computed", read, start, TERM(compute), 0);
    row_after(f, "combined", end, read, TERM(after), 0);
    f->read[f->read_count++] = read;
    f->end = end;
    f->queue = queue;
    f->moe++;
}

// What is on its way to its sum cannot be there before it passed the ports.
static void formulate_return_ports(Formulation *f, const char *what, Arrival there, size_t busy_for)
{
    for (uint32_t j = 0; j < f->work->spec->cluster.level_count; j++) {
        if (!f->port_used[j])
            continue;
        char name[LP_NAME_MAX];
        snprintf(name, sizeof(name), "%s_port_%s", what, f->work->spec->cluster.levels[j].name);
        int busy = add_time(f, name);
        row_after(f, name, busy, f->port[j], busy_for + j * sizeof(double), 0);
        snprintf(name, sizeof(name), "%s_passed_%s", what, f->work->spec->cluster.levels[j].name);
        row_after(f, name, arrival_at(f, there, j), busy, NO_TERM, 0);
        f->port[j] = busy;
    }
}

// The layer begins when gradients of the layer RETURNS_MAX before are home, where they are not to pile up.
static void formulate_return_limit(Formulation *f)
{
    if (!dense_returns_are_limited(f->work) || f->home[RETURNS_MAX - 1] < 0)
        return;
    int begin = add_time(f, "back_dense_returned");
    row_after(f, "back_dense_begins", begin, f->end, NO_TERM, 0);
    row_after(f, "back_dense_limit", begin, f->home[RETURNS_MAX - 1], NO_TERM, 0);
    f->end = begin;
}

// What crosses the outer levels follows; returns the column that says when it is home.
static int formulate_outer_return(Formulation *f, int returned)
{
    if (f->work->outer_levels == 0)
        return returned;
    int outer = add_time(f, "outer_returned");
    row_after(f, "outer_return", outer, returned, TERM(outer_reduce), 0);
    if (f->outer_returned >= 0)
        row_after(f, "outer_return_queue", outer, f->outer_returned, TERM(outer_reduce), 0);
    return outer;
}

static void formulate_backward(Formulation *f, uint32_t layer)
{
    const LayerWork *work = &f->work->layers[layer];
    f->layer = layer;
    formulate_dense(f, layer, true);
    formulate_return_limit(f);
    int end = add_time(f, "back_end");
    if (!work->is_moe) {
        row_after(f, "back_computed", end, f->end, NO_TERM, cost_dense_pass_s(f->work, layer, true) / f->unit_s);
        f->end = end;
        formulate_dense_return(f, layer);
        note_returns(f, layer);
        return;
    }
    int start = add_time(f, "back_start"), queue = add_time(f, "back_queue");
    int computed = add_time(f, "back_computed"), returned = add_time(f, "returned");
    f->moe--;
    row_after(f, "back_gathered", queue, f->queue, TERM(backward_queue), 0);
    formulate_outer(f, queue, true);
    formulate_window(f, &queues[true], queue);
    row_after(f, "back_tokens_there", start, f->end, TERM(backward_before), 0);
    row_after(f, "back_experts_there", start, queue, TERM(backward_kept), 0);
    if (f->home[RETURNS_MAX - 1] >= 0)
        row_after(f, "back_experts_returned", start, f->home[RETURNS_MAX - 1], TERM(returns_free), 0);
    formulate_ports(f, "back_", start, TERM(backward_port_before), TERM(backward_port_after));
    row_after(f, "back_compute", computed, start, TERM(backward_compute), 0);
    f->read[f->read_count++] = computed;
    row_after(f, "return_computed", returned, computed, TERM(reduce), 0);
    if (f->returned >= 0)
        row_after(f, "return_queue", returned, f->returned, TERM(reduce), 0);
    int outer = formulate_outer_return(f, returned);
    formulate_return_ports(f, "return", (Arrival){returned, outer}, TERM(port_reduce));
    row_after(f, "back_combined", end, computed, TERM(backward_after), 0);
    f->end = end;
    f->queue = queue;
    f->returned = returned;
    f->outer_returned = outer;
    formulate_dense_return(f, layer);
    note_returns(f, layer);
}

// "use_L3_dc2_gpu8": the name says which layer chooses what.
static void name_binary(const Programme *p, uint32_t layer, uint32_t c, char name[LP_NAME_MAX])
{
    const Cluster *cluster = &p->work->spec->cluster;
    int used = snprintf(name, LP_NAME_MAX, "use_L%u", layer);
    for (uint32_t l = 0; l < cluster->level_count && used < LP_NAME_MAX - 48; l++)
        used += snprintf(name + used, LP_NAME_MAX - (size_t)used, "_%.24s%u", cluster->levels[l].name,
                         p->configs[c].domain[l]);
    if (p->configs[c].regather)
        snprintf(name + used, LP_NAME_MAX - (size_t)used, "_regather%u", p->configs[c].once);
}

static void formulate_choices(Formulation *f)
{
    const Programme *p = f->programme;
    char name[LP_NAME_MAX];
    uint32_t moe = 0;
    for (uint32_t k = 0; k < f->work->layer_count; k++) {
        if (!f->work->layers[k].is_moe)
            continue;
        int *binary = f->binary + (size_t)moe * p->count;
        for (uint32_t c = 0; c < p->count; c++) {
            name_binary(p, k, c, name);
            bool used = !p->useful || p->useful[(size_t)moe * p->count + c];
            binary[c] = used ? milp_add_binary(f->milp, name, 0) : -1;
        }
        snprintf(name, sizeof(name), "one_choice_L%u", k);
        milp_row_begin(f->milp, name);
        for (uint32_t c = 0; c < p->count; c++)
            if (binary[c] >= 0)
                milp_row_term(f->milp, binary[c], 1);
        milp_row_end_equal(f->milp, 1);
        moe++;
    }
}

// Shares of the device memory: what every layer adds, and the largest of what is used in turn.
static void formulate_memory(Formulation *f)
{
    const Programme *p = f->programme;
    double memory_bytes = f->work->spec->cluster.device.memory_bytes;
    int shared = milp_add_continuous(f->milp, "shared_memory", 0);
    size_t binaries = (size_t)f->work->moe_count * p->count;
    for (uint32_t i = 0; i < f->work->moe_count; i++) {
        char name[LP_NAME_MAX];
        snprintf(name, sizeof(name), "shared_memory_%u", i);
        milp_row_begin(f->milp, name);
        milp_row_term(f->milp, shared, 1);
        for (uint32_t c = 0; c < p->count; c++) {
            int binary = f->binary[(size_t)i * p->count + c];
            if (binary >= 0)
                milp_row_term(f->milp, binary, -p->footprints[c].shared_bytes / memory_bytes);
        }
        milp_row_end_at_least(f->milp, 0);
    }
    milp_row_begin(f->milp, "memory_share");
    milp_row_term(f->milp, shared, 1);
    for (size_t i = 0; i < binaries; i++)
        if (f->binary[i] >= 0)
            milp_row_term(f->milp, f->binary[i], p->footprints[i % p->count].per_layer_bytes / memory_bytes);
    milp_row_end_at_most(f->milp, 1);
}

static void prepare_terms(Formulation *f, Arena *arena)
{
    const Programme *p = f->programme;
    f->terms = arena_alloc_array(arena, f->work->layer_count, sizeof(*f->terms));
    for (uint32_t k = 0; k < f->work->layer_count; k++) {
        const LayerWork *layer = &f->work->layers[k];
        if (!layer->is_moe)
            continue;
        if (layer->kind != k && !f->work->bucket) { // in buckets it matters which layer it is
            f->terms[k] = f->terms[layer->kind];
            continue;
        }
        f->terms[k] = arena_alloc_array(arena, p->count, sizeof(**f->terms));
        for (uint32_t c = 0; c < p->count; c++) {
            LayerCost cost;
            Terms *terms = &f->terms[k][c];
            cost_layer(f->work, k, &p->configs[c], p->dispatch, &cost);
            fill_terms(f, k, &cost, &p->configs[c], terms);
            for (uint32_t j = 0; j < LEVELS_MAX; j++)
                f->port_used[j] = f->port_used[j] || cost_port_s(&cost, j) > 0;
        }
    }
}

static void formulate_training(Formulation *f, int iteration)
{
    const Workload *work = f->work;
    double loss = iteration_loss_s(work) / f->unit_s, tail = iteration_tail_s(work) / f->unit_s;
    int middle = milp_add_continuous(f->milp, "forward_done", 0);
    row_after(f, "forward", middle, f->end, NO_TERM, loss);
    f->queue = f->outer = middle;
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        f->port[j] = middle;
    int backward = milp_add_continuous(f->milp, "backward_begins", 0);
    row_after(f, "loss", backward, middle, NO_TERM, clock_begin_backward(work, 0).at_s[CLOCK_CHAIN] / f->unit_s);
    f->end = backward;
    f->read_count = 0;
    formulate_loss_half(f);
    for (uint32_t k = work->layer_count; k-- > 0;)
        formulate_backward(f, k);
    f->layer = work->layer_count;
    row_after(f, "last", iteration, f->end, NO_TERM, tail);
    if (*home_column(f) >= 0)
        row_after(f, "last_return", iteration, *home_column(f), NO_TERM, tail);
}

// When training, the embedding is gathered before anything else.
static void formulate_begin(Formulation *f)
{
    const Workload *work = f->work;
    if (work->spec->plan.pass == PASS_FORWARD)
        return;
    Clock clock = clock_begin(work);
    f->layer = work->layer_count; // the whole network
    f->end = f->queue = milp_add_continuous(f->milp, "embedding_there", 0);
    row_after(f, "embedding", f->end, -1, NO_TERM, clock.at_s[CLOCK_CHAIN] / f->unit_s);
    if (work->outer_levels) {
        f->outer = milp_add_continuous(f->milp, "embedding_crossed", 0);
        row_after(f, "embedding_outer", f->outer, -1, NO_TERM, clock.at_s[CLOCK_OUTER] / f->unit_s);
    }
    for (uint32_t j = 0; j < work->spec->cluster.level_count; j++) {
        if (clock.at_s[CLOCK_PORT + j] <= 0)
            continue;
        char name[LP_NAME_MAX];
        snprintf(name, sizeof(name), "embedding_port_%s", work->spec->cluster.levels[j].name);
        f->port[j] = add_time(f, name);
        row_after(f, name, f->port[j], -1, NO_TERM, clock.at_s[CLOCK_PORT + j] / f->unit_s);
    }
}

Formulated formulate(const Programme *programme, Arena *arena)
{
    const Workload *work = programme->work;
    const Spec *spec = work->spec;
    double horizon_s = programme->horizon_s;
    double unit_s = horizon_s > 0 ? pow(10, floor(log10(horizon_s)) - 2) : 1; // times of 100 to 1000
    char name[160];
    snprintf(name, sizeof(name), "hep %.48s on %.48s, times in units of %g s", spec->model.name, spec->cluster.name,
             unit_s);
    Arena *scratch = arena_create();
    Formulation f = {.milp = milp_create(name),
                     .programme = programme,
                     .work = work,
                     .unit_s = unit_s,
                     .horizon = horizon_s / unit_s,
                     .end = -1,
                     .queue = -1,
                     .outer = -1,
                     .returned = -1,
                     .outer_returned = -1,
                     .home = {-1, -1}};
    size_t binaries = (size_t)work->moe_count * programme->count;
    f.binary = arena_alloc_array(arena, binaries ? binaries : 1, sizeof(*f.binary));
    f.read = arena_alloc_array(scratch, work->moe_count + 1, sizeof(*f.read));
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        f.port[j] = -1;
    prepare_terms(&f, scratch);
    formulate_choices(&f);
    formulate_memory(&f);
    formulate_begin(&f);
    int iteration = milp_add_continuous(f.milp, "iteration", 1);
    for (uint32_t k = 0; k < work->layer_count; k++)
        formulate_forward(&f, k);
    f.layer = work->layer_count; // the whole network
    formulate_embedding_again(&f);
    if (spec->plan.pass == PASS_FORWARD)
        row_after(&f, "last", iteration, f.end, NO_TERM, iteration_loss_s(work) / unit_s);
    else
        formulate_training(&f, iteration);
    arena_destroy(scratch);
    return (Formulated){.milp = f.milp, .binary = f.binary, .unit_s = unit_s};
}
