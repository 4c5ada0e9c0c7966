// The pipeline, flat: read, parse, check, derive, solve, rank, lower, verify. Data flows one way.
#include "compiler/compile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/profile.h"
#include "compiler/frontend/read.h"
#include "compiler/placement/place.h"
#include "compiler/solve/footprint.h"
#include "compiler/solve/frugality.h"
#include "compiler/solve/priced.h"
#include "compiler/solve/rank.h"
#include "ir/base/clock.h"
#include "ir/bundle.h"
#include "ir/codec.h"
#include "ir/simulate/simulate.h"
#include "ir/verify/verify.h"

static void fill_strategy(Strategy *strategy, const char *name, Dispatch dispatch, const Config *config,
                          const IterationCost *cost)
{
    *strategy = (Strategy){.name = name, .dispatch = dispatch, .iteration_s = cost->iteration_s, .fits = true};
    strategy->exposed_s = cost->exchange_s + cost->gather_wait_s + cost->return_s;
    memcpy(strategy->domain, config->domain, sizeof(strategy->domain));
    memcpy(strategy->traffic, cost->traffic, sizeof(strategy->traffic));
}

static void copy_strategy(Strategy *strategy, const char *name, Dispatch dispatch, const Candidate *candidate)
{
    fill_strategy(strategy, name, dispatch, &candidate->config, &candidate->cost);
    strategy->memory_bytes = candidate->memory_bytes;
    strategy->fits = candidate->fits;
}

// The plan as it would be if its exchanges were counted: what padding costs.
static void add_counted(const Compilation *compilation, Plan *plan)
{
    const Solution *solution = &compilation->solution;
    Dispatch dispatch = compilation->spec->plan.dispatch;
    Spec spec;
    Workload work = workload_counted(compilation->work, &spec);
    IterationCost cost;
    double bytes = 0;
    cost_mix(&work, &solution->mix, dispatch, &cost);
    plan_destroy(lower(&work, &solution->mix, dispatch, &bytes));
    Strategy *strategy = &plan->strategies[plan->strategy_count++];
    fill_strategy(strategy, "counted", dispatch, &solution->mix.configs[0], &cost);
    strategy->memory_bytes = bytes;
}

// What the solver knows about the plan: the comparison table and the proof.
static void describe_solution(const Compilation *compilation, Plan *plan)
{
    const Spec *spec = compilation->spec;
    const Solution *solution = &compilation->solution;
    char solver[96];
    snprintf(solver, sizeof(solver), "%s%s%s", solution->solver, solution->timed_out ? ", time limit" : "",
             solution->ranked ? ", ranked by simulation" : "");
    plan->solver = arena_copy_string(plan->arena, solver, strlen(solver));
    plan->status = solution->status;
    plan->gap = solution->gap;
    plan->iteration_s = solution->objective_s;
    plan->strategies = arena_alloc_array(plan->arena, 4 + BASELINE_COUNT + CODEC_COUNT, sizeof(*plan->strategies));
    plan->strategy_count = 1;
    fill_strategy(&plan->strategies[0], "chosen", spec->plan.dispatch, &solution->mix.configs[0], &solution->cost);
    plan->strategies[0].memory_bytes = plan_memory_bytes(plan);
    for (int b = 0; b < BASELINE_COUNT; b++)
        if (planner_has_baseline(b, spec))
            copy_strategy(&plan->strategies[plan->strategy_count++], baseline_names[b], baseline_dispatch(b, spec),
                          &solution->baselines[b]);
    if (solution->uniform < solution->count)
        copy_strategy(&plan->strategies[plan->strategy_count++], "uniform", spec->plan.dispatch,
                      &solution->candidates[solution->uniform]);
    for (int codec = 0; codec < CODEC_COUNT; codec++) {
        const Solution *other = compilation->codecs[codec];
        if (!other)
            continue;
        Strategy *strategy = &plan->strategies[plan->strategy_count++];
        char name[32];
        snprintf(name, sizeof(name), "codec_%s", codec_name((Codec)codec));
        fill_strategy(strategy, arena_copy_string(plan->arena, name, strlen(name)), spec->plan.dispatch,
                      &other->mix.configs[0], &other->cost);
        strategy->memory_bytes = other->memory_bytes;
    }
    if (compilation->exact) {
        Strategy *strategy = &plan->strategies[plan->strategy_count++];
        fill_strategy(strategy, "exact", spec->plan.dispatch, &compilation->exact->mix.configs[0],
                      &compilation->exact->cost);
        strategy->memory_bytes = compilation->exact->memory_bytes;
    }
    if (spec->plan.exchange == EXCHANGE_PADDED)
        add_counted(compilation, plan);
}

