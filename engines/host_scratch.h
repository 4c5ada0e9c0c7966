// How much scratch the host kernel of an op needs: one formula shared by the compiler, which counts it in a rank's
// memory, the engine, which reserves it, and the kernels, which take its pieces. Rows, weight columns and vocabulary
// are processed in blocks of the sizes below, so that scratch grows with neither the batch nor the model's breadth; but
// a backward op sums the gradient of 16-bit weights in f32 first (experts' one expert at a time, the embedding's a
// block of words), and that of all rows of experts and of the loss.
#ifndef HEP_HOST_SCRATCH_H
#define HEP_HOST_SCRATCH_H

#include "ir/plan.h"

enum {
    SCRATCH_ROWS = 256,        // rows of a feed-forward block, a gate, a loss; queries of attention
    SCRATCH_SUM_ROWS = 64,     // rows summed at a time by unroute
    SCRATCH_COLUMNS = 1024,    // columns of a weight matrix, or of the inner dimension
    SCRATCH_VOCABULARY = 1024, // words of the loss
    SCRATCH_ALIGNMENT = 16,    // elements; every piece of the scratch starts at a multiple
};

// f32 elements of the scratch of `op`; 0 for an op without any. `rows` is the row capacity of
// its first operand, `records` the (expert, weight) pairs per row (1 where the op takes none), `fanout` the record
// rows per row (top_k for naive dispatch before any exchange, else 1). Saturates (saturating.h).
uint64_t host_scratch_elements(const ModelDims *dims, Op op, uint64_t rows, uint32_t records, uint32_t fanout);
// The same of a plan's step.
uint64_t host_step_scratch(const Plan *plan, const Step *step);

#endif
