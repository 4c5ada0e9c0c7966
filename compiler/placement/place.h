// Planning where workers of the outermost level differ: finds the placement for every domain size that could win,
// takes the best, plans on it, and says how far from the optimum over all placements that can be.
#ifndef HEP_PLACE_H
#define HEP_PLACE_H

#include "compiler/placement/placement.h"
#include "compiler/solve/planner.h"

// As planner_solve, with every worker placed: *placed is the workload whose cluster lists ports and links by
// position, which the lowering and everything after it use; `work` itself where the workers are alike.
bool place_and_solve(const Workload *work, const PlannerOptions *options, Arena *arena, Diag *diag,
                     const Workload **placed, Solution *solution, bool *infeasible) MUST_CHECK;

// The placements the candidates need, domain size by domain size: the cheapest of them is first, and
// *bound_s is what no placement with any of the candidates stays below.
size_t place_workers(const Workload *work, const Candidate *candidates, size_t count,
                     const PlacementEffort *effort, Arena *arena, Placement **out, double *bound_s);

#endif
