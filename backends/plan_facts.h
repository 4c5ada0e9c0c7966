// Figures several backends derive from a plan: message counts, per-layer times, totals. Pure.
#ifndef HEP_PLAN_FACTS_H
#define HEP_PLAN_FACTS_H

#include "ir/plan.h"

// GPU pairs that talk, all GPUs together, in one layer: by one exchange, by its gathers (HybridEP,
// Table VII).
typedef struct {
    double exchange, gather;
} PlanMessages;

PlanMessages plan_messages(const Plan *plan);
// Predicted seconds a layer's steps of a shape take alone, summed over one iteration.
double plan_layer_seconds(const Plan *plan, uint32_t layer, OpShape shape);
// (n - S) / (n - 1): the share of remote token data still sent as tokens; 0 with one worker.
double plan_token_share(const Plan *plan, const Choice *choice, uint32_t level);
double traffic_total(const Traffic *traffic);
// "dc=2 gpu=1" into `out`.
const char *plan_format_domain(const Plan *plan, const uint32_t domain[LEVELS_MAX], char *out, size_t size);

#endif
