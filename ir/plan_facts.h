// Figures several backends derive from a plan: message counts, per-layer times, totals. Pure.
#ifndef HEP_PLAN_FACTS_H
#define HEP_PLAN_FACTS_H

#include "ir/base/text.h"
#include "ir/plan.h"

// GPU pairs that talk, all GPUs together, in one layer: by one exchange, by its gathers (HybridEP,
// Table VII).
typedef struct {
    double exchange, gather;
} PlanMessages;

PlanMessages plan_messages(const Plan *plan);
// Predicted seconds that every layer's steps of a shape take alone, summed over one iteration: [layers].
double *plan_layers_seconds(const Plan *plan, OpShape shape, Arena *arena);
// Whether experts are gathered at all in the layers of this choice.
bool plan_gathers(const Plan *plan, const Choice *choice);
// (n - S) / (n - 1): the share of remote token data still sent as tokens; 0 with one worker.
double plan_token_share(const Plan *plan, const Choice *choice, uint32_t level);
// Kinds of traffic: what tables call them, their key in JSON, the mark of their bar in the report. Those of dense
// weights, which forward passes lack, come last.
typedef struct {
    const char *title, *key;
    char mark;
    size_t offset;
} TrafficKind;

extern const TrafficKind traffic_kinds[];
size_t traffic_kind_count(const Plan *plan);
double traffic_of_kind(const Traffic *traffic, size_t kind);
double traffic_total(const Traffic *traffic);
double traffic_fill(const Traffic *traffic); // of the bytes of rows, what is rows: 1 where exchanges are counted
// What people call a strategy: "EP, deduplicated" in a table, "deduplicated EP" or "EP inside each dc" in a sentence.
const char *plan_strategy_title(const Strategy *strategy, bool chosen);
void plan_append_strategy(const Plan *plan, const Strategy *strategy, Text *out);
const Strategy *plan_find_baseline(const Plan *plan, const char *name); // NULL if there is none
// The fastest that fits of what people run without a planner: plain EP, deduplicated EP and, when training, EP inside
// each worker of the outermost level; NULL if none fits. What a plan is worth is its speed-up over this one.
const Strategy *plan_best_baseline(const Plan *plan);
double plan_speed_up(const Plan *plan, const Strategy *over); // 0 where one of the two is not known
// Tokens that all GPUs together pass per second, when an iteration takes so long; and the model FLOPs of these tokens
// over what the GPUs could compute at their peak (docs/cost-model.md, "Tokens per second"). 0 where not known:
// workloads given by volumes have no tokens.
double plan_tokens_per_s(const Plan *plan, double iteration_s);
double plan_flop_utilisation(const Plan *plan, double iteration_s);
// "1/50": what packets are of the dense bytes.
const char *format_packing(char out[FORMAT_MAX], Packing packing, Dtype dtype);
// ", rows in fp8", or which rows in what where they differ; nothing where all travel as activations are.
void plan_append_tokens(const Plan *plan, Text *out);
// What a way is called, in keys and words: "dispatch", "combine_gradient".
const char *token_way_name(TokenWay way);
// One past the last of the choices from `first` on that are all alike.
uint32_t plan_choice_run_end(const Plan *plan, uint32_t first);
// Bytes one worker of `level` sends through its port in the chosen strategy: what crosses a level also
// crosses the ports inside.
// Adds what iterations in which packets hold whole values send beyond that, times `share`, to traffic [levels].
void plan_add_whole_traffic(const Plan *plan, double share, Traffic traffic[LEVELS_MAX]);
double plan_port_bytes(const Plan *plan, uint32_t level);
// The domain column of a comparison: "per layer" for the plan itself where its layers differ.
// What becomes of gathered weights between forward and backward pass, in words: "kept", "gathered again", "kept over
// 'dc', gathered again inside".
const char *plan_format_gathered(const Plan *plan, bool regather, uint32_t once, char *out, size_t size);
// And of their gradients, where these have a boundary of their own: ", gradients return in every lap", ", gradients
// return inside 'dc' in every lap"; else nothing.
const char *plan_format_returned(const Plan *plan, bool apart, uint32_t once, char *out, size_t size);
const char *plan_strategy_domain(const Plan *plan, const Strategy *strategy, bool chosen, char *out, size_t size);
enum { DOMAIN_TEXT_MAX = 640 }; // of eight levels with names as long as the language allows
// "dc=2 gpu=1" into `out`.
const char *plan_format_domain(const Plan *plan, const uint32_t domain[LEVELS_MAX], char *out, size_t size);

#endif
