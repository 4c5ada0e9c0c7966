// The planner against exhaustive enumeration of every choice per layer, memory limit included; GLPK's
// programme against the same; the closed form of one layer; and GLPK's failures must stay inside milp.c.
// Enumerating takes most of the time: 300 instances with and without micro-batches, as few are hard.
// builds: dev fast  seconds: 8
#include <criterion/criterion.h>
#include <glpk.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "effort.h"
#include "ir/simulate/simulate.h"
#include "specs.h"

static const PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED, .glpk = true};
static const MilpLimits no_limits = {.cutoff = INFINITY};

static double uniform(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

static Spec random_spec(void)
{
    static const uint32_t counts[] = {1, 2, 3, 4, 6, 8};
    Spec spec = spec_one_tier(8, 1e9, 0, uniform(1e5, 1e8), uniform(1e4, 3e7), uniform(0, 1e-2));
    spec.cluster.level_count = 1 + (uint32_t)(rand() % 3);
    for (uint32_t l = 0; l < spec.cluster.level_count; l++)
        spec.cluster.levels[l] = (Level){(const char *[]){"dc", "node", "gpu"}[l], counts[rand() % 6],
                                         pow(10, uniform(8, 11)), uniform(0, 1e-3), uniform(0, 1e-5)};
    spec.model.layers = 1 + (uint32_t)(rand() % 6);
    spec.model.first_dense = spec.model.layers > 2 ? (uint32_t)(rand() % 2) : 0;
    spec.model.expert_compute_s = uniform(0, 1e-2);
    spec.replica_levels = (uint32_t)(rand() % (int)spec.cluster.level_count);
    spec.plan.pass = rand() % 2 ? PASS_TRAINING : PASS_FORWARD;
    if (spec.plan.pass == PASS_TRAINING) { // every GPU owns its share: any number of experts, or none that is given
        spec.replica_levels = 0;
        spec.model.experts = rand() % 2 ? 1 + (uint32_t)(rand() % 48) : 0;
    }
    return spec;
}

// A random instance: up to four MoE layers, unlike in two thirds of the cases, and up to eight configurations that are
// drawn from all, with made-up memory in a third of the cases.
typedef struct {
    Arena *arena;
    Spec spec;
    Workload *work;
    StageCandidate candidates[8];
    Footprint footprints[8];
    Config configs[8];
    uint32_t count, prefetch;
    double memory;
} Instance;

static void make_unlike(Workload *work)
{
    for (uint32_t k = 0; k < work->layer_count; k++) {
        LayerWork *layer = &work->layers[k];
        layer->kind = k;
        layer->pre_expert_s = uniform(0, 1e-2);
        layer->expert_compute_s = uniform(0, 1e-2);
        layer->data_bytes = uniform(1e5, 1e8);
        layer->expert_bytes = layer->sent_bytes = uniform(1e4, 3e7);
    }
}

static Instance random_instance(void)
{
    Instance in = {.arena = arena_create(), .spec = random_spec()};
    in.spec.model.layers = 1 + (uint32_t)(rand() % 4);
    return in;
}

// Iterations of one, two or four micro-batches of a small model, with activations kept or computed again.
static Instance random_looped_instance(void)
{
    static const uint32_t counts[] = {1, 2, 3, 4};
    const uint32_t shape[] = {counts[rand() % 4], counts[rand() % 4], rand() % 2 ? 2 : 0};
    Instance in = {.arena = arena_create(), .spec = spec_small_gpt(shape, 1 + (uint32_t)(rand() % 24), 1)};
    Spec *spec = &in.spec;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++) {
        spec->cluster.levels[l].bandwidth_bytes_per_s = pow(10, uniform(6, 10));
        spec->cluster.levels[l].latency_s = pow(10, uniform(-6, -3));
    }
    spec->cluster.device.compute_flops = pow(10, uniform(8, 11));
    spec->cluster.device.memory_bandwidth = pow(10, uniform(8, 11));
    spec->model.layers = 1 + (uint32_t)(rand() % 4);
    spec->model.first_dense = spec->model.layers > 2 ? (uint32_t)(rand() % 2) : 0;
    spec->model.ffn_inner = 24;
    spec->model.top_k = 1 + (uint32_t)(rand() % (int)(spec->model.experts < 4 ? spec->model.experts : 4));
    spec->model.dtype = rand() % 2 ? DTYPE_F32 : DTYPE_BF16;
    spec->plan.pass = PASS_TRAINING;
    spec->plan.regather_dense = rand() % 2;
    spec->plan.micro_batches = 1u << rand() % 3;
    spec->plan.recomputes = rand() % 2;
    spec->plan.regather_embedding = rand() % 2;
    return in;
}

