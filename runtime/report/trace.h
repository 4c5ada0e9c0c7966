// The last iteration of a run as Chrome trace events: one process per rank, one track per stream,
// with the names and arguments of hepc's simulated trace. Which ranks: a list as users write it.
#ifndef HEP_RUN_TRACE_H
#define HEP_RUN_TRACE_H

#include "ir/base/text.h"
#include "runtime/job/job.h"

enum { TRACE_RANKS_MAX = 1024, TRACE_RANKS_DEFAULT = 32 };

// "0-3,8": ranks below rank_count, each once, ascending. Without `text` the first TRACE_RANKS_DEFAULT
// there are. `ranks` has space for TRACE_RANKS_MAX.
bool trace_parse_ranks(const char *text, uint64_t rank_count, uint64_t *ranks, uint32_t *count,
                       Fault *fault) MUST_CHECK;

// Requires a result with a trace of options->trace_ranks.
void trace_print_run(const Plan *plan, const JobOptions *options, const JobResult *result, Text *out);

#endif
