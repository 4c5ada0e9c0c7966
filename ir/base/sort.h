// Sorting numbers. Owns nothing.
#ifndef HEP_SORT_H
#define HEP_SORT_H

#include "ir/base/base.h"

void sort_doubles(double *values, size_t count); // ascending; none of them NaN

#endif