// The rest of the instance points into it, so it must stay where it is.
static void complete_instance(Instance *in, int index)
{
    in->work = workload_derive(&in->spec, in->arena);
    if (index % 3)
        make_unlike(in->work);
    Candidate *all;
    size_t total;
    cr_assert(planner_enumerate(in->work, in->arena, diag_create(in->arena), &all, &total));
    in->count = total < 8 ? (uint32_t)total : 8;
    in->prefetch = rand() % 2 ? PREFETCH_UNLIMITED : (uint32_t)(rand() % 3);
    bool binding = index % 3 == 1;
    double least = 0, most = 0;
    for (uint32_t c = 0; c < in->count; c++) {
        double bytes = binding ? uniform(1, 10) : 0;
        in->configs[c] = all[(size_t)rand() % total].config;
        in->candidates[c] = (StageCandidate){.config = in->configs[c], .memory = bytes, .index = c};
        in->footprints[c] = (Footprint){bytes, 0};
        least = c && least < bytes ? least : bytes;
        most = most > bytes ? most : bytes;
    }
    in->memory = binding ? in->work->moe_count * uniform(least, most) : INFINITY;
    in->spec.cluster.device.memory_bytes = binding ? in->memory : 1e9;
}

// The optimum by trying everything, or everything that is `useful`: [layers x candidates]; INFINITY if nothing fits.
static double brute_force(const Instance *in, const bool *useful)
{
    Config configs[8];
    uint32_t digits[8] = {0};
    double best_s = INFINITY;
    for (;;) {
        double memory = 0;
        bool allowed = true;
        for (uint32_t i = 0; i < in->work->moe_count; i++) {
            configs[i] = in->candidates[digits[i]].config;
            memory += in->candidates[digits[i]].memory;
            allowed = allowed && (!useful || useful[i * in->count + digits[i]]);
        }
        if (allowed && memory <= in->memory) {
            IterationCost cost;
            cost_mix(in->work, &(Mix){configs, in->prefetch}, in->spec.plan.dispatch, &cost);
            best_s = fmin(best_s, cost.iteration_s);
        }
        uint32_t at = 0;
        while (at < in->work->moe_count && ++digits[at] == in->count)
            digits[at++] = 0;
        if (at == in->work->moe_count)
            return best_s;
    }
}

static void compare_with_brute_force(Instance (*instance)(void))
{
    int infeasible = 0, compared = 0;
    for (int i = 0; i < INSTANCES(FEW_OF(420)); i++) {
        Instance in = instance();
        complete_instance(&in, i);
        if (in.work->moe_count == 0) {
            arena_destroy(in.arena);
            continue;
        }
        double expected_s = brute_force(&in, NULL);
        StageProblem *problem = stages_build(in.work, in.candidates, in.count, in.prefetch, in.memory, in.arena);
        SearchResult result;
        search_solve(problem, &(SearchLimits){0}, INFINITY, in.arena, &result);
        cr_assert_eq(result.found, expected_s < INFINITY, "instance %d", i);
        infeasible += !result.found;
        compared += result.found;
        if (result.found) {
            cr_assert(fabs(result.objective_s - expected_s) <= 1e-9 * expected_s, "instance %d: %.12g, not %.12g", i,
                      result.objective_s, expected_s);
            cr_assert(result.bound_s <= expected_s * (1 + 1e-9), "instance %d: bound %.12g above %.12g", i,
                      result.bound_s, expected_s);
            cr_assert_geq(result.bound_s, expected_s * (1 - 1e-10), "instance %d: not proven", i);
            cr_assert_leq(stages_memory(problem, result.choice), in.memory);
        }
        arena_destroy(in.arena);
    }
    cr_assert_geq(compared, INSTANCES(FEW_OF(300)));
    cr_assert_lt(infeasible, INSTANCES(60), "too many instances without any solution: %d", infeasible);
}

