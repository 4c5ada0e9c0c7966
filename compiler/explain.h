// Why this plan: what binds, the runner-up, and at which bandwidth of each level the choice flips.
#ifndef HEP_EXPLAIN_H
#define HEP_EXPLAIN_H

#include "compiler/planner.h"

void explain_print(const Workload *work, const Solution *solution, Arena *arena, Text *out);

#endif
