// How two plans differ: settings, choices, predicted and simulated figures, traffic, and the steps of
// the one that the other has not, has otherwise, or has elsewhere in its stream. Compared once, printed
// twice: as text for people, as JSON for programs.
#ifndef HEP_DIFF_H
#define HEP_DIFF_H

#include "ir/base/text.h"
#include "ir/plan.h"

typedef struct Diff Diff;

// `names` is what the plans are called, such as their paths. Both plans must outlive the result, which
// is owned by `arena`.
const Diff *diff_plans(const Plan *const plans[2], const char *const names[2], Arena *arena);
// The same plan, byte for byte in its binary form.
bool diff_is_empty(const Diff *diff);
void diff_print(const Diff *diff, Text *out);
void diff_print_json(const Diff *diff, Text *out);

#endif