static FaultKind report_unaddressable(const Spec *spec, double bytes, Diag *diag)
{
    char need[FORMAT_MAX], have[FORMAT_MAX];
    diag_error(diag, spec->memory_span, "the plan needs %s per GPU, the device has %s", format_bytes(need, bytes),
               format_bytes(have, spec->cluster.device.memory_bytes));
    return FAULT_INFEASIBLE;
}

static FaultKind report_violations(const VerifyReport *report, Diag *diag)
{
    for (uint32_t i = 0; i < verify_report_count(report); i++)
        diag_error_plain(diag, "internal: the lowered schedule fails '%s' at step %lld: %s",
                         property_name(report->items[i].property), (long long)report->items[i].step,
                         report->items[i].message);
    return FAULT_INTERNAL;
}

// Running ahead can cost more than it gains: what runs ahead shares ports with what is needed now. A pass whose
// absence makes the simulated iteration shorter is omitted, unless the time limit has struck or the plan is very large.
static Plan *lower_best(Compilation *out, PlanPassSet passes, double *bytes)
{
    static const PlanPass doubtful[] = {PLAN_PASS_HOIST, PLAN_PASS_OVERLAP, PLAN_PASS_YIELD};
    static const double clear = 1e-6;
    enum { STEPS_MAX = 200000 };
    Dispatch dispatch = out->spec->plan.dispatch;
    Plan *best = lower_with(out->work, &out->solution.mix, dispatch, passes, bytes);
    bool tries = best && !out->solution.timed_out && best->step_count <= STEPS_MAX;
    double best_s = tries ? simulated_iteration_s(best) : 0;
    out->passes = passes;
    for (size_t i = 0; i < COUNT_OF(doubtful) && tries; i++) {
        PlanPassSet fewer = out->passes & ~(1u << doubtful[i]);
        if (fewer == out->passes)
            continue;
        double other_bytes = 0;
        Plan *other = lower_with(out->work, &out->solution.mix, dispatch, fewer, &other_bytes);
        double other_s = other ? simulated_iteration_s(other) : 0;
        bool better = other && other_bytes <= fmax(*bytes, out->spec->cluster.device.memory_bytes) &&
                      other_s < best_s * (1 - clear);
        plan_destroy(better ? best : other);
        best = better ? other : best;
        best_s = better ? other_s : best_s;
        *bytes = better ? other_bytes : *bytes;
        out->passes = better ? fewer : out->passes;
    }
    return best;
}

// Micro-batches take no turns where that gains nothing: what would travel meanwhile is gathered.
static void drop_idle_turns(Compilation *out, Arena *arena)
{
    static const double equal = 1e-9;
    if (spec_abreast(out->spec) == 1 || out->spec->plan.interleave != INTERLEAVE_AUTO)
        return;
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *out->spec;
    spec->plan.interleaves = false;
    const Workload *work = workload_derive(spec, arena);
    IterationCost cost;
    cost_mix(work, &out->solution.mix, spec->plan.dispatch, &cost);
    if (cost.iteration_s > (1 + equal) * out->solution.cost.iteration_s)
        return;
    out->spec = spec;
    out->work = work;
    out->solution.cost = cost;
}

