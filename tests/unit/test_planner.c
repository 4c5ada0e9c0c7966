// The programme against enumeration: what GLPK proves optimal must be what pricing every
// configuration finds, memory limit included; and GLPK's failures must stay inside milp.c.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/planner.h"
#include "specs.h"

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
    return spec;
}

Test(planner, glpk_agrees_with_enumeration)
{
    srand(3);
    for (int i = 0; i < 120; i++) {
        Spec spec = random_spec();
        Arena *arena = arena_create();
        Diag *diag = diag_create(arena);
        Workload *work = workload_derive(&spec, arena);
        Candidate *candidates;
        size_t count;
        cr_assert(planner_enumerate(work, arena, diag, &candidates, &count));
        bool binding = i % 3 == 0;
        for (size_t c = 0; binding && c < count; c++) {
            candidates[c].memory_bytes = uniform(0.2, 1.6) * spec.cluster.device.memory_bytes;
            candidates[c].fits = candidates[c].memory_bytes <= spec.cluster.device.memory_bytes;
        }
        size_t best = planner_best(candidates, count, SIZE_MAX);
        double unit_s;
        Milp *milp = planner_formulate(work, candidates, count, &unit_s);
        MilpResult result = milp_solve(milp);
        milp_destroy(milp);
        if (best == count) {
            cr_assert_eq(result.status, MILP_INFEASIBLE);
        } else {
            double expected = candidates[best].cost.iteration_s;
            cr_assert_eq(result.status, MILP_OPTIMAL, "instance %d: status %d %s", i, result.status,
                         result.error ? result.error : "");
            cr_assert(fabs(result.objective * unit_s - expected) <= 1e-6 * expected, "instance %d: %.9g, not %.9g", i,
                      result.objective * unit_s, expected);
        }
        arena_destroy(arena);
    }
}

Test(planner, solve_picks_the_published_domain)
{
    Spec spec = spec_one_tier(8, 16e9, 0, 8e6, 2.35e6, 0.49e-3);
    Arena *arena = arena_create();
    Solution solution;
    bool infeasible;
    cr_assert(planner_solve(workload_derive(&spec, arena), arena, diag_create(arena), &solution, &infeasible));
    cr_assert_eq(solution.candidates[solution.chosen].config.domain[0], 4);
    cr_assert_eq(solution.status, STATUS_OPTIMAL);
    cr_assert_str_eq(solution.solver, milp_solver_name());
    arena_destroy(arena);
}

Test(planner, forced_domain_is_taken_and_said_so)
{
    Spec spec = spec_one_tier(8, 16e9, 0, 8e6, 2.35e6, 0.49e-3);
    spec.plan.domain_wish = DOMAIN_FORCED;
    spec.plan.domain[0] = 8;
    Arena *arena = arena_create();
    Solution solution;
    bool infeasible;
    cr_assert(planner_solve(workload_derive(&spec, arena), arena, diag_create(arena), &solution, &infeasible));
    cr_assert_eq(solution.candidates[solution.chosen].config.domain[0], 8);
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
    cr_assert_not(planner_solve(workload_derive(&spec, arena), arena, diag, &solution, &infeasible));
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
    cr_assert(planner_solve(workload_derive(&spec, arena), arena, diag_create(arena), &solution, &infeasible));
    cr_assert_eq(solution.candidates[solution.chosen].config.domain[0], 1);
    arena_destroy(arena);
}

Test(milp, prints_cplex_lp_with_names)
{
    Spec spec = spec_one_tier(8, 16e9, 0, 8e6, 2.35e6, 0.49e-3);
    Arena *arena = arena_create();
    Candidate *candidates;
    size_t count;
    Workload *work = workload_derive(&spec, arena);
    cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
    double unit_s;
    Milp *milp = planner_formulate(work, candidates, count, &unit_s);
    Text text = {0};
    const char *error;
    cr_assert(milp_print(milp, &text, &error));
    cr_assert_not_null(strstr(text.data, "Minimize"));
    cr_assert_not_null(strstr(text.data, "use_gpu4"));
    cr_assert_not_null(strstr(text.data, "one_choice"));
    text_free(&text);
    milp_destroy(milp);
    arena_destroy(arena);
}

Test(milp, errors_inside_glpk_become_a_status)
{
    Milp *milp = milp_create("broken");
    int x = milp_add_binary(milp, "x", 1);
    milp_row_begin(milp, "row");
    milp_row_term(milp, x + 5, 1); // a column that does not exist: GLPK calls its error hook
    milp_row_end_at_least(milp, NAN);
    MilpResult result = milp_solve(milp);
    cr_assert_eq(result.status, MILP_FAILED);
    cr_assert_not_null(result.error);
    milp_destroy(milp);
}
