// Skewed routing: inclusion probabilities, copies and the busiest GPU against sampled routing (Plackett-Luce,
// by exponential clocks), and what the planner makes of it.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/solve/planner.h"
#include "specs.h"

static double uniform(void)
{
    return (rand() + 0.5) / (RAND_MAX + 1.0);
}

static void draw_token(const double *popularity, uint32_t experts, uint32_t top_k, uint32_t *chosen)
{
    double when[64];
    for (uint32_t e = 0; e < experts; e++)
        when[e] = -log(uniform()) / popularity[e];
    for (uint32_t i = 0; i < top_k; i++) {
        uint32_t first = 0;
        for (uint32_t e = 1; e < experts; e++)
            if (when[e] < when[first])
                first = e;
        chosen[i] = first;
        when[first] = INFINITY;
    }
}

static double *zipf(uint32_t experts, double exponent, Arena *arena)
{
    double *popularity = arena_alloc_array(arena, experts, sizeof(*popularity));
    for (uint32_t e = 0; e < experts; e++)
        popularity[e] = pow(e + 1.0, -exponent);
    return popularity;
}

Test(routing, inclusion_probabilities_match_sampling)
{
    enum { EXPERTS = 32, DRAWS = 40000 };
    srand(1);
    for (uint32_t top_k = 1; top_k <= 8; top_k *= 2)
        for (double exponent = 0.5; exponent < 2; exponent += 0.6) {
            Arena *arena = arena_create();
            double *popularity = zipf(EXPERTS, exponent, arena), expected[EXPERTS], counted[EXPERTS] = {0}, sum = 0;
            routing_inclusion(popularity, EXPERTS, top_k, expected);
            for (int d = 0; d < DRAWS; d++) {
                uint32_t chosen[8];
                draw_token(popularity, EXPERTS, top_k, chosen);
                for (uint32_t i = 0; i < top_k; i++)
                    counted[chosen[i]] += 1.0 / DRAWS;
            }
            for (int e = 0; e < EXPERTS; e++) {
                sum += expected[e];
                cr_assert(fabs(expected[e] - counted[e]) < 4 * sqrt(counted[e] / DRAWS) + 0.03 * counted[e] + 1e-3,
                          "top-%u, zipf(%g), expert %d: %g, sampled %g", top_k, exponent, e, expected[e], counted[e]);
            }
            cr_assert(fabs(sum - top_k) < 1e-9 * top_k);
            arena_destroy(arena);
        }
}

// Rows that the busiest GPU sends or receives at `level`, over the average sent, and copies per token, by sampling.
// Every GPU has `tokens` tokens; a row goes outer level first, once to each destination.
static void sample(const Spec *spec, const uint32_t domain[], uint32_t level, double *copies, double *busiest)
{
    enum { TOKENS = 3000, PLACES_MAX = 64 };
    const Cluster *cluster = &spec->cluster;
    uint32_t members = cluster->levels[level].count / domain[level], places = 1, inside = 1;
    for (uint32_t l = 0; l < cluster->level_count; l++)
        *(l <= level ? &places : &inside) *= cluster->levels[l].count / domain[l];
    uint32_t each = spec->model.experts / (places * inside); // experts of one place, level 0 slowest
    double wanted[PLACES_MAX] = {0};
    for (int t = 0; t < TOKENS; t++) {
        uint32_t chosen[8];
        bool seen[PLACES_MAX] = {false};
        draw_token(spec->model.popularity, spec->model.experts, spec->model.top_k, chosen);
        for (uint32_t i = 0; i < spec->model.top_k; i++)
            seen[chosen[i] / each / inside] = true;
        for (uint32_t p = 0; p < places; p++)
            wanted[p] += seen[p] / (double)TOKENS;
    }
    double total = 0, most = 0;
    for (uint32_t p = 0; p < places; p++)
        total += wanted[p];
    for (uint32_t p = 0; p < places; p++) {
        double siblings = 0;
        for (uint32_t q = p / members * members; q < p / members * members + members; q++)
            siblings += wanted[q];
        most = fmax(most, fmax(siblings - wanted[p], (members - 1) * wanted[p]));
    }
    *copies = total;
    *busiest = most / (total * (members - 1) / places);
}