static FaultKind make_plan(PlanPassSet without, Arena *arena, Diag *diag, Compilation *out)
{
    drop_idle_turns(out, arena);
    const Spec *spec = out->spec;
    double bytes = 0;
    out->plan = lower_best(out, PLAN_PASSES_ALL & ~without, &bytes);
    if (!out->plan || bytes > spec->cluster.device.memory_bytes)
        return report_unaddressable(spec, bytes, diag);
    describe_solution(out, out->plan);
    VerifyReport report;
    if (!plan_verify(out->plan, &report))
        return report_violations(&report, diag);
    return FAULT_NONE;
}

// NULL after reporting that the profile is not one of this model.
static const Spec *apply_overrides(const Spec *checked, const CompileOptions *options, Arena *arena, Diag *diag)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *checked;
    spec->footprints = footprint_table_create(arena);
    if (options->dispatch != NONE)
        spec->plan.dispatch = (Dispatch)options->dispatch;
    return !options->profile || profile_read(options->profile, &spec->model, arena, diag) ? spec : NULL;
}

// With a share of the time limit. What is no faster than `known_s`, if that is not 0, need not be looked at closely.
static FaultKind solve_with(const CompileOptions *options, double share, double known_s, Arena *arena, Diag *diag,
                            Compilation *out)
{
    PlannerOptions planner = options->planner;
    if (out->spec->cluster.port_count == 0) // where workers stand is found by plans that nothing is known of
        planner.cutoff_s = known_s;
    if (planner.time_limit_s > 0)
        planner.limits.deadline_s = clock_now_s() + share * planner.time_limit_s;
    bool infeasible = false;
    if (!place_and_solve(&out->work, &planner, arena, diag, &out->solution, &infeasible))
        return out->solution.broken ? FAULT_INTERNAL : infeasible ? FAULT_INFEASIBLE : FAULT_INPUT;
    if (!planner_is_cut_off(&planner, &out->solution))
        rank_by_simulation(out->work, &planner, &out->solution, arena);
    return FAULT_NONE;
}

// Ways of saving memory are planned one after the other: what takes more memory comes first, and is faster where it
// fits.
typedef struct {
    Frugality how;
    double best_s; // of its best single choice that fits; infinite if none does; 0 where nothing is chosen
} Ranked;

enum { SEARCHED_MAX = 4 };

static size_t list_ways(const Spec *spec, Ranked out[FRUGALITIES_MAX])
{
    Frugality list[FRUGALITIES_MAX];
    size_t count = frugality_list(spec, list);
    for (size_t i = 0; i < count; i++)
        out[i] = (Ranked){.how = list[i]};
    return count;
}

static int compare_ranked(const void *a, const void *b)
{
    double left = ((const Ranked *)a)->best_s, right = ((const Ranked *)b)->best_s;
    return (left > right) - (left < right);
}

// See planner_estimate; what it takes is not kept.
static Estimate estimate(const Spec *spec)
{
    Arena *arena = arena_create();
    Estimate of = planner_estimate(workload_derive(spec, arena), arena);
    arena_destroy(arena);
    return of;
}

// Where memory does not slow down the same way with the embedding kept, gathering that again gains nothing.
static bool gains_nothing(const Ranked *of, const Ranked *before, const Estimate *estimated)
{
    return of->how.regather_embedding && !before->how.regather_embedding && estimated->best_s <= estimated->least_s;
}