Test(planner, search_finds_the_optimum_of_every_choice_per_layer)
{
    srand(3);
    compare_with_brute_force(random_instance);
}

Test(planner, and_of_several_micro_batches)
{
    srand(9);
    compare_with_brute_force(random_looped_instance);
}

// The mix that GLPK found, priced and weighed by other means.
static void check_found(const Instance *in, const Formulated *formulated, double expected_s, int index, double creep)
{
    Config configs[8];
    double memory = 0;
    for (uint32_t k = 0; k < in->work->moe_count; k++) {
        int chosen = 0;
        for (uint32_t c = 0; c < in->count; c++) {
            int binary = formulated->binary[k * in->count + c];
            if (binary < 0 || milp_value(formulated->milp, binary) < 0.5)
                continue;
            configs[k] = in->configs[c];
            memory += in->candidates[c].memory;
            chosen++;
        }
        cr_assert_eq(chosen, 1, "instance %d: %d configurations in layer %u", index, chosen, k);
    }
    IterationCost cost;
    cost_mix(in->work, &(Mix){configs, in->prefetch}, in->spec.plan.dispatch, &cost);
    cr_assert(fabs(cost.iteration_s - expected_s) <= creep * expected_s, "instance %d: %.9g, not %.9g", index,
              cost.iteration_s, expected_s);
    cr_assert_leq(memory, in->memory * (1 + 1e-6));
}

Test(planner, glpk_solves_the_same_programme)
{
    srand(4);
    for (int i = 0; i < INSTANCES(90); i++) {
        Instance in = i < INSTANCES(60) ? random_instance() : random_looped_instance();
        in.spec.model.layers = 1 + (uint32_t)(rand() % 3);
        complete_instance(&in, i);
        double expected_s = in.work->moe_count ? brute_force(&in, NULL) : INFINITY;
        if (in.work->moe_count) {
            IterationCost worst;
            double horizon_s = 0;
            for (uint32_t c = 0; c < in.count; c++) {
                cost_iteration(in.work, &in.configs[c], in.spec.plan.dispatch, &worst);
                horizon_s = fmax(horizon_s, 4 * worst.iteration_s);
            }
            Programme programme = {.work = in.work,
                                   .configs = in.configs,
                                   .footprints = in.footprints,
                                   .count = in.count,
                                   .prefetch = in.prefetch,
                                   .dispatch = in.spec.plan.dispatch,
                                   .horizon_s = horizon_s};
            Formulated formulated = formulate(&programme, in.arena);
            MilpResult result = milp_solve(formulated.milp, &no_limits);
            if (expected_s == INFINITY) {
                cr_assert_eq(result.status, MILP_INFEASIBLE, "instance %d", i);
            } else {
                cr_assert_eq(result.status, MILP_OPTIMAL, "instance %d: %s", i, result.fault.message);
                // A binary within 1e-5 of 0 is 0 to GLPK, and what the horizon switches off creeps by that much of it.
                bool training = in.spec.plan.pass == PASS_TRAINING;
                double found_s = result.objective * formulated.unit_s, creep = training ? 1e-4 : 1e-6;
                cr_assert(fabs(found_s - expected_s) <= creep * expected_s, "instance %d: %.9g, not %.9g", i, found_s,
                          expected_s);
                check_found(&in, &formulated, expected_s, i, creep);
            }
            milp_destroy(formulated.milp);
        }
        arena_destroy(in.arena);
    }
}