Test(routing, load_matches_sampling)
{
    static const uint32_t shapes[][3] = {{8, 0, 0}, {2, 4, 0}, {4, 2, 0}, {2, 2, 2}};
    srand(2);
    int compared = 0;
    for (size_t s = 0; s < COUNT_OF(shapes); s++)
        for (double exponent = 0.4; exponent < 1.5; exponent += 0.4) {
            Arena *arena = arena_create();
            Spec spec = spec_small_gpt(shapes[s], 32, 4);
            spec.model.popularity = zipf(32, exponent, arena);
            Workload *work = workload_derive(&spec, arena);
            Candidate *candidates;
            size_t count;
            cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
            for (size_t c = 0; c < count; c++)
                for (uint32_t l = 0; l < spec.cluster.level_count; l++) {
                    const uint32_t *domain = candidates[c].config.domain;
                    if (domain[l] == spec.cluster.levels[l].count)
                        continue;
                    RoutingLoad load = routing_load(work->layers[0].routing, domain, l, DISPATCH_DEDUP);
                    double copies, busiest;
                    sample(&spec, domain, l, &copies, &busiest);
                    cr_assert(fabs(load.copies - copies) < 0.05 * copies, "zipf(%g): %g copies, sampled %g", exponent,
                              load.copies, copies);
                    cr_assert(fabs(load.busiest_exchange - busiest) < 0.06 * busiest,
                              "zipf(%g) level %u: busiest %g, sampled %g", exponent, l, load.busiest_exchange, busiest);
                    compared++;
                }
            arena_destroy(arena);
        }
    cr_assert_gt(compared, 40);
}

Test(routing, experts_held_by_all_spread_their_load)
{
    Spec spec = spec_small_gpt((uint32_t[]){8, 0, 0}, 32, 2);
    Arena *arena = arena_create();
    spec.model.popularity = zipf(32, 1.2, arena);
    Workload *work = workload_derive(&spec, arena);
    double before = INFINITY;
    for (uint32_t size = 1; size <= 8; size *= 2) {
        uint32_t domain[LEVELS_MAX] = {size};
        double load = routing_load(work->layers[0].routing, domain, 0, DISPATCH_DEDUP).busiest_experts;
        cr_assert_lt(load, before, "domains of %u", size);
        before = load;
    }
    cr_assert(fabs(before - 1) < 1e-12, "one domain: every GPU computes its own tokens");
    arena_destroy(arena);
}

Test(routing, skew_makes_larger_domains_pay)
{
    Arena *arena = arena_create();
    double best_s[2];
    uint32_t size[2];
    for (int skewed = 0; skewed < 2; skewed++) {
        Spec *spec = arena_alloc(arena, sizeof(*spec));
        *spec = spec_one_tier(8, 16e9, 0, 8e6, 4.7e6, 0.49e-3);
        spec->model.experts = 32;
        spec->model.top_k = 2;
        spec->model.popularity = skewed ? zipf(32, 1.2, arena) : NULL;
        Solution solution;
        bool infeasible;
        PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED};
        cr_assert(
            planner_solve(workload_derive(spec, arena), &options, arena, diag_create(arena), &solution, &infeasible));
        best_s[skewed] = solution.objective_s;
        size[skewed] = solution.mix.configs[0].domain[0];
    }
    cr_assert_gt(best_s[1], best_s[0]);
    cr_assert_gt(size[1], size[0]);
    arena_destroy(arena);
}

// ---- groups, and choices that are no experts ---------------------------------------------------

static double copies_of(SpecModel model, uint64_t prefixes)
{
    return routing_uniform_copies(&model, prefixes);
}

static bool is(double a, double b)
{
    return fabs(a - b) < 1e-12;
}

