// Close calls: what the planner hands over is the fastest in simulation of the model's optimum and of the best single
// choices, and its figures are those of that plan.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/rank.h"
#include "ir/simulate/simulate.h"
#include "specs.h"

static const PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED};

static double uniform(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

static double simulated_s(const Workload *work, const Mix *mix)
{
    double bytes;
    Plan *plan = lower(work, mix, work->spec->plan.dispatch, &bytes);
    double time_s = simulated_iteration_s(plan);
    plan_destroy(plan);
    return time_s;
}

// Gathers and exchanges share a slow outer port, as where the model, which lets exchanges go first, is too hopeful.
static Spec random_spec(void)
{
    Spec spec = spec_one_tier(8, 1e9, 0, uniform(1e6, 3e7), uniform(1e5, 1e7), uniform(0, 5e-3));
    spec.cluster.level_count = 2;
    spec.cluster.levels[0] = (Level){"dc", 4, pow(10, uniform(8, 9.5)), 1e-4, 0};
    spec.cluster.levels[1] = (Level){"gpu", 4, pow(10, uniform(9, 10)), 1e-5, 0};
    spec.model.layers = 2 + (uint32_t)(rand() % 4);
    spec.model.expert_compute_s = uniform(0, 5e-3);
    return spec;
}

Test(rank, the_fastest_in_simulation_is_taken)
{
    srand(3);
    int ranked = 0, beaten = 0;
    for (int i = 0; i < 60; i++) {
        Spec spec = random_spec();
        Arena *arena = arena_create();
        const Workload *work = workload_derive(&spec, arena);
        Solution solution;
        bool infeasible;
        cr_assert(planner_solve(work, &options, arena, diag_create(arena), &solution, &infeasible));
        double model_s = solution.objective_s, before_s = simulated_s(work, &solution.mix);
        rank_by_simulation(work, &options, &solution, arena);
        double after_s = simulated_s(work, &solution.mix);
        cr_assert_leq(after_s, before_s);
        if (solution.ranked) {
            ranked++;
            cr_assert_lt(after_s, 0.999 * before_s, "instance %d: %g, not %g", i, after_s, before_s);
            IterationCost cost;
            cost_mix(work, &solution.mix, spec.plan.dispatch, &cost);
            cr_assert_eq(solution.objective_s, cost.iteration_s);
            cr_assert_eq(solution.cost.iteration_s, cost.iteration_s);
            cr_assert_geq(solution.objective_s, model_s * (1 - 1e-9));
            cr_assert(solution.status == STATUS_FEASIBLE || solution.gap <= 1e-9);
        }
        // No single choice is faster that the model takes for one of the eight best, and for a close call.
        for (size_t c = 0; c < solution.count; c++) {
            size_t better = 0;
            const Candidate *candidate = &solution.candidates[c];
            for (size_t d = 0; d < solution.count; d++)
                better += solution.candidates[d].cost.iteration_s < candidate->cost.iteration_s;
            if (better >= 8 || candidate->cost.iteration_s > 1.5 * model_s)
                continue;
            Mix mix = mix_uniform(work, &candidate->config, PREFETCH_UNLIMITED, arena);
            double single_s = simulated_s(work, &mix);
            beaten += single_s > 1.001 * after_s;
            cr_assert_geq(single_s, after_s * (1 - 1.001e-3), "instance %d: choice %zu takes %g, what was taken %g", i,
                          c, single_s, after_s);
        }
        arena_destroy(arena);
    }
    cr_assert_geq(ranked, 5, "%d of 60 were close calls", ranked);
    cr_assert_geq(beaten, 60);
}
