// The loss and its gradient: final norm, logits by the tied embedding, mean cross-entropy of the next token. Words
// are processed in blocks with a running log-sum-exp, so a large vocabulary needs little scratch.
#include <math.h>

#include "kernels/host/internal.h"

typedef struct {
    const ModelDims *dims;
    const int32_t *tokens;
    Tensor embedding;
    float *normed, *logits;    // [block][H], [block][words]
    float *max, *sum, *target; // of the block's rows: running maximum, sum of exp(logit - max), logit of the next token
    float *panel;              // [words][H]
} Loss;

// The word that follows token `index` of this rank.
static int32_t next_word(const Loss *loss, uint64_t index)
{
    uint64_t sequence = loss->dims->sequence;
    int32_t word = loss->tokens[index / sequence * (sequence + 1) + index % sequence + 1];
    assert(word >= 0 && (uint32_t)word < loss->dims->vocabulary);
    return word;
}

static void add_words(const Loss *loss, uint64_t row, float *logits, uint64_t words)
{
    float max = vector_max(logits, words);
    max = max > loss->max[row] ? max : loss->max[row];
    vector_exp(logits, words, max);
    loss->sum[row] = loss->sum[row] * expf(loss->max[row] - max) + vector_sum(logits, words);
    loss->max[row] = max;
}

// The embeddings of some words in f32.
static const float *load_words(const Loss *loss, uint64_t first_word, uint64_t words)
{
    uint64_t hidden = loss->dims->hidden;
    Dtype dtype = loss->embedding.dtype;
    const float *matrix = element_at(loss->embedding.data, dtype, first_word * hidden);
    if (dtype == DTYPE_F32)
        return matrix;
    host_to_f32(matrix, dtype, loss->panel, words * hidden);
    return loss->panel;
}

// logits [rows][words] of the rows in `normed`.
static void compute_logits(const Loss *loss, uint64_t rows, const float *matrix, uint64_t words)
{
    uint64_t hidden = loss->dims->hidden;
    matrix_multiply_transposed(rows, words, hidden, 1, loss->normed, hidden, (Weights){matrix, DTYPE_F32, hidden}, 0,
                               loss->logits, words, NULL);
}

static void visit_words(const Loss *loss, uint64_t first_row, uint64_t rows, uint64_t first_word, uint64_t words)
{
    compute_logits(loss, rows, load_words(loss, first_word, words), words);
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t word = (uint64_t)next_word(loss, first_row + r);
        if (word >= first_word && word - first_word < words)
            loss->target[r] = loss->logits[r * words + word - first_word];
        add_words(loss, r, loss->logits + r * words, words);
    }
}

// Maximum, sum and target of `rows` tokens from `first` on; `normed` holds their rows. Where all words fit one block,
// `logits` is left as exp(logit - max).
static void visit_rows(const Loss *loss, uint64_t first, uint64_t rows)
{
    for (uint64_t r = 0; r < rows; r++) {
        loss->max[r] = -INFINITY;
        loss->sum[r] = loss->target[r] = 0;
    }
    for (uint64_t word = 0; word < loss->dims->vocabulary; word += SCRATCH_VOCABULARY)
        visit_words(loss, first, rows, word, smaller(SCRATCH_VOCABULARY, loss->dims->vocabulary - word));
}

static double block_loss(const Loss *loss, uint64_t rows)
{
    double total = 0;
    for (uint64_t r = 0; r < rows; r++)
        total += log((double)loss->sum[r]) + (double)loss->max[r] - (double)loss->target[r];
    return total;
}

// Where the final norm's parameters are in the embedding buffer.
static uint64_t norm_place(const ModelDims *dims)
{
    return ((uint64_t)dims->vocabulary + dims->sequence) * dims->hidden;
}

static const float *load_norm(const ModelDims *dims, Tensor embedding, Scratch *scratch)
{
    const void *norm = element_at(embedding.data, embedding.dtype, norm_place(dims));
    return scratch_convert(scratch, norm, embedding.dtype, 2ull * dims->hidden);
}

