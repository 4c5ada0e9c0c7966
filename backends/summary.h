// The plan for people: what was planned, how it compares, what crosses which link.
#ifndef HEP_SUMMARY_H
#define HEP_SUMMARY_H

#include "ir/base/text.h"
#include "ir/plan.h"

// What was decided and why; then the strategies: predicted time, speed-up over the best baseline, traffic of each
// level, memory.
void summary_print_comparison(const Plan *plan, Text *out);
// Cluster, model, choice per layer, the comparison, traffic by kind and level, steps and buffers.
void summary_print(const Plan *plan, uint64_t plan_bytes, Text *out);

#endif
