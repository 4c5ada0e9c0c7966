// The choice where an iteration has several laps (ir/unroll.h): the best single configuration that fits, or two of
// them, a faster one for as many layers as memory allows. Private to planner.c.
#ifndef HEP_SOLVE_LAPS_H
#define HEP_SOLVE_LAPS_H

#include "compiler/solve/mix.h"

// Requires the best single choice. Sets mix, objective, bound, memory and the solver's name.
void laps_choose(Choosing *choosing);

#endif
