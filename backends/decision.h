// What a plan decided and why, as one sentence, from the plan alone: for tables, reports and JSON alike.
#ifndef HEP_DECISION_H
#define HEP_DECISION_H

#include "ir/base/text.h"
#include "ir/plan.h"

// "Experts are gathered across dc; ...: 1.27x as fast as deduplicated EP, the best baseline, because ..." Ends with a
// full stop, without a newline. Appends nothing where a plan has no MoE layer.
void decision_append(const Plan *plan, Text *out);

#endif
