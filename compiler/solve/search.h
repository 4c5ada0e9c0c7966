// The exact method for a staged problem: labels stage by stage, pruned by dominance and by linear
// bounds, in a beam that widens until nothing that was cut off can beat the best choice. Says how far
// from the optimum the answer can be at most. Deterministic unless a time limit strikes.
#ifndef HEP_SEARCH_H
#define HEP_SEARCH_H

#include "compiler/solve/stages.h"

typedef struct {
    double gap;        // stop when the relative gap is at most this; 0: prove the optimum
    double deadline_s; // on clock_now_s; 0: none
    double effort;     // share of the usual work; 0: all of it
    bool bound_only;   // find a bound, look for no choice
} SearchLimits;

typedef struct {
    bool found;       // some choice fits the memory
    uint32_t *choice; // [stage_count]: option indices, in the arena
    double objective_s, bound_s;
    bool timed_out;
    uint64_t label_count; // work done
    bool *useful;         // [stages x options], row by row: options that might still be part of a better choice
} SearchResult;

// Only choices cheaper than `cutoff_s` are of interest (INFINITY: any).
void search_solve(const StageProblem *problem, const SearchLimits *limits, double cutoff_s, Arena *arena,
                  SearchResult *out);

#endif
