// See routing.h.
#include "compiler/model/routing.h"

#include <math.h>
#include <string.h>

enum { NODES = 96 }; // times at which the race is looked at, evenly in the logarithm

static const double SPAN = 1e3; // from 1 / SPAN to SPAN times the time by which top_k arrive on average

typedef struct Known Known;
struct Known {
    uint32_t domain[LEVELS_MAX], level;
    Dispatch dispatch;
    RoutingLoad load;
    Known *next;
};

// A set of experts: its rate, and at every node the sums over its experts of the probability of having arrived, and of
// that squared.
typedef struct {
    double rate, mean[NODES], square[NODES];
    double included; // expected experts of a token in the set
} ExpertSet;

struct Popularity {
    const Spec *spec;
    Arena *arena;
    double time[NODES], step; // of the logarithm
    ExpertSet all, *before;   // [experts + 1]: of all experts that come before one
    // With groups, which no formula is for: experts [samples][top_k] that tokens drew.
    uint32_t *drawn, samples;
    Known *known;
};

static double arrived_by(const double *popularity, uint32_t experts, double time)
{
    double sum = 0;
    for (uint32_t e = 0; e < experts; e++)
        sum += -expm1(-time * popularity[e]);
    return sum;
}

// The time by which `top_k` of the experts (half of those that can come, if that is less) arrive on average.
static double middle_time(const double *popularity, uint32_t experts, uint32_t top_k)
{
    double positive = 0, total = 0;
    for (uint32_t e = 0; e < experts; e++) {
        positive += popularity[e] > 0;
        total += popularity[e];
    }
    double wanted = fmin(top_k, positive / 2), low = 0, high = wanted / total;
    for (int i = 0; i < 1000 && arrived_by(popularity, experts, high) < wanted; i++)
        high *= 2;
    for (int i = 0; i < 100; i++) {
        double middle = 0.5 * (low + high);
        if (arrived_by(popularity, experts, middle) < wanted)
            low = middle;
        else
            high = middle;
    }
    return high;
}

static void set_add(ExpertSet *set, const ExpertSet *other)
{
    set->rate += other->rate;
    set->included += other->included;
    for (int i = 0; i < NODES; i++) {
        set->mean[i] += other->mean[i];
        set->square[i] += other->square[i];
    }
}

// Experts that come before `end` and not before `begin`.
static ExpertSet set_between(const ExpertSet *begin, const ExpertSet *end)
{
    ExpertSet set = {.rate = end->rate - begin->rate, .included = end->included - begin->included};
    for (int i = 0; i < NODES; i++) {
        set.mean[i] = end->mean[i] - begin->mean[i];
        set.square[i] = end->square[i] - begin->square[i];
    }
    return set;
}

static ExpertSet set_of_one(const double time[NODES], double rate)
{
    ExpertSet set = {.rate = rate};
    for (int i = 0; i < NODES; i++) {
        set.mean[i] = -expm1(-time[i] * rate);
        set.square[i] = set.mean[i] * set.mean[i];
    }
    return set;
}

// P(X < k) of a binomial of this mean and variance.
static double fewer_than(uint32_t k, double mean, double variance)
{
    if (mean <= 0)
        return 1;
    double p = fmax(0, 1 - variance / mean);
    if (p > 1 - 1e-12)
        return mean < k - 0.5;
    double n = p > 1e-12 ? mean / p : INFINITY;
    double term = p > 1e-12 ? exp(n * log1p(-p)) : exp(-mean), sum = 0;
    for (uint32_t j = 0; j < k && term > 0; j++) {
        sum += term;
        term *= p > 1e-12 ? fmax(0, n - j) / (j + 1.0) * p / (1 - p) : mean / (j + 1.0);
    }
    return fmin(1, sum);
}

// Probability that at least one of a token's experts is in the set.
static double hit(const double time[NODES], double step, const ExpertSet *all, const ExpertSet *set, uint32_t top_k)
{
    double sum = -expm1(-set->rate * time[0]); // before the first node nobody else decides
    for (int i = 0; i < NODES; i++) {
        double mean = all->mean[i] - set->mean[i], variance = mean - (all->square[i] - set->square[i]);
        double exponent = set->rate * time[i];
        if (exponent > 60 || mean > top_k + 12 * sqrt(fmax(variance, top_k))) // nothing is left to come
            break;
        double weight = i == 0 || i == NODES - 1 ? 0.5 : 1;
        sum += weight * step * exponent * exp(-exponent) * fewer_than(top_k, mean, variance);
    }
    return fmin(1, sum);
}

static double set_times(const double *popularity, uint32_t experts, uint32_t top_k, double time[NODES])
{
    double middle = middle_time(popularity, experts, top_k), step = 2 * log(SPAN) / (NODES - 1);
    for (int i = 0; i < NODES; i++)
        time[i] = middle / SPAN * exp(i * step);
    return step;
}

