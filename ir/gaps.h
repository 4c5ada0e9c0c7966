// A best-fit free list. Finding the smallest gap that is large enough, and freeing with coalescing, take logarithmic
// time: two treaps hold the same gaps, by address and by size. Their priorities come from a fixed sequence: equal calls
// give equal answers.
#ifndef HEP_GAPS_H
#define HEP_GAPS_H

#include "ir/base/arena.h"

typedef struct {
    uint64_t begin, end;
} Gap;

typedef struct Gaps Gaps;

Gaps *gaps_create(Arena *arena);
// Takes `bytes` from the beginning of the smallest gap that fits, among equals the one with the lowest address. Returns
// false if none fits.
bool gaps_take(Gaps *gaps, uint64_t bytes, uint64_t *begin);
// Coalesces `freed` with adjacent gaps. It must overlap none.
void gaps_add(Gaps *gaps, Gap freed);
// Removes the gap with the highest address if it ends at `end`; false otherwise.
bool gaps_take_last(Gaps *gaps, uint64_t end, uint64_t *begin);

#endif
