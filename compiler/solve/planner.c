// Enumerates and prices configurations, hands the mix to the exact method and GLPK, and
// checks the answer against the cost model and the lowering.
#include "compiler/solve/planner.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/solve/advice.h"
#include "compiler/solve/frugality.h"
#include "compiler/solve/laps.h"
#include "compiler/solve/mix.h"
#include "ir/base/clock.h"
#include "ir/codec.h"

enum { CANDIDATES_MAX = 4096 };
enum { LOWERED_MAX = 8 }; // candidates that are lowered to know which one is smallest, or whether those fit that may
enum { CLOSE_LAYERS_MAX = 2000 }; // of deeper models estimates say which fit: lowering one takes a second

static const double CLOSE = 1.03;   // times what there is: what is estimated to take so much may fit
static const double HOPELESS = 1.1; // the same: what takes more fits in no way that saves less, either
static const double PROMISING = 4;  // times the best single choice: slower ones are no part of what is estimated

const char *const baseline_names[BASELINE_COUNT] = {"ep", "ep_dedup", "ep_inside", "gather"};

// The outermost level that has several workers; level_count if none has.
static uint32_t outermost_wide(const Cluster *cluster)
{
    uint32_t level = 0;
    while (level < cluster->level_count && cluster->levels[level].count < 2)
        level++;
    return level;
}

bool planner_has_baseline(int baseline, const Spec *spec)
{
    const Cluster *cluster = &spec->cluster;
    uint32_t outer = outermost_wide(cluster);
    bool inside = outer < cluster->level_count && cluster_gpus_below(cluster, outer) > 1;
    return baseline != BASELINE_EP_INSIDE || (inside && spec->plan.pass == PASS_TRAINING && spec->replica_levels == 0);
}

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
    if (config->regather && config->once && used < size)
        used += (size_t)snprintf(out + used, size - used, " once=%s", cluster->levels[config->once - 1].name);
    else if (config->regather && used < size)
        used += (size_t)snprintf(out + used, size - used, " regather");
    if (config->returns_apart && used < size)
        snprintf(out + used, size - used, " once_gradient=%s",
                 config->once_gradient ? cluster->levels[config->once_gradient - 1].name : "none");
    return out;
}

static bool mix_is(const Workload *work, const Mix *mix, const Config *config)
{
    for (uint32_t i = 0; i < work->moe_count; i++)
        if (!config_equal(&mix->configs[i], config))
            return false;
    return true;
}

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

// Plain EP, or a gather of everything.
static Config uniform_config(const Spec *spec, bool whole)
{
    Config config = {0};
    spec_ep_domain(spec, config.domain);
    for (uint32_t l = 0; whole && l < spec->cluster.level_count; l++)
        config.domain[l] = spec->cluster.levels[l].count;
    return config;
}

