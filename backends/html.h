// The plan as a report: one self-contained HTML file that needs no network.
#ifndef HEP_HTML_H
#define HEP_HTML_H

#include "ir/base/text.h"
#include "ir/plan.h"

// Comparison, choices, where the time goes, timeline of the simulated schedule, cluster with domains and
// traffic, memory. Complete without scripts; with them the timeline zooms and shows what is under the pointer.
// `reasons`: sections in HTML that say why this plan was chosen; NULL where its source is not at hand.
void html_print(const Plan *plan, const char *reasons, Text *out);

// For those who write such sections: text with the characters that HTML gives a meaning replaced.
void html_escape(Text *out, const char *text);

#endif
