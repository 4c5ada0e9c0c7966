// The schedule as a graph for Graphviz: hepc --dump=dot FILE | dot -Tsvg > schedule.svg
#ifndef HEP_DOT_H
#define HEP_DOT_H

#include "ir/base/text.h"
#include "ir/plan.h"

void dot_print(const Plan *plan, Text *out);

#endif
