// The arithmetic of the reference, in plain loops and double: shares nothing with the kernels that it judges.
#ifndef HEP_REFERENCE_MATH_H
#define HEP_REFERENCE_MATH_H

#include <stdatomic.h>

#include "ir/plan.h"

typedef struct {
    uint64_t rows, k, n;
} ProductSize;

// out [rows][n] = in [rows][k] weights [k][n]; incomplete once `stopped` is set.
void reference_multiply(const atomic_bool *stopped, ProductSize size, const double *in, const float *weights,
                        double *out);
// out, x: [rows][hidden].
void reference_normalise(uint64_t rows, uint64_t hidden, const double *x, const float *gain, const float *bias,
                         double *out);
// In place; returns the logarithm of the sum of exponentials.
double reference_softmax(double *values, uint64_t count);
double reference_activation(Activation activation, double up, double gate);

#endif
