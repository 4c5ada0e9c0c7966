// How much scratch an op's WORK operand needs: one formula shared by the lowering, which reserves
// it, and the engines, which rely on it.
#ifndef HEP_WORKSPACE_H
#define HEP_WORKSPACE_H

#include "ir/plan.h"

// f32 elements of the WORK operand of `op`; 0 for an op without one. `rows` is the row capacity of
// its first operand, `records` the (expert, weight) pairs per row (1 where the op takes none), `fanout` the record
// rows per row (top_k for naive dispatch before any exchange, else 1).
uint64_t workspace_elements(const ModelDims *dims, Op op, uint64_t rows, uint32_t records, uint32_t fanout);

#endif
