// How far rounding may move what a run computes: what `--check` allows, and what two runs of one plan may differ by.
// Derivations in tolerance.c.
#ifndef HEP_TOLERANCE_H
#define HEP_TOLERANCE_H

#include "ir/plan.h"

// Largest |x - exact x| that rounding explains, divided by the root mean square of the exact x, where x are the final
// hidden states. It bounds the absolute error of a rank's loss as well. Codecs decode to the same bits on both sides,
// and add nothing.
double tolerance_hidden(const Plan *plan);

// By how much the logit of an expert that was passed over may exceed that of a chosen one, divided by the root mean
// square of the layer's logits: what rounding may turn round.
double tolerance_choice(const Plan *plan);

// Nats that the mean loss over all ranks may be off, where the same experts are chosen and none of them travels by a
// codec. `moved`: the sum of the learning rates of the updates before; 0 for the initial weights.
double tolerance_loss(const Plan *plan, double moved);

#endif