static Config baseline_config(int baseline, const Spec *spec)
{
    Config config = uniform_config(spec, baseline == BASELINE_GATHER);
    if (baseline != BASELINE_EP_INSIDE)
        return config;
    uint32_t outer = outermost_wide(&spec->cluster);
    memset(config.domain, 0, sizeof(config.domain));
    config.domain[outer] = spec->cluster.levels[outer].count;
    (void)spec_least_domain(spec, config.domain); // with any experts: inner domains can grow to whole levels
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

// Do gathers wait for the same under two prefetch depths?
static bool is_alike(const Workload *work, const Config *config, uint32_t a, uint32_t b)
{
    Pass pass = work->spec->plan.pass;
    uint32_t window = mix_window(pass, config, a);
    bool alike =
        window == mix_window(pass, config, b) || (window != PREFETCH_UNLIMITED && window + 1 >= work->moe_count);
    return alike && dense_window(work, a) == dense_window(work, b);
}

static void measure(const Workload *work, uint32_t prefetch, Dispatch dispatch, MemoryOf memory_of,
                    Candidate *candidate)
{
    candidate->prefetch = prefetch;
    candidate->memory_bytes = memory_of(work, &candidate->config, prefetch, dispatch);
    candidate->fits = candidate->memory_bytes <= work->spec->cluster.device.memory_bytes;
}

// With the deepest prefetch that fits the memory; without a cost. What does not fit where nothing runs ahead, which
// takes least, is not measured at the depths between.
static void fit(const Workload *work, const Config *config, Dispatch dispatch, MemoryOf memory_of, Candidate *candidate)
{
    *candidate = (Candidate){.config = *config};
    measure(work, PREFETCH_UNLIMITED, dispatch, memory_of, candidate);
    if (candidate->fits || is_alike(work, config, 0, PREFETCH_UNLIMITED))
        return;
    Candidate least = *candidate;
    measure(work, 0, dispatch, memory_of, &least);
    for (size_t i = 1; i + 1 < PREFETCH_DEPTHS && least.fits && !candidate->fits; i++)
        if (!is_alike(work, config, mix_prefetches[i], candidate->prefetch))
            measure(work, mix_prefetches[i], dispatch, memory_of, candidate);
    if (!candidate->fits)
        *candidate = least;
}

static bool bytes_may_fit(const Workload *work, double estimated)
{
    double close = work->layer_count > CLOSE_LAYERS_MAX ? 1 : CLOSE;
    return estimated <= close * work->spec->cluster.device.memory_bytes;
}

static bool may_fit(const Workload *work, const Candidate *candidate)
{
    return bytes_may_fit(work, candidate->memory_bytes);
}

// The same and what it then costs.
static void price(const Workload *work, const Config *config, Dispatch dispatch, MemoryOf memory_of,
                  Candidate *candidate)
{
    fit(work, config, dispatch, memory_of, candidate);
    cost_uniform(work, config, candidate->prefetch, dispatch, &candidate->cost);
}

static bool can_regather(const Spec *spec)
{
    return spec->plan.pass == PASS_TRAINING;
}

// Takes the configuration if it is faster than the candidate and fits; with replicas kept, and gathered again. Returns
// whether saving more memory can gain nothing: the candidate is as fast as with all that is kept.
static bool price_kept_and_again(const Workload *work, Config config, Dispatch dispatch, MemoryOf memory_of,
                                 Candidate *candidate)
{
    bool regather = can_regather(work->spec) && config_held_shards(work->spec, &config) > 1;
    double kept_s = 0;
    config_plan_gradients(work->spec, &config);
    do {
        Candidate other;
        IterationCost least; // where nothing waits for memory
        cost_uniform(work, &config, PREFETCH_UNLIMITED, dispatch, &least);
        kept_s = config.regather || config.returns_apart ? kept_s : least.iteration_s;
        if (candidate->fits && kept_s >= candidate->cost.iteration_s)
            return true;
        if (candidate->fits && least.iteration_s >= candidate->cost.iteration_s)
            continue;
        price(work, &config, dispatch, estimated_bytes, &other);
        other.fits = may_fit(work, &other);
        bool promises = other.fits && (!candidate->fits || other.cost.iteration_s < candidate->cost.iteration_s);
        if (promises && memory_of != estimated_bytes)
            price(work, &config, dispatch, memory_of, &other);
        if (other.fits && (!candidate->fits || other.cost.iteration_s < candidate->cost.iteration_s))
            *candidate = other;
    } while (regather && config_next_way(work->spec, &config));
    return candidate->fits && kept_s >= candidate->cost.iteration_s;
}

// In the way of saving memory that suits it, whichever is faster and fits: what is gathered, experts and dense weights,
// is kept or gathered again, activations are kept or computed again. The plan's own way says why nothing fits.
static void price_baseline(const Workload *work, int baseline, MemoryOf memory_of, Candidate *candidate)
{
    Config config = baseline_config(baseline, work->spec);
    Dispatch dispatch = baseline_dispatch(baseline, work->spec);
    price(work, &config, dispatch, memory_of, candidate);
    if (work->spec->plan.pass == PASS_FORWARD)
        return;
    price_kept_and_again(work, config, dispatch, memory_of, candidate);
    Frugality ways[FRUGALITIES_MAX];
    bool settled[FRUGALITIES_MAX] = {false};
    size_t count = work->spec->model.abstract ? 0 : frugality_list(work->spec, ways);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++)
            settled[i] = settled[i] || (settled[j] && ways[i].interleaves == ways[j].interleaves &&
                                        frugality_covers(ways[i], ways[j]));
        if (settled[i])
            continue;
        Arena *arena = arena_create();
        const Workload *frugal = workload_derive(frugality_apply(work->spec, ways[i], arena), arena);
        settled[i] = price_kept_and_again(frugal, config, dispatch, memory_of, candidate);
        arena_destroy(arena);
    }
}

