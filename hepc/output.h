// What hepc prints and writes: to the file of -o or to standard output. Functions that return an int return an exit
// code and have said what went wrong.
#ifndef HEP_OUTPUT_H
#define HEP_OUTPUT_H

#include "hepc/options.h"

enum { INPUT_LIMIT = 256 << 20 }; // bytes of a file

// Says on standard error that the file failed and why; FAULT_IO.
int output_complain(const char *path, const char *reason);
void output_diagnostics(const Diag *diag);

// Writes the text and frees it.
int output_text(const Options *options, Text *text);

void output_model(const Compilation *compilation, Text *out);
int output_milp(const Options *options, const Compilation *compilation);

// The plan in the form asked for. solve_s: negative for a plan as input; `reasons`: for the report, NULL for a plan as
// input, which does not hold them; `compare`: print the comparison where nothing else is printed.
int output_plan(const Options *options, const Plan *plan, double solve_s, const char *reasons, bool compare);

#endif
