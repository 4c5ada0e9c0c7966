// A buffer of the plan in a rank's memory, as kernels take it.
#ifndef HEP_TENSOR_H
#define HEP_TENSOR_H

#include "ir/names.h"

// Row-major [rows][cols].
typedef struct {
    void *data; // NULL for an absent operand
    Dtype dtype;
    uint64_t rows, cols;
} Tensor;

#endif
