// The iteration that the layers' costs add up to (design section 3, "several layers"): the chain of
// computation and exchanges, the gather queue that runs ahead, the busy time of every port.
#ifndef HEP_ITERATION_H
#define HEP_ITERATION_H

#include "compiler/cost.h"

typedef struct {
    double iteration_s;
    Traffic traffic[LEVELS_MAX];
    // Where the time of the chain went (seconds, sums over layers; they add up to iteration_s).
    double pre_expert_s, exchange_s, expert_s, gather_wait_s, other_s;
    double all_reduce_s; // training: dense gradients, after everything else
    double tail_s;       // training, included above: all_reduce_s and the optimizer
} IterationCost;

// The same configuration for every MoE layer.
void cost_iteration(const Workload *work, const Config *config, Dispatch dispatch, IterationCost *out);

#endif
