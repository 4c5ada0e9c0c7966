// What is left open within a price (`auto` beside `max_loss_increase`): the combinations whose figures in our study
// (ir/price.h) add up to no more than it, the most promising first.
#ifndef HEP_PRICED_H
#define HEP_PRICED_H

#include "compiler/spec/spec.h"

enum { PRICED_SEARCHED_MAX = 4, PRICED_LIST_MAX = PRICED_SEARCHED_MAX + 1 };

bool priced_is_open(const Spec *spec);

// The one in which all that is open is exact; then up to PRICED_SEARCHED_MAX others by the time of their best single
// choice that fits. Returns how many.
size_t priced_list(const Spec *request, Arena *arena, const Spec *out[PRICED_LIST_MAX]) MUST_CHECK;

#endif
