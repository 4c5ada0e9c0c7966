// The schedule simulator: event-driven execution of a plan in predicted time. Every rank of a plan
// runs the same program on equal links, so one rank's streams stand for all; concurrent transfers
// share each port max-min fairly, by flows (one per peer). Reads the plan, changes nothing.
#ifndef HEP_SIMULATE_H
#define HEP_SIMULATE_H

#include "ir/base/text.h"
#include "ir/plan.h"

typedef struct {
    double begin_s, end_s;
    int32_t cause; // the step whose end let this one begin; NONE if it began at once
} SimulatedStep;

typedef struct {
    double iteration_s;
    SimulatedStep *steps;              // [plan->step_count]
    double stream_busy_s[STREAM_COUNT];
    double port_busy_s[LEVELS_MAX];    // bytes that passed a port of the level over its bandwidth
    double hidden_s, exposed_s;        // time with communication under way: beside computation, alone
} Simulation;

// Requires a plan within its limits whose `after` edges point backwards. Owned by `arena`.
const Simulation *simulate(const Plan *plan, Arena *arena);
// Iteration time, critical path by op, busy shares of ports and streams.
void simulation_print(const Plan *plan, const Simulation *simulation, Text *out);

#endif
