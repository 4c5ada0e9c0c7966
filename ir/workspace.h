// How much scratch an op's WORK operand needs: one formula shared by the lowering, which reserves
// it, and the engines, which rely on it. Rows, weight columns and vocabulary are processed in
// blocks of the sizes below, so that scratch grows with neither the batch nor the model's breadth; but
// a backward op sums the gradient of 16-bit weights in f32 first (experts' one expert at a time).
#ifndef HEP_WORKSPACE_H
#define HEP_WORKSPACE_H

#include "ir/model.h"
#include "ir/ops.h"

enum {
    WORKSPACE_ROWS = 256,        // rows of a feed-forward block, a gate, a loss; queries of attention
    WORKSPACE_SUM_ROWS = 64,     // rows summed at a time by unroute
    WORKSPACE_COLUMNS = 1024,    // columns of a weight matrix, or of the inner dimension
    WORKSPACE_VOCABULARY = 1024, // words of the loss
    WORKSPACE_ALIGNMENT = 16,    // elements; every piece of the scratch starts at a multiple
};

// f32 elements of the WORK operand of `op`; 0 for an op without one. `rows` is the row capacity of
// its first operand, `records` the (expert, weight) pairs per row (1 where the op takes none), `fanout` the record
// rows per row (top_k for naive dispatch before any exchange, else 1). Beyond WORKSPACE_MAX it stays there.
#define WORKSPACE_MAX (UINT64_MAX / 16)
uint64_t workspace_elements(const ModelDims *dims, Op op, uint64_t rows, uint32_t records, uint32_t fanout);

#endif