// The most promising first: the first alone where every choice fits beside it; the last alone where none fits anywhere,
// which says why. Returns how many are left.
static size_t rank_ways(const Spec *spec, Ranked *list, size_t count, Arena *arena)
{
    if (count < 2 || spec->plan.domain_request != DOMAIN_AUTO)
        return count;
    Ranked smallest = list[count - 1];
    Estimate before = {0};
    bool fits = count < 4; // of many ways the two that take least are asked first
    for (size_t i = count - 2; i < count && !fits; i++)
        fits = isfinite(estimate(frugality_apply(spec, list[i].how, arena)).best_s);
    for (size_t i = 0; i < count; i++) {
        list[i].best_s = INFINITY;
        if (!fits || (i > 0 && gains_nothing(&list[i], &list[i - 1], &before)))
            continue;
        before = estimate(frugality_apply(spec, list[i].how, arena));
        list[i].best_s = before.best_s;
        if (i == 0 && before.all_fit)
            return 1;
    }
    qsort(list, count, sizeof(*list), compare_ranked);
    if (isinf(list[0].best_s)) {
        list[0] = smallest;
        return 1;
    }
    return count;
}

// Could it beat what was found? Mixes differ a little from single choices; what was found may be slower than its own
// best single choice seemed, where that took more memory than was estimated.
static bool is_worth_searching(const Ranked *of, size_t searched, FaultKind code, const Solution *found)
{
    static const double close = 1.01;
    if (isinf(of->best_s) || (of->best_s > 0 && searched >= SEARCHED_MAX))
        return false;
    return code != FAULT_NONE || of->best_s < (searched == 1 ? close : 1) * found->cost.iteration_s;
}

// The fastest of those that fit, if it is faster than `known_s`, unless that is 0; where none does, the one that takes
// least memory says why.
static FaultKind solve_lap(const CompileOptions *options, double share, double known_s, Arena *arena, Diag *diag,
                           Compilation *out)
{
    const Spec *spec = out->spec;
    Ranked list[FRUGALITIES_MAX] = {0};
    size_t count = rank_ways(spec, list, list_ways(spec, list), arena);
    Compilation best = *out;
    Diag *of_best = NULL;
    FaultKind code = FAULT_INFEASIBLE;
    for (size_t i = 0; i < count && (i == 0 || is_worth_searching(&list[i], i, code, &best.solution)); i++) {
        Compilation tried = *out;
        Diag *of_tried = diag_create(arena);
        tried.spec = frugality_apply(spec, list[i].how, arena);
        tried.work = workload_derive(tried.spec, arena);
        double faster_s = code == FAULT_NONE ? best.solution.cost.iteration_s : known_s;
        FaultKind now =
            solve_with(options, share / fmin((double)count, SEARCHED_MAX), faster_s, arena, of_tried, &tried);
        bool better = now == FAULT_NONE &&
                      (code != FAULT_NONE || tried.solution.cost.iteration_s < best.solution.cost.iteration_s);
        if (better || code != FAULT_NONE || (now != FAULT_NONE && now != FAULT_INFEASIBLE)) {
            best = tried;
            of_best = of_tried;
            code = now;
        }
        if (now != FAULT_INFEASIBLE && (now != FAULT_NONE || !tried.solution.memory_binds))
            break;
    }
    *out = best;
    diag_append(diag, of_best);
    return code;
}

static const Spec *with_lap(const Spec *request, uint32_t lap, Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *request;
    spec->plan.lap = lap;
    return spec;
}

// May laps of fewer micro-batches do better?
static bool is_open(const Compilation *found, FaultKind code)
{
    return code == FAULT_INFEASIBLE || (code == FAULT_NONE && found->solution.memory_binds);
}

// Does a lap of so many look faster than what was found, in the way that saves memory there?
static bool is_promising(const Compilation *found, FaultKind code, uint32_t lap, Arena *arena)
{
    static const double clear = 0.99;
    if (code != FAULT_NONE)
        return true;
    return estimate(with_lap(found->spec, lap, arena)).best_s < clear * found->solution.cost.iteration_s;
}

// As `solve_lap`, of several tries: why nothing fits is left unsaid, which takes longer to find out than that.
static FaultKind try_lap(const CompileOptions *options, double share, double known_s, Arena *arena, Diag *diag,
                         Compilation *out)
{
    CompileOptions tentative = *options;
    tentative.planner.tentative = true;
    return solve_lap(&tentative, share, known_s, arena, diag, out);
}

