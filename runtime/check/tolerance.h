// How far rounding may move what a run computes: what `--check` allows, and what two runs of one plan may differ by.
// Derivations in tolerance.c.
#ifndef HEP_TOLERANCE_H
#define HEP_TOLERANCE_H

#include "ir/plan.h"

// Largest |x - exact x| that rounding explains, divided by the root mean square of the exact x, where x are the final
// hidden states. It bounds the absolute error of a rank's loss as well. Codecs decode to the same bits on both sides,
// and add nothing. `packed`: relative variance that packed token rows add to x (tolerance_packed), 0 without any.
double tolerance_hidden(const Plan *plan, double packed);

// By how much the logit of an expert that was passed over may exceed that of a chosen one, divided by the root mean
// square of the layer's logits: what rounding may turn round.
double tolerance_choice(const Plan *plan, double packed);

// Relative variance of what a layer's experts make of rows and send back, by packing both: to count in x by the share
// that this has of x's mean square.
double tolerance_packed(const Plan *plan, const Choice *choice);

// Nats that the mean loss over all ranks may be off, where no experts travel by a codec, nor rows packed. `moved`: the
// sum of the learning rates of the updates before; 0 for the initial weights. `turned`: how many tokens took other
// experts so far, over all ranks and layers.
double tolerance_loss(const Plan *plan, double moved, double turned);

// How often rounding is expected to turn round which experts a token takes, in an iteration over all ranks and layers.
double tolerance_turns(const Plan *plan, double moved);
// How many of independent, rare events there can be where so many are expected.
double tolerance_count(double expected);

#endif
