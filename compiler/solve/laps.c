// The choice for iterations of several laps: see laps.h. Repeating laps has no short form that bounds a search over
// mixes (docs/planner.md, "Laps"), so it is made of single choices and of pairs of them.
#include "compiler/solve/laps.h"

#include <math.h>

enum { PAIRED_MAX = 24 }; // of the fastest choices that do not fit: those that layers get as far as memory allows
enum { TRIES_MAX = 3 };   // of a pair, with more layers or fewer
enum { LOWERED_LAYERS_MAX = 10000 }; // of all pairs whose memory is asked for: of very deep models a few are tried

static const double TIE = 1e-11;

// ---- bound -------------------------------------------------------------------------------------

enum { LOAD_CHAIN, LOAD_PORT, LOADS = LOAD_PORT + LEVELS_MAX };

static void add_port_loads(const double port_s[LEVELS_MAX], double times, double loads[LOADS])
{
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        loads[LOAD_PORT + j] += times * port_s[j];
}

// What a layer adds to the chain of computation and exchanges, and to every port, in all laps.
static void add_layer_loads(const Workload *work, uint32_t layer, const LayerCost *cost, double loads[LOADS])
{
    double laps = spec_laps(work->spec).count, again = 2 * laps - 1;
    add_port_loads(cost->dense.port_s, 1, loads);
    add_port_loads(cost->dense_again.port_s, again, loads);
    add_port_loads(cost->dense_return.port_s, 1, loads);
    add_port_loads(cost->dense_lap_return.port_s, laps - 1, loads);
    if (!work->layers[layer].is_moe) {
        loads[LOAD_CHAIN] += laps * (cost_dense_pass_s(work, layer, false) + cost_dense_pass_s(work, layer, true));
        return;
    }
    add_port_loads(cost->port_gather_s, 1, loads);
    add_port_loads(cost->port_again_s, again, loads);
    add_port_loads(cost->port_reduce_s, 1, loads);
    add_port_loads(cost->port_lap_reduce_s, laps - 1, loads);
    for (int backward = 0; backward < 2; backward++) {
        PassCost pass;
        cost_pass(work, layer, cost, backward, &pass);
        loads[LOAD_CHAIN] += laps * (pass.before_s + pass.compute_s + pass.after_s);
        add_port_loads(pass.port_before_s, laps, loads);
        add_port_loads(pass.port_after_s, laps, loads);
    }
}

// No mix is faster: the chain, and every port, take at least what they have to do under the choice of each layer that
// loads them least.
static double bound_s(const Choosing *c)
{
    static const Config none = {0};
    const Workload *work = c->work;
    const Solution *solution = c->solution;
    double total[LOADS] = {0}, least[LOADS] = {0}, bound = 0;
    for (uint32_t k = 0; k < work->layer_count; k++) {
        bool is_moe = work->layers[k].is_moe;
        for (size_t i = 0; i < (is_moe ? solution->count : 1) && work->layers[k].kind == k; i++) {
            double loads[LOADS] = {0};
            LayerCost cost;
            cost_layer(work, k, is_moe ? &solution->candidates[i].config : &none, work->spec->plan.dispatch, &cost);
            add_layer_loads(work, k, &cost, loads);
            uint32_t alike = 0;
            for (uint32_t other = k; other < work->layer_count; other++)
                alike += work->layers[other].kind == k;
            for (int l = 0; l < LOADS; l++)
                least[l] = i == 0 ? alike * loads[l] : fmin(least[l], alike * loads[l]);
        }
        for (int l = 0; l < LOADS && work->layers[k].kind == k; l++)
            total[l] += least[l];
    }
    total[LOAD_CHAIN] += 3 * spec_laps(work->spec).count * iteration_loss_s(work) + work->optimizer_s;
    for (int l = 0; l < LOADS; l++)
        bound = fmax(bound, total[l]);
    return bound;
}

// ---- pairs -------------------------------------------------------------------------------------

// The first or the last layers have one choice, the others another.
static Mix pair_mix(const Choosing *c, const Config *some, uint32_t count, bool last, const Candidate *others)
{
    uint32_t all = c->work->moe_count;
    Config *configs = arena_alloc_array(c->arena, all + 1, sizeof(*configs));
    for (uint32_t i = 0; i < all; i++)
        configs[i] = (last ? i >= all - count : i < count) ? *some : others->config;
    return (Mix){.configs = configs, .prefetch = others->prefetch};
}

// The first or the last layers have one choice, the others another: of the candidates.
typedef struct {
    size_t some, others;
    bool last;
} Pair;

static uint32_t step_of(uint32_t layers)
{
    return layers > 8 ? layers / 8 : 1;
}