// Laps of all micro-batches, or of fewer, which take less memory and gather more often: where memory binds, from the
// largest down until a smaller one is no faster. Where none fits, the one that misses least says why.
static FaultKind solve(const CompileOptions *options, double share, Arena *arena, Diag *diag, Compilation *out)
{
    const Spec *spec = out->spec;
    if (spec->plan.pass == PASS_FORWARD || spec->model.abstract)
        return solve_with(options, share, 0, arena, diag, out);
    bool asked = spec->plan.lap_request > 0 || spec_encodes(spec);
    if (asked || spec->plan.micro_batches == 1)
        return solve_lap(options, share, 0, arena, diag, out);
    Diag *of_best = diag_create(arena);
    FaultKind code = try_lap(options, share, 0, arena, of_best, out);
    for (uint32_t lap = spec->plan.micro_batches - 1; lap > 0 && is_open(out, code); lap--) {
        if (spec->plan.micro_batches % lap != 0)
            continue;
        if (!is_promising(out, code, lap, arena))
            break;
        Compilation tried = *out;
        Diag *of_tried = diag_create(arena);
        tried.spec = with_lap(spec, lap, arena);
        double known_s = code == FAULT_NONE ? out->solution.cost.iteration_s : 0;
        FaultKind now = try_lap(options, share, known_s, arena, of_tried, &tried);
        bool better = now == FAULT_NONE &&
                      (code != FAULT_NONE || tried.solution.cost.iteration_s < out->solution.cost.iteration_s);
        bool misses_less = now == FAULT_INFEASIBLE && code == FAULT_INFEASIBLE &&
                           tried.solution.missing_bytes < out->solution.missing_bytes;
        if (now == FAULT_NONE && !better)
            break;
        if (!better && !misses_less)
            continue;
        *out = tried;
        of_best = of_tried;
        code = now;
    }
    if (code == FAULT_INFEASIBLE)
        return solve_with(options, share, 0, arena, diag, out);
    diag_append(diag, of_best);
    return code;
}

static const Spec *with_codec(const Spec *request, Codec codec, Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *request;
    spec->plan.experts.codec = codec;
    spec->plan.experts.ratio =
        codec_info(codec)->encodes && packet_has_ratio(codec_info(codec)->form) ? request->plan.experts.ratio : 1;
    if (!codec_info(codec)->encodes && spec->plan.experts.gradient == GRADIENT_DENSE)
        spec->plan.experts.whole_levels = 0;
    return spec;
}

// Every codec gets a plan of its own; the fastest is taken, of equals the one that comes first. Whichever is not taken
// is part of the comparison. A codec whose plans do not fit is none of them; if that is so for all, dense says why.
// Where GPUs own parts of experts these have no mean; in laps nothing is encoded.
static FaultKind solve_each_codec(const CompileOptions *options, Arena *arena, Diag *diag, Compilation *out)
{
    static const double clear = 1e-9;
    Compilation tried[CODEC_COUNT], *best = NULL;
    for (int codec = 0; codec < CODEC_COUNT; codec++) {
        tried[codec] = *out;
        tried[codec].spec = with_codec(out->spec, (Codec)codec, arena);
        if (!spec_coding_is_possible(tried[codec].spec))
            continue;
        tried[codec].work = workload_derive(tried[codec].spec, arena);
        FaultKind code = solve(options, 1.0 / CODEC_COUNT, arena, diag_create(arena), &tried[codec]);
        if (code != FAULT_NONE)
            continue;
        Solution *solution = arena_alloc(arena, sizeof(*solution));
        *solution = tried[codec].solution;
        out->codecs[codec] = solution;
        if (!best || solution->cost.iteration_s < best->solution.cost.iteration_s * (1 - clear))
            best = &tried[codec];
    }
    const Spec *spec = best ? best->spec : with_codec(out->spec, CODEC_DENSE, arena);
    out->codecs[spec->plan.experts.codec] = NULL;
    out->spec = spec;
    out->work = best ? best->work : workload_derive(spec, arena);
    if (!best)
        return solve(options, 1, arena, diag, out);
    out->solution = best->solution;
    return FAULT_NONE;
}

