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

// `time_s`: measured, of one rank.
StepRate step_rate(const Plan *plan, const Step *step, double time_s);

#endif
