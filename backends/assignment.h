// Who stands where on the outermost level, by name: the plan's domains, for the summary and for programs.
#ifndef HEP_ASSIGNMENT_H
#define HEP_ASSIGNMENT_H

#include <cjson/cJSON.h>

#include "ir/base/text.h"
#include "ir/plan.h"

// The domains of every size that layers use, one a line, after a heading. Nothing where workers are alike.
void assignment_print(const Plan *plan, Text *out);

// One line for the comparison table, where workers are few and form domains of several.
void assignment_print_line(const Plan *plan, Text *out);

// Adds `assignment`: workers by position, and domains by size. Nothing where workers are alike.
void assignment_add_json(cJSON *root, const Plan *plan);

#endif
