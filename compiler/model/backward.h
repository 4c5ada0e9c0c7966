// What the ops of the backward pass compute, in FLOPs or over their forward counterparts. Between the passes a plan
// keeps the inputs of ops alone: what an op needs of its own forward pass it computes again (docs/cost-model.md,
// "Backward").
#ifndef HEP_BACKWARD_H
#define HEP_BACKWARD_H

#include "compiler/spec/spec.h"

// Of an abstract workload, of which only times are known: gradients by the input and by the weights.
enum { BACKWARD_ABSTRACT = 2 };

// Experts, shared experts, dense layers: over the FLOPs of the forward pass.
double backward_feed_forward(Activation activation);
// The gate: over its forward pass.
double backward_gate(const Spec *spec);
// Logits and cross-entropy: over their forward pass.
double backward_loss(const Spec *spec);
// What mixes the tokens of a layer: FLOPs, where that of the forward pass are `projected` of its projections, `scored`
// of scores and weighted values, and `state` of a recurrent state.
typedef struct {
    double projected, scored, state;
} MixerFlops;

double backward_mixer(const Spec *spec, uint32_t layer, MixerFlops forward);

#endif
