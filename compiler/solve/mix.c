// See mix.h.
#include "compiler/solve/mix.h"

#include <math.h>
#include <stdlib.h>

// The second of each: where there are very many MoE layers.
static const int memory_cuts[] = {4, 2};
static const size_t shared_groups[] = {6, 2};

// With no more than so many, every size that the shared part of the memory may have is solved on its own.
enum { BINARIES_FEW = 256 };

static const double TIE = 1e-11;

static bool has_many_layers(const Choosing *c)
{
    return c->work->moe_count > STAGES_MANY;
}

// ---- one prefetch depth ----------------------------------------------------------------------

static void take(Choosing *c, const StageProblem *problem, const SearchResult *result, uint32_t prefetch)
{
    Solution *solution = c->solution;
    uint32_t stages = problem->stage_count;
    Config *configs = arena_alloc_array(c->arena, stages ? stages : 1, sizeof(*configs));
    for (uint32_t k = 0; k < stages; k++)
        configs[k] = solution->candidates[problem->stages[k].options[result->choice[k]].candidate].config;
    solution->mix = (Mix){.configs = configs, .prefetch = prefetch};
    solution->objective_s = result->objective_s;
    c->found = true;
}

static void note_useful(const Choosing *c, const StageProblem *problem, const SearchResult *result, MixDepth *depth)
{
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        const PlanStage *stage = &problem->stages[k];
        for (uint32_t o = 0; o < stage->option_count; o++)
            if (result->useful[(size_t)k * problem->stages[0].option_count + o])
                depth->useful[(size_t)k * c->solution->count + stage->options[o].candidate] = true;
    }
}

// The best mix of configurations whose shared part is at most `shared_bytes`. Returns a bound on them.
static double solve_below(Choosing *c, MixDepth *depth, double shared_bytes, double memory_free,
                          const SearchLimits *limits)
{
    Solution *solution = c->solution;
    Arena *scratch = arena_create();
    StageCandidate *candidates = arena_alloc_array(scratch, solution->count, sizeof(*candidates));
    uint32_t count = 0;
    for (size_t i = 0; i < solution->count; i++)
        if (c->footprints[i].shared_bytes <= shared_bytes &&
            (depth->binds || !solution->candidates[i].config.regather)) // which saves memory, and nothing else
            candidates[count++] = (StageCandidate){.config = solution->candidates[i].config,
                                                   .memory = c->footprints[i].per_layer_bytes,
                                                   .index = (uint32_t)i};
    StageProblem *problem = stages_build(c->work, candidates, count, depth->prefetch, memory_free, scratch);
    SearchResult result;
    search_solve(problem, limits, mix_known_s(c), scratch, &result);
    solution->timed_out = solution->timed_out || result.timed_out;
    if (limits->bound_only)
        result.bound_s = fmin(result.bound_s, mix_known_s(c));
    note_useful(c, problem, &result, depth);
    if (result.found && result.objective_s < mix_known_s(c) * (1 - TIE))
        take(c, problem, &result, depth->prefetch);
    arena_destroy(scratch);
    return result.bound_s;
}

static int compare_descending(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left < right) - (left > right);
}

// Where memory binds: one problem for every size the shared part may have; the rest is then an ordinary knapsack
// row. Sizes are taken in groups where there are many: a group is solved with its largest size, which every
// mix of the group has room for, and bounded as if all had its smallest.
static double solve_binding(Choosing *c, MixDepth *depth, const double *sizes, size_t count)
{
    SearchLimits limits = c->options->limits, bound = c->options->limits;
    bool is_small = c->work->moe_count * c->solution->count <= BINARIES_FEW;
    size_t groups_max = is_small ? count : shared_groups[has_many_layers(c) || c->options->quick];
    size_t groups = count < groups_max ? count : groups_max;
    double effort = limits.effort > 0 ? limits.effort : 1;
    limits.effort = bound.effort = groups < count ? effort / (double)groups_max : effort;
    bound.effort /= 4; // most of what a bound can be is seen early
    bound.bound_only = true;
    double bound_s = INFINITY;
    for (size_t g = 0; g < groups && !c->solution->timed_out; g++) {
        size_t first = g * count / groups, last = (g + 1) * count / groups - 1;
        double group_s = solve_below(c, depth, sizes[first], c->memory_bytes - sizes[first], &limits);
        if (first == last)
            bound_s = fmin(bound_s, group_s);
    }
    // Bounds come after all choices: those that are not better than the best of them are seen at once.
    for (size_t g = 0; g < groups && depth->bounded; g++) {
        size_t first = g * count / groups, last = (g + 1) * count / groups - 1;
        if (first != last || c->solution->timed_out)
            bound_s = fmin(bound_s, solve_below(c, depth, sizes[first], c->memory_bytes - sizes[last], &bound));
    }
    return bound_s;
}