static const Spec *with_bucket(const Spec *request, uint32_t bucket, Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *request;
    spec->plan.bucket = bucket;
    return spec;
}

// The mix in buckets of so many layers, or the best single choice there.
static double bucketed_s(const Compilation *found, uint32_t bucket, Arena *arena)
{
    const Workload *work = workload_derive(with_bucket(found->work->spec, bucket, arena), arena);
    IterationCost cost;
    cost_mix(work, &found->solution.mix, found->spec->plan.dispatch, &cost);
    if (found->spec->plan.domain_request != DOMAIN_AUTO)
        return cost.iteration_s;
    return fmin(cost.iteration_s, estimate(with_bucket(found->spec, bucket, arena)).best_s);
}

// Start-ups that weights of a layer pay over the slowest level, forward and backward, are what buckets can save.
static double startups_s(const Spec *spec)
{
    enum { BUNDLES = 2 };
    double layers = spec->model.layers;
    return 2 * BUNDLES * layers * spec->cluster.levels[spec_bucket_level(spec)].latency_s;
}

// Infinite if it does not fit.
static double simulated_s(const Compilation *found, uint32_t bucket, Arena *arena)
{
    const Workload *work = workload_derive(with_bucket(found->work->spec, bucket, arena), arena);
    double bytes = 0;
    Plan *plan = lower(work, &found->solution.mix, found->spec->plan.dispatch, &bytes);
    double time_s = plan && bytes <= found->spec->cluster.device.memory_bytes ? simulated_iteration_s(plan) : INFINITY;
    plan_destroy(plan);
    return time_s;
}

enum { BUCKETED_LAYERS_MAX = 1000 }; // beyond, planning and simulating once more takes as long as everything before

// What was found with weights in buckets, planned for buckets as large as the model likes them, of the size that the
// simulation finds best; unchanged where that is none. In a lap of all micro-batches, with nothing encoded.
static void choose_bucket(const CompileOptions *options, Arena *arena, Compilation *out)
{
    static const double clear = 5e-3, better = 1e-3, large = 0.05;
    uint32_t layers = out->spec->model.layers, best = 0;
    if (out->spec->plan.bucket_request != BUCKET_AUTO || !spec_bucket(with_bucket(out->spec, 1, arena)) ||
        out->solution.timed_out || layers > BUCKETED_LAYERS_MAX)
        return;
    double least_s = (1 - clear) * out->solution.cost.iteration_s;
    if (startups_s(out->spec) < clear * out->solution.cost.iteration_s)
        return;
    for (uint32_t bucket = 1; bucket <= PLAN_BUCKET_MAX && bucket < 2 * layers; bucket *= 2) {
        double model_s = bucketed_s(out, bucket, arena);
        best = model_s < least_s ? bucket : best;
        least_s = fmin(least_s, (1 - better) * model_s);
    }
    if (best == 0)
        return;
    bool much = least_s < (1 - large) * out->solution.cost.iteration_s;
    least_s = (1 - better) * simulated_s(out, 0, arena);
    if (!much && simulated_s(out, best, arena) >= least_s) // what hides start-ups here will do so in a new plan
        return;
    Compilation tried = *out;
    tried.spec = with_bucket(out->spec, best, arena);
    tried.work = workload_derive(tried.spec, arena);
    if (solve_with(options, 1, 0, arena, diag_create(arena), &tried) != FAULT_NONE)
        return;
    best = 0;
    for (uint32_t bucket = 1; bucket <= PLAN_BUCKET_MAX && bucket < 2 * layers; bucket *= 2) {
        double time_s = simulated_s(&tried, bucket, arena);
        best = time_s < least_s ? bucket : best;
        least_s = fmin(least_s, (1 - better) * time_s);
    }
    if (best == 0)
        return;
    if (best != tried.spec->plan.bucket) {
        tried.spec = with_bucket(out->spec, best, arena);
        tried.work = workload_derive(tried.spec, arena);
        if (solve_with(options, 1, 0, arena, diag_create(arena), &tried) != FAULT_NONE)
            return;
    }
    *out = tried;
}

