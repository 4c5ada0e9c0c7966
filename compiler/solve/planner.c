// Enumerates and prices configurations, hands the mix to the exact method, lets GLPK confirm it, and
// checks the answer against the cost model and the lowering.
#include "compiler/solve/planner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/advice.h"
#include "ir/base/clock.h"

enum {
    CANDIDATES_MAX = 4096,
    CONFIRM_STAGES_MAX = 64,   // GLPK confirms programmes up to this many MoE layers
    CONFIRM_BINARIES_MAX = 120, // and binaries left after fixing,
    CONFIRM_NODES_MAX = 50,     // and trees up to this size
    MEMORY_CUTS_MAX = 4,
    SHARED_GROUPS_MAX = 6,
};

const char *const baseline_names[BASELINE_COUNT] = {"ep", "ep_dedup", "gather"};

Dispatch baseline_dispatch(int baseline, const Spec *spec)
{
    if (baseline == BASELINE_EP)
        return DISPATCH_NAIVE;
    return baseline == BASELINE_EP_DEDUP ? DISPATCH_DEDUP : spec->plan.dispatch;
}

const char *config_format(const Cluster *cluster, const Config *config, char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (uint32_t l = 0; l < cluster->level_count && used < size; l++)
        used += (size_t)snprintf(out + used, size - used, "%s%s=%u", l ? " " : "", cluster->levels[l].name,
                                 config->domain[l]);
    if (config->regather && used < size)
        snprintf(out + used, size - used, " regather");
    return out;
}

static bool mix_is(const Workload *work, const Mix *mix, const Config *config)
{
    for (uint32_t i = 0; i < work->moe_count; i++)
        if (!config_equal(&mix->configs[i], config))
            return false;
    return true;
}

static void measure_all(const Workload *work, const Candidate *candidates, size_t count, uint32_t prefetch,
                        Footprint *out)
{
    for (size_t c = 0; c < count; c++)
        out[c] = footprint_measure(work->spec, &candidates[c].config, prefetch, work->spec->plan.dispatch);
}

// Depths worth trying, deepest first. Zero: a gather begins when the experts before were read.
static const uint32_t prefetches[] = {PREFETCH_UNLIMITED, 8, 4, 2, 1, 0};

// ---- enumeration -----------------------------------------------------------------------------

static size_t count_divisors(uint32_t n)
{
    size_t count = 0;
    for (uint32_t d = 1; d <= n; d++)
        count += n % d == 0;
    return count;
}

static uint32_t nth_divisor(uint32_t n, size_t index)
{
    for (uint32_t d = 1; d <= n; d++)
        if (n % d == 0 && index-- == 0)
            return d;
    return n;
}

static Config uniform_config(const Spec *spec, bool whole)
{
    Config config = {0};
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        config.domain[l] = whole || l < spec->replica_levels ? spec->cluster.levels[l].count : 1;
    return config;
}

static void cost_uniform(const Workload *work, const Config *config, uint32_t prefetch, Dispatch dispatch,
                         IterationCost *out)
{
    Arena *arena = arena_create();
    Mix mix = mix_uniform(work, config, prefetch, arena);
    cost_mix(work, &mix, dispatch, out);
    arena_destroy(arena);
}

// Bytes a rank takes with one configuration for all layers.
typedef double (*MemoryOf)(const Workload *work, const Config *config, uint32_t prefetch, Dispatch dispatch);

static double estimated_bytes(const Workload *work, const Config *config, uint32_t prefetch, Dispatch dispatch)
{
    return footprint_total(work->spec, config, prefetch, dispatch);
}

// According to the lowering, which has the last word.
static double lowered_bytes(const Workload *work, const Mix *mix, Dispatch dispatch)
{
    double bytes = 0;
    plan_destroy(lower(work, mix, dispatch, &bytes));
    return bytes;
}

static double exact_bytes(const Workload *work, const Config *config, uint32_t prefetch, Dispatch dispatch)
{
    Arena *arena = arena_create();
    Mix mix = mix_uniform(work, config, prefetch, arena);
    double bytes = lowered_bytes(work, &mix, dispatch);
    arena_destroy(arena);
    return bytes;
}