// With sums of so many rows.
static Loss loss_begin(const ModelDims *dims, Tensor tokens, Tensor embedding, uint64_t summed, Scratch *scratch)
{
    uint64_t block = smaller(model_tokens(dims), SCRATCH_ROWS);
    uint64_t words = smaller(dims->vocabulary, SCRATCH_VOCABULARY);
    Loss loss = {.dims = dims, .tokens = tokens.data, .embedding = embedding};
    loss.normed = scratch_take(scratch, block, dims->hidden);
    loss.logits = scratch_take(scratch, block, words);
    loss.max = scratch_take(scratch, 3, summed);
    loss.sum = loss.max + summed;
    loss.target = loss.sum + summed;
    loss.panel = scratch_panel(scratch, embedding.dtype, words, dims->hidden);
    return loss;
}

void host_loss(const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding, Tensor loss, Tensor work)
{
    uint64_t hidden = dims->hidden, rows = model_tokens(dims);
    Scratch scratch = scratch_begin(work);
    const float *norm = load_norm(dims, embedding, &scratch);
    Loss state = loss_begin(dims, tokens, embedding, smaller(rows, SCRATCH_ROWS), &scratch);
    double total = 0;
    for (uint64_t first = 0; first < rows; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, rows - first);
        norm_rows(element_at(x.data, x.dtype, first * hidden), x.dtype, count, hidden, norm, state.normed);
        visit_rows(&state, first, count);
        total += block_loss(&state, count);
    }
    *(float *)loss.data = (float)(total / (double)rows);
}

// ---- backward ------------------------------------------------------------------------------------

// `logits` of a block of words: from exp(logit - max) to (softmax - 1 at the next word) / tokens.
static void logits_backward(const Loss *loss, uint64_t first_row, uint64_t rows, uint64_t first_word, uint64_t words)
{
    float share = 1.0f / (float)model_tokens(loss->dims);
    for (uint64_t r = 0; r < rows; r++) {
        float *restrict d = loss->logits + r * words, scale = share / loss->sum[r];
        uint64_t word = (uint64_t)next_word(loss, first_row + r);
        for (uint64_t i = 0; i < words; i++)
            d[i] *= scale;
        if (word >= first_word && word - first_word < words)
            d[word - first_word] -= share;
    }
}

// The backward pass goes through the rows for every block of words, so that it holds the gradient of a block of words
// in f32, not that of all.
typedef struct {
    Loss loss; // with sums of all rows
    Tensor x;
    const float *norm;
    float *dnormed; // [tokens][H]
} LossGradient;

// A block of rows, with its own part of the sums.
static Loss block_of(const LossGradient *g, uint64_t first_row, uint64_t rows)
{
    uint64_t hidden = g->loss.dims->hidden;
    Loss block = g->loss;
    block.max += first_row;
    block.sum += first_row;
    block.target += first_row;
    norm_rows(element_at(g->x.data, g->x.dtype, first_row * hidden), g->x.dtype, rows, hidden, g->norm, block.normed);
    return block;
}

// Their sums; of words that fit one block they are known when that is visited.
static void sum_rows(const LossGradient *g)
{
    uint64_t rows = model_tokens(g->loss.dims);
    for (uint64_t first = 0; first < rows && g->loss.dims->vocabulary > SCRATCH_VOCABULARY; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, rows - first);
        Loss block = block_of(g, first, count);
        visit_rows(&block, first, count);
    }
}

