// What sums over the members of a group (runtime/comm/comm_sums.h) receive into.
#ifndef HEP_SUMS_H
#define HEP_SUMS_H

#include "ir/plan.h"

// Bytes of scratch for a tensor that is scattered into shards of `shard` elements, and for one that is reduced.
uint64_t sums_scatter_scratch(uint32_t members, uint64_t shard, Dtype dtype);
uint64_t sums_reduce_scratch(uint32_t members, uint64_t elements, Dtype dtype);

enum { SUM_STREAMS = 2 }; // streams that sum: which of them a step runs on

uint32_t sums_stream(const Plan *plan, const Step *step);

// Where the summands of a scatter begin in the scratch: after those of the run before it (plan_run_next).
uint64_t sums_run_offset(const Plan *plan, uint32_t step);

typedef struct {
    uint64_t scratch[SUM_STREAMS]; // of the largest sum of each stream, or run, bytes
    uint32_t members_most;         // of their groups
    uint32_t steps;                // that sum
} PlanSums;

PlanSums sums_of_plan(const Plan *plan);

#endif
