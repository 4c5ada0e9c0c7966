// How much of migration shows: experts travel on a stream of their own, ahead of the layers that need them, and cost an
// iteration only what computation waits for them.
#ifndef HEP_EXPOSURE_H
#define HEP_EXPOSURE_H

#include <cjson/cJSON.h>

#include "ir/base/text.h"
#include "runtime/engine/engine.h"

// Adds to waited_s [plan->step_count], for every step of the compute stream, the seconds between the moment at which
// all else that it waits for was done and the end of what it awaits of the migrate stream. `times` of one rank's
// iteration.
void exposure_add(const Plan *plan, const StepTime *times, double *waited_s);

// A line for people and an object for programs, from the sums over steps of one iteration: step_s of the steps
// themselves. Nothing where the plan migrates no experts.
void exposure_print(const Plan *plan, const double *step_s, const double *waited_s, Text *out);
void exposure_add_json(const Plan *plan, const double *step_s, const double *waited_s, cJSON *report);

#endif