// With the deepest prefetch that fits the memory.
static void price(const Workload *work, const Config *config, Dispatch dispatch, MemoryOf memory_of,
                  Candidate *candidate)
{
    const Spec *spec = work->spec;
    *candidate = (Candidate){.config = *config, .prefetch = PREFETCH_UNLIMITED};
    for (size_t i = 0; i < COUNT_OF(prefetches) && !candidate->fits; i++) {
        uint32_t window = mix_window(spec->plan.pass, config, prefetches[i]);
        if (i > 0 && window == mix_window(spec->plan.pass, config, candidate->prefetch))
            continue;
        if (i > 0 && window != PREFETCH_UNLIMITED && window + 1 >= work->moe_count)
            continue;
        candidate->prefetch = prefetches[i];
        candidate->memory_bytes = memory_of(work, config, prefetches[i], dispatch);
        candidate->fits = candidate->memory_bytes <= spec->cluster.device.memory_bytes;
    }
    cost_uniform(work, config, candidate->prefetch, dispatch, &candidate->cost);
}

static int compare_candidates(const void *a, const void *b)
{
    const Candidate *left = a, *right = b;
    double held_left = 1, held_right = 1;
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        held_left *= fmax(1, left->config.domain[l]);
        held_right *= fmax(1, right->config.domain[l]);
    }
    if (held_left != held_right)
        return held_left < held_right ? -1 : 1;
    if (left->config.regather != right->config.regather)
        return left->config.regather ? 1 : -1;
    return memcmp(left->config.domain, right->config.domain, sizeof left->config.domain);
}

bool planner_enumerate(const Workload *work, Arena *arena, Diag *diag, Candidate **candidates, size_t *count)
{
    const Spec *spec = work->spec;
    uint32_t levels = spec->cluster.level_count;
    size_t choices[LEVELS_MAX], total = 1;
    for (uint32_t l = 0; l < levels; l++) {
        choices[l] = l < spec->replica_levels ? 1 : count_divisors(spec->cluster.levels[l].count);
        total *= choices[l];
        if (total > CANDIDATES_MAX) {
            diag_error(diag, spec->cluster_span, "cluster '%s' allows more than %d combinations of domain sizes",
                       spec->cluster.name, CANDIDATES_MAX);
            diag_help(diag, "fix them with 'domain = { ... }' in the plan block, or merge levels");
            return false;
        }
    }
    bool regather = spec->plan.pass == PASS_TRAINING && spec->plan.codec != CODEC_DELTA; // whose replicas stay
    *candidates = arena_alloc_array(arena, total * 2, sizeof **candidates);
    *count = 0;
    for (size_t index = 0; index < total; index++) {
        Config config = uniform_config(spec, false);
        size_t rest = index;
        for (uint32_t l = levels; l-- > spec->replica_levels; rest /= choices[l])
            config.domain[l] = nth_divisor(spec->cluster.levels[l].count, rest % choices[l]);
        price(work, &config, spec->plan.dispatch, estimated_bytes, &(*candidates)[(*count)++]);
        if (regather && config_held_shards(spec, &config) > 1) {
            config.regather = true;
            price(work, &config, spec->plan.dispatch, estimated_bytes, &(*candidates)[(*count)++]);
        }
    }
    qsort(*candidates, *count, sizeof **candidates, compare_candidates);
    return true;
}

// Index of the cheapest candidate that fits; ties go to the first. `count` when none fits.
static size_t best_candidate(const Candidate *candidates, size_t count)
{
    size_t best = count;
    for (size_t i = 0; i < count; i++)
        if (candidates[i].fits &&
            (best == count || candidates[i].cost.iteration_s < candidates[best].cost.iteration_s * (1 - 1e-12)))
            best = i;
    return best;
}

// ---- the mix ---------------------------------------------------------------------------------

typedef struct {
    const Workload *work;
    const PlannerOptions *options;
    Arena *arena;
    Solution *solution;
    double memory_bytes;   // the device's, less what lowering showed to be missing
    bool found;
    double bound_s;        // on everything looked at
    Footprint *footprints; // of the prefetch that is being looked at
    bool *useful;          // of the problem that gave the best mix: [moe_count x count]
} Choosing;

