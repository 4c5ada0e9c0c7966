// How the experts of a layer are shared out (docs/ir.md, "Shares of experts"). Domain sizes S make M = prod n/S places
// of the cluster, each of which holds E/M whole experts one after another, its block; every GPU of a place owns an
// equal flat share of the block. Pure functions of level counts, domain sizes and the experts; owns nothing.
#ifndef HEP_SHARE_H
#define HEP_SHARE_H

#include "ir/cluster.h"

enum { SHARE_ALIGNMENT = 8 }; // elements, of shares that are no whole experts

// `kept_levels` outermost levels share nothing: their GPUs hold what they would have gathered there. Their domain
// sizes are their counts.
typedef struct {
    uint32_t level_count, counts[LEVELS_MAX], domain[LEVELS_MAX], kept_levels;
    uint64_t places;          // M
    uint64_t members;         // shares of a block: prod of S over the levels that share
    uint64_t block_experts;   // E/M
    uint64_t expert_elements; // of one expert
    uint64_t rows, cols;      // of a share: whole experts, a row each; else one row of elements
} ExpertShares;

// Domain sizes divide their levels' counts; `experts` is a multiple of the places.
ExpertShares expert_shares(const Cluster *cluster, uint32_t kept_levels, const uint32_t domain[LEVELS_MAX],
                           uint64_t experts, uint64_t expert_elements);

// M, of domain sizes that divide their levels' counts.
uint64_t share_places(const Cluster *cluster, const uint32_t domain[LEVELS_MAX]);
// GPUs that share a copy of the experts: prod n over the levels that share.
uint64_t share_gpus(const Cluster *cluster, uint32_t kept_levels);
// Rows and columns of a share, the same for all domain sizes: E/G experts where G divides E; else one row of E/G
// experts' elements, rounded up to SHARE_ALIGNMENT.
void share_shape(const Cluster *cluster, uint32_t kept_levels, uint64_t experts, uint64_t expert_elements,
                 uint64_t *rows, uint64_t *cols);

// Of a rank: its place, level 0 slowest, and which share of the block it owns, level 0 fastest: gathers from the
// outermost level inwards then put shares one after another.
uint64_t share_place(const ExpertShares *shares, uint64_t rank);
uint64_t share_slot(const ExpertShares *shares, uint64_t rank);
// The part of the place at `level` that holds an expert: a row that must meet it goes to the member of that number.
uint32_t share_member(const ExpertShares *shares, uint64_t expert, uint32_t level);

// Elements of the layer's experts, of all of them one after another: those that a rank owns. What its share has beyond
// them is padding, and 0.
typedef struct {
    uint64_t first, count;
} ElementRange;

ElementRange share_owned(const ExpertShares *shares, uint64_t rank);
ElementRange share_held(const ExpertShares *shares, uint64_t rank); // the block of its place
// Of that, the `count` shares that gathers over the outermost levels bring together: count is a product of their domain
// sizes.
ElementRange share_held_part(const ExpertShares *shares, uint64_t rank, uint64_t count);

#endif
