// Buffer planning by best fit, largest first, for all plans but the largest: see memory_large.h for those.
#ifndef HEP_MEMORY_FIT_H
#define HEP_MEMORY_FIT_H

#include "ir/plan.h"

// Places the temporaries from `base` on: each in the smallest gap that holds it, between buffers that it may not share
// memory with. Sizes are valid. False, with nothing placed, where so many buffers live so long that this would take too
// long: a tenth of a second.
MUST_CHECK bool memory_place_best_fit(Plan *plan, uint64_t base, Arena *scratch);

#endif
