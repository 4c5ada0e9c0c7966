// What a step achieved: FLOP/s of its matrix products or bytes/s that left the rank, against the cluster's figures,
// which calibration measures.
#ifndef HEP_RATES_H
#define HEP_RATES_H

#include "ir/plan.h"

typedef enum { RATE_NONE, RATE_FLOPS, RATE_BYTES } RateKind;

typedef struct {
    RateKind kind;   // NONE: a step without matrix products or peers
    double achieved; // FLOP/s or bytes/s
    double limit;    // the device's rate, or that of the ports that the bytes leave by
} StepRate;

// FLOPs of a step's matrix products on one rank: 2 per multiplication and addition, experts at the balanced load.
// Backward forms multiply twice as often. 0 for steps without.
double step_flops(const Plan *plan, const Step *step);
// `time_s`: measured, of one rank.
StepRate step_rate(const Plan *plan, const Step *step, double time_s);

#endif
