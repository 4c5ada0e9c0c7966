// `hepc --passes`: what each pass (ir/passes.h) asks for, gives and does to this schedule.
#ifndef HEP_PASSES_PRINT_H
#define HEP_PASSES_PRINT_H

#include "compiler/compile.h"
#include "ir/base/text.h"

// The schedule with no pass, then with one pass after another: waits, memory and simulated iteration.
void passes_print(const Compilation *compilation, Text *out);

#endif