// ---- inclusion of every expert ---------------------------------------------------------------

enum { EXACT_EXPERTS_MAX = 512, CURVE_POINTS = 257 };

// Probability that an expert is included, over its popularity, both in logarithms: a smooth curve, known at points that
// are evenly apart.
typedef struct {
    double first, step, value[CURVE_POINTS];
} Curve;

// Through the four points around it.
static double curve_at(const Curve *curve, double x)
{
    double place = (x - curve->first) / curve->step;
    int i = (int)fmin(fmax(floor(place), 1), CURVE_POINTS - 3);
    double t = place - i;
    const double *y = &curve->value[i];
    return -t * (t - 1) * (t - 2) / 6 * y[-1] + (t + 1) * (t - 1) * (t - 2) / 2 * y[0] -
           (t + 1) * t * (t - 2) / 2 * y[1] + (t + 1) * t * (t - 1) / 6 * y[2];
}

static Curve curve_of(const double time[NODES], double step, const ExpertSet *all, const double range[2],
                      uint32_t top_k)
{
    Curve curve = {.first = log(range[0]), .step = fmax(log(range[1] / range[0]), 1e-6) / (CURVE_POINTS - 1)};
    for (int i = 0; i < CURVE_POINTS; i++) {
        ExpertSet one = set_of_one(time, exp(curve.first + i * curve.step));
        curve.value[i] = log(fmax(hit(time, step, all, &one, top_k), 1e-300));
    }
    return curve;
}

void routing_inclusion(const double *popularity, uint32_t experts, uint32_t top_k, double *out)
{
    double time[NODES], step = set_times(popularity, experts, top_k, time), total = 0, range[2] = {INFINITY, 0};
    ExpertSet all = {0};
    for (uint32_t e = 0; e < experts; e++) {
        ExpertSet one = set_of_one(time, popularity[e]);
        set_add(&all, &one);
        range[0] = popularity[e] > 0 ? fmin(range[0], popularity[e]) : range[0];
        range[1] = fmax(range[1], popularity[e]);
    }
    bool interpolates = experts > EXACT_EXPERTS_MAX;
    Curve curve = interpolates ? curve_of(time, step, &all, range, top_k) : (Curve){0};
    for (uint32_t e = 0; e < experts; e++) {
        if (interpolates) {
            out[e] = popularity[e] > 0 ? exp(curve_at(&curve, log(popularity[e]))) : 0;
        } else {
            ExpertSet one = set_of_one(time, popularity[e]);
            out[e] = hit(time, step, &all, &one, top_k);
        }
        total += out[e];
    }
    for (uint32_t e = 0; e < experts && total > 0; e++)
        out[e] *= top_k / total;
}

// The experts of each combination of domains at the levels up to `level`, outermost slowest: as many one after another.
typedef struct {
    uint64_t count; // combinations
    ExpertSet *sets;
} Wanted;

// ---- draws of tokens that groups limit ---------------------------------------------------------

// Evenly between 0 and 1, the same in every run.
static double next_even(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
}

// One token's race: its experts as the gate chooses them, best first, groups opened on the way.
static void draw(const ModelDims *dims, const double *popularity, uint64_t *state, double *arrival, uint32_t *drawn)
{
    uint64_t open = 0;
    for (uint32_t e = 0; e < dims->experts; e++)
        arrival[e] = popularity[e] > 0 ? -log(next_even(state)) / popularity[e] : INFINITY;
    for (uint32_t i = 0; i < dims->top_k; i++) {
        uint32_t first = UINT32_MAX;
        for (uint32_t e = 0; e < dims->experts; e++)
            if (arrival[e] >= 0 && (first == UINT32_MAX || arrival[e] < arrival[first]) &&
                model_group_allows(dims, open, e))
                first = e;
        drawn[i] = first;
        arrival[first] = -1; // taken
        open |= model_group_bit(dims, first);
    }
}

static void draw_tokens(Popularity *routing, const double *popularity, double *included)
{
    ModelDims dims = spec_dims(&routing->spec->model);
    uint64_t state = 1;
    double *arrival = arena_alloc_array(routing->arena, dims.experts, sizeof(*arrival));
    routing->samples = 4096;
    routing->drawn =
        arena_alloc_array(routing->arena, (uint64_t)routing->samples * dims.top_k, sizeof(*routing->drawn));
    for (uint32_t e = 0; e < dims.experts; e++)
        included[e] = 0;
    for (uint32_t t = 0; t < routing->samples; t++) {
        uint32_t *own = &routing->drawn[(size_t)t * dims.top_k];
        draw(&dims, popularity, &state, arrival, own);
        for (uint32_t i = 0; i < dims.top_k; i++)
            included[own[i]] += 1.0 / routing->samples;
    }
}