Test(routing, uniform_copies_by_hand)
{
    SpecModel plain = {.experts = 8, .top_k = 2};
    cr_assert(is(copies_of(plain, 2), 2 * (1 - 4.0 / 8 * 3 / 7)));
    // Half of the choices are none: a block of two of eight outputs is missed by two draws with 6/8 x 5/7.
    SpecModel zero = {.experts = 4, .zero_experts = 4, .top_k = 2};
    cr_assert(is(copies_of(zero, 2), 2 * (1 - 6.0 / 8 * 5 / 7)));
    cr_assert(is(copies_of(zero, 1), 1 - 4.0 / 8 * 3 / 7)); // not even one, if both are none
    // Two of four experts, both of one of two groups: two places of single experts, one of two groups.
    SpecModel pairs = {.experts = 4, .top_k = 2, .groups = 2, .group_top_k = 1};
    cr_assert(is(copies_of(pairs, 4), 2));
    cr_assert(is(copies_of(pairs, 2), 1));
    // Three experts of at most two of four pairs: always two groups. A half of the groups is missed if the first draw
    // lies in the other half (1/2), and then the second in its other group (2/7), which opens both; or in the same
    // group (1/7) and the third in that other group (2/6).
    SpecModel quarters = {.experts = 8, .top_k = 3, .groups = 4, .group_top_k = 2};
    cr_assert(is(copies_of(quarters, 4), 2));
    cr_assert(is(copies_of(quarters, 8), 3));
    cr_assert(is(copies_of(quarters, 2), 2 * (1 - 0.5 * (2.0 / 7 + 1.0 / 7 * 2 / 6))));
    // Blocks of two across groups of three, two experts of one group: the outer blocks are hit whenever their group is
    // (two of three cannot both be the third), the middle one unless the two others are drawn.
    SpecModel across = {.experts = 6, .top_k = 2, .groups = 2, .group_top_k = 1};
    cr_assert(is(copies_of(across, 3), 0.5 + 2.0 / 3 + 0.5));
    // As many groups as there are limit nothing.
    SpecModel all = {.experts = 8, .top_k = 2, .groups = 4, .group_top_k = 4};
    cr_assert(is(copies_of(all, 2), copies_of(plain, 2)));
}

// 8 groups of 32, 4 of them, top 8: 3.982 groups and 7.465 of 64 places by 3000 draws of an independent script.
Test(routing, published_groups_bound_the_nodes)
{
    SpecModel model = {.experts = 256, .top_k = 8, .groups = 8, .group_top_k = 4};
    double nodes = copies_of(model, 8), gpus = copies_of(model, 64);
    cr_assert(nodes <= 4 && fabs(nodes - 3.982) < 0.005, "%g", nodes);
    cr_assert(fabs(gpus - 7.465) < 0.03, "%g", gpus);
    cr_assert(nodes * 7 / 8 < 3.5);
}

// What is drawn for skewed routing with groups, where all experts are as popular, is what the formula says of them.
Test(routing, skewed_groups_agree_where_all_are_alike)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 4, 0}, 32, 4);
    spec.model.groups = 8;
    spec.model.group_top_k = 2;
    Arena *arena = arena_create();
    const uint32_t domain[LEVELS_MAX] = {1, 1};
    Popularity *alike = routing_create(&spec, zipf(32, 0, arena), arena);
    for (uint32_t level = 0; level < 2; level++) {
        RoutingLoad load = routing_load(alike, domain, level, DISPATCH_DEDUP);
        double expected = copies_of(spec.model, level ? 16 : 4);
        cr_assert(fabs(load.copies - expected) < 0.02 * expected, "%g, formula %g", load.copies, expected);
    }
    cr_assert(fabs(routing_load(alike, domain, 1, DISPATCH_NAIVE).copies - 4) < 1e-9);
    // All of zipf(3) is in the first groups: fewer places than where nothing limits, and never more than two groups.
    Popularity *skewed = routing_create(&spec, zipf(32, 1, arena), arena);
    spec.model.group_top_k = 8;
    Popularity *free_choice = routing_create(&spec, zipf(32, 1, arena), arena);
    double limited = routing_load(skewed, domain, 0, DISPATCH_DEDUP).copies;
    cr_assert(limited <= 2 && limited < routing_load(free_choice, domain, 0, DISPATCH_DEDUP).copies);
    arena_destroy(arena);
}

