// The chain of steps that a simulated iteration's time is made of: each began when the one before let it, and the
// last ends the iteration. Across classes of workers it follows the class that reached a collective last.
#ifndef HEP_CRITICAL_PATH_H
#define HEP_CRITICAL_PATH_H

#include "ir/simulate/simulate.h"

// A stretch of the path: a step from the moment its last participant reached it.
typedef struct {
    uint32_t step, class;
    double begin_s, end_s;
} PathStep;

// All steps of the path that are of one op at one level.
typedef struct {
    const OpInfo *info;
    int32_t level; // NONE for computation
    uint32_t steps;
    double time_s;
} PathPart;

// First step first; returns how many.
uint32_t critical_path(const Plan *plan, const Simulation *simulation, Arena *arena, PathStep **path);
// The path added up, longest part first; returns how many parts.
uint32_t critical_path_parts(const Plan *plan, const PathStep path[], uint32_t length, Arena *arena, PathPart **parts);

#endif
