// The planner: chooses domain sizes (one choice for all MoE layers) under the memory limit, by a
// MILP that GLPK solves, and evaluates the strategies every plan is compared with.
#ifndef HEP_PLANNER_H
#define HEP_PLANNER_H

#include "compiler/iteration.h"
#include "compiler/milp.h"

// A configuration with its price.
typedef struct {
    Config config;
    IterationCost cost;
    double memory_bytes; // arena of one rank
    bool fits;
} Candidate;

enum { BASELINE_EP, BASELINE_EP_DEDUP, BASELINE_GATHER, BASELINE_COUNT };

typedef struct {
    Candidate *candidates; // all configurations of the dispatch asked for, canonical order: fewest
    size_t count;          // shards held first, then by domain sizes
    size_t chosen;
    size_t runner_up;      // best other one that fits, or == chosen if there is none
    Candidate baselines[BASELINE_COUNT];
    const char *solver;
    SolveStatus status;
    double objective_s, gap, solve_s;
} Solution;

extern const char *const baseline_names[BASELINE_COUNT];
Dispatch baseline_dispatch(int baseline, const Spec *spec);

// Every point of the choice, priced. Reports to `diag` when there are too many.
bool planner_enumerate(const Workload *work, Arena *arena, Diag *diag, Candidate **candidates,
                       size_t *count) MUST_CHECK;
// Fills everything. False after reporting; *infeasible tells whether it is because nothing fits.
bool planner_solve(const Workload *work, Arena *arena, Diag *diag, Solution *solution, bool *infeasible) MUST_CHECK;
// The programme planner_solve gives to GLPK, over the given candidates.
Milp *planner_formulate(const Workload *work, const Candidate *candidates, size_t count, double *time_unit_s);

// Index of the cheapest candidate that fits; ties go to the first. `count` when none fits.
size_t planner_best(const Candidate *candidates, size_t count, size_t except);
// "dc=2 gpu=1" into `out`.
const char *config_format(const Cluster *cluster, const Config *config, char *out, size_t size);

#endif
