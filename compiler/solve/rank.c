// See rank.h. Finalists: the optimum of the model, the same with gathers held back, and the best
// single configurations; fewer of them where plans have very many steps.
#include "compiler/solve/rank.h"

#include "compiler/lowering/lower.h"
#include "ir/base/clock.h"
#include "ir/simulate/simulate.h"

enum { SINGLES_MAX = 8, FINALISTS_MAX = 12, STEPS_MAX = 400000 };

static const double CLOSE_CALL = 1.5; // single configurations this near to the optimum take part
static const double CLEAR = 1e-3;     // by so much another must be faster

typedef struct {
    Mix mix;
    IterationCost cost;
    double memory_bytes, simulated_s;
} Finalist;

typedef struct {
    const Workload *work;
    Arena *arena;
    Finalist items[FINALISTS_MAX];
    uint32_t count;
    uint64_t steps;    // of the plans lowered so far
    uint64_t latest;   // of the latest of them: the next one has about as many
    double deadline_s; // 0: none
    bool timed_out;
} Final;

static bool may_simulate(Final *final)
{
    if (final->deadline_s > 0 && clock_now_s() > final->deadline_s)
        final->timed_out = true;
    return !final->timed_out && final->steps + final->latest <= STEPS_MAX;
}

// Joins unless it does not fit, is there already, or enough steps were simulated.
static void enter(Final *final, Mix mix)
{
    const Spec *spec = final->work->spec;
    if (!may_simulate(final))
        return;
    for (uint32_t i = 0; i < final->count; i++) {
        bool same = final->items[i].mix.prefetch == mix.prefetch;
        for (uint32_t k = 0; k < final->work->moe_count && same; k++)
            same = config_equal(&final->items[i].mix.configs[k], &mix.configs[k]);
        if (same)
            return;
    }
    double bytes = 0;
    Plan *plan = lower(final->work, &mix, spec->plan.dispatch, &bytes);
    final->latest = plan ? (uint64_t)plan->step_count * plan->micro_batches : 0;
    final->steps += final->latest;
    if (plan && bytes <= spec->cluster.device.memory_bytes && final->count < FINALISTS_MAX) {
        Finalist *finalist = &final->items[final->count++];
        *finalist = (Finalist){.mix = mix, .memory_bytes = bytes};
        cost_mix(final->work, &mix, spec->plan.dispatch, &finalist->cost);
        finalist->simulated_s = simulated_iteration_s(plan);
    }
    plan_destroy(plan);
}

static void enter_singles(Final *final, const Solution *solution)
{
    size_t taken[SINGLES_MAX], count = 0;
    while (count < SINGLES_MAX) {
        size_t best = solution->count;
        for (size_t i = 0; i < solution->count; i++) {
            const Candidate *candidate = &solution->candidates[i];
            bool used = !candidate->fits || candidate->cost.iteration_s > CLOSE_CALL * solution->objective_s;
            for (size_t t = 0; t < count; t++)
                used = used || taken[t] == i;
            if (!used &&
                (best == solution->count || candidate->cost.iteration_s < solution->candidates[best].cost.iteration_s))
                best = i;
        }
        if (best == solution->count)
            return;
        taken[count++] = best;
        const Candidate *candidate = &solution->candidates[best];
        enter(final, mix_uniform(final->work, &candidate->config, candidate->prefetch, final->arena));
    }
}

void rank_by_simulation(const Workload *work, const PlannerOptions *options, Solution *solution, Arena *arena)
{
    if (solution->status == STATUS_FORCED || work->moe_count == 0)
        return;
    Final *final = arena_alloc(arena, sizeof(*final));
    final->work = work;
    final->arena = arena;
    final->deadline_s = options->limits.deadline_s;
    enter(final, solution->mix);
    solution->timed_out = solution->timed_out || final->timed_out;
    if (final->count == 0)
        return;
    static const uint32_t depths[] = {2, 1, 0};
    for (size_t i = 0; i < COUNT_OF(depths) && options->prefetch == PREFETCH_UNLIMITED; i++)
        if (depths[i] < solution->mix.prefetch && depths[i] + 1 < work->moe_count)
            enter(final, (Mix){.configs = solution->mix.configs, .prefetch = depths[i]});
    enter_singles(final, solution);
    solution->timed_out = solution->timed_out || final->timed_out;
    const Finalist *best = &final->items[0];
    for (uint32_t i = 1; i < final->count; i++)
        if (final->items[i].simulated_s < best->simulated_s * (1 - CLEAR))
            best = &final->items[i];
    if (best == &final->items[0])
        return;
    solution->mix = best->mix;
    solution->cost = best->cost;
    solution->memory_bytes = best->memory_bytes;
    planner_settle(solution, best->cost.iteration_s);
    solution->ranked = true;
}
