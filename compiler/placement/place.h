// Planning where workers of the outermost level differ: finds the placement for every domain size that could win,
// takes the best, plans on it, and says how far from the optimum over all placements that can be.
#ifndef HEP_PLACE_H
#define HEP_PLACE_H

#include "compiler/placement/placement.h"
#include "compiler/solve/planner.h"

// As planner_solve, with every worker placed: *work becomes the workload whose cluster lists ports and links by
// position, which the lowering and everything after it use; it stays where the workers are alike.
bool place_and_solve(const Workload **work, const PlannerOptions *options, Arena *arena, Diag *diag, Solution *solution,
                     bool *infeasible) MUST_CHECK;

// The placements the candidates need, domain size by domain size.
typedef struct {
    Placement *placements; // the cheapest first
    size_t count;
    double bound_s; // what no placement with any of the candidates stays below
} Placements;

Placements place_workers(const Workload *work, const Candidate *candidates, size_t count, const PlacementEffort *effort,
                         Arena *arena);

#endif
