// What host kernels give against what plain loops in double expect.
#ifndef HEP_EXPECTED_H
#define HEP_EXPECTED_H

#include <math.h>

#include "tensors.h"

// Inputs are the same on both sides, so what differs is the rounding of the output and of sums in f32.
static inline double tolerance(Dtype dtype)
{
    return dtype == DTYPE_F32 ? 1e-5 : dtype == DTYPE_F16 ? 1e-3 : 8e-3;
}

static inline void expect_close(Tensor got, const double *want, uint64_t count, const char *what)
{
    double largest = 1;
    for (uint64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(want[i]));
    for (uint64_t i = 0; i < count; i++) {
        double error = fabs(at(got, i) - want[i]);
        cr_assert(error <= tolerance(got.dtype) * largest, "%s, %s, element %llu: got %g, expected %g", what,
                  dtype_name(got.dtype), (unsigned long long)i, at(got, i), want[i]);
    }
}

static inline const Record *record(Tensor records, uint64_t index)
{
    return (const Record *)records.data + index;
}

#endif