// The best of the configurations that fit when every layer takes the same; INFINITY if none does.
static double best_single(const Instance *in)
{
    double best_s = INFINITY;
    for (uint32_t c = 0; c < in->count; c++) {
        Mix mix = mix_uniform(in->work, &in->configs[c], in->prefetch, in->arena);
        IterationCost cost;
        cost_mix(in->work, &mix, in->spec.plan.dispatch, &cost);
        if (in->work->moe_count * in->candidates[c].memory <= in->memory)
            best_s = fmin(best_s, cost.iteration_s);
    }
    return best_s;
}

// A search that looks for no choice, only for what one below `known_s` may consist of.
static SearchResult bound_below(const Instance *in, double known_s, StageProblem **problem)
{
    *problem = stages_build(in->work, in->candidates, in->count, in->prefetch, in->memory, in->arena);
    SearchResult result;
    search_solve(*problem, &(SearchLimits){.bound_only = true}, known_s, in->arena, &result);
    return result;
}

Test(planner, options_of_a_better_choice_are_not_dropped)
{
    srand(7);
    int better = 0;
    for (int i = 0; i < INSTANCES(FEW_OF(420)); i++) {
        Instance in = random_instance();
        complete_instance(&in, i);
        double known_s = in.work->moe_count ? best_single(&in) : INFINITY;
        double expected_s = known_s < INFINITY ? brute_force(&in, NULL) : INFINITY;
        if (expected_s < known_s * (1 - 1e-6)) {
            StageProblem *problem;
            SearchResult left = bound_below(&in, known_s, &problem);
            cr_assert_leq(left.bound_s, expected_s * (1 + 1e-9), "instance %d", i);
            double kept_s = brute_force(&in, left.useful);
            cr_assert(kept_s <= expected_s * (1 + 1e-9), "instance %d: %.9g of what was kept, %.9g of all", i, kept_s,
                      expected_s);
            better++;
        }
        arena_destroy(in.arena);
    }
    cr_assert_geq(better, INSTANCES(FEW_OF(60)));
}

// GLPK with what a search that looks for no choice leaves: its options, and an incumbent to beat.
static MilpResult finish(const Instance *in, double known_s, double work, Formulated *formulated)
{
    StageProblem *problem;
    SearchResult left = bound_below(in, known_s, &problem);
    bool *useful = arena_alloc_array(in->arena, (size_t)in->work->moe_count * in->count, sizeof(*useful));
    for (uint32_t k = 0; k < in->work->moe_count; k++)
        for (uint32_t o = 0; o < problem->stages[k].option_count; o++)
            useful[k * in->count + problem->stages[k].options[o].candidate] = left.useful[k * in->count + o];
    Programme programme = {.work = in->work,
                           .configs = in->configs,
                           .footprints = in->footprints,
                           .count = in->count,
                           .prefetch = in->prefetch,
                           .dispatch = in->spec.plan.dispatch,
                           .useful = useful,
                           .horizon_s = known_s};
    *formulated = formulate(&programme, in->arena);
    MilpLimits limits = {.cutoff = known_s / formulated->unit_s, .work = work};
    return milp_solve(formulated->milp, &limits);
}

