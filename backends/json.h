// The plan as JSON, as `hepc --dump=json` prints it.
#ifndef HEP_JSON_H
#define HEP_JSON_H

#include "ir/base/text.h"
#include "ir/plan.h"

// `solve_s`: how long the planner took; negative when unknown (a plan read from a file): null.
// `plan_bytes`: size of the binary form.
void json_print(const Plan *plan, double solve_s, uint64_t plan_bytes, Text *out);

#endif
