// Who holds what, for programs: the plan's placement of experts and its groups as lists of ranks, as `hepc
// --emit=layout` writes them. docs/layout.schema.json describes the form.
#ifndef HEP_LAYOUT_H
#define HEP_LAYOUT_H

#include "ir/base/text.h"
#include "ir/plan.h"

// A change that readers of a version do not expect takes the next one: docs/layout.schema.json, which holds it.
enum { LAYOUT_VERSION = 1 };

void layout_print(const Plan *plan, Text *out);

#endif
