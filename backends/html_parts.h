// The parts of the report, one file each, and what they share. Private to the HTML backend.
#ifndef HEP_HTML_PARTS_H
#define HEP_HTML_PARTS_H

#include "backends/simulate.h"
#include "ir/base/text.h"
#include "ir/plan.h"

// backends/report.css and report.js, embedded by CMake.
extern const char report_css[], report_js[];

void html_escape(Text *out, const char *text);
// The layers of the run of equal choices that begins at `first`: "layer 3", "layers 3 to 60".
void html_layers_print(const Plan *plan, uint32_t first, Text *out);
void html_timeline_print(const Plan *plan, const Simulation *simulation, Arena *arena, Text *out);
void html_cluster_print(const Plan *plan, Text *out);

#endif
