// The planner's choice as a staged problem: one stage per MoE layer, with the dense layers before it (the last one
// also with those after it), one option per configuration, each a max-plus linear map of the clock (iteration.h),
// forward and backward, and a share of the memory. Derived from the cost model's own recursion, so that no formula is
// written twice.
#ifndef HEP_STAGES_H
#define HEP_STAGES_H

#include "compiler/model/iteration.h"

enum { STAGE_EDGES_MAX = 256, STAGE_CLOCK_MAX = CLOCK_SIZE };
// With more stages than this, the search gets no more work: an answer in seconds, with its gap, is worth more than a
// proof in minutes.
enum { STAGES_MANY = 256 };

// An entry of the maps that may be finite: to = max(to, from + weight).
typedef struct {
    uint8_t to, from;
} StageEdge;

typedef struct {
    const double *forward, *backward; // [edges]: weights, seconds; -INFINITY where absent
    double memory;                    // what it adds to the memory of a rank, bytes
    uint32_t candidate;               // which configuration it is: the caller's index
} StageOption;

typedef struct {
    const StageOption *options;
    uint32_t option_count;
} PlanStage;

typedef struct {
    Arena *arena;
    uint32_t clock_count; // components in use; 0 is the chain
    uint32_t forward_count, backward_count;
    StageEdge forward[STAGE_EDGES_MAX], backward[STAGE_EDGES_MAX];
    uint32_t stage_count;
    PlanStage *stages;
    double loss_s;                 // after the last stage
    double begin[STAGE_CLOCK_MAX]; // of the forward pass
    double turn[STAGE_CLOCK_MAX];  // of the backward pass, counted from the end of the forward pass
    double end[STAGE_CLOCK_MAX];   // what follows each component at the end; -INFINITY: nothing waits for it
    bool training;
    double memory; // that the options may take together
} StageProblem;

// A configuration that every MoE layer may choose.
typedef struct {
    Config config;
    double memory;  // what it adds per layer
    uint32_t index; // the caller's
} StageCandidate;

StageProblem *stages_build(const Workload *work, const StageCandidate *candidates, uint32_t count, uint32_t prefetch,
                           double memory_free, Arena *arena);

// The iteration of a choice: option index per stage. Equals cost_mix to rounding.
double stages_evaluate(const StageProblem *problem, const uint32_t *choice);
double stages_memory(const StageProblem *problem, const uint32_t *choice);

// One step of the recursions, also used by the search. `functional[i]` is the time that follows
// component i until the iteration ends.
void stages_forward(const StageProblem *problem, const StageOption *option, const double in[STAGE_CLOCK_MAX],
                    double out[STAGE_CLOCK_MAX]);
void stages_functional(const StageProblem *problem, const StageOption *option, const double in[STAGE_CLOCK_MAX],
                       double out[STAGE_CLOCK_MAX]);
void stages_begin_functional(const StageProblem *problem, double out[STAGE_CLOCK_MAX]);

#endif