static void search_depth(Choosing *c, MixDepth *depth)
{
    Solution *solution = c->solution;
    mix_measure(c, depth->prefetch);
    double largest_step = 0, *shared = arena_alloc_array(c->arena, solution->count, sizeof(*shared));
    for (size_t i = 0; i < solution->count; i++) {
        largest_step = fmax(largest_step, c->footprints[i].per_layer_bytes);
        shared[i] = c->footprints[i].shared_bytes;
    }
    qsort(shared, solution->count, sizeof(*shared), compare_descending);
    depth->binds = shared[0] + c->work->moe_count * largest_step > c->memory_bytes;
    if (!depth->binds) {
        depth->bound_s = solve_below(c, depth, shared[0], INFINITY, &c->options->limits);
        return;
    }
    size_t sizes = 0;
    for (size_t i = 0; i < solution->count; i++)
        if ((sizes == 0 || shared[i] < shared[sizes - 1]) && shared[i] <= c->memory_bytes)
            shared[sizes++] = shared[i];
    depth->bound_s = solve_binding(c, depth, shared, sizes);
}

// ---- all of them -----------------------------------------------------------------------------

bool mix_depth_differs(const Workload *work, uint32_t prefetch)
{
    return (prefetch != PREFETCH_UNLIMITED && prefetch + 1 < work->moe_count) ||
           dense_window(work, prefetch) != dense_window(work, PREFETCH_UNLIMITED);
}

static bool is_worth_trying(const Choosing *c, size_t index)
{
    if (index == 0)
        return true;
    uint32_t depth = mix_prefetches[index];
    // When training, only what is gathered again is dropped, and that runs ahead by one layer anyway.
    return c->options->prefetch == PREFETCH_UNLIMITED && mix_depth_differs(c->work, depth) &&
           !(c->work->spec->plan.pass == PASS_TRAINING && depth > 0);
}

static void search_depths(Choosing *c, bool bounded)
{
    c->found = false;
    c->depth_count = 0;
    for (size_t i = 0; i < PREFETCH_DEPTHS; i++) {
        if (!is_worth_trying(c, i))
            continue;
        size_t binaries = c->work->moe_count * c->solution->count;
        MixDepth *depth = &c->depths[c->depth_count++];
        *depth = (MixDepth){.prefetch = i > 0 ? mix_prefetches[i] : c->options->prefetch,
                            .bounded = bounded,
                            .useful = arena_alloc_array(c->arena, binaries ? binaries : 1, sizeof(*depth->useful))};
        search_depth(c, depth);
        if (!depth->binds)
            break; // nothing is gained by running ahead less
    }
}

// Falls back on one configuration for all layers.
static void take_uniform(Choosing *c, const Candidate *uniform)
{
    Solution *solution = c->solution;
    solution->mix = mix_uniform(c->work, &uniform->config, uniform->prefetch, c->arena);
    solution->objective_s = uniform->cost.iteration_s;
    solution->memory_bytes = uniform->memory_bytes;
}

static const char *name_solver(Choosing *c, bool closing)
{
    bool proven = c->solution->objective_s <= c->solution->bound_s * (1 + 1e-9);
    if (proven && (closing || mix_confirm(c)))
        return milp_solver_name();
    return closing ? arena_format(c->arena, "exact search and %s", milp_solver_name()) : "exact search";
}

void mix_choose(Choosing *c, Diag *diag)
{
    Solution *solution = c->solution;
    double device_bytes = c->work->spec->cluster.device.memory_bytes;
    c->memory_bytes = device_bytes;
    c->footprints = arena_alloc_array(c->arena, solution->count, sizeof(*c->footprints));
    bool settled = false, closing = false;
    double bound_s = INFINITY;
    solution->timed_out = false;
    for (int cut = 0; cut < memory_cuts[has_many_layers(c)] && !settled; cut++) {
        search_depths(c, cut == 0 && !c->options->quick);
        if (cut == 0 && c->options->glpk)
            closing = mix_close(c, diag);
        for (uint32_t i = 0; i < c->depth_count && cut == 0; i++) {
            bound_s = fmin(bound_s, c->depths[i].bound_s);
            solution->memory_binds = solution->memory_binds || c->depths[i].binds;
        }
        if (!c->found)
            break;
        solution->memory_bytes =
            c->options->quick ? 0 : footprint_lowered(c->work, &solution->mix, c->work->spec->plan.dispatch);
        settled = solution->memory_bytes <= device_bytes;
        c->memory_bytes -= fmax(0, solution->memory_bytes - device_bytes);
    }
    const Candidate *uniform = &solution->candidates[solution->uniform];
    if (!settled || uniform->cost.iteration_s < solution->objective_s * (1 - TIE))
        take_uniform(c, uniform);
    solution->bound_s = fmin(bound_s, solution->objective_s);
    solution->solver = name_solver(c, closing);
}
