// Which worker of the outermost level stands where: a search over the arrangements of N workers in a grid of
// N / S domains (rows) x S offsets (columns), so that slow pairs share neither a row nor a column where that
// costs. Exact where its tree search ends within its budget, else the best placement found and a proven bound.
// Knows nothing of models: what a placement costs is a function of the worst pair of any row and any column.
#ifndef HEP_PLACEMENT_H
#define HEP_PLACEMENT_H

#include "compiler/spec/outer.h"

// Links between all pairs of workers, dense.
typedef struct {
    uint32_t count;
    double *s_per_byte; // [count][count]; 0 where only the ports limit
    double *latency_s;  // [count][count]
    // [count - 1]: the k-th least figure to its peers of the worker for which this is largest. Whoever has k + 1
    // peers in a group has one of at least this.
    double *least_s_per_byte, *least_latency_s;
} Pairs;

Pairs *pairs_of_cluster(const Cluster *cluster, Arena *arena);

// What a placement comes to: the worst pairs of its rows, whose members gather, and columns, whose members exchange.
typedef struct {
    WorstPair row, column;
} PlacementProfile;

// Seconds; must not decrease when any figure of the profile grows. Deterministic.
typedef double (*PlacementPrice)(void *context, uint32_t domain, const PlacementProfile *profile);

typedef struct {
    uint32_t domain;
    uint32_t *worker;                // [count]: who stands at each position
    PlacementProfile profile, floor; // floor: what no placement with domains of this size stays below
    double price_s, bound_s;         // bound_s: no placement with domains of this size costs less
} Placement;

typedef struct {
    uint64_t local_work; // evaluations of pair costs in the local search
    uint32_t nodes;      // of the tree search, per question asked of it
} PlacementEffort;

extern const PlacementEffort placement_effort; // what hepc uses

typedef struct {
    PlacementPrice price;
    void *context;
    double known_s; // placements that cost so much are of no interest: the bound is not driven beyond it
    PlacementEffort effort;
} PlacementTask;

// The best placement for one domain size, which divides the count.
Placement placement_search(const Pairs *pairs, uint32_t domain, const PlacementTask *task, Arena *arena);

// The worst pairs of rows and columns as workers stand.
PlacementProfile placement_profile(const Pairs *pairs, uint32_t domain, const uint32_t worker[]);

// What no placement can stay below, from each worker's best conceivable row and column.
PlacementProfile placement_floor(const Pairs *pairs, uint32_t domain);

#endif
