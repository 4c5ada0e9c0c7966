// Many layers alike, one after the other, in the time of a few: soon all parts of the clock advance by the same from
// layer to layer, and what lies between can be added at once.
#ifndef HEP_STEADY_H
#define HEP_STEADY_H

#include "compiler/model/iteration.h"

// clock_forward or clock_backward.
typedef void (*PassLayer)(const Workload *work, const ClockedLayer *of, Clock *clock, IterationCost *out);

// Layers that `pass` cannot tell apart. The result is that of `count` passes, but for rounding.
void steady_pass(PassLayer pass, const Workload *work, const ClockedLayer *of, uint32_t count, Clock *clock,
                 IterationCost *out);

// Adds so many times what was spent.
void steady_add_spent(IterationCost *out, const IterationCost *spent, double times);

#endif
