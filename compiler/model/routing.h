// Routing that is not uniform: how many copies of a token travel, and how much more than the average the
// busiest GPU sends or receives, from the experts' popularity. A token draws its top_k experts one after another
// without replacement, in proportion to it. That is a race (Plackett and Luce): each expert arrives at an
// exponential time with its popularity as rate, and the first top_k are taken. A set A is hit unless top_k others
// arrive before its first:  P(hit) = integral of rate(A) exp(-rate(A) t) P(fewer than top_k others by t) dt,
// where the number of others is taken as binomial with its true mean and variance (exact where they are alike).
#ifndef HEP_ROUTING_H
#define HEP_ROUTING_H

#include "compiler/spec/spec.h"

typedef struct Popularity Popularity;

// Per token of one GPU.
typedef struct {
    double copies;           // expected destinations it has at this level, its own included
    double busiest_exchange; // sent or received by the busiest GPU over what a GPU sends on average; >= 1
    double busiest_experts;  // rows x experts the busiest GPU computes, over the average; >= 1. Of the last level
} RoutingLoad;

// Of experts with these popularities; NULL where `popularity` is: uniform routing. `spec` must outlive it; owned by the
// arena.
Popularity *routing_create(const Spec *spec, const double *popularity, Arena *arena);

// Exchange at `level` under domain sizes `domain`. Remembers what it has computed.
RoutingLoad routing_load(Popularity *routing, const uint32_t domain[LEVELS_MAX], uint32_t level, Dispatch dispatch);

// Expected destinations of a token among `prefixes` equal blocks of the experts, where all experts are alike: its top_k
// are drawn without replacement from experts and zero experts, which are no destination. With groups, they are drawn
// one after another until they lie in group_top_k groups, and then from these groups alone, which is what choosing the
// groups with the best expert comes to.
double routing_uniform_copies(const SpecModel *model, uint64_t prefixes);

// Probability that a token's top_k experts include each one; sums to top_k. `popularity` need not sum to 1.
void routing_inclusion(const double *popularity, uint32_t experts, uint32_t top_k, double *out);

#endif
