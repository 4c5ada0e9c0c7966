// Do a plan's predictions still follow from its cluster? They are the compiler's: a bandwidth or latency that was
// edited in the text form leaves them as they were. Times of transfers follow from the plan alone and are compared;
// those of computations do not.
#ifndef HEP_PREDICTIONS_H
#define HEP_PREDICTIONS_H

#include "ir/base/diag.h"
#include "ir/plan.h"

// Seconds that a gather, a returned gradient or an exchange of the forward pass takes alone on the plan's links; NAN
// for other steps.
double predictions_transfer_s(const Plan *plan, const Step *step);
// Warns, once, where a step was predicted otherwise. Requires a verified plan.
void predictions_check(const char *name, const Plan *plan, Diag *diag);

#endif
