// Sums and products of sizes that saturate: the formulas of scratch are evaluated for plans of any size, and what is
// too large for any memory stays so.
#ifndef HEP_SATURATING_H
#define HEP_SATURATING_H

#include "ir/base/base.h"

#define SATURATED (UINT64_MAX / 16)

static inline uint64_t saturating_add(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return checked_add(a, b, &sum) && sum < SATURATED ? sum : SATURATED;
}

static inline uint64_t saturating_mul(uint64_t a, uint64_t b)
{
    uint64_t product;
    return checked_mul(a, b, &product) && product < SATURATED ? product : SATURATED;
}

#endif
