// Scratch sizes: see workspace.h. Each formula lists the pieces the op's kernel takes, in the order
// in which it takes them. Sums and products saturate.
#include "ir/workspace.h"

static uint64_t saturating_add(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return checked_add(a, b, &sum) && sum < WORKSPACE_MAX ? sum : WORKSPACE_MAX;
}

static uint64_t saturating_mul(uint64_t a, uint64_t b)
{
    uint64_t product;
    return checked_mul(a, b, &product) && product < WORKSPACE_MAX ? product : WORKSPACE_MAX;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t piece(uint64_t rows, uint64_t cols)
{
    uint64_t aligned = saturating_add(saturating_mul(rows, cols), WORKSPACE_ALIGNMENT - 1);
    return aligned / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

// A copy in f32; f32 itself is used where it lies.
static uint64_t converted(const ModelDims *dims, uint64_t rows, uint64_t cols)
{
    return dims->dtype == DTYPE_F32 ? 0 : piece(rows, cols);
}

static uint64_t norm_parameters(const ModelDims *dims)
{
    return converted(dims, 2, dims->hidden);
}

static uint64_t attention_elements(const ModelDims *dims)
{
    uint64_t sequence = dims->sequence, hidden = dims->hidden;
    uint64_t queries = saturating_mul(dims->heads, dims->head_dim),
             keys = saturating_mul(dims->kv_heads, dims->head_dim);
    uint64_t in_panel = converted(dims, hidden, smaller(queries, WORKSPACE_COLUMNS));
    uint64_t out_panel = converted(dims, queries, smaller(hidden, WORKSPACE_COLUMNS));
    uint64_t sum = norm_parameters(dims);
    sum = saturating_add(sum, piece(sequence, hidden));  // norm, later the projected output
    sum = saturating_add(sum, piece(sequence, queries)); // later the context
    sum = saturating_add(sum, piece(sequence, keys));
    sum = saturating_add(sum, piece(sequence, keys));                              // values
    sum = saturating_add(sum, piece(smaller(sequence, WORKSPACE_ROWS), sequence)); // scores
    return saturating_add(sum, larger(in_panel, out_panel));
}

// Input and output blocks, the activated columns of the inner dimension, one weight panel.
static uint64_t feed_forward_elements(const ModelDims *dims, uint64_t rows, uint64_t inner)
{
    uint64_t block = smaller(rows, WORKSPACE_ROWS), columns = smaller(inner, WORKSPACE_COLUMNS);
    uint64_t sum = saturating_add(piece(block, dims->hidden), piece(block, dims->hidden));
    for (uint32_t matrix = 1; matrix < activation_matrices(dims->activation); matrix++)
        sum = saturating_add(sum, piece(block, columns));
    return saturating_add(sum, converted(dims, dims->hidden, columns));
}

static uint64_t gate_elements(const ModelDims *dims, uint64_t rows)
{
    uint64_t block = smaller(rows, WORKSPACE_ROWS);
    uint64_t sum = saturating_add(norm_parameters(dims), piece(block, dims->hidden));
    sum = saturating_add(sum, piece(block, dims->experts)); // logits
    sum = saturating_add(sum, piece(1, dims->experts));     // records each expert has got
    return saturating_add(sum, converted(dims, dims->hidden, smaller(dims->experts, WORKSPACE_COLUMNS)));
}

static uint64_t expert_elements(const ModelDims *dims, uint64_t rows, uint32_t records, uint32_t fanout)
{
    uint64_t pairs = saturating_mul(saturating_mul(rows, fanout), records);
    uint64_t sum = piece(1, saturating_add(dims->experts, 1));      // where each expert's pairs end
    sum = saturating_add(sum, piece(1, pairs));                     // pairs sorted by expert
    sum = saturating_add(sum, converted(dims, rows, dims->hidden)); // results
    return saturating_add(sum, feed_forward_elements(dims, pairs, dims->inner));
}

static uint64_t loss_elements(const ModelDims *dims, uint64_t rows)
{
    uint64_t block = smaller(rows, WORKSPACE_ROWS), words = smaller(dims->vocabulary, WORKSPACE_VOCABULARY);
    uint64_t sum = saturating_add(norm_parameters(dims), piece(block, dims->hidden));
    sum = saturating_add(sum, piece(block, words)); // logits
    sum = saturating_add(sum, piece(3, block));     // running maximum, sum of exponentials, target's logit
    return saturating_add(sum, converted(dims, words, dims->hidden));
}

uint64_t workspace_elements(const ModelDims *dims, Op op, uint64_t rows, uint32_t records, uint32_t fanout)
{
    switch (op) {
    case OP_PRE_EXPERT:
        return attention_elements(dims);
    case OP_FFN:
        return saturating_add(norm_parameters(dims), feed_forward_elements(dims, rows, dims->ffn_inner));
    case OP_GATE:
        return gate_elements(dims, rows);
    case OP_EXPERT:
        return expert_elements(dims, rows, records, fanout);
    case OP_UNROUTE:
        return saturating_add(piece(WORKSPACE_SUM_ROWS, dims->hidden), piece(1, dims->hidden));
    case OP_SHARED_EXPERT:
        return feed_forward_elements(dims, rows, saturating_mul(dims->shared_experts, dims->inner));
    case OP_LOSS:
        return loss_elements(dims, rows);
    // A backward op computes the forward pass again and holds a gradient beside every value of it.
    case OP_PRE_EXPERT_BACKWARD:
        return saturating_mul(2, workspace_elements(dims, OP_PRE_EXPERT, rows, records, fanout));
    case OP_FFN_BACKWARD:
        return saturating_mul(2, workspace_elements(dims, OP_FFN, rows, records, fanout));
    case OP_GATE_BACKWARD:
        return saturating_mul(2, workspace_elements(dims, OP_GATE, rows, records, fanout));
    case OP_EXPERT_BACKWARD:
        return saturating_mul(2, workspace_elements(dims, OP_EXPERT, rows, records, fanout));
    case OP_SHARED_EXPERT_BACKWARD:
        return saturating_mul(2, workspace_elements(dims, OP_SHARED_EXPERT, rows, records, fanout));
    case OP_LOSS_BACKWARD:
        return saturating_mul(2, workspace_elements(dims, OP_LOSS, rows, records, fanout));
    case OP_EMBED:
    case OP_ROUTE:
    case OP_DISPATCH:
    case OP_COMBINE:
    case OP_RESIDUAL:
    case OP_ENCODE:
    case OP_GATHER:
    case OP_DECODE:
    case OP_UNROUTE_BACKWARD:
    case OP_COMBINE_BACKWARD:
    case OP_ROUTE_BACKWARD:
    case OP_EMBED_BACKWARD:
    case OP_REDUCE_SCATTER:
    case OP_ALL_REDUCE:
    case OP_OPTIMIZER:
        return 0;
    }
    return 0;
}
