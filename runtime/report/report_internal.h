// What the table and the JSON of a report share. Included by report*.c alone.
#ifndef HEP_REPORT_INTERNAL_H
#define HEP_REPORT_INTERNAL_H

#include "runtime/report/report.h"

double report_tokens_per_s(const Report *report); // of all ranks and micro-batches, in the median iteration; or 0
int64_t report_slow_rank(const Report *report);   // or -1
int64_t report_slow_worker(const Report *report); // or -1

#endif