Test(planner, glpk_finds_the_optimum_below_what_is_known)
{
    srand(7);
    int better = 0, proven = 0, stopped = 0;
    for (int i = 0; i < INSTANCES(FEW_OF(200)); i++) {
        Instance in = random_instance();
        complete_instance(&in, i);
        double known_s = in.work->moe_count ? best_single(&in) : INFINITY;
        if (known_s == INFINITY) {
            arena_destroy(in.arena);
            continue;
        }
        double expected_s = brute_force(&in, NULL);
        Formulated formulated;
        MilpResult result = finish(&in, known_s, 0, &formulated);
        bool is_better = expected_s < known_s * (1 - 1e-6);
        cr_assert(result.status == MILP_OPTIMAL || (!is_better && result.status == MILP_INFEASIBLE),
                  "instance %d: status %d of %.9g, %.9g known", i, (int)result.status, expected_s, known_s);
        cr_assert(result.found || !is_better, "instance %d: %.9g is known, %.9g not found", i, known_s, expected_s);
        if (is_better)
            check_found(&in, &formulated, expected_s, i, 1e-6);
        better += is_better;
        proven += !is_better;
        milp_destroy(formulated.milp);
        // Stopped early, it claims no more than is true.
        result = finish(&in, known_s, 2000, &formulated);
        cr_assert(result.status == MILP_INFEASIBLE || result.bound * formulated.unit_s <= expected_s * (1 + 1e-6),
                  "instance %d: bound %.9g above %.9g", i, result.bound * formulated.unit_s, expected_s);
        cr_assert(result.status != MILP_INFEASIBLE || !is_better);
        stopped += result.status == MILP_FEASIBLE;
        milp_destroy(formulated.milp);
        arena_destroy(in.arena);
    }
    cr_assert_geq(better, INSTANCES(FEW_OF(20)));
    cr_assert_geq(proven, INSTANCES(FEW_OF(50)));
    cr_assert_geq(stopped, INSTANCES(FEW_OF(20)));
}

// Layers that differ: too many mixes for the search to prove the best, few enough for GLPK.
static Workload *many_heterogeneous_layers(Spec *spec, uint32_t layers, int seed, Arena *arena)
{
    *spec = spec_one_tier(8, 1e9, 0, 8e6, 1e6, 2e-3);
    spec->cluster.level_count = 3;
    const uint32_t counts[] = {2, 4, 8};
    for (uint32_t l = 0; l < 3; l++)
        spec->cluster.levels[l] =
            (Level){(const char *[]){"dc", "node", "gpu"}[l], counts[l], 1.25e9 * pow(10, l), 1e-4 / (1 + l), 0};
    spec->model.layers = layers;
    spec->plan.pass = PASS_TRAINING;
    Workload *work = workload_derive(spec, arena);
    srand((unsigned)seed);
    for (uint32_t k = 0; k < work->layer_count; k++) {
        LayerWork *layer = &work->layers[k];
        layer->kind = k;
        layer->pre_expert_s = uniform(1e-3, 4e-3);
        layer->expert_compute_s = uniform(1e-3, 4e-3);
        layer->data_bytes = uniform(2e6, 16e6);
        layer->expert_bytes = layer->sent_bytes = layer->returned_bytes = uniform(2e5, 3e6);
    }
    return work;
}

// GLPK's own time, which has no sanitizer.
Test(planner, glpk_proves_what_the_search_leaves_open, .disabled = EFFORT_SHARE > 1)
{
    Arena *arena = arena_create();
    Spec spec;
    const Workload *work = many_heterogeneous_layers(&spec, 24, 8, arena);
    PlannerOptions alone = options;
    alone.glpk = false;
    Solution open, closed;
    bool infeasible;
    cr_assert(planner_solve(work, &alone, arena, diag_create(arena), &open, &infeasible));
    cr_assert(planner_solve(work, &options, arena, diag_create(arena), &closed, &infeasible));
    cr_assert_eq(open.status, STATUS_FEASIBLE, "the search proves this by itself: take a harder one");
    cr_assert_eq(closed.status, STATUS_OPTIMAL);
    cr_assert_str_eq(closed.solver, milp_solver_name());
    cr_assert_leq(closed.objective_s, open.objective_s);
    cr_assert_geq(closed.objective_s, open.bound_s * (1 - 1e-9));
    // The same is proven by GLPK on the programme with every configuration and nothing known.
    Formulated formulated = planner_formulate(work, &open, arena);
    MilpResult result = milp_solve(formulated.milp, &no_limits);
    cr_assert_eq(result.status, MILP_OPTIMAL);
    cr_assert(fabs(result.objective * formulated.unit_s - closed.objective_s) <= 1e-6 * closed.objective_s);
    milp_destroy(formulated.milp);
    arena_destroy(arena);
}