static void take(Choosing *c, const StageProblem *problem, const SearchResult *result, uint32_t prefetch)
{
    Solution *solution = c->solution;
    uint32_t stages = problem->stage_count;
    Config *configs = arena_alloc_array(c->arena, stages ? stages : 1, sizeof *configs);
    c->useful = arena_alloc_array(c->arena, (size_t)stages * solution->count + 1, sizeof *c->useful);
    for (uint32_t k = 0; k < stages; k++) {
        const PlanStage *stage = &problem->stages[k];
        configs[k] = solution->candidates[stage->options[result->choice[k]].candidate].config;
        for (uint32_t o = 0; o < stage->option_count; o++)
            c->useful[(size_t)k * solution->count + stage->options[o].candidate] =
                result->useful[(size_t)k * problem->stages[0].option_count + o];
    }
    solution->mix = (Mix){.configs = configs, .prefetch = prefetch};
    solution->objective_s = result->objective_s;
    c->found = true;
}

// The best mix of configurations whose shared part is at most `shared_bytes`.
static void solve_below(Choosing *c, uint32_t prefetch, double shared_bytes, double memory_free,
                        const SearchLimits *limits)
{
    Solution *solution = c->solution;
    Arena *scratch = arena_create();
    StageCandidate *candidates = arena_alloc_array(scratch, solution->count, sizeof *candidates);
    uint32_t count = 0;
    for (size_t i = 0; i < solution->count; i++)
        if (c->footprints[i].shared_bytes <= shared_bytes)
            candidates[count++] = (StageCandidate){.config = solution->candidates[i].config,
                                                   .memory = c->footprints[i].per_layer_bytes,
                                                   .index = (uint32_t)i};
    StageProblem *problem = stages_build(c->work, candidates, count, prefetch, memory_free, scratch);
    SearchResult result;
    search_solve(problem, limits, c->found ? solution->objective_s : INFINITY, scratch, &result);
    solution->timed_out = solution->timed_out || result.timed_out;
    if (limits->bound_only)
        result.bound_s = fmin(result.bound_s, c->found ? solution->objective_s : INFINITY);
    c->bound_s = fmin(c->bound_s, result.bound_s);
    if (result.found && (!c->found || result.objective_s < solution->objective_s * (1 - 1e-11)))
        take(c, problem, &result, prefetch);
    arena_destroy(scratch);
}

static int compare_descending(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left < right) - (left > right);
}

// Where memory binds: one problem for every size the shared part may have; the rest is then an ordinary knapsack
// row. Sizes are taken in groups where there are many: a group is solved with its largest size, which every
// mix of the group has room for, and bounded as if all had its smallest.
static void solve_binding(Choosing *c, uint32_t prefetch, const double *sizes, size_t count)
{
    SearchLimits limits = c->options->limits, bound = c->options->limits;
    size_t groups = count < SHARED_GROUPS_MAX ? count : SHARED_GROUPS_MAX;
    double effort = limits.effort > 0 ? limits.effort : 1;
    limits.effort = bound.effort = groups < count ? effort / SHARED_GROUPS_MAX : effort;
    bound.bound_only = true;
    for (size_t g = 0; g < groups && !c->solution->timed_out; g++) {
        size_t first = g * count / groups, last = (g + 1) * count / groups - 1;
        double bound_s = c->bound_s;
        solve_below(c, prefetch, sizes[first], c->memory_bytes - sizes[first], &limits);
        if (first == last)
            continue;
        c->bound_s = bound_s;
        solve_below(c, prefetch, sizes[first], c->memory_bytes - sizes[last], &bound);
    }
}

// One prefetch depth. Returns whether memory bound at all.
static bool solve_prefetch(Choosing *c, uint32_t prefetch)
{
    Solution *solution = c->solution;
    measure_all(c->work, solution->candidates, solution->count, prefetch, c->footprints);
    double largest_step = 0, *shared = arena_alloc_array(c->arena, solution->count, sizeof *shared);
    for (size_t i = 0; i < solution->count; i++) {
        largest_step = fmax(largest_step, c->footprints[i].per_layer_bytes);
        shared[i] = c->footprints[i].shared_bytes;
    }
    qsort(shared, solution->count, sizeof *shared, compare_descending);
    if (shared[0] + c->work->moe_count * largest_step <= c->memory_bytes) {
        solve_below(c, prefetch, shared[0], INFINITY, &c->options->limits);
        return false;
    }
    size_t sizes = 0;
    for (size_t i = 0; i < solution->count; i++)
        if ((sizes == 0 || shared[i] < shared[sizes - 1]) && shared[i] <= c->memory_bytes)
            shared[sizes++] = shared[i];
    solve_binding(c, prefetch, shared, sizes);
    return true;
}