// One draw chooses in proportion to popularity, however many experts there are.
Test(routing, many_experts)
{
    enum { EXPERTS = 16384 };
    Arena *arena = arena_create();
    double *popularity = zipf(EXPERTS, 1.1, arena), *included = zipf(EXPERTS, 0, arena), total = 0, sum = 0;
    popularity[7] = 0;
    for (int e = 0; e < EXPERTS; e++)
        total += popularity[e];
    routing_inclusion(popularity, EXPERTS, 1, included);
    for (int e = 0; e < EXPERTS; e += 41)
        cr_assert(fabs(included[e] * total / popularity[e] - 1) < 0.01, "expert %d: %g, of its popularity %g", e,
                  included[e], popularity[e] / total);
    cr_assert_eq(included[7], 0);
    routing_inclusion(popularity, EXPERTS, 8, included);
    for (int e = 0; e < EXPERTS; e++)
        sum += included[e];
    cr_assert(fabs(sum - 8) < 1e-9);
    arena_destroy(arena);
}

// ---- every draw --------------------------------------------------------------------------------

// All sequences of draws of at most twelve experts, each with its probability: how often every block of the experts is
// met, and every expert taken.
typedef struct {
    const double *popularity; // of experts; zero experts follow
    uint32_t experts, zero, top_k, block, groups, group_top_k;
    double *met, *taken;
} Race;

static void race(const Race *of, uint32_t drawn, uint32_t taken, double probability)
{
    uint32_t group = of->groups ? of->experts / of->groups : of->experts, open = 0, seen = 0;
    if (drawn == of->top_k) {
        uint32_t mask = (1u << of->block) - 1;
        for (uint32_t b = 0; b * of->block < of->experts; b++)
            of->met[b] += taken >> b * of->block & mask ? probability : 0;
        for (uint32_t e = 0; e < of->experts; e++)
            of->taken[e] += taken >> e & 1 ? probability : 0;
        return;
    }
    for (uint32_t e = 0; e < of->experts; e++)
        open |= (taken >> e & 1) << e / group;
    for (uint32_t g = 0; g < of->groups; g++)
        seen += open >> g & 1;
    double all = 0, each[16] = {0};
    for (uint32_t e = 0; e < of->experts + of->zero; e++) {
        bool allowed = !of->groups || seen < of->group_top_k || open >> e / group & 1;
        each[e] = taken >> e & 1 || !allowed ? 0 : e < of->experts ? of->popularity[e] : 1;
        all += each[e];
    }
    for (uint32_t e = 0; e < of->experts + of->zero; e++)
        if (each[e] > 0)
            race(of, drawn + 1, taken | 1u << e, probability * each[e] / all);
}