// The fastest of the combinations within the price. The first, in which all that is open is exact, is part of the
// comparison where it is not taken, and says why nothing fits where that is so for all.
static FaultKind solve_priced(const CompileOptions *options, Arena *arena, Diag *diag, Compilation *out)
{
    static const double clear = 1e-9;
    const Spec *list[PRICED_LIST_MAX];
    size_t count = priced_list(out->spec, arena, list);
    Compilation best = *out;
    Diag *of_best = NULL;
    const Solution *exact = NULL;
    FaultKind code = FAULT_NONE;
    for (size_t i = 0; i < count; i++) {
        Compilation tried = *out;
        Diag *of_tried = diag_create(arena);
        tried.spec = list[i];
        tried.work = workload_derive(list[i], arena);
        FaultKind now = solve(options, 1.0 / (double)count, arena, of_tried, &tried);
        bool better = now == FAULT_NONE && (code != FAULT_NONE || tried.solution.cost.iteration_s <
                                                                      best.solution.cost.iteration_s * (1 - clear));
        if (i == 0 || better) {
            best = tried;
            of_best = of_tried;
            code = now;
        }
        if (i > 0 || now != FAULT_NONE)
            continue;
        Solution *solution = arena_alloc(arena, sizeof(*solution));
        *solution = tried.solution;
        exact = solution;
    }
    *out = best;
    out->exact = best.spec == list[0] ? NULL : exact;
    diag_append(diag, of_best);
    return code;
}

static FaultKind run_stages(const CompileOptions *options, Arena *arena, Diag *diag, Compilation *out)
{
    out->ast = read_text(options->name, options->text, options->length, arena, diag);
    if (!out->ast)
        return FAULT_INPUT;
    if (options->stop_after == STAGE_PARSE)
        return FAULT_NONE;
    if (options->edit)
        options->edit(out->ast, options->edit_context);
    const Spec *checked = check_ast(out->ast, &options->check, arena, diag);
    if (!checked)
        return FAULT_INPUT;
    out->spec = apply_overrides(checked, options, arena, diag);
    if (!out->spec)
        return FAULT_INPUT;
    bool any_codec = (int)out->spec->plan.experts.codec == CODEC_AUTO, priced = priced_is_open(out->spec);
    out->work = workload_derive(any_codec ? with_codec(out->spec, CODEC_DENSE, arena) : out->spec, arena);
    if (options->stop_after == STAGE_CHECK)
        return FAULT_NONE;
    FaultKind code = priced      ? solve_priced(options, arena, diag, out)
                     : any_codec ? solve_each_codec(options, arena, diag, out)
                                 : solve(options, 1, arena, diag, out);
    if (code != FAULT_NONE)
        return code;
    choose_bucket(options, arena, out);
    if (options->stop_after == STAGE_SOLVE)
        return FAULT_NONE;
    return make_plan(options->without, arena, diag, out);
}

bool compile_file(const CompileOptions *options, Arena *arena, Diag *diag, Compilation *out, Fault *fault)
{
    *out = (Compilation){0};
    FaultKind kind = run_stages(options, arena, diag, out);
    return kind == FAULT_NONE || fault_reported(fault, kind);
}

void compile_release(Compilation *compilation)
{
    plan_destroy(compilation->plan);
    compilation->plan = NULL;
}