// Gradients of a block of rows: by `normed` added to dnormed, by the embeddings of so many words to gradient
// [words][H].
static void block_backward(const LossGradient *g, uint64_t first_row, uint64_t first_word, uint64_t words,
                           float *gradient)
{
    uint64_t hidden = g->loss.dims->hidden, rows = smaller(SCRATCH_ROWS, model_tokens(g->loss.dims) - first_row);
    const Loss block = block_of(g, first_row, rows);
    const float *matrix = load_words(&block, first_word, words);
    if (words < block.dims->vocabulary) {
        compute_logits(&block, rows, matrix, words);
        for (uint64_t r = 0; r < rows; r++)
            vector_exp(block.logits + r * words, words, block.max[r]);
    } else {
        visit_rows(&block, first_row, rows);
    }
    logits_backward(&block, first_row, rows, first_word, words);
    matrix_multiply(rows, hidden, words, block.logits, words, (Weights){matrix, DTYPE_F32, hidden}, first_word > 0,
                    g->dnormed + first_row * hidden, hidden, NULL);
    matrix_add_gradient(words, hidden, rows, 1, block.logits, words, block.normed, hidden, gradient, hidden);
}

// Gradients of the words' embeddings; those of positions are 0. `panel`: [words of a block][H], NULL if they are f32.
static void words_backward(const LossGradient *g, Tensor dembedding, float *panel)
{
    uint64_t hidden = g->loss.dims->hidden, vocabulary = g->loss.dims->vocabulary, rows = model_tokens(g->loss.dims);
    for (uint64_t first = 0; first < vocabulary; first += SCRATCH_VOCABULARY) {
        uint64_t words = smaller(SCRATCH_VOCABULARY, vocabulary - first);
        float *gradient = panel ? panel : (float *)dembedding.data + first * hidden;
        memset(gradient, 0, words * hidden * sizeof(*gradient));
        for (uint64_t row = 0; row < rows; row += SCRATCH_ROWS)
            block_backward(g, row, first, words, gradient);
        gradient_store(gradient, dembedding, first * hidden, words * hidden);
    }
    memset(element_in(dembedding.data, dembedding.dtype, vocabulary * hidden), 0,
           (norm_place(g->loss.dims) - vocabulary * hidden) * dtype_bytes(dembedding.dtype));
}

// Through the norm: gradients of its input, and of its parameters.
static void input_backward(const LossGradient *g, Tensor dx, float *dnorm, float *row)
{
    uint64_t hidden = g->loss.dims->hidden, rows = model_tokens(g->loss.dims);
    memset(dnorm, 0, 2 * hidden * sizeof(*dnorm));
    for (uint64_t first = 0; first < rows; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, rows - first);
        float *dnormed = g->dnormed + first * hidden;
        norm_backward(element_at(g->x.data, g->x.dtype, first * hidden), g->x.dtype, count, hidden, g->norm, dnormed,
                      dnorm, row);
        if (dx.dtype != DTYPE_F32)
            host_from_f32(dnormed, element_in(dx.data, dx.dtype, first * hidden), dx.dtype, count * hidden);
    }
}

void host_loss_backward(const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding, Tensor dx, Tensor dembedding,
                        Tensor work)
{
    uint64_t hidden = dims->hidden, rows = model_tokens(dims);
    Scratch scratch = scratch_begin(work);
    assert(dx.rows >= rows && dembedding.dtype == embedding.dtype);
    assert(dembedding.rows * dembedding.cols >= model_embedding_elements(dims));
    LossGradient g = {.x = x, .norm = load_norm(dims, embedding, &scratch)};
    float *row = scratch_take(&scratch, 1, hidden);
    float *sums = scratch_panel(&scratch, dx.dtype, rows, hidden);
    float *panel = scratch_panel(&scratch, embedding.dtype, smaller(dims->vocabulary, SCRATCH_VOCABULARY), hidden);
    float *dnorm = scratch_panel(&scratch, embedding.dtype, 2, hidden);
    g.dnormed = sums ? sums : dx.data;
    g.loss = loss_begin(dims, tokens, embedding, rows, &scratch);
    sum_rows(&g);
    words_backward(&g, dembedding, panel);
    dnorm = dnorm ? dnorm : (float *)dembedding.data + norm_place(dims);
    input_backward(&g, dx, dnorm, row);
    gradient_store(dnorm, dembedding, norm_place(dims), 2 * hidden);
}
