// The plan as a report: one self-contained HTML file that needs no network.
#ifndef HEP_HTML_H
#define HEP_HTML_H

#include "ir/base/text.h"
#include "ir/plan.h"

// Comparison, timeline of the simulated schedule, cluster with domains and traffic, memory.
// Complete without scripts; with them the timeline zooms and shows what is under the pointer.
void html_print(const Plan *plan, Text *out);

#endif
