// Weights and gradients of a bundle as packets, where the plan says so: what an owner sends of its share, what others
// make of it, and what both remember (docs/packets.md). No threads here, and no order of calls.
#ifndef HEP_LIBRARY_CODED_H
#define HEP_LIBRARY_CODED_H

#include "runtime/library/weights.h"

// A bundle whose shares are `rows` vectors of `cols` elements.
typedef struct {
    const Coding *coding;
    uint32_t level_count, crossing_count;
    const Crossing *crossings; // outermost first
    uint64_t rows, cols;
    Dtype dtype;
    bool has_mean; // the mean of all experts is subtracted
    const MoveOps *moves;
    Lane *lane; // by which what is remembered is cleared
} CodedShape;

// Nothing is encoded of a bundle that crosses no level of packets.
bool coded_make(Coded *coded, const CodedShape *shape, Fault *fault) MUST_CHECK;
void coded_free(Coded *coded);
// As if nothing had ever been sent.
bool coded_reset(Coded *coded, Lane *lane, Fault *fault) MUST_CHECK;

// The mean of all experts, of which `shares` has the own ones. Over the context's levels of sums. Collective.
bool coded_sum_mean(Coded *coded, const Shares *shares, Fault *fault) MUST_CHECK;
// The first crossing that weights cross as they are.
uint32_t coded_first_whole(const Coded *coded);
// Over the crossings before that one: the own share is in its place. `shares` has one tensor. Collective.
bool coded_gather(Coded *coded, const Shares *shares, Fault *fault) MUST_CHECK;
// As shares_return, over all crossings.
bool coded_return(Coded *coded, const Shares *shares, Fault *fault) MUST_CHECK;
// Bytes of a packet of weights, or of gradients, that crosses; 0 where they cross as they are.
uint64_t coded_packet_bytes(const Coded *coded, uint32_t crossing, bool gradient, bool whole);

#endif