// By estimated memory; what then seems to fit and to beat the plan, or to fit barely, is lowered.
static void price_baselines(const Workload *work, Solution *solution)
{
    for (int b = 0; b < BASELINE_COUNT; b++) {
        Candidate *baseline = &solution->baselines[b];
        if (!planner_has_baseline(b, work->spec))
            continue;
        price_baseline(work, b, estimated_bytes, baseline);
        bool barely = baseline->memory_bytes > work->spec->cluster.device.memory_bytes;
        if (baseline->fits && (barely || baseline->cost.iteration_s < solution->cost.iteration_s))
            price_baseline(work, b, footprint_exact, baseline);
    }
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
    if (left->config.once != right->config.once)
        return left->config.once < right->config.once ? -1 : 1;
    if (left->config.returns_apart != right->config.returns_apart)
        return left->config.returns_apart ? 1 : -1;
    if (left->config.once_gradient != right->config.once_gradient)
        return left->config.once_gradient < right->config.once_gradient ? -1 : 1;
    return memcmp(left->config.domain, right->config.domain, sizeof(left->config.domain));
}

size_t planner_domain_count(const Spec *spec)
{
    size_t count = 1;
    for (uint32_t l = spec->replica_levels; l < spec->cluster.level_count; l++)
        count *= count_divisors(spec->cluster.levels[l].count);
    return count;
}

// Every configuration, in no order and without a price.
static bool list_configs(const Spec *spec, Arena *arena, Diag *diag, Candidate **candidates, size_t *count)
{
    uint32_t levels = spec->cluster.level_count;
    size_t total = planner_domain_count(spec);
    if (total > CANDIDATES_MAX) {
        diag_error(diag, spec->cluster_span, "cluster '%s' allows more than %d combinations of domain sizes",
                   spec->cluster.name, CANDIDATES_MAX);
        diag_help(diag, "fix them with 'domain = { ... }' in the plan block, or merge levels");
        return false;
    }
    bool regather = can_regather(spec);
    size_t ways = spec_laps(spec).count > 1 ? (1 + levels) * (2 + levels) / 2 : 1 + levels;
    *candidates = arena_alloc_array(arena, total * ways, sizeof(**candidates));
    *count = 0;
    for (size_t index = 0; index < total; index++) {
        Config config = uniform_config(spec, false);
        size_t rest = index;
        for (uint32_t l = levels; l-- > spec->replica_levels;) {
            size_t choices = count_divisors(spec->cluster.levels[l].count);
            config.domain[l] = nth_divisor(spec->cluster.levels[l].count, rest % choices);
            rest /= choices;
        }
        if (!spec_domain_is_valid(spec, config.domain))
            continue;
        config_plan_gradients(spec, &config);
        do
            (*candidates)[(*count)++] = (Candidate){.config = config, .domain_index = index};
        while (regather && config_next_way(spec, &config));
    }
    return true;
}

// As late as possible, with its replicas gathered again or, where that frees nothing, kept: one of them takes least.
// The first that may fit is enough.
static double least_bytes(const Workload *work, const Config *of)
{
    const Spec *spec = work->spec;
    Config config = *of;
    double least = INFINITY;
    for (int again = 0; again < 2 && !bytes_may_fit(work, least); again++) {
        config.regather = again && can_regather(spec) && config_held_shards(spec, &config) > 1;
        config.once = 0;
        config.returns_apart = false;
        config.once_gradient = 0;
        least = fmin(least, estimated_bytes(work, &config, 0, spec->plan.dispatch));
    }
    return least;
}

static bool is_hopeless(const Workload *work, const Config *config)
{
    return least_bytes(work, config) > HOPELESS * work->spec->cluster.device.memory_bytes;
}