// How many layers may have the first choice if the others have the second, by estimated memory.
static uint32_t count_layers_that_fit(const Choosing *c, size_t some, size_t others)
{
    const Footprint *a = &c->footprints[some], *b = &c->footprints[others];
    double more = a->per_layer_bytes - b->per_layer_bytes, all = c->work->moe_count;
    double free_bytes = c->memory_bytes - fmax(a->shared_bytes, b->shared_bytes) - all * b->per_layer_bytes;
    if (free_bytes < 0)
        return 0;
    return more <= 0 ? c->work->moe_count : (uint32_t)fmin(all, free_bytes / more);
}

static bool fits(const Choosing *c, const Mix *mix, double *bytes)
{
    *bytes = footprint_lowered(c->work, mix, c->work->spec->plan.dispatch);
    return *bytes <= c->work->spec->cluster.device.memory_bytes;
}

static double known_s(const Choosing *c)
{
    double cutoff_s = c->options->cutoff_s > 0 ? c->options->cutoff_s : INFINITY;
    return fmin(c->solution->objective_s, cutoff_s);
}

typedef enum { PAIR_SLOWER, PAIR_TOO_LARGE, PAIR_TAKEN } PairOutcome;

// Takes the pair with so many layers if it fits, is faster than what is known, and so many layers may still be lowered.
static PairOutcome take_pair(Choosing *c, const Pair *pair, uint32_t count, uint32_t *layers_left)
{
    Solution *solution = c->solution;
    Mix mix =
        pair_mix(c, &solution->candidates[pair->some].config, count, pair->last, &solution->candidates[pair->others]);
    IterationCost cost;
    double bytes;
    cost_mix(c->work, &mix, c->work->spec->plan.dispatch, &cost);
    if (cost.iteration_s >= known_s(c) * (1 - TIE) || c->work->layer_count > *layers_left)
        return PAIR_SLOWER;
    *layers_left -= c->work->layer_count;
    if (!fits(c, &mix, &bytes))
        return PAIR_TOO_LARGE;
    solution->mix = mix;
    solution->objective_s = cost.iteration_s;
    solution->memory_bytes = bytes;
    return PAIR_TAKEN;
}

// As many layers as are estimated to fit; fewer where they do not, more where they do.
static void try_pair(Choosing *c, const Pair *pair, uint32_t *layers_left)
{
    uint32_t all = c->work->moe_count, count = count_layers_that_fit(c, pair->some, pair->others);
    PairOutcome outcome = count ? take_pair(c, pair, count, layers_left) : PAIR_TOO_LARGE;
    for (int more = 0; more < TRIES_MAX && outcome == PAIR_TAKEN && count < all; more++) {
        count = count + step_of(count) < all ? count + step_of(count) : all;
        outcome = take_pair(c, pair, count, layers_left);
    }
    for (int cut = 1; cut < TRIES_MAX && outcome == PAIR_TOO_LARGE && count > step_of(count); cut++) {
        count -= step_of(count);
        outcome = take_pair(c, pair, count, layers_left);
    }
}

static bool is_faster(const Choosing *c, size_t index)
{
    const Candidate *of = &c->solution->candidates[index];
    return !of->fits && of->cost.iteration_s < c->solution->candidates[c->solution->uniform].cost.iteration_s;
}

void laps_choose(Choosing *c)
{
    Solution *solution = c->solution;
    const Candidate *uniform = &solution->candidates[solution->uniform];
    solution->mix = mix_uniform(c->work, &uniform->config, uniform->prefetch, c->arena);
    solution->objective_s = uniform->cost.iteration_s;
    solution->memory_bytes = uniform->memory_bytes;
    solution->timed_out = false;
    solution->solver = "single choices and pairs";
    c->memory_bytes = c->work->spec->cluster.device.memory_bytes;
    c->footprints = arena_alloc_array(c->arena, solution->count, sizeof(*c->footprints));
    mix_measure(c, uniform->prefetch);
    bool *tried = arena_alloc_array(c->arena, solution->count, sizeof(*tried));
    uint32_t layers_left = LOWERED_LAYERS_MAX;
    for (int pairs = 0; pairs < PAIRED_MAX; pairs++) {
        size_t best = solution->count;
        for (size_t i = 0; i < solution->count; i++)
            if (!tried[i] && is_faster(c, i) &&
                (best == solution->count ||
                 solution->candidates[i].cost.iteration_s < solution->candidates[best].cost.iteration_s))
                best = i;
        if (best == solution->count)
            break;
        tried[best] = true;
        solution->memory_binds = true;
        for (int last = 0; last < 2; last++)
            try_pair(c, &(Pair){best, solution->uniform, last}, &layers_left);
    }
    solution->bound_s = fmin(bound_s(c), solution->objective_s);
}
