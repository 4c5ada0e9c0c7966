// Ways of saving memory that are planned one after the other, for all layers alike: gathered dense weights are kept
// until the backward pass, or what came over outermost levels, or gathered again; the embedding is kept throughout,
// with the sum of its gradients, or gathered for each use; activations are kept or computed again; micro-batches go
// abreast, each with buffers of its own for the rows that travel, or one after the other.
#ifndef HEP_FRUGALITY_H
#define HEP_FRUGALITY_H

#include "compiler/spec/spec.h"

typedef struct {
    bool regather_dense, regather_embedding, recomputes, interleaves;
    uint32_t dense_levels; // whose gathered shares are kept, where dense weights are gathered again
} Frugality;

enum { FRUGALITIES_MAX = 8 * (LEVELS_MAX + 1) };

// Those that the plan block asks for, the largest memory first. Returns how many.
size_t frugality_list(const Spec *spec, Frugality out[FRUGALITIES_MAX]);

// Does the first save whatever the second saves? What does not fit the first way, does not fit the second.
bool frugality_covers(Frugality first, Frugality second);

// The same spec, planned that way; in the arena.
const Spec *frugality_apply(const Spec *request, Frugality how, Arena *arena);

#endif