// Rows a token has for each destination, counted.
static void count_drawn(const Popularity *routing, const Wanted *wanted, double *rows)
{
    uint32_t top_k = routing->spec->model.top_k;
    uint64_t block = routing->spec->model.experts / wanted->count;
    for (uint32_t t = 0; t < routing->samples; t++) {
        const uint32_t *own = &routing->drawn[(size_t)t * top_k];
        for (uint32_t i = 0; i < top_k; i++) {
            bool again = false;
            for (uint32_t j = 0; j < i && !again; j++)
                again = own[j] / block == own[i] / block;
            rows[own[i] / block] += again ? 0 : 1.0 / routing->samples;
        }
    }
}

Popularity *routing_create(const Spec *spec, const double *popularity, Arena *arena)
{
    const SpecModel *model = &spec->model;
    if (!popularity)
        return NULL;
    Popularity *routing = arena_alloc(arena, sizeof(*routing));
    *routing = (Popularity){.spec = spec, .arena = arena};
    routing->step = set_times(popularity, model->experts, model->top_k, routing->time);
    routing->before = arena_alloc_array(arena, model->experts + 1, sizeof(*routing->before));
    double *included = arena_alloc_array(arena, model->experts, sizeof(*included));
    ModelDims dims = spec_dims(model);
    if (model_limits_groups(&dims))
        draw_tokens(routing, popularity, included);
    else
        routing_inclusion(popularity, model->experts, model->top_k, included);
    for (uint32_t e = 0; e < model->experts; e++) {
        ExpertSet one = set_of_one(routing->time, popularity[e]);
        one.included = included[e];
        routing->before[e + 1] = routing->before[e];
        set_add(&routing->before[e + 1], &one);
    }
    routing->all = routing->before[model->experts];
    return routing;
}

// ---- sums over destinations ------------------------------------------------------------------

static Wanted sum_wanted(const Popularity *routing, const uint32_t domain[LEVELS_MAX], uint32_t level, Arena *arena)
{
    const Cluster *cluster = &routing->spec->cluster;
    Wanted wanted = {.count = 1};
    for (uint32_t l = 0; l <= level; l++)
        wanted.count *= cluster->levels[l].count / domain[l];
    wanted.sets = arena_alloc_array(arena, wanted.count, sizeof(*wanted.sets));
    uint64_t block = routing->spec->model.experts / wanted.count;
    for (uint64_t i = 0; i < wanted.count; i++)
        wanted.sets[i] = set_between(&routing->before[i * block], &routing->before[(i + 1) * block]);
    return wanted;
}

// Rows a token has for each destination.
static double *count_rows(const Popularity *routing, const Wanted *wanted, Dispatch dispatch, Arena *arena)
{
    double *rows = arena_alloc_array(arena, wanted->count, sizeof(*rows));
    if (routing->drawn && dispatch != DISPATCH_NAIVE) {
        count_drawn(routing, wanted, rows);
        return rows;
    }
    for (uint64_t at = 0; at < wanted->count; at++)
        rows[at] = dispatch == DISPATCH_NAIVE ? wanted->sets[at].included
                                              : hit(routing->time, routing->step, &routing->all, &wanted->sets[at],
                                                    routing->spec->model.top_k);
    return rows;
}

// All GPUs of a destination get its rows from every peer; each sends what its siblings in the same outer
// destination are wanted for.
static RoutingLoad compute(const Popularity *routing, const uint32_t domain[LEVELS_MAX], uint32_t level,
                           Dispatch dispatch)
{
    Arena *arena = arena_create();
    Wanted wanted = sum_wanted(routing, domain, level, arena);
    double *rows = count_rows(routing, &wanted, dispatch, arena);
    uint64_t members = routing->spec->cluster.levels[level].count / domain[level];
    double total = 0, busiest = 0, most_included = 0, included = 0;
    for (uint64_t first = 0; first < wanted.count; first += members) {
        double siblings = 0;
        for (uint64_t at = first; at < first + members; at++)
            siblings += rows[at];
        total += siblings;
        for (uint64_t at = first; at < first + members; at++) {
            double own = rows[at];
            busiest = fmax(busiest, fmax(siblings - own, (double)(members - 1) * own));
            most_included = fmax(most_included, wanted.sets[at].included);
            included += wanted.sets[at].included;
        }
    }
    // On average over the destinations a GPU sends (members - 1) times the mean row count.
    double mean = total * (double)(members - 1) / (double)wanted.count;
    RoutingLoad load = {
        .copies = total,
        .busiest_exchange = mean > 0 ? fmax(1, busiest / mean) : 1,
        .busiest_experts = included > 0 ? most_included * (double)wanted.count / included : 1,
    };
    arena_destroy(arena);
    return load;
}

