// What a sweep (compiler/explain/sweep.h) found: as a table, as CSV, as JSON, as a chart.
#ifndef HEP_SWEEP_PRINT_H
#define HEP_SWEEP_PRINT_H

#include "compiler/explain/sweep.h"

void sweep_print_table(const Sweep *sweep, Text *out);
void sweep_print_csv(const Sweep *sweep, Text *out);
void sweep_print_json(const Sweep *sweep, Text *out);
void sweep_print_plot(const Sweep *sweep, Text *out); // SVG

#endif
