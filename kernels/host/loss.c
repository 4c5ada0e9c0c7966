// The loss: final norm, logits by the tied embedding, mean cross-entropy of the next token. Words
// are processed in blocks with a running log-sum-exp, so a large vocabulary needs little scratch.
#include <math.h>

#include "kernels/host/internal.h"

typedef struct {
    const ModelDims *dims;
    const int32_t *tokens;
    Tensor embedding;
    float *normed, *logits;    // [block][H], [block][words]
    float *max, *sum, *target; // [block]: running maximum, sum of exp(logit - max), logit of the next token
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

static void visit_words(const Loss *loss, uint64_t first_row, uint64_t rows, uint64_t first_word, uint64_t words)
{
    uint64_t hidden = loss->dims->hidden;
    Dtype dtype = loss->embedding.dtype;
    const float *matrix = element_at(loss->embedding.data, dtype, first_word * hidden);
    if (dtype != DTYPE_F32) {
        host_to_f32(matrix, dtype, loss->panel, words * hidden);
        matrix = loss->panel;
    }
    matrix_multiply_transposed(rows, words, hidden, 1, loss->normed, hidden, matrix, hidden, loss->logits, words);
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t word = (uint64_t)next_word(loss, first_row + r);
        if (word >= first_word && word - first_word < words)
            loss->target[r] = loss->logits[r * words + word - first_word];
        add_words(loss, r, loss->logits + r * words, words);
    }
}

// Sum of the losses of `rows` tokens from `first` on; `normed` holds their rows.
static double block_loss(const Loss *loss, uint64_t first, uint64_t rows)
{
    double total = 0;
    for (uint64_t r = 0; r < rows; r++) {
        loss->max[r] = -INFINITY;
        loss->sum[r] = loss->target[r] = 0;
    }
    for (uint64_t word = 0; word < loss->dims->vocabulary; word += WORKSPACE_VOCABULARY)
        visit_words(loss, first, rows, word, smaller(WORKSPACE_VOCABULARY, loss->dims->vocabulary - word));
    for (uint64_t r = 0; r < rows; r++)
        total += log((double)loss->sum[r]) + (double)loss->max[r] - (double)loss->target[r];
    return total;
}

void host_loss(const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding, Tensor loss, Tensor work)
{
    uint64_t hidden = dims->hidden, rows = model_tokens(dims), block = smaller(rows, WORKSPACE_ROWS);
    uint64_t words = smaller(dims->vocabulary, WORKSPACE_VOCABULARY);
    uint64_t norm_first = ((uint64_t)dims->vocabulary + dims->sequence) * hidden;
    Scratch scratch = scratch_begin(work);
    const float *norm =
        scratch_convert(&scratch, element_at(embedding.data, embedding.dtype, norm_first), embedding.dtype, 2 * hidden);
    Loss state = {.dims = dims, .tokens = tokens.data, .embedding = embedding};
    state.normed = scratch_take(&scratch, block, hidden);
    state.logits = scratch_take(&scratch, block, words);
    state.max = scratch_take(&scratch, 3, block);
    state.sum = state.max + block;
    state.target = state.sum + block;
    state.panel = scratch_panel(&scratch, embedding.dtype, words, hidden);
    double total = 0;
    for (uint64_t first = 0; first < rows; first += WORKSPACE_ROWS) {
        uint64_t count = smaller(WORKSPACE_ROWS, rows - first);
        norm_rows(element_at(x.data, x.dtype, first * hidden), x.dtype, count, hidden, norm, state.normed);
        total += block_loss(&state, first, count);
    }
    *(float *)loss.data = (float)(total / (double)rows);
}
