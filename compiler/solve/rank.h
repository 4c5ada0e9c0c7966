// The last word on close calls: the cost model's best choices are lowered and simulated, and the one
// that the simulation finds fastest is taken. The simulator shares ports between what runs at the same
// time, which the model does only in sum; where the two disagree the simulator is right.
#ifndef HEP_RANK_H
#define HEP_RANK_H

#include "compiler/solve/planner.h"

// May replace the mix, its cost and objective, gap and status. Does nothing to a forced choice.
void rank_by_simulation(const Workload *work, const PlannerOptions *options, Solution *solution, Arena *arena);

#endif