// The same of fewer layers, where a search with next to no work leaves something open: what GLPK makes of that is what
// a search with all of its work proves.
Test(planner, glpk_closes_what_a_short_search_leaves)
{
    uint32_t open = 0;
    for (int seed = 1; seed <= 12; seed++) {
        Arena *arena = arena_create();
        Spec spec;
        const Workload *work = many_heterogeneous_layers(&spec, 8, seed, arena);
        PlannerOptions full = {.prefetch = PREFETCH_UNLIMITED}, brief = full, closing = options;
        brief.limits.effort = closing.limits.effort = 1e-9;
        Solution proven, left, closed;
        bool infeasible;
        cr_assert(planner_solve(work, &full, arena, diag_create(arena), &proven, &infeasible));
        cr_assert(planner_solve(work, &brief, arena, diag_create(arena), &left, &infeasible));
        cr_assert(planner_solve(work, &closing, arena, diag_create(arena), &closed, &infeasible));
        cr_assert_eq(closed.status, STATUS_OPTIMAL, "seed %d: gap %g", seed, closed.gap);
        cr_assert_leq(closed.objective_s, proven.objective_s * (1 + 2e-6), "seed %d", seed);
        cr_assert_geq(closed.objective_s, proven.bound_s * (1 - 2e-6), "seed %d", seed);
        cr_assert_leq(left.bound_s, proven.objective_s * (1 + 1e-9));
        cr_assert_geq(left.objective_s, proven.bound_s * (1 - 1e-9));
        cr_assert_str_eq(closed.solver, milp_solver_name());
        cr_assert_str_eq(left.solver, "exact search");
        open += left.status != STATUS_OPTIMAL;
        // Half of the gap asked for: that is proven, and what is proven holds.
        closing.limits.gap = left.gap / 2;
        cr_assert(planner_solve(work, &closing, arena, diag_create(arena), &closed, &infeasible));
        cr_assert_leq(closed.gap, left.gap / 2 + 4e-6, "seed %d: %g, left %g", seed, closed.gap, left.gap);
        cr_assert_leq(closed.bound_s, proven.objective_s * (1 + 1e-9));
        arena_destroy(arena);
    }
    cr_assert_geq(open, 3, "%u", open);
}

// The paper's closed form: p = 0 if 2D >= G P, else 1 - B PE / (P (G - 1)), clamped to [0, 1], rounded to the better
// of the two feasible domain sizes beside it.
Test(planner, one_layer_follows_the_closed_form)
{
    static const uint32_t counts[] = {4, 6, 8, 12, 16, 24, 30, 64};
    srand(5);
    for (int i = 0; i < INSTANCES(1000); i++) {
        uint32_t gpus = counts[rand() % 8];
        double data = pow(10, uniform(5, 8)), expert = pow(10, uniform(4, 8)), bandwidth = pow(10, uniform(8, 11));
        Spec spec = spec_one_tier(gpus, bandwidth, 0, data, expert, pow(10, uniform(-5, -1)));
        Arena *arena = arena_create();
        double pre_s = spec.model.pre_expert_s;
        double p = 2 * data >= gpus * expert ? 0 : 1 - bandwidth * pre_s / (expert * (gpus - 1.0));
        double size = gpus - fmin(1, fmax(0, p)) * (gpus - 1.0), best_s = INFINITY;
        uint32_t below = 1, above = gpus;
        for (uint32_t s = 1; s <= gpus; s++) {
            if (gpus % s == 0 && s <= size * (1 + 1e-12))
                below = s;
            if (gpus % s == 0 && s >= size * (1 - 1e-12) && above == gpus)
                above = s;
        }
        for (int side = 0; side < 2; side++) {
            double s = side ? above : below;
            best_s = fmin(best_s, fmax(pre_s, expert * (s - 1) / bandwidth) + 2 * data * (gpus - s) / gpus / bandwidth);
        }
        Solution solution;
        bool infeasible;
        cr_assert(
            planner_solve(workload_derive(&spec, arena), &options, arena, diag_create(arena), &solution, &infeasible));
        cr_assert_eq(solution.status, STATUS_OPTIMAL);
        cr_assert(fabs(solution.objective_s - best_s) <= 1e-9 * best_s, "instance %d: %.12g, closed form %.12g", i,
                  solution.objective_s, best_s);
        arena_destroy(arena);
    }
}

