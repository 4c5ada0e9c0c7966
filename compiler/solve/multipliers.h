// Lower bounds on a staged problem. The iteration is the longest path through the stages' maps, so
// any distribution over paths, played against the best option of every stage on its own, bounds the
// optimum from below (Lagrangian duality; the memory enters with a price). Good distributions are
// found by a game between paths and options, which converges to the value of the linear relaxation.
#ifndef HEP_MULTIPLIERS_H
#define HEP_MULTIPLIERS_H

#include "compiler/solve/stages.h"

// A linear lower bound on what any completion of a partial choice costs:
//   sum_i clock_weight[k][i] clock[i] + sum_i functional_weight[k][i] functional[i]
//     + memory_price (memory used so far - memory) + rest_s[k]
typedef struct {
    double (*clock_weight)[STAGE_CLOCK_MAX];      // [stage_count + 1]
    double (*functional_weight)[STAGE_CLOCK_MAX]; // [stage_count + 1]
    double *rest_s;                               // [stage_count + 1]
    double *edges;                                // [stages][forward + backward]: the flow on every edge
    double memory_price;                          // seconds per byte
    double value_s;                               // the bound on the whole problem
} Multipliers;

enum { MULTIPLIERS_MAX = 4 };

// The options of every stage that are in play: indices into the stage's options.
typedef struct {
    uint32_t **kept;      // [stages]
    uint32_t *kept_count; // [stages]
} OptionsInPlay;

// Fills up to MULTIPLIERS_MAX bounds, best first; returns how many. Stops early when a bound reaches
// `incumbent_s`, which also scales the search.
uint32_t multipliers_find(const StageProblem *problem, const OptionsInPlay *options, double incumbent_s,
                          uint32_t rounds, Multipliers out[MULTIPLIERS_MAX], Arena *arena);

// What every option in play of a stage adds to the bound over the best of them: its reduced cost, >= 0.
void multipliers_reduced_s(const StageProblem *problem, const OptionsInPlay *options, const Multipliers *m,
                           uint32_t stage, double reduced_s[]);

#endif
