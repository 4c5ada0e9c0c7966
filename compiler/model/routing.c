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
    ExpertSet all, *expert;   // [experts]
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
        if (exponent > 60)
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

void routing_inclusion(const double *popularity, uint32_t experts, uint32_t top_k, double *out)
{
    double time[NODES], step = set_times(popularity, experts, top_k, time), total = 0;
    ExpertSet all = {0};
    for (uint32_t e = 0; e < experts; e++) {
        ExpertSet one = set_of_one(time, popularity[e]);
        set_add(&all, &one);
    }
    for (uint32_t e = 0; e < experts; e++) {
        ExpertSet one = set_of_one(time, popularity[e]);
        total += out[e] = hit(time, step, &all, &one, top_k);
    }
    for (uint32_t e = 0; e < experts && total > 0; e++)
        out[e] *= top_k / total;
}

Popularity *routing_create(const Spec *spec, const double *popularity, Arena *arena)
{
    const SpecModel *model = &spec->model;
    if (!popularity)
        return NULL;
    Popularity *routing = arena_alloc(arena, sizeof(*routing));
    *routing = (Popularity){.spec = spec, .arena = arena};
    routing->step = set_times(popularity, model->experts, model->top_k, routing->time);
    routing->expert = arena_alloc_array(arena, model->experts, sizeof(*routing->expert));
    double *included = arena_alloc_array(arena, model->experts, sizeof(*included));
    routing_inclusion(popularity, model->experts, model->top_k, included);
    for (uint32_t e = 0; e < model->experts; e++) {
        routing->expert[e] = set_of_one(routing->time, popularity[e]);
        routing->expert[e].included = included[e];
        set_add(&routing->all, &routing->expert[e]);
    }
    return routing;
}

// ---- sums over destinations ------------------------------------------------------------------

// The experts of each combination of domains at the levels up to `level`, outermost slowest: as many one after another.
typedef struct {
    uint64_t count; // combinations
    ExpertSet *sets;
} Wanted;

static Wanted sum_wanted(const Popularity *routing, const uint32_t domain[LEVELS_MAX], uint32_t level, Arena *arena)
{
    const Cluster *cluster = &routing->spec->cluster;
    Wanted wanted = {.count = 1};
    for (uint32_t l = 0; l <= level; l++)
        wanted.count *= cluster->levels[l].count / domain[l];
    wanted.sets = arena_alloc_array(arena, wanted.count, sizeof(*wanted.sets));
    uint32_t experts = routing->spec->model.experts;
    for (uint32_t e = 0; e < experts; e++)
        set_add(&wanted.sets[e / (experts / wanted.count)], &routing->expert[e]);
    return wanted;
}

// Rows a token has for each destination.
static double *count_rows(const Popularity *routing, const Wanted *wanted, Dispatch dispatch, Arena *arena)
{
    double *rows = arena_alloc_array(arena, wanted->count, sizeof(*rows));
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