Test(planner, solve_picks_the_published_domain)
{
    Spec spec = spec_one_tier(8, 16e9, 0, 8e6, 2.35e6, 0.49e-3);
    Arena *arena = arena_create();
    Solution solution;
    bool infeasible;
    cr_assert(
        planner_solve(workload_derive(&spec, arena), &options, arena, diag_create(arena), &solution, &infeasible));
    cr_assert_eq(solution.mix.configs[0].domain[0], 4);
    cr_assert_eq(solution.status, STATUS_OPTIMAL);
    cr_assert_str_eq(solution.solver, milp_solver_name());
    arena_destroy(arena);
}

Test(planner, forced_domain_is_taken_and_said_so)
{
    Spec spec = spec_one_tier(8, 16e9, 0, 8e6, 2.35e6, 0.49e-3);
    spec.plan.domain_request = DOMAIN_FORCED;
    spec.plan.domain[0] = 8;
    Arena *arena = arena_create();
    Solution solution;
    bool infeasible;
    cr_assert(
        planner_solve(workload_derive(&spec, arena), &options, arena, diag_create(arena), &solution, &infeasible));
    cr_assert_eq(solution.mix.configs[0].domain[0], 8);
    cr_assert_eq(solution.status, STATUS_FORCED);
    arena_destroy(arena);
}

Test(planner, too_little_memory_is_infeasible_with_a_reason)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    spec.cluster.device.memory_bytes = 1000;
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    uint32_t source = diag_add_source(diag, "t.hep", "memory\n", 7, NULL);
    spec.memory_span = (Span){source, 0, 6};
    Solution solution;
    bool infeasible;
    cr_assert_not(planner_solve(workload_derive(&spec, arena), &options, arena, diag, &solution, &infeasible));
    cr_assert(infeasible);
    cr_assert_eq(diag_error_count(diag), 1);
    arena_destroy(arena);
}

Test(planner, ties_go_to_the_smallest_domain)
{
    // Nothing to send: every configuration takes as long.
    Spec spec = spec_one_tier(8, 16e9, 0, 1e-9, 1e-9, 1);
    Arena *arena = arena_create();
    Solution solution;
    bool infeasible;
    cr_assert(
        planner_solve(workload_derive(&spec, arena), &options, arena, diag_create(arena), &solution, &infeasible));
    cr_assert_eq(solution.mix.configs[0].domain[0], 1);
    arena_destroy(arena);
}

// Where nothing contends for a port, the model and the simulated schedule are the same; where gathers and exchanges
// share one, the model lets exchanges go first and the simulation does not (docs/cost-model.md).
Test(planner, simulation_confirms_the_model_where_nothing_contends)
{
    srand(6);
    int alone = 0, hybrids = 0, close = 0;
    for (int i = 0; i < INSTANCES(120); i++) {
        Spec spec = random_spec();
        spec.plan.pass = PASS_FORWARD;
        Arena *arena = arena_create();
        Workload *work = workload_derive(&spec, arena);
        Candidate *candidates;
        size_t count;
        cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
        for (size_t c = 0; c < count; c++) {
            bool exchanges = false, gathers = false;
            for (uint32_t l = spec.replica_levels; l < spec.cluster.level_count; l++) {
                exchanges = exchanges || candidates[c].config.domain[l] < spec.cluster.levels[l].count;
                gathers = gathers || candidates[c].config.domain[l] > 1;
            }
            double bytes, model_s = candidates[c].cost.iteration_s;
            Plan *plan = lower_uniform(work, &candidates[c].config, spec.plan.dispatch, &bytes);
            double ratio = model_s > 0 ? simulate(plan, arena)->iteration_s / model_s : 1;
            plan_destroy(plan);
            if (exchanges && gathers) {
                hybrids++;
                close += fabs(ratio - 1) <= 0.03;
            } else {
                alone++;
                cr_assert(fabs(ratio - 1) <= 0.03, "instance %d: simulated %g of the model's %g s", i, ratio, model_s);
            }
        }
        arena_destroy(arena);
    }
    cr_assert_gt(alone, INSTANCES(150));
    cr_assert_gt(close, hybrids / 2, "%d of %d hybrids within 3 %%", close, hybrids);
    printf("simulation within 3 %% of the model: %d of %d without contention, %d of %d hybrids\n", alone, alone, close,
           hybrids);
}

