// Scratch sizes: see host_scratch.h. Each formula lists the pieces the op's kernel takes, in the order
// in which it takes them. Sums and products saturate.
#include "engines/host_scratch.h"

#include "engines/saturating.h"

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
    uint64_t aligned = saturating_add(saturating_mul(rows, cols), SCRATCH_ALIGNMENT - 1);
    return aligned / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT;
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

static uint64_t attention_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)rows, (void)pairs;
    uint64_t sequence = dims->sequence, hidden = dims->hidden;
    uint64_t queries = saturating_mul(dims->heads, dims->head_dim),
             keys = saturating_mul(dims->kv_heads, dims->head_dim);
    uint64_t in_panel = converted(dims, hidden, smaller(queries, SCRATCH_COLUMNS));
    uint64_t out_panel = converted(dims, queries, smaller(hidden, SCRATCH_COLUMNS));
    uint64_t sum = norm_parameters(dims);
    sum = saturating_add(sum, piece(sequence, hidden));  // norm, later the projected output
    sum = saturating_add(sum, piece(sequence, queries)); // later the context
    sum = saturating_add(sum, piece(sequence, keys));
    sum = saturating_add(sum, piece(sequence, keys));                            // values
    sum = saturating_add(sum, piece(smaller(sequence, SCRATCH_ROWS), sequence)); // scores
    return saturating_add(sum, larger(in_panel, out_panel));
}

// Input and output blocks, the activated columns of the inner dimension, one weight panel.
static uint64_t feed_forward_elements(const ModelDims *dims, uint64_t rows, uint64_t inner)
{
    uint64_t block = smaller(rows, SCRATCH_ROWS), columns = smaller(inner, SCRATCH_COLUMNS);
    uint64_t sum = saturating_add(piece(block, dims->hidden), piece(block, dims->hidden));
    for (uint32_t matrix = 1; matrix < activation_matrices(dims->activation); matrix++)
        sum = saturating_add(sum, piece(block, columns));
    return saturating_add(sum, converted(dims, dims->hidden, columns));
}

static uint64_t ffn_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)pairs;
    return saturating_add(norm_parameters(dims), feed_forward_elements(dims, rows, dims->ffn_inner));
}

static uint64_t shared_expert_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)pairs;
    return feed_forward_elements(dims, rows, model_shared_inner(dims));
}

static uint64_t unroute_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)rows, (void)pairs;
    return saturating_add(piece(SCRATCH_SUM_ROWS, dims->hidden), piece(1, dims->hidden));
}

static uint64_t gate_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)pairs;
    uint64_t block = smaller(rows, SCRATCH_ROWS);
    uint64_t sum = saturating_add(norm_parameters(dims), piece(block, dims->hidden));
    sum = saturating_add(sum, piece(block, dims->experts)); // logits
    sum = saturating_add(sum, piece(1, dims->experts));     // records each expert has got
    return saturating_add(sum, converted(dims, dims->hidden, smaller(dims->experts, SCRATCH_COLUMNS)));
}

static uint64_t expert_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    uint64_t sum = piece(1, saturating_add(dims->experts, 1));      // where each expert's pairs end
    sum = saturating_add(sum, piece(1, pairs));                     // pairs sorted by expert
    sum = saturating_add(sum, converted(dims, rows, dims->hidden)); // results
    return saturating_add(sum, feed_forward_elements(dims, pairs, dims->inner));
}

// With sums of so many rows: running maximum, sum of exponentials, target's logit.
static uint64_t loss_elements_of(const ModelDims *dims, uint64_t rows, uint64_t summed)
{
    uint64_t block = smaller(rows, SCRATCH_ROWS), words = smaller(dims->vocabulary, SCRATCH_VOCABULARY);
    uint64_t sum = saturating_add(norm_parameters(dims), piece(block, dims->hidden));
    sum = saturating_add(sum, piece(block, words)); // logits
    sum = saturating_add(sum, piece(3, summed));
    return saturating_add(sum, converted(dims, words, dims->hidden));
}

static uint64_t loss_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)pairs;
    return loss_elements_of(dims, rows, smaller(rows, SCRATCH_ROWS));
}

// ---- backward ------------------------------------------------------------------------------------

// Sums of the gradient of `elements` weights; f32 sums in the gradient itself.
static uint64_t gradient_elements(const ModelDims *dims, uint64_t elements)
{
    return converted(dims, 1, elements);
}

static uint64_t feed_forward_weights(const ModelDims *dims, uint64_t inner)
{
    return saturating_mul(activation_matrices(dims->activation), saturating_mul(dims->hidden, inner));
}

// Input, gradients of output and input; activation, its gradient, what it is made of; one weight panel.
static uint64_t feed_forward_backward_elements(const ModelDims *dims, uint64_t rows, uint64_t inner)
{
    uint64_t block = smaller(rows, SCRATCH_ROWS), columns = smaller(inner, SCRATCH_COLUMNS);
    uint64_t sum = saturating_mul(3, piece(block, dims->hidden));
    sum = saturating_add(sum, saturating_mul(1 + activation_matrices(dims->activation), piece(block, columns)));
    return saturating_add(sum, converted(dims, dims->hidden, columns));
}

static uint64_t ffn_backward_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)pairs;
    uint64_t weights = saturating_add(feed_forward_weights(dims, dims->ffn_inner), saturating_mul(2, dims->hidden));
    uint64_t sum = saturating_add(norm_parameters(dims), piece(1, dims->hidden));
    sum = saturating_add(sum, gradient_elements(dims, weights));
    return saturating_add(sum, feed_forward_backward_elements(dims, rows, dims->ffn_inner));
}

