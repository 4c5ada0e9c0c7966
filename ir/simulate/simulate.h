// The schedule simulator: event-driven execution of a plan in predicted time. Ranks run the same program, so one
// rank stands for all of its class (classes.h): on equal links for all ranks, otherwise for those of workers that
// see the same ports and links. Concurrent transfers share ports and links max-min fairly, by flows (one per peer;
// sharing.h). A flow begins when both its ends have reached the step; a step ends when the last of its flows has
// arrived, a latency after its last byte. Reads the plan, changes nothing.
#ifndef HEP_SIMULATE_H
#define HEP_SIMULATE_H

#include "ir/plan.h"

enum { STREAM_SETS = 1 << (STREAM_SYNC + 1) }; // sets of what ops' own streams carry, one bit each

typedef struct {
    double begin_s, end_s;
    int32_t cause;       // the step of the same class whose end let this one begin; NONE if it began at once
    uint32_t late_class; // that reached this step last of all whose flows it waited for; its own class if none did
} SimulatedStep;

// A rank of one class of workers.
typedef struct {
    uint32_t first_worker, workers; // of the outermost level: position of the first, and how many
    double end_s;                   // when its last step ends
    SimulatedStep *steps;           // [plan->step_count]
    double stream_busy_s[STREAM_COUNT];
    double port_busy_s[LEVELS_MAX];     // bytes that passed a port of the level over its bandwidth
    double hidden_s, exposed_s;         // time with communication under way: beside computation, alone
    double exposed_with_s[STREAM_SETS]; // the exposed time, by the set of what is under way
} SimulatedClass;

typedef struct {
    double iteration_s;
    uint32_t class_count;
    SimulatedClass *classes;
    const SimulatedClass *last; // the class that ends last: what one rank's view shows
    const uint32_t *class_of;   // of each worker of the outermost level; NULL where there is one class
    bool merged;                // too many kinds of workers: the slowest port and link stand for all
} Simulation;

// Requires a plan within its limits whose `after` edges point backwards. Owned by `arena`.
// Unrolled, where an iteration has several micro-batches (unroll.h): every execution of a step is one.
const Simulation *simulate(const Plan *plan, Arena *arena);

// Seconds of an iteration of a plan as it is written.
double simulated_iteration_s(const Plan *plan);

#endif
