// Shares of weights, gathered over levels and returned: where they lie among those gathered, and how they move. No
// threads here: experts.c decides when, dense.c waits.
#ifndef HEP_LIBRARY_WEIGHTS_H
#define HEP_LIBRARY_WEIGHTS_H

#include "runtime/library/context.h"

// A bundle's tensors as shares: [rows] of each tensor are one member's, and lie one member's after another's, outermost
// level fastest. Each tensor [members of all levels x rows][cols].
typedef struct {
    uint32_t tensor_count;
    Tensor tensors[PARAMETERS_MAX];
    uint64_t rows, slot; // of a share; the own share's number
    uint32_t crossing_count;
    const Crossing *crossings; // outermost first
    const hep_context *context;
    CommCall call; // whose `pass` tensors add their numbers to
    Lane *lane;
    bool whole; // packets hold whole values
} Shares;

// The own shares are in their places, or, from crossing `first` on, what came over the ones before it.
bool shares_gather(const Shares *shares, uint32_t first, Fault *fault) MUST_CHECK;
// The way back over one crossing: of the shares that it has brought together, sums are in the places of those that were
// together before; what else is there is of no use.
bool shares_return(const Shares *shares, uint32_t crossing, Fault *fault) MUST_CHECK;
// Shares that crossings before `end` have put together, around the own one: the first, and how many.
void shares_block(const Shares *shares, uint32_t end, uint64_t *first, uint64_t *count);

#endif
