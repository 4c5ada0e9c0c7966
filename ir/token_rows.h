// Token rows that travel in 8 or 4 bits: their formats, how large a row is, and which of a layer's exchanges carry
// which. What bits mean is for the kernels (kernels/host/token_rows.c); docs/packets.md has them one by one.
//
// A row is cut into blocks, the last one shorter. A packed row holds the elements of all blocks, then a scale (bf16) of
// each block, at a multiple of 2 bytes, then zeros up to a multiple of 4 bytes.
#ifndef HEP_TOKEN_ROWS_H
#define HEP_TOKEN_ROWS_H

#include "ir/names.h"
#include "ir/ops.h"

enum {
    TOKEN_BLOCK = 128,      // elements with a scale of their own, where an element takes 8 bits
    TOKEN_SHORT_BLOCK = 32, // where it takes 4
    TOKEN_SCALE_BYTES = 2,  // bf16
};

// What an exchange carries. Of a layer's rows the way out and the way back, and the same of gradients: those of results
// go out where results came back, those of rows come back where rows went out.
typedef enum {
    WAY_DISPATCH,
    WAY_COMBINE,
    WAY_DISPATCH_GRADIENT, // of what dispatch sent, on its way back
    WAY_COMBINE_GRADIENT,  // of what combine sent, on its way out
    TOKEN_WAYS
} TokenWay;

// Elements that share a scale; 0 of rows that are not packed.
uint32_t token_block(TokenFormat format);
// Bytes of a row of `hidden` elements; `dtype` is that of activations.
uint64_t token_row_bytes(TokenFormat format, uint64_t hidden, Dtype dtype);
// Where scales begin in a packed row.
uint64_t token_scales_offset(TokenFormat format, uint64_t hidden);

// What an exchange carries; `with_records`: a dispatch has its records with it.
TokenWay exchange_way(Op op, bool with_records);
bool way_goes_out(TokenWay way); // out to the experts: encoded once where it begins, decoded where it ends

#endif
