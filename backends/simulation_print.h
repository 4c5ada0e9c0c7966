// What a simulated run shows a person and a program: `hepc --simulate [--json]`.
#ifndef HEP_SIMULATION_PRINT_H
#define HEP_SIMULATION_PRINT_H

#include "ir/base/text.h"
#include "ir/simulate/simulate.h"

// The workers of a class: "paris, tokyo and 3 more"; "all" where there is one class.
const char *simulation_class_name(const Plan *plan, const Simulation *simulation, uint32_t class, Arena *arena);
// What is under way on a set of streams: "tokens", "experts and gradients".
const char *simulation_carried_name(const Plan *plan, unsigned streams, Arena *arena);

// Iteration time, exposed and hidden communication, critical path by op and its longest steps, busy shares of ports
// and streams, by class of workers where they differ.
void simulation_print(const Plan *plan, const Simulation *simulation, Text *out);
// The same, the critical path step by step. Times in seconds.
void simulation_print_json(const Plan *plan, const Simulation *simulation, Text *out);

#endif