RoutingLoad routing_load(Popularity *routing, const uint32_t domain[LEVELS_MAX], uint32_t level, Dispatch dispatch)
{
    for (const Known *known = routing->known; known; known = known->next)
        if (known->level == level && known->dispatch == dispatch &&
            memcmp(known->domain, domain, (level + 1) * sizeof(*domain)) == 0)
            return known->load;
    Known *known = arena_alloc(routing->arena, sizeof(*known));
    *known = (Known){.level = level, .dispatch = dispatch, .next = routing->known};
    memcpy(known->domain, domain, (level + 1) * sizeof(*domain));
    known->load = compute(routing, domain, level, dispatch);
    routing->known = known;
    return known->load;
}

// ---- all experts alike -----------------------------------------------------------------------

// A block of the experts against the groups: how many of its experts lie in the group that it begins in, and in the one
// that it ends in, where it does not hold the whole group; and how many groups lie outside of it altogether.
typedef struct {
    double part[2];
    uint32_t outside;
} Overlap;

static Overlap overlap_of(uint64_t first, uint64_t count, uint64_t group, uint32_t groups)
{
    uint64_t end = first + count, first_group = first / group, last_group = (end - 1) / group;
    Overlap overlap = {.outside = groups - (uint32_t)(last_group - first_group + 1)};
    if (first_group == last_group) {
        overlap.part[0] = count < group ? (double)count : 0;
        return overlap;
    }
    overlap.part[0] = first % group ? (double)(group - first % group) : 0;
    overlap.part[1] = end % group ? (double)(end % group) : 0;
    return overlap;
}

// Draws from the experts that are not in the block: `seen` groups are open, of them those of `parts` bit by bit.
typedef struct {
    const SpecModel *model;
    Overlap overlap;
    double group;
    double *known; // [top_k][outside + 1][4], -1 where not known
} Draws;

// Probability that the draws from the `drawn`-th on miss the block, of which all before did.
static double missed(const Draws *draws, uint32_t drawn, uint32_t outside, uint32_t parts)
{
    const SpecModel *model = draws->model;
    const Overlap *overlap = &draws->overlap;
    if (drawn == model->top_k)
        return 1;
    double *known = &draws->known[((size_t)drawn * (overlap->outside + 1) + outside) * 4 + parts];
    if (*known >= 0)
        return *known;
    uint32_t seen = outside + (parts & 1) + (parts >> 1);
    bool open = seen < model->group_top_k;
    double pool = (open ? model->experts : seen * draws->group) - drawn;
    double inside = seen * draws->group - drawn; // left in groups that were seen, less the block's
    for (uint32_t p = 0; p < 2; p++)
        inside -= parts >> p & 1 ? overlap->part[p] : 0;
    double sum = inside > 0 ? inside * missed(draws, drawn + 1, outside, parts) : 0;
    if (open && outside < overlap->outside)
        sum += (overlap->outside - outside) * draws->group * missed(draws, drawn + 1, outside + 1, parts);
    for (uint32_t p = 0; p < 2; p++)
        if (open && !(parts >> p & 1) && overlap->part[p] > 0)
            sum += (draws->group - overlap->part[p]) * missed(draws, drawn + 1, outside, parts | 1u << p);
    return *known = sum / pool;
}

static double grouped_copies(const SpecModel *model, uint64_t prefixes)
{
    Arena *arena = arena_create();
    uint64_t block = model->experts / prefixes, group = model->experts / model->groups, counted = 0;
    double hit = 0;
    for (uint64_t first = 0; counted == 0 || first % group != 0; first += block, counted++) {
        Draws draws = {
            .model = model, .overlap = overlap_of(first, block, group, model->groups), .group = (double)group};
        size_t states = (size_t)model->top_k * (draws.overlap.outside + 1) * 4;
        draws.known = arena_alloc_array(arena, states, sizeof(*draws.known));
        for (size_t i = 0; i < states; i++)
            draws.known[i] = -1;
        hit += 1 - missed(&draws, 0, 0, 0);
    }
    arena_destroy(arena);
    return hit * (double)prefixes / (double)counted;
}

double routing_uniform_copies(const SpecModel *model, uint64_t prefixes)
{
    if (prefixes == 1 && model->zero_experts == 0)
        return 1;
    if (model->groups > 0 && model->group_top_k < model->groups)
        return grouped_copies(model, prefixes);
    double outputs = (double)model->experts + model->zero_experts, inside = (double)model->experts / (double)prefixes;
    double none = 1;
    for (double i = 0; i < model->top_k && none > 0; i++)
        none *= fmax(0, outputs - inside - i) / (outputs - i);
    return (double)prefixes * (1 - none);
}
