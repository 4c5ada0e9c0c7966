// See mix.h. GLPK is given the options that a better mix may still consist of, the objective to beat, and a budget of
// work, so that the same input gives the same answer on any machine; its proofs hold to its tolerance of 1e-7.
#include <math.h>

#include "compiler/solve/mix.h"
#include "ir/base/clock.h"

enum {
    BINARIES_MAX = 1500,        // of a programme that GLPK may be able to finish
    BINARIES_LIKELY = 400,      // of one that it probably finishes
    STAGES_MOST = 64,           // more stages get no more work
    CONFIRM_BINARIES_MAX = 120, // of a programme that GLPK confirms
};

static const double WORK_PER_STAGE = 3.3e5; // of all depths together: a third of a second for 61 layers
static const double CONFIRM_WORK = 1e6;
static const double SAFETY_S = 60;    // GLPK can cycle
static const double TOLERANCE = 1e-6; // relative, of objectives as GLPK sees them
static const double TIE = 1e-11;      // of those as the cost model sees them

const uint32_t mix_prefetches[PREFETCH_DEPTHS] = {PREFETCH_UNLIMITED, 8, 4, 2, 1, 0};

double mix_known_s(const Choosing *c)
{
    const Solution *solution = c->solution;
    double known_s = c->found ? solution->objective_s : solution->candidates[solution->uniform].cost.iteration_s;
    return c->options->cutoff_s > 0 ? fmin(known_s, c->options->cutoff_s) : known_s;
}

bool mix_is_open(const Choosing *c, const MixDepth *depth)
{
    return depth->bound_s < mix_known_s(c) * (1 - c->options->limits.gap) * (1 - TIE);
}

void mix_measure(Choosing *c, uint32_t prefetch)
{
    const Solution *solution = c->solution;
    for (size_t i = 0; i < solution->count; i++)
        c->footprints[i] =
            footprint_measure(c->work->spec, &solution->candidates[i].config, prefetch, c->work->spec->plan.dispatch);
}

static size_t count_useful(const Choosing *c, const MixDepth *depth)
{
    size_t count = 0;
    for (size_t i = 0; i < c->work->moe_count * c->solution->count; i++)
        count += depth->useful[i];
    return count;
}

static Formulated formulate_depth(Choosing *c, const MixDepth *depth)
{
    const Solution *solution = c->solution;
    Config *configs = arena_alloc_array(c->arena, solution->count, sizeof(*configs));
    for (size_t i = 0; i < solution->count; i++)
        configs[i] = solution->candidates[i].config;
    mix_measure(c, depth->prefetch);
    Programme programme = {.work = c->work,
                           .configs = configs,
                           .footprints = c->footprints,
                           .count = (uint32_t)solution->count,
                           .useful = depth->useful,
                           .prefetch = depth->prefetch,
                           .dispatch = c->work->spec->plan.dispatch,
                           .horizon_s = mix_known_s(c) * (1 + TOLERANCE)};
    return formulate(&programme, c->arena);
}

// The mix that GLPK chose, at the price of the cost model.
static void take_programme(Choosing *c, const MixDepth *depth, const Formulated *formulated)
{
    Solution *solution = c->solution;
    uint32_t stages = c->work->moe_count;
    Config *configs = arena_alloc_array(c->arena, stages, sizeof(*configs));
    for (uint32_t k = 0; k < stages; k++)
        for (size_t i = 0; i < solution->count; i++) {
            int binary = formulated->binary[(size_t)k * solution->count + i];
            if (binary >= 0 && milp_value(formulated->milp, binary) > 0.5)
                configs[k] = solution->candidates[i].config;
        }
    Mix mix = {.configs = configs, .prefetch = depth->prefetch};
    IterationCost cost;
    cost_mix(c->work, &mix, c->work->spec->plan.dispatch, &cost);
    if (cost.iteration_s >= mix_known_s(c))
        return;
    solution->mix = mix;
    solution->objective_s = cost.iteration_s;
    c->found = true;
}

static bool close_depth(Choosing *c, MixDepth *depth, double *work, Diag *diag)
{
    const SearchLimits *search = &c->options->limits;
    Formulated formulated = formulate_depth(c, depth);
    double known_s = mix_known_s(c), before_s = depth->bound_s;
    MilpLimits limits = {.work = *work,
                         .cutoff = known_s / formulated.unit_s,
                         .gap = search->gap,
                         .until_s = search->deadline_s > 0 ? search->deadline_s : clock_now_s() + SAFETY_S};
    MilpResult result = milp_solve(formulated.milp, &limits);
    *work -= result.work;
    if (search->deadline_s > 0 && clock_now_s() > search->deadline_s)
        c->solution->timed_out = true;
    if (result.status == MILP_FAILED)
        diag_warning_plain(diag, "GLPK gave up, so the plan's gap is what the search proves: %s", result.fault.message);
    if (result.found)
        take_programme(c, depth, &formulated);
    if (result.status == MILP_OPTIMAL || result.status == MILP_INFEASIBLE)
        depth->bound_s = mix_known_s(c); // what this depth has is no better
    else if (result.status == MILP_FEASIBLE)
        depth->bound_s = fmax(depth->bound_s, result.bound * formulated.unit_s * (1 - TOLERANCE));
    milp_destroy(formulated.milp);
    return depth->bound_s > before_s || mix_known_s(c) < known_s;
}

// The share of the usual work that is worth spending on what can still be won: all of it where GLPK is likely to
// finish.
static double worth(const Choosing *c)
{
    static const double all = 1e-2, least = 0.1;
    double bound_s = INFINITY;
    size_t most = 0;
    for (uint32_t i = 0; i < c->depth_count; i++) {
        size_t useful = mix_is_open(c, &c->depths[i]) ? count_useful(c, &c->depths[i]) : 0;
        most = useful > most ? useful : most;
        bound_s = fmin(bound_s, c->depths[i].bound_s);
    }
    return most <= BINARIES_LIKELY ? 1 : fmin(1, fmax(least, (1 - bound_s / mix_known_s(c)) / all));
}

bool mix_close(Choosing *c, Diag *diag)
{
    double work = WORK_PER_STAGE * fmin(c->work->moe_count, STAGES_MOST) * worth(c);
    bool closing = false;
    for (uint32_t i = 0; i < c->depth_count && work > 0; i++) {
        MixDepth *depth = &c->depths[i];
        if (mix_is_open(c, depth) && count_useful(c, depth) <= BINARIES_MAX && c->work->moe_count > 0)
            closing = close_depth(c, depth, &work, diag) || closing;
    }
    return closing;
}

bool mix_confirm(Choosing *c)
{
    const Solution *solution = c->solution;
    const MixDepth *chosen = NULL;
    for (uint32_t i = 0; i < c->depth_count; i++)
        if (c->depths[i].prefetch == solution->mix.prefetch)
            chosen = &c->depths[i];
    if (!chosen || !c->options->glpk || count_useful(c, chosen) > CONFIRM_BINARIES_MAX)
        return false;
    Formulated formulated = formulate_depth(c, chosen);
    MilpLimits limits = {
        .work = CONFIRM_WORK, .cutoff = solution->objective_s / formulated.unit_s, .until_s = clock_now_s() + SAFETY_S};
    MilpResult result = milp_solve(formulated.milp, &limits);
    milp_destroy(formulated.milp);
    return result.status == MILP_OPTIMAL && result.bound * formulated.unit_s >= solution->objective_s * (1 - TOLERANCE);
}
