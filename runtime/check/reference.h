// The oracle of `--check`: the forward pass of one rank's tokens on one processor, dense and in
// double, with plain loops of its own. Shares nothing with the schedule, the routing code or the
// kernels but the initial weights; gate decisions are taken from the run that is checked. Experts that travelled by
// codec `sr` are what receivers make of the initial weights (reference_codec.h).
#ifndef HEP_REFERENCE_H
#define HEP_REFERENCE_H

#include "ir/base/fault.h"
#include "ir/plan.h"

// Immutable once created: ranks' threads may share one. `plan` must outlive it.
typedef struct Reference Reference;

// NULL and a fault when memory runs out or the plan's model is abstract.
Reference *reference_create(const Plan *plan, uint64_t seed, Fault *fault) MUST_CHECK;
void reference_destroy(Reference *reference); // takes NULL
// Makes runs under way and later ones fail soon. From any thread.
void reference_stop(Reference *reference);

typedef struct {
    double loss; // mean
    // By how much the router's logit of an expert that a token passed over exceeds that of one it chose, over the root
    // mean square of the layer's logits; the largest of all tokens and layers, 0 where none does.
    double choice_excess;
    double packed; // relative variance that packing rows may add to x (tolerance.h)
} ReferenceResult;

typedef struct {
    uint64_t rank;
    const int32_t *tokens; // [batch][sequence + 1] of that rank
    // [plan->choice_count][tokens][top_k], the experts the gates chose, MoE layers in layer order; -1 for a dropped
    // record, and the weights of a token are the softmax over its other experts.
    const int32_t *decisions;
} ReferenceInput;

// Writes x [tokens][hidden], the hidden state before the final norm, and the result. False and a fault when memory runs
// out, a decision names no expert, or reference_stop was called.
bool reference_run(const Reference *reference, const ReferenceInput *input, double *x, ReferenceResult *result,
                   Fault *fault) MUST_CHECK;

#endif