Test(routing, copies_of_all_draws)
{
    static const double alike[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const uint32_t groups[] = {0, 2, 3, 4, 6, 12};
    uint32_t compared = 0;
    for (size_t g = 0; g < COUNT_OF(groups); g++)
        for (uint32_t open = 1; open <= (groups[g] ? groups[g] : 1); open++)
            for (uint32_t zero = 0; zero <= (groups[g] ? 0u : 4u); zero += 2)
                for (uint32_t top_k = 1; top_k <= 4; top_k++)
                    for (uint32_t places = 1; places <= 12; places++) {
                        double met[12] = {0}, taken[12] = {0}, expected = 0;
                        SpecModel model = {.experts = 12,
                                           .zero_experts = zero,
                                           .top_k = top_k,
                                           .groups = groups[g],
                                           .group_top_k = groups[g] ? open : 0};
                        if (12 % places || (groups[g] && top_k > open * 12 / groups[g]))
                            continue;
                        race(&(Race){alike, 12, zero, top_k, 12 / places, groups[g], open, met, taken}, 0, 0, 1);
                        for (uint32_t b = 0; b < places; b++)
                            expected += met[b];
                        cr_assert(is(copies_of(model, places), expected),
                                  "%u of %u groups, %u zero, top %u, %u places: %.12g, not %.12g", open, groups[g],
                                  zero, top_k, places, copies_of(model, places), expected);
                        compared++;
                    }
    cr_assert_gt(compared, 500);
}

// The same of popularities, which take an integral and one approximation: exact where experts are alike.
Test(routing, loads_of_all_draws)
{
    srand(5);
    for (int i = 0; i < 40; i++) {
        Arena *arena = arena_create();
        Spec spec = spec_small_gpt((uint32_t[]){2, 3, 0}, 12, 1 + (uint32_t)(i % 4));
        const uint32_t domain[LEVELS_MAX] = {1, 1};
        double *popularity = zipf(12, 0, arena), taken[12] = {0}, included[12];
        double close = i < 4 ? 1e-5 : 0.03, spread = i % 3;
        for (uint32_t e = 0; e < 12 && i >= 4; e++)
            popularity[e] = pow(10, spread * uniform());
        Popularity *routing = routing_create(&spec, popularity, arena);
        routing_inclusion(popularity, 12, spec.model.top_k, included);
        for (uint32_t level = 0; level < 2; level++) {
            // Six places of two experts; over the outer level two of six.
            uint32_t places = level ? 6 : 2, members = level ? 3 : 2;
            double met[12] = {0}, total = 0, busiest = 0, most = 0;
            memset(taken, 0, sizeof(taken));
            race(&(Race){popularity, 12, 0, spec.model.top_k, 12 / places, 0, 0, met, taken}, 0, 0, 1);
            for (uint32_t b = 0; b < places; b++) {
                double siblings = 0, experts = 0;
                total += met[b];
                for (uint32_t other = b / members * members; other < (b / members + 1) * members; other++)
                    siblings += other == b ? 0 : met[other];
                for (uint32_t e = b * 12 / places; e < (b + 1) * 12 / places; e++)
                    experts += taken[e];
                busiest = fmax(busiest, fmax(siblings, (members - 1) * met[b]));
                most = fmax(most, experts);
            }
            RoutingLoad load = routing_load(routing, domain, level, DISPATCH_DEDUP);
            double mean = (members - 1) * total / places;
            cr_assert(fabs(load.copies / total - 1) < close, "%d: %g copies, not %g", i, load.copies, total);
            cr_assert(fabs(load.busiest_exchange * mean / busiest - 1) < close, "%d: %g, not %g", i,
                      load.busiest_exchange, busiest / mean);
            cr_assert(fabs(load.busiest_experts * spec.model.top_k / places / most - 1) < close, "%d: %g, not %g", i,
                      load.busiest_experts, most * places / spec.model.top_k);
            double naive = routing_load(routing, domain, level, DISPATCH_NAIVE).copies;
            cr_assert(fabs(naive - spec.model.top_k) < 1e-9, "%d: %g", i, naive);
        }
        for (uint32_t e = 0; e < 12; e++)
            cr_assert(fabs(included[e] - taken[e]) < close * fmax(0.1, taken[e]), "%d: expert %u %g, not %g", i, e,
                      included[e], taken[e]);
        arena_destroy(arena);
    }
}

// Popularities are proportions: in thousandths or millions they mean the same.
Test(routing, popularity_has_no_unit)
{
    enum { EXPERTS = 24 };
    Arena *arena = arena_create();
    double *popularity = zipf(EXPERTS, 0.8, arena), scaled[EXPERTS], is_included[EXPERTS], included[EXPERTS];
    routing_inclusion(popularity, EXPERTS, 3, included);
    for (double scale = 1e-12; scale < 1e13; scale *= 1e8) {
        for (int e = 0; e < EXPERTS; e++)
            scaled[e] = scale * popularity[e];
        routing_inclusion(scaled, EXPERTS, 3, is_included);
        for (int e = 0; e < EXPERTS; e++)
            cr_assert(fabs(is_included[e] / included[e] - 1) < 1e-9, "%g: %g, not %g", scale, is_included[e],
                      included[e]);
    }
    arena_destroy(arena);
}