// Without the domains that take too much however their replicas are kept, unless all of them do.
static void drop_hopeless(const Workload *work, Candidate *candidates, size_t *count)
{
    enum { UNKNOWN, HOPES, HOPELESS_DOMAIN };
    Arena *arena = arena_create();
    uint8_t *state = arena_alloc_array(arena, planner_domain_count(work->spec), sizeof(*state));
    size_t hopeful = 0, kept = 0;
    for (size_t i = 0; i < *count; i++) {
        uint8_t *of = &state[candidates[i].domain_index];
        if (*of == UNKNOWN)
            *of = is_hopeless(work, &candidates[i].config) ? HOPELESS_DOMAIN : HOPES;
        hopeful += *of == HOPES;
    }
    for (size_t i = 0; i < *count; i++)
        if (state[candidates[i].domain_index] == HOPES || hopeful == 0)
            candidates[kept++] = candidates[i];
    *count = kept;
    arena_destroy(arena);
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

static int compare_times(const void *a, const void *b)
{
    const Candidate *left = a, *right = b;
    if (left->cost.iteration_s != right->cost.iteration_s)
        return left->cost.iteration_s < right->cost.iteration_s ? -1 : 1;
    return compare_candidates(a, b);
}

// All, priced where nothing waits for memory, the fastest first.
static bool list_fastest(const Workload *work, Arena *arena, Diag *diag, Candidate **candidates, size_t *count)
{
    if (!list_configs(work->spec, arena, diag, candidates, count))
        return false;
    for (size_t i = 0; i < *count; i++) {
        Candidate *candidate = &(*candidates)[i];
        cost_uniform(work, &candidate->config, PREFETCH_UNLIMITED, work->spec->plan.dispatch, &candidate->cost);
    }
    qsort(*candidates, *count, sizeof(**candidates), compare_times);
    return true;
}

// Memory of one that was priced where nothing waits for it.
static void price_listed(const Workload *work, Candidate *candidate)
{
    Candidate fitted;
    fit(work, &candidate->config, work->spec->plan.dispatch, estimated_bytes, &fitted);
    fitted.domain_index = candidate->domain_index;
    fitted.cost = candidate->cost;
    if (fitted.prefetch != PREFETCH_UNLIMITED)
        cost_uniform(work, &fitted.config, fitted.prefetch, work->spec->plan.dispatch, &fitted.cost);
    *candidate = fitted;
}

// Gradients that return apart save memory, and nothing else: no mix gains by them beside a single choice that is
// faster and fits.
static bool saves_in_vain(const Candidate *candidate, double fitting_s)
{
    return candidate->config.returns_apart && candidate->cost.iteration_s >= fitting_s;
}

bool planner_enumerate(const Workload *work, Arena *arena, Diag *diag, Candidate **candidates, size_t *count)
{
    if (!list_fastest(work, arena, diag, candidates, count))
        return false;
    drop_hopeless(work, *candidates, count);
    size_t taken = 0;
    double fitting_s = INFINITY;
    bool asked = work->spec->plan.gradient_request == GRADIENTS_FORCED;
    for (size_t i = 0; i < *count; i++) {
        Candidate *candidate = &(*candidates)[taken];
        if (!asked && saves_in_vain(&(*candidates)[i], fitting_s))
            continue;
        *candidate = (*candidates)[i];
        price_listed(work, candidate);
        if (candidate->fits)
            fitting_s = fmin(fitting_s, candidate->cost.iteration_s);
        taken++;
    }
    *count = taken;
    qsort(*candidates, taken, sizeof(**candidates), compare_candidates);
    return true;
}

bool planner_all_fit(const Workload *work)
{
    Arena *arena = arena_create();
    Candidate *candidates;
    size_t count = 0;
    bool all = list_fastest(work, arena, diag_create(arena), &candidates, &count);
    for (size_t i = 0; i < count && all; i++) {
        Candidate fitted;
        fit(work, &candidates[i].config, work->spec->plan.dispatch, estimated_bytes, &fitted);
        all = fitted.fits;
    }
    arena_destroy(arena);
    return all;
}

// Estimates admit; where lowering is to decide, it looks at those that seem too large by little.
static bool admits(const Workload *work, bool exactly, int *lowered, const Candidate *of)
{
    if (of->fits || !may_fit(work, of) || !exactly || (*lowered)++ >= LOWERED_MAX)
        return may_fit(work, of);
    double bytes = footprint_exact(work, &of->config, of->prefetch, work->spec->plan.dispatch);
    return bytes <= work->spec->cluster.device.memory_bytes;
}

// Does it take too much even if all that gradients save by returning apart were saved where they do not: sums, and what
// is rounded of them in the last lap, which leaves a GPU's own in the dtype of the weights? That one is known by now,
// being faster.
static bool saves_too_little(const Workload *work, const Config *config)
{
    const Spec *spec = work->spec;
    Config together = *config;
    together.returns_apart = false;
    together.once_gradient = 0;
    if (!config->returns_apart || spec->plan.gradient_request != GRADIENTS_AUTO)
        return false;
    double summed = config_summed_shards(spec, &together), element = dtype_bytes(spec->model.dtype), saved = 0;
    double bytes = (summed - config_summed_shards(spec, config)) * sizeof(float) + (summed + 1) * element;
    for (uint32_t k = 0; k < work->layer_count; k++)
        if (work->layers[k].is_moe)
            saved += work->layers[k].expert_bytes / element * bytes;
    return !bytes_may_fit(work, estimated_bytes(work, &together, 0, spec->plan.dispatch) - saved);
}

Estimate planner_estimate(const Workload *work, bool exactly, bool *unfit)
{
    Arena *arena = arena_create();
    Candidate *candidates;
    Dispatch dispatch = work->spec->plan.dispatch;
    size_t count = 0;
    int lowered = 0;
    Estimate of = {.best_s = INFINITY, .least_s = INFINITY};
    if (list_fastest(work, arena, diag_create(arena), &candidates, &count) && count > 0)
        of.least_s = candidates[0].cost.iteration_s;
    for (size_t i = 0; i < count && candidates[i].cost.iteration_s < of.best_s; i++) {
        Candidate fitted;
        if (unfit && unfit[candidates[i].domain_index])
            continue;
        double least = least_bytes(work, &candidates[i].config);
        if (unfit && least > HOPELESS * work->spec->cluster.device.memory_bytes)
            unfit[candidates[i].domain_index] = true;
        if (!bytes_may_fit(work, least) || saves_too_little(work, &candidates[i].config))
            continue;
        fit(work, &candidates[i].config, dispatch, estimated_bytes, &fitted);
        if (fitted.prefetch != PREFETCH_UNLIMITED)
            cost_uniform(work, &fitted.config, fitted.prefetch, dispatch, &candidates[i].cost);
        if (candidates[i].cost.iteration_s < of.best_s && admits(work, exactly, &lowered, &fitted))
            of.best_s = candidates[i].cost.iteration_s;
    }
    arena_destroy(arena);
    return of;
}

// Where a figure is asked for: the configurations that are not much slower than the best that fits, and none where no
// domain does. Time comes first: memory takes longer to find out.
static bool enumerate_promising(const Workload *work, Arena *arena, Diag *diag, Candidate **candidates, size_t *count)
{
    if (!list_fastest(work, arena, diag, candidates, count))
        return false;
    size_t fitting = 0, taken = 0;
    while (fitting < *count && !bytes_may_fit(work, least_bytes(work, &(*candidates)[fitting].config)))
        fitting++;
    if (fitting == *count)
        *count = 0;
    else
        drop_hopeless(work, *candidates, count);
    double fitting_s = INFINITY;
    for (size_t i = 0; i < *count && (*candidates)[i].cost.iteration_s <= PROMISING * fitting_s; i++) {
        Candidate *candidate = &(*candidates)[taken];
        if (saves_in_vain(&(*candidates)[i], fitting_s))
            continue;
        *candidate = (*candidates)[i];
        price_listed(work, candidate);
        if (candidate->fits)
            fitting_s = fmin(fitting_s, candidate->cost.iteration_s);
        taken++;
    }
    *count = taken;
    qsort(*candidates, *count, sizeof(**candidates), compare_candidates);
    return true;
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

static bool is_slower(const PlannerOptions *options, double iteration_s)
{
    return options->cutoff_s > 0 && iteration_s >= options->cutoff_s;
}

bool planner_is_cut_off(const PlannerOptions *options, const Solution *solution)
{
    return is_slower(options, solution->cost.iteration_s);
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
    char need[FORMAT_MAX], have[FORMAT_MAX], missing[FORMAT_MAX], config[256], lap[FORMAT_MAX] = "";
    double memory = spec->cluster.device.memory_bytes;
    c->solution->missing_bytes = smallest->memory_bytes - memory;
    if (spec->plan.lap > 0)
        snprintf(lap, sizeof(lap), " in laps of %" PRIu32, spec->plan.lap);
    diag_error(diag, spec->memory_span, "%s: %s%s needs %s per GPU, the device has %s (%s missing)", subject,
               config_format(&spec->cluster, &smallest->config, config, sizeof(config)), lap,
               format_bytes(need, round_up(smallest->memory_bytes)), format_bytes(have, memory),
               format_bytes(missing, smallest->memory_bytes - memory));
    if (c->options->advise)
        advise_memory(c->work, smallest, diag);
}

// The one that takes least, whose memory is what lowering says: estimates of deep models may be too small.
static const Candidate *smallest_candidate(const Choosing *c)
{
    const Solution *solution = c->solution;
    Dispatch dispatch = c->work->spec->plan.dispatch;
    Candidate *smallest = NULL, *last = NULL;
    for (int lowered = 0; lowered < LOWERED_MAX; lowered++) {
        smallest = &solution->candidates[0];
        for (size_t i = 1; i < solution->count; i++)
            if (solution->candidates[i].memory_bytes < smallest->memory_bytes)
                smallest = &solution->candidates[i];
        if (smallest == last)
            break;
        last = smallest;
        smallest->memory_bytes =
            fmax(smallest->memory_bytes, footprint_exact(c->work, &smallest->config, smallest->prefetch, dispatch));
    }
    return smallest;
}

// Of the candidate that is estimated to take least, what the device has not.
static double estimated_missing_bytes(const Choosing *c)
{
    double least = INFINITY;
    for (size_t i = 0; i < c->solution->count; i++)
        least = fmin(least, c->solution->candidates[i].memory_bytes);
    return least - c->work->spec->cluster.device.memory_bytes;
}

// The configurations that were asked for, layer by layer.
static const Config *forced_configs(const Choosing *c)
{
    const SpecPlan *plan = &c->work->spec->plan;
    Config *configs = arena_alloc_array(c->arena, c->work->moe_count + 1, sizeof(*configs));
    uint32_t moe = 0;
    for (uint32_t k = 0; k < c->work->layer_count; k++) {
        if (!c->work->layers[k].is_moe)
            continue;
        bool gives_gradients = false;
        Config *config = &configs[moe++];
        *config = uniform_config(c->work->spec, plan->domain_request == DOMAIN_GATHER);
        if (plan->domain_request == DOMAIN_FORCED)
            memcpy(config->domain, plan->domain, sizeof(config->domain));
        for (uint32_t r = 0; r < plan->forced_count; r++) {
            if (k < plan->forced[r].first_layer || k > plan->forced[r].last_layer)
                continue;
            memcpy(config->domain, plan->forced[r].domain, sizeof(config->domain));
            config->regather = plan->forced[r].regather && config_held_shards(c->work->spec, config) > 1;
            config->once = config->regather ? plan->forced[r].once : 0;
            gives_gradients = plan->forced[r].gives_gradients;
            if (gives_gradients)
                config_set_gradient_levels(c->work->spec, config, plan->forced[r].once_gradient);
        }
        if (!gives_gradients)
            config_plan_gradients(c->work->spec, config);
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
    for (size_t i = 0; i < PREFETCH_DEPTHS && !fits; i++) {
        if (i > 0 && (c->options->prefetch != PREFETCH_UNLIMITED || !mix_depth_differs(c->work, mix_prefetches[i])))
            continue;
        solution->mix.prefetch = i > 0 ? mix_prefetches[i] : c->options->prefetch;
        solution->memory_bytes = footprint_lowered(c->work, &solution->mix, c->work->spec->plan.dispatch);
        fits = solution->memory_bytes <= spec->cluster.device.memory_bytes;
    }
    cost_mix(c->work, &solution->mix, spec->plan.dispatch, &solution->cost);
    solution->candidates = arena_alloc_array(c->arena, 1, sizeof(*solution->candidates));
    solution->count = solution->uniform = 1;
    solution->candidates[0] = (Candidate){.config = solution->mix.configs[0],
                                          .prefetch = solution->mix.prefetch,
                                          .cost = solution->cost,
                                          .memory_bytes = solution->memory_bytes,
                                          .fits = fits};
    solution->objective_s = solution->bound_s = solution->cost.iteration_s;
    if (!fits) {
        *infeasible = true;
        report_too_big(c, solution->candidates, "the forced domain does not fit", diag);
    }
    return fits;
}

// The fastest of those that are estimated not to fit by little, and faster than `best`; `count` if there is none.
static size_t best_close(const Choosing *c, size_t best, const bool *lowered)
{
    const Solution *solution = c->solution;
    size_t close = solution->count;
    double least_s = best == solution->count ? INFINITY : solution->candidates[best].cost.iteration_s;
    for (size_t i = 0; i < solution->count; i++) {
        const Candidate *of = &solution->candidates[i];
        if (lowered[i] || of->fits || !may_fit(c->work, of) || of->cost.iteration_s >= least_s)
            continue;
        least_s = of->cost.iteration_s;
        close = i;
    }
    return close;
}

// As it is lowered. Is it no slower than was estimated?
static bool lower_candidate(const Choosing *c, size_t index)
{
    Candidate *candidate = &c->solution->candidates[index];
    Config config = candidate->config;
    double estimated_s = candidate->cost.iteration_s;
    price(c->work, &config, c->work->spec->plan.dispatch, footprint_exact, candidate);
    return candidate->fits && candidate->cost.iteration_s <= estimated_s;
}

// The best single choice that fits: estimates admit, lowering decides, where it is of interest. `count` if there
// is none.
static size_t best_that_fits(const Choosing *c)
{
    const Solution *solution = c->solution;
    bool *lowered = arena_alloc_array(c->arena, solution->count + 1, sizeof(*lowered));
    for (int close = 0;;) {
        size_t best = best_candidate(solution->candidates, solution->count);
        size_t other = close < LOWERED_MAX ? best_close(c, best, lowered) : solution->count;
        bool slower = best < solution->count && is_slower(c->options, solution->candidates[best].cost.iteration_s) &&
                      (other == solution->count || is_slower(c->options, solution->candidates[other].cost.iteration_s));
        if (c->options->quick || slower)
            return best;
        if (other < solution->count) {
            close++;
            lowered[other] = true;
            lower_candidate(c, other);
        } else if (best == solution->count || lower_candidate(c, best)) {
            return best;
        }
    }
}

static bool choose_freely(Choosing *c, Diag *diag, bool *infeasible)
{
    Solution *solution = c->solution;
    if (!(c->options->quick ? enumerate_promising : planner_enumerate)(c->work, c->arena, diag, &solution->candidates,
                                                                       &solution->count))
        return false;
    solution->uniform = best_that_fits(c);
    if (solution->uniform == solution->count) {
        *infeasible = true;
        if (c->options->tentative)
            solution->missing_bytes = estimated_missing_bytes(c);
        else if (!c->options->quick)
            report_too_big(c, smallest_candidate(c), "no plan fits: even the smallest", diag);
        return false;
    }
    if (spec_laps(c->work->spec).count > 1)
        laps_choose(c);
    else
        mix_choose(c, diag);
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
    bool forced = spec->plan.domain_request != DOMAIN_AUTO;
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
    if (!options->quick && !planner_is_cut_off(options, solution))
        price_baselines(work, solution);
    solution->solve_s = clock_now_s() - begin_s;
    return true;
}

Formulated planner_formulate(const Workload *work, const Solution *solution, Arena *arena)
{
    Config *configs = arena_alloc_array(arena, solution->count, sizeof(*configs));
    Footprint *footprints = arena_alloc_array(arena, solution->count, sizeof(*footprints));
    double longest_s = 0;
    for (size_t i = 0; i < solution->count; i++) {
        configs[i] = solution->candidates[i].config;
        footprints[i] = footprint_measure(work->spec, &configs[i], solution->mix.prefetch, work->spec->plan.dispatch);
        longest_s = fmax(longest_s, solution->candidates[i].cost.iteration_s);
    }
    Programme programme = {.work = work,
                           .configs = configs,
                           .footprints = footprints,
                           .count = (uint32_t)solution->count,
                           .prefetch = solution->mix.prefetch,
                           .dispatch = work->spec->plan.dispatch,
                           .horizon_s = 2 * longest_s};
    return formulate(&programme, arena);
}
