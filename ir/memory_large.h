// Buffer planning for plans so large that looking at every pair of buffers would take too long.
#ifndef HEP_MEMORY_LARGE_H
#define HEP_MEMORY_LARGE_H

#include "ir/order.h"

// Places the temporaries from `base` on, in time that hardly grows faster than the steps; returns their end. Buffers
// that different streams write first share no memory, so the end may lie higher than necessary. Sizes are valid.
uint64_t memory_place_in_order(Plan *plan, const Order *order, const Lifetimes *lifetimes, uint64_t base,
                               Arena *scratch);

// Bytes rounded up to the alignment. False when they exceed 63 bits.
MUST_CHECK bool memory_aligned_bytes(const Buffer *buffer, uint64_t *out);

#endif
