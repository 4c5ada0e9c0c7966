// What to do about a plan that does not fit: where the memory goes, and which changes were computed to help. Figures
// come from lowering the changed input, so that what is advised fits when it is typed in.
#ifndef HEP_ADVICE_H
#define HEP_ADVICE_H

#include "compiler/solve/planner.h"

// Help for the error reported last, that `smallest` does not fit the device.
void advise_memory(const Workload *work, const Candidate *smallest, Diag *diag);

#endif
