// What hepc prints and writes: to the file of -o or to standard output.
#ifndef HEP_OUTPUT_H
#define HEP_OUTPUT_H

#include "hepc/options.h"

enum { INPUT_LIMIT = 256 << 20 }; // bytes of a file

// Writes the text and frees it.
bool output_text(const Options *options, Text *text, Fault *fault) MUST_CHECK;

void output_model(const Compilation *compilation, Text *out);
bool output_milp(const Options *options, const Compilation *compilation, Fault *fault) MUST_CHECK;

// What is beside a plan.
typedef struct {
    double solve_s;      // negative for a plan as input
    const char *reasons; // for the report; NULL for a plan as input, which does not hold them
    bool compare;        // print the comparison where nothing else is printed
} PlanContext;

// The plan in the form asked for.
bool output_plan(const Options *options, const Plan *plan, const PlanContext *context, Fault *fault) MUST_CHECK;

#endif