static void solve_mix(Choosing *c)
{
    const Spec *spec = c->work->spec;
    uint32_t forced = c->options->prefetch;
    c->found = false;
    c->bound_s = INFINITY;
    c->solution->timed_out = false;
    for (size_t i = 0; i < COUNT_OF(prefetches); i++) {
        uint32_t depth = prefetches[i];
        if (forced != PREFETCH_UNLIMITED ? i > 0 : i > 0 && depth + 1 >= c->work->moe_count)
            continue;
        // When training, only what is gathered again is dropped, and that runs ahead by one layer anyway.
        if (i > 0 && spec->plan.pass == PASS_TRAINING && depth > 0)
            continue;
        if (!solve_prefetch(c, forced != PREFETCH_UNLIMITED ? forced : depth))
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
    c->useful = NULL;
}

// Lets GLPK solve what is left of the programme, as a check by other means.
static bool confirm(Choosing *c)
{
    Solution *solution = c->solution;
    uint32_t stages = c->work->moe_count;
    size_t binaries = 0;
    for (size_t i = 0; c->useful && i < (size_t)stages * solution->count; i++)
        binaries += c->useful[i];
    if (!c->useful || !c->options->confirm || stages > CONFIRM_STAGES_MAX || binaries > CONFIRM_BINARIES_MAX)
        return false;
    Config *configs = arena_alloc_array(c->arena, solution->count, sizeof *configs);
    for (size_t i = 0; i < solution->count; i++)
        configs[i] = solution->candidates[i].config;
    measure_all(c->work, solution->candidates, solution->count, solution->mix.prefetch, c->footprints);
    Programme programme = {.work = c->work, .configs = configs, .footprints = c->footprints,
                           .count = (uint32_t)solution->count, .useful = c->useful, .prefetch = solution->mix.prefetch,
                           .dispatch = c->work->spec->plan.dispatch, .horizon_s = 2 * solution->objective_s};
    Formulated formulated = formulate(&programme, c->arena);
    MilpResult result = milp_solve(formulated.milp, CONFIRM_NODES_MAX);
    milp_destroy(formulated.milp);
    return result.status == MILP_OPTIMAL &&
           fabs(result.objective * formulated.unit_s - solution->objective_s) <= 1e-6 * solution->objective_s;
}

static void choose_mix(Choosing *c)
{
    Solution *solution = c->solution;
    double device_bytes = c->work->spec->cluster.device.memory_bytes;
    c->memory_bytes = device_bytes;
    c->footprints = arena_alloc_array(c->arena, solution->count, sizeof *c->footprints);
    bool settled = false;
    double bound_s = -INFINITY;
    for (int cut = 0; cut < MEMORY_CUTS_MAX && !settled; cut++) {
        solve_mix(c);
        if (cut == 0)
            bound_s = c->bound_s;
        if (!c->found)
            break;
        solution->memory_bytes = lowered_bytes(c->work, &solution->mix, c->work->spec->plan.dispatch);
        settled = solution->memory_bytes <= device_bytes;
        c->memory_bytes -= fmax(0, solution->memory_bytes - device_bytes);
    }
    const Candidate *uniform = &solution->candidates[solution->uniform];
    if (!settled || uniform->cost.iteration_s < solution->objective_s * (1 - 1e-11))
        take_uniform(c, uniform);
    solution->bound_s = fmin(bound_s, solution->objective_s);
}

void planner_settle(Solution *solution, double objective_s)
{
    solution->objective_s = objective_s;
    double gap = objective_s > 0 ? (objective_s - solution->bound_s) / objective_s : 0;
    solution->gap = gap > 1e-9 ? gap : 0;
    if (solution->gap == 0)
        solution->bound_s = objective_s;
    if (solution->status != STATUS_FORCED)
        solution->status = solution->gap > 0 ? STATUS_FEASIBLE : STATUS_OPTIMAL;
}

static bool finish(Choosing *c, Diag *diag)
{
    Solution *solution = c->solution;
    cost_mix(c->work, &solution->mix, c->work->spec->plan.dispatch, &solution->cost);
    // The search adds up the same terms in another order; anything else is our mistake.
    bool same = fabs(solution->cost.iteration_s - solution->objective_s) <= 1e-9 * solution->objective_s;
    if (!same)
        diag_error_plain(diag, "internal: the planner's objective is %.17g s, the cost model says %.17g s",
                         solution->objective_s, solution->cost.iteration_s);
    solution->broken = !same;
    planner_settle(solution, solution->cost.iteration_s);
    return same;
}

// ---- solving ---------------------------------------------------------------------------------

// The next larger figure of three digits: what is advised must do when typed in.
static double round_up(double bytes)
{
    double unit = pow(10, floor(log10(bytes)) - 2);
    return ceil(bytes / unit) * unit;
}

static void report_too_big(const Choosing *c, const Candidate *smallest, const char *subject, Diag *diag)
{
    const Spec *spec = c->work->spec;
    char need[FORMAT_MAX], have[FORMAT_MAX], missing[FORMAT_MAX], config[256];
    double memory = spec->cluster.device.memory_bytes;
    diag_error(diag, spec->memory_span, "%s: %s needs %s per GPU, the device has %s (%s missing)", subject,
               config_format(&spec->cluster, &smallest->config, config, sizeof config),
               format_bytes(need, round_up(smallest->memory_bytes)), format_bytes(have, memory),
               format_bytes(missing, smallest->memory_bytes - memory));
    if (c->options->advise)
        advise_memory(c->work, smallest, diag);
}

static size_t smallest_candidate(const Solution *solution)
{
    size_t smallest = 0;
    for (size_t i = 1; i < solution->count; i++)
        if (solution->candidates[i].memory_bytes < solution->candidates[smallest].memory_bytes)
            smallest = i;
    return smallest;
}

// The configurations that were asked for, layer by layer.
static const Config *forced_configs(const Choosing *c)
{
    const SpecPlan *plan = &c->work->spec->plan;
    Config *configs = arena_alloc_array(c->arena, c->work->moe_count + 1, sizeof *configs);
    uint32_t moe = 0;
    for (uint32_t k = 0; k < c->work->layer_count; k++) {
        if (!c->work->layers[k].is_moe)
            continue;
        Config *config = &configs[moe++];
        *config = uniform_config(c->work->spec, plan->domain_wish == DOMAIN_GATHER);
        if (plan->domain_wish == DOMAIN_FORCED)
            memcpy(config->domain, plan->domain, sizeof config->domain);
        for (uint32_t r = 0; r < plan->forced_count; r++) {
            if (k < plan->forced[r].first_layer || k > plan->forced[r].last_layer)
                continue;
            memcpy(config->domain, plan->forced[r].domain, sizeof config->domain);
            config->regather = plan->forced[r].regather && config_held_shards(c->work->spec, config) > 1;
        }
    }
    return configs;
}

// With the prefetch asked for, or the deepest that fits.
static bool choose_forced(Choosing *c, Diag *diag, bool *infeasible)
{
    const Spec *spec = c->work->spec;
    Solution *solution = c->solution;
    solution->mix = (Mix){.configs = forced_configs(c), .prefetch = c->options->prefetch};
    solution->status = STATUS_FORCED;
    solution->solver = "none";
    bool fits = false;
    for (size_t i = 0; i < COUNT_OF(prefetches) && !fits; i++) {
        if (i > 0 && (c->options->prefetch != PREFETCH_UNLIMITED || prefetches[i] + 1 >= c->work->moe_count))
            continue;
        solution->mix.prefetch = i > 0 ? prefetches[i] : c->options->prefetch;
        solution->memory_bytes = lowered_bytes(c->work, &solution->mix, c->work->spec->plan.dispatch);
        fits = solution->memory_bytes <= spec->cluster.device.memory_bytes;
    }
    cost_mix(c->work, &solution->mix, spec->plan.dispatch, &solution->cost);
    solution->candidates = arena_alloc_array(c->arena, 1, sizeof *solution->candidates);
    solution->count = solution->uniform = 1;
    solution->candidates[0] = (Candidate){.config = solution->mix.configs[0], .prefetch = solution->mix.prefetch,
                                          .cost = solution->cost, .memory_bytes = solution->memory_bytes, .fits = fits};
    solution->objective_s = solution->bound_s = solution->cost.iteration_s;
    if (!fits) {
        *infeasible = true;
        report_too_big(c, solution->candidates, "the forced domain does not fit", diag);
    }
    return fits;
}

// The best single choice that fits: estimates admit, lowering decides. `count` if there is none.
static size_t best_that_fits(const Choosing *c)
{
    const Solution *solution = c->solution;
    Dispatch dispatch = c->work->spec->plan.dispatch;
    for (;;) {
        size_t best = best_candidate(solution->candidates, solution->count);
        if (best == solution->count)
            return best;
        Candidate *candidate = &solution->candidates[best];
        Config config = candidate->config;
        double estimated_s = candidate->cost.iteration_s;
        price(c->work, &config, dispatch, exact_bytes, candidate);
        if (candidate->fits && candidate->cost.iteration_s <= estimated_s)
            return best;
    }
}

static bool choose_freely(Choosing *c, Diag *diag, bool *infeasible)
{
    Solution *solution = c->solution;
    if (!planner_enumerate(c->work, c->arena, diag, &solution->candidates, &solution->count))
        return false;
    solution->uniform = best_that_fits(c);
    if (solution->uniform == solution->count) {
        *infeasible = true;
        report_too_big(c, &solution->candidates[smallest_candidate(solution)],
                       "no plan fits: even the smallest", diag);
        return false;
    }
    choose_mix(c);
    bool confirmed = solution->objective_s <= solution->bound_s * (1 + 1e-9) && confirm(c);
    solution->solver = confirmed ? milp_solver_name() : "exact search";
    return true;
}

bool planner_solve(const Workload *work, const PlannerOptions *options, Arena *arena, Diag *diag, Solution *solution,
                   bool *infeasible)
{
    const Spec *spec = work->spec;
    double begin_s = clock_now_s();
    *infeasible = false;
    *solution = (Solution){0};
    Choosing choosing = {.work = work, .options = options, .arena = arena, .solution = solution};
    bool forced = spec->plan.domain_wish != DOMAIN_AUTO;
    if (!(forced ? choose_forced : choose_freely)(&choosing, diag, infeasible))
        return false;
    if (!finish(&choosing, diag))
        return false;
    solution->runner_up = solution->count;
    for (size_t i = 0; i < solution->count; i++) {
        const Candidate *rival = &solution->candidates[i];
        bool better = solution->runner_up == solution->count ||
                      rival->cost.iteration_s < solution->candidates[solution->runner_up].cost.iteration_s;
        if (rival->fits && better && !mix_is(work, &solution->mix, &rival->config))
            solution->runner_up = i;
    }
    for (int b = 0; b < BASELINE_COUNT; b++) {
        Config config = uniform_config(spec, b == BASELINE_GATHER);
        price(work, &config, baseline_dispatch(b, spec), estimated_bytes, &solution->baselines[b]);
    }
    solution->solve_s = clock_now_s() - begin_s;
    return true;
}

Formulated planner_formulate(const Workload *work, const Solution *solution, Arena *arena)
{
    Config *configs = arena_alloc_array(arena, solution->count, sizeof *configs);
    Footprint *footprints = arena_alloc_array(arena, solution->count, sizeof *footprints);
    double longest_s = 0;
    for (size_t i = 0; i < solution->count; i++) {
        configs[i] = solution->candidates[i].config;
        longest_s = fmax(longest_s, solution->candidates[i].cost.iteration_s);
    }
    measure_all(work, solution->candidates, solution->count, solution->mix.prefetch, footprints);
    Programme programme = {.work = work, .configs = configs, .footprints = footprints,
                           .count = (uint32_t)solution->count, .prefetch = solution->mix.prefetch,
                           .dispatch = work->spec->plan.dispatch, .horizon_s = 2 * longest_s};
    return formulate(&programme, arena);
}
