// See rank.h. Finalists: the optimum of the model, the same with gathers held back, and the best
// single configurations; fewer of them where plans have very many steps. Where the simulation of the best stays above
// the model, what single layers, or all that chose alike, would choose instead is tried, as long as it helps.
#include "compiler/solve/rank.h"

#include "compiler/lowering/lower.h"
#include "ir/base/clock.h"
#include "ir/simulate/simulate.h"

enum { SINGLES_MAX = 8, FINALISTS_MAX = 12, STEPS_MAX = 400000 };
enum { POOL_MAX = 8, NEIGHBOUR_LAYERS_MAX = 12, NEIGHBOUR_STEPS_MAX = 30000 };

static const double CLOSE_CALL = 1.5; // single configurations this near to the optimum take part
static const double CLEAR = 1e-3;     // by so much another must be faster
static const double ROOM = 1e-2;      // neighbours are tried where the simulation is so far above the model's optimum

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
    uint64_t steps, steps_max; // of the plans lowered so far, and after which no more are
    uint64_t latest;           // of the latest of them: the next one has about as many
    double deadline_s;         // 0: none
    bool timed_out;
} Final;

static bool may_simulate(Final *final)
{
    if (final->deadline_s > 0 && clock_now_s() > final->deadline_s)
        final->timed_out = true;
    return !final->timed_out && final->steps + final->latest <= final->steps_max;
}

// Lowers and simulates. False if it does not fit.
static bool run(Final *final, Mix mix, Finalist *out)
{
    const Spec *spec = final->work->spec;
    double bytes = 0;
    Plan *plan = lower(final->work, &mix, spec->plan.dispatch, &bytes);
    bool fits = plan && bytes <= spec->cluster.device.memory_bytes;
    final->latest = plan ? (uint64_t)plan->step_count * plan->micro_batches : 0;
    final->steps += final->latest;
    if (fits) {
        *out = (Finalist){.mix = mix, .memory_bytes = bytes};
        cost_mix(final->work, &mix, spec->plan.dispatch, &out->cost);
        out->simulated_s = simulated_iteration_s(plan);
    }
    plan_destroy(plan);
    return fits;
}

// Joins unless it does not fit, is there already, or enough steps were simulated.
static void enter(Final *final, Mix mix)
{
    if (!may_simulate(final))
        return;
    for (uint32_t i = 0; i < final->count; i++) {
        bool same = final->items[i].mix.prefetch == mix.prefetch;
        for (uint32_t k = 0; k < final->work->moe_count && same; k++)
            same = config_equal(&final->items[i].mix.configs[k], &mix.configs[k]);
        if (same)
            return;
    }
    if (final->count < FINALISTS_MAX && run(final, mix, &final->items[final->count]))
        final->count++;
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

static void add_to_pool(Config pool[POOL_MAX], uint32_t *count, const Config *config)
{
    for (uint32_t i = 0; i < *count; i++)
        if (config_equal(&pool[i], config))
            return;
    if (*count < POOL_MAX)
        pool[(*count)++] = *config;
}

// What the finalists chose for any layer, the fastest first.
static uint32_t fill_pool(const Final *final, const Finalist *best, Config pool[POOL_MAX])
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < final->work->moe_count; k++)
        add_to_pool(pool, &count, &best->mix.configs[k]);
    for (uint32_t i = 0; i < final->count; i++)
        for (uint32_t k = 0; k < final->work->moe_count; k++)
            add_to_pool(pool, &count, &final->items[i].mix.configs[k]);
    return count;
}

// The best with one layer, or with all that chose as that one does, choosing `to`.
static bool try_neighbour(Final *final, uint32_t layer, bool alone, const Config *to, Finalist *best)
{
    uint32_t count = final->work->moe_count;
    Config from = best->mix.configs[layer];
    if (config_equal(&from, to) || !may_simulate(final))
        return false;
    Config *configs = arena_alloc_array(final->arena, count, sizeof(*configs));
    for (uint32_t k = 0; k < count; k++) {
        bool changes = k == layer || (!alone && config_equal(&best->mix.configs[k], &from));
        configs[k] = changes ? *to : best->mix.configs[k];
    }
    Mix mix = {.configs = configs, .prefetch = best->mix.prefetch};
    Finalist neighbour;
    if (!run(final, mix, &neighbour) || neighbour.simulated_s >= best->simulated_s * (1 - CLEAR))
        return false;
    *best = neighbour;
    return true;
}

static uint32_t find_layer(const Finalist *best, uint32_t count, const Config *config)
{
    uint32_t layer = 0;
    while (layer < count && !config_equal(&best->mix.configs[layer], config))
        layer++;
    return layer;
}

static void try_neighbours(Final *final, double model_s, Finalist *best)
{
    Config pool[POOL_MAX];
    uint32_t count = final->work->moe_count, choices = fill_pool(final, best, pool);
    uint32_t layers = count <= NEIGHBOUR_LAYERS_MAX ? count : 0;
    bool better = true;
    final->steps = 0;
    final->steps_max = NEIGHBOUR_STEPS_MAX;
    while (better && may_simulate(final)) {
        better = false;
        for (uint32_t to = 0; to < choices && best->simulated_s > (1 + ROOM) * model_s; to++) {
            for (uint32_t from = 0; from < choices; from++) {
                uint32_t layer = find_layer(best, count, &pool[from]);
                better = (layer < count && try_neighbour(final, layer, false, &pool[to], best)) || better;
            }
            for (uint32_t k = 0; k < layers; k++)
                better = try_neighbour(final, k, true, &pool[to], best) || better;
        }
    }
}

// Has the plan so many steps that no second one could be simulated? Every layer has two in each pass, or more.
static bool is_too_large(const Workload *work)
{
    uint64_t passes = work->spec->plan.pass == PASS_TRAINING ? 2 : 1;
    return 2 * passes * work->layer_count * (uint64_t)work->spec->plan.micro_batches > STEPS_MAX / 2;
}

void rank_by_simulation(const Workload *work, const PlannerOptions *options, Solution *solution, Arena *arena)
{
    if (solution->status == STATUS_FORCED || work->moe_count == 0 || is_too_large(work))
        return;
    Final *final = arena_alloc(arena, sizeof(*final));
    final->work = work;
    final->arena = arena;
    final->steps_max = STEPS_MAX;
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
    Finalist best = final->items[0];
    for (uint32_t i = 1; i < final->count; i++)
        if (final->items[i].simulated_s < best.simulated_s * (1 - CLEAR))
            best = final->items[i];
    if (best.simulated_s > (1 + ROOM) * solution->objective_s)
        try_neighbours(final, solution->objective_s, &best);
    if (best.simulated_s >= final->items[0].simulated_s * (1 - CLEAR))
        return;
    solution->mix = best.mix;
    solution->cost = best.cost;
    solution->memory_bytes = best.memory_bytes;
    planner_settle(solution, best.cost.iteration_s);
    solution->ranked = true;
}