static uint64_t shared_expert_backward_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)pairs;
    uint64_t inner = model_shared_inner(dims);
    uint64_t sum = gradient_elements(dims, feed_forward_weights(dims, inner));
    return saturating_add(sum, feed_forward_backward_elements(dims, rows, inner));
}

static uint64_t expert_backward_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    uint64_t sum = piece(1, saturating_add(dims->experts, 1));      // where each expert's pairs end
    sum = saturating_add(sum, piece(1, pairs));                     // pairs sorted by expert
    sum = saturating_add(sum, converted(dims, rows, dims->hidden)); // gradients of rows
    sum = saturating_add(sum, saturating_mul(2, piece(1, smaller(pairs, SCRATCH_ROWS)))); // weights, their gradients
    sum = saturating_add(sum, gradient_elements(dims, feed_forward_weights(dims, dims->inner))); // of one expert
    return saturating_add(sum, feed_forward_backward_elements(dims, pairs, dims->inner));
}

static uint64_t gate_backward_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)pairs;
    uint64_t block = smaller(rows, SCRATCH_ROWS);
    uint64_t weights = saturating_mul(dims->hidden, saturating_add(dims->experts, 2));
    uint64_t sum = saturating_add(norm_parameters(dims), piece(1, dims->hidden));
    sum = saturating_add(sum, gradient_elements(dims, weights));
    sum = saturating_add(sum, saturating_mul(2, piece(block, dims->hidden))); // norm, its gradient
    sum = saturating_add(sum, piece(block, dims->experts));                   // gradients of logits
    sum = saturating_add(sum, piece(1, dims->experts));                       // shares of the records
    return saturating_add(sum, converted(dims, dims->hidden, smaller(dims->experts, SCRATCH_COLUMNS)));
}

// What the forward pass takes, and the rest after it.
static uint64_t attention_backward_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    uint64_t sequence = dims->sequence, hidden = dims->hidden;
    uint64_t queries = saturating_mul(dims->heads, dims->head_dim),
             keys = saturating_mul(dims->kv_heads, dims->head_dim);
    uint64_t columns = saturating_add(2, saturating_mul(2, saturating_add(queries, keys)));
    uint64_t sum =
        saturating_add(attention_elements(dims, rows, pairs), piece(sequence, hidden)); // gradient of output, then norm
    sum = saturating_add(sum, saturating_mul(2, piece(sequence, queries)));             // context and gradient
    sum = saturating_add(sum, saturating_mul(2, piece(sequence, keys)));                // gradients of keys, values
    sum = saturating_add(sum, piece(smaller(sequence, SCRATCH_ROWS), sequence));        // of scores
    sum = saturating_add(sum, piece(1, hidden));
    return saturating_add(sum, gradient_elements(dims, saturating_mul(hidden, columns)));
}

// Row, gradients of all rows, of a block of words and of the norm; then what the forward pass takes, with sums of all
// rows.
static uint64_t loss_backward_elements(const ModelDims *dims, uint64_t rows, uint64_t pairs)
{
    (void)pairs;
    uint64_t words = smaller(dims->vocabulary, SCRATCH_VOCABULARY);
    uint64_t sum = saturating_add(loss_elements_of(dims, rows, rows), piece(1, dims->hidden));
    sum = saturating_add(sum, converted(dims, rows, dims->hidden));
    sum = saturating_add(sum, converted(dims, words, dims->hidden));
    return saturating_add(sum, converted(dims, 2, dims->hidden));
}

// Of ops that take any. pairs: of rows and experts.
static uint64_t (*const formulas[])(const ModelDims *dims, uint64_t rows, uint64_t pairs) = {
    [OP_PRE_EXPERT] = attention_elements,
    [OP_FFN] = ffn_elements,
    [OP_GATE] = gate_elements,
    [OP_EXPERT] = expert_elements,
    [OP_UNROUTE] = unroute_elements,
    [OP_SHARED_EXPERT] = shared_expert_elements,
    [OP_LOSS] = loss_elements,
    [OP_PRE_EXPERT_BACKWARD] = attention_backward_elements,
    [OP_FFN_BACKWARD] = ffn_backward_elements,
    [OP_GATE_BACKWARD] = gate_backward_elements,
    [OP_EXPERT_BACKWARD] = expert_backward_elements,
    [OP_SHARED_EXPERT_BACKWARD] = shared_expert_backward_elements,
    [OP_LOSS_BACKWARD] = loss_backward_elements,
};

uint64_t host_scratch_elements(const ModelDims *dims, Op op, uint64_t rows, uint32_t records, uint32_t fanout)
{
    if ((size_t)op >= COUNT_OF(formulas) || !formulas[op])
        return 0;
    return formulas[op](dims, rows, saturating_mul(saturating_mul(rows, fanout), records));
}

uint64_t host_step_scratch(const Plan *plan, const Step *step)
{
    bool routed = step_operand(plan, step, OPERAND_records) != NONE || step->op == OP_UNROUTE;
    bool first = step_operand(plan, step, OPERAND_counts) == NONE, naive = plan->dispatch == DISPATCH_NAIVE;
    uint32_t records = routed && !naive ? plan->model.top_k : 1;
    uint32_t fanout = routed && first && naive ? plan->model.top_k : 1;
    int32_t buffer = step_operands(plan, step)[0];
    return host_scratch_elements(&plan->model, step->op, buffer == NONE ? 0 : plan->buffers[buffer].rows, records,
                                 fanout);
}