Test(planner, configurations_have_names)
{
    char text[64], few[8];
    Cluster cluster = {.level_count = 3, .levels = {{.name = "dc"}, {.name = "node"}, {.name = "gpu"}}};
    const Config config = {.domain = {2, 1, 8}};
    cr_assert_str_eq(config_format(&cluster, &config, text, sizeof(text)), "dc=2 node=1 gpu=8");
    cr_assert_str_eq(config_format(&cluster, &config, few, sizeof(few)), "dc=2 no");
}

Test(milp, prints_cplex_lp_with_names)
{
    Spec spec = spec_one_tier(8, 16e9, 0, 8e6, 2.35e6, 0.49e-3);
    Arena *arena = arena_create();
    Workload *work = workload_derive(&spec, arena);
    Solution solution;
    bool infeasible;
    cr_assert(planner_solve(work, &options, arena, diag_create(arena), &solution, &infeasible));
    Milp *milp = planner_formulate(work, &solution, arena).milp;
    Text text = {0};
    Fault fault = {0};
    cr_assert(milp_print(milp, &text, &fault), "%s", fault.message);
    cr_assert_not_null(strstr(text.data, "Minimize"));
    cr_assert_not_null(strstr(text.data, "use_L0_gpu4"));
    cr_assert_not_null(strstr(text.data, "one_choice_L0"));
    text_free(&text);
    milp_destroy(milp);
    arena_destroy(arena);
}

Test(milp, the_solver_has_a_name_and_a_version)
{
    char name[64];
    snprintf(name, sizeof(name), "GLPK %s", glp_version());
    cr_assert_str_eq(milp_solver_name(), name);
}

Test(milp, errors_inside_glpk_become_a_status)
{
    Milp *milp = milp_create("broken");
    int x = milp_add_binary(milp, "x", 1);
    milp_row_begin(milp, "row");
    milp_row_term(milp, x + 5, 1); // a column that does not exist: GLPK calls its error hook
    milp_row_end_at_least(milp, NAN);
    MilpResult result = milp_solve(milp, &no_limits);
    cr_assert_eq(result.status, MILP_FAILED);
    cr_assert_eq(result.fault.kind, FAULT_INTERNAL);
    cr_assert_not_null(strstr(result.fault.message, "glp_set_mat_row"), "%s", result.fault.message);
    Text text = {0};
    Fault fault = {0};
    cr_assert_not(milp_print(milp, &text, &fault));
    cr_assert_str_eq(fault.message, "GLPK could not write the model");
    cr_assert_eq(text.length, 0);
    milp_destroy(milp);
}

static void add_many_columns(void *context)
{
    Milp *milp = context;
    char name[48];
    for (int i = 0; i < 100000; i++) {
        snprintf(name, sizeof(name), "a_column_with_a_name_%d", i);
        milp_add_binary(milp, name, 1);
    }
    MilpResult result = milp_solve(milp, &no_limits);
    cr_assert_fail("status %d without memory", (int)result.status);
}

Test(milp, memory_that_runs_out_inside_glpk_ends_the_guard)
{
    Fault fault = {0};
    Milp *milp = milp_create("large");
    glp_mem_limit(1); // MB
    cr_assert_not(memory_guard(add_many_columns, milp, &fault));
    cr_assert_eq(fault.kind, FAULT_MEMORY);
    milp_destroy(milp);
}
