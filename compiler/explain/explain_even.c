// From which bandwidth of a level on plain EP, deduplicated, is as good as the best plan there: probes further and
// further away, then halves the bracket. As with flips every probe plans again, so their number is bounded.
#include <math.h>

#include "compiler/explain/explain.h"

const double EXPLAIN_EVEN = 0.01; // less is within what the model leaves out

enum { LARGE_PROBLEM = 1000 }; // MoE layers x configurations: from there on half the probes

static const double reach[] = {4, 64, 4096, 1e9}; // the last: as good as infinite; large problems: every second
static const double CLOSE = 1.02;                 // a bracket as narrow as that is narrow enough

typedef struct {
    const Workload *work;
    const Solution *solution;
    PlannerOptions options;
    EvenPoint *out;
    uint32_t solves_max;
} Probing;

static double plain_ep_s(const Workload *work)
{
    const Spec *spec = work->spec;
    Config config = {0};
    spec_ep_domain(spec, config.domain);
    Arena *arena = arena_create();
    Mix mix = mix_uniform(work, &config, PREFETCH_UNLIMITED, arena);
    IterationCost cost;
    cost_mix(work, &mix, DISPATCH_DEDUP, &cost);
    arena_destroy(arena);
    return cost.iteration_s;
}

// One level's bandwidth, or where `level` is LEVELS_MAX so many times that of every level.
static const Workload *change_links(const Workload *work, uint32_t level, double value, Arena *arena)
{
    if (level < LEVELS_MAX)
        return explain_change(work, QUANTITY_BANDWIDTH, level, value, arena);
    for (uint32_t l = 0; l < work->spec->cluster.level_count; l++)
        work = explain_change(work, QUANTITY_BANDWIDTH, l, value * explain_now(work, QUANTITY_BANDWIDTH, l), arena);
    return work;
}

// Is plain EP as good at `value`? What is planned there with less effort is no worse than the plan that is explained.
static bool is_even(Probing *p, double value, double *ep_s, double *best_s)
{
    Arena *scratch = arena_create();
    const Workload *work = change_links(p->work, p->out->level, value, scratch);
    IterationCost kept;
    Solution other;
    bool infeasible;
    cost_mix(work, &p->solution->mix, work->spec->plan.dispatch, &kept);
    *best_s = p->options.cutoff_s = kept.iteration_s;
    p->out->solves++;
    if (planner_solve(work, &p->options, scratch, diag_create(scratch), &other, &infeasible))
        *best_s = fmin(*best_s, other.objective_s);
    *ep_s = plain_ep_s(work);
    arena_destroy(scratch);
    return *ep_s <= *best_s * (1 + EXPLAIN_EVEN);
}

EvenPoint explain_even(const Workload *work, const PlannerOptions *options, const Solution *solution, uint32_t level)
{
    double now = level < LEVELS_MAX ? explain_now(work, QUANTITY_BANDWIDTH, level) : 1, ep_s, best_s;
    EvenPoint even = {.level = level, .now = now, .holds = now};
    Probing p = {.work = work,
                 .solution = solution,
                 .options = explain_options(options),
                 .out = &even,
                 .solves_max = EXPLAIN_SOLVES_MAX};
    bool large = (size_t)work->moe_count * solution->count > LARGE_PROBLEM;
    if (large)
        p.solves_max /= 2;
    even.as_good = is_even(&p, now, &ep_s, &best_s);
    for (size_t i = large; i < COUNT_OF(reach) && !even.found; i += 1 + large) {
        even.searched = even.as_good ? now / reach[i] : now * reach[i];
        even.found = is_even(&p, even.searched, &ep_s, &best_s) != even.as_good;
        if (!even.found)
            even.holds = even.searched;
    }
    even.value = even.searched;
    even.ep_s = ep_s;
    even.best_s = best_s;
    while (even.found && even.solves < p.solves_max && fmax(even.value / even.holds, even.holds / even.value) > CLOSE) {
        double middle = sqrt(even.value * even.holds);
        if (is_even(&p, middle, &ep_s, &best_s) == even.as_good) {
            even.holds = middle;
            continue;
        }
        even.value = middle;
        even.ep_s = ep_s;
        even.best_s = best_s;
    }
    even.searched = even.as_good ? now / reach[COUNT_OF(reach) - 1] : now * reach[COUNT_OF(reach) - 1];
    return even;
}
