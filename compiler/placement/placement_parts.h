// What the driver of the placement search, its local search and its proofs share. Private to placement*.c.
#ifndef HEP_PLACEMENT_PARTS_H
#define HEP_PLACEMENT_PARTS_H

#include "compiler/placement/placement.h"

enum { PRICE_CACHE_SLOTS = 4096, LATENCY_LEVELS_MAX = 32, TREE_WORKERS_MAX = 64 };

typedef struct {
    bool used;
    PlacementProfile profile;
    double price_s;
} CachedPrice;

typedef struct {
    const Pairs *pairs;
    uint32_t count, domain, columns; // domain: members of a row; columns' members: count / domain
    PlacementPrice price;
    void *context;
    PlacementProfile floor;
    double *slownesses; // distinct s_per_byte of pairs, ascending
    size_t slowness_count;
    double *latencies; // levels of latency, ascending; a pair's is the one at or below its own
    size_t latency_count;
    CachedPrice *cache;
    Arena *arena;
} Search;

// placement_price.c.
double search_price(Search *search, const PlacementProfile *profile);
// The floor, raised to one pair in a row or in a column.
double search_pair_price(Search *search, bool column, double s_per_byte, double latency_s);
// Index of the largest level not above `latency_s`.
size_t search_latency_level(const Search *search, double latency_s);

// placement_pairs.c.
void worst_pair_include(WorstPair *group, const Pairs *pairs, uint32_t a, uint32_t b);

// The distinct values of a matrix of pairs above the diagonal, ascending; *out: how many.
double *pairs_distinct_values(const Pairs *pairs, const double *matrix, Arena *arena, size_t *out);

// placement_build.c: a placement built greedily, column by column or row by row.
void placement_build(Search *search, bool columns, uint32_t worker[]);

// placement_local.c: improves `worker` in place by swaps; deterministic. Returns its price.
double placement_improve(Search *search, uint64_t work, uint32_t worker[]);

// placement_proof.c: is there a placement cheaper than `limit_s`?
typedef enum { PROOF_NONE, PROOF_FOUND, PROOF_OPEN } Proof;
// FOUND fills `worker`; NONE is certain; OPEN: the nodes did not suffice.
Proof placement_decide(Search *search, double limit_s, uint32_t nodes, uint32_t worker[]);

// placement_cover.c, up to TREE_WORKERS_MAX workers. Can `count` be divided into groups of `members` with every pair
// of a group among the `peers` of each other?
Proof placement_cover(const uint64_t peers[], uint32_t count, uint32_t members, uint32_t nodes);
// Raises the floor to what rows alone, and columns alone, are shown to need.
void placement_raise_floor(Search *search, uint32_t nodes);

#endif
