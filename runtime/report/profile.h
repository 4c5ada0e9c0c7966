// A profile: what a run measured that a later compilation takes in place of its own estimates. Times of the steps that
// compute, and how often every expert of every layer was chosen. `hepc --profile` reads it; the keys are documented in
// compiler/frontend/profile.c.
#ifndef HEP_PROFILE_H
#define HEP_PROFILE_H

#include "runtime/report/report.h"

// The result must have counted choices.
void profile_print(const Report *report, Text *out);

#endif
