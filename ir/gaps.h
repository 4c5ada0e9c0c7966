// Free stretches of memory: who looks for the smallest that is large enough, or gives one back to its neighbours, does
// so in logarithmic time. Two search trees over the same gaps, by place and by room, balanced by priorities that follow
// from a fixed sequence: equal calls give equal answers.
#ifndef HEP_GAPS_H
#define HEP_GAPS_H

#include "ir/base/arena.h"

typedef struct {
    uint64_t begin, end;
} Gap;

typedef struct Gaps Gaps;

Gaps *gaps_create(Arena *arena);
// Takes `bytes` from the beginning of the smallest gap that has them, of equals the first. False: none has.
bool gaps_take(Gaps *gaps, uint64_t bytes, uint64_t *begin);
// Joined to the gaps that it touches. It overlaps none.
void gaps_add(Gaps *gaps, Gap freed);
// The last gap, if it ends at `end`, which is removed.
bool gaps_take_last(Gaps *gaps, uint64_t end, uint64_t *begin);

#endif
