// Token and position embeddings and their gradients.
#include "kernels/host/internal.h"

enum { BLOCK = 256 };

static void add_embeddings(Tensor embedding, uint64_t word, uint64_t position, uint64_t hidden, Tensor x, uint64_t at)
{
    float a[BLOCK], b[BLOCK];
    for (uint64_t first = 0; first < hidden; first += BLOCK) {
        uint64_t count = smaller(BLOCK, hidden - first);
        host_to_f32(element_at(embedding.data, embedding.dtype, word + first), embedding.dtype, a, count);
        host_to_f32(element_at(embedding.data, embedding.dtype, position + first), embedding.dtype, b, count);
        for (uint64_t i = 0; i < count; i++)
            a[i] += b[i];
        host_from_f32(a, element_in(x.data, x.dtype, at + first), x.dtype, count);
    }
}

void host_embed(const ModelDims *dims, Tensor tokens, Tensor embedding, Tensor x)
{
    const int32_t *words = tokens.data;
    uint64_t hidden = dims->hidden;
    assert(x.rows * x.cols >= model_tokens(dims) * hidden);
    for (uint64_t b = 0; b < dims->batch; b++) {
        for (uint64_t s = 0; s < dims->sequence; s++) {
            int32_t word = words[b * (dims->sequence + 1ull) + s];
            assert(word >= 0 && (uint32_t)word < dims->vocabulary);
            add_embeddings(embedding, (uint64_t)word * hidden, (dims->vocabulary + s) * hidden, hidden, x,
                           (b * dims->sequence + s) * hidden);
        }
    }
}

// ---- backward ------------------------------------------------------------------------------------

typedef struct {
    const ModelDims *dims;
    const int32_t *words; // [batch][sequence + 1]
    Tensor dx, dembedding;
} EmbedGradients;

static int32_t word_of(const EmbedGradients *g, uint64_t token)
{
    uint64_t sequence = g->dims->sequence;
    return g->words[token / sequence * (sequence + 1) + token % sequence];
}

// Adds the gradients of tokens first, first + step, ... (those with the word of `first`, or all if any_word) to row
// `row` of the embedding.
static void add_tokens(const EmbedGradients *g, uint64_t first, uint64_t step, bool any_word, uint64_t row)
{
    float sum[BLOCK], part[BLOCK];
    uint64_t hidden = g->dims->hidden, tokens = model_tokens(g->dims);
    Dtype to = g->dembedding.dtype, from = g->dx.dtype;
    for (uint64_t column = 0; column < hidden; column += BLOCK) {
        uint64_t count = smaller(BLOCK, hidden - column), place = row * hidden + column;
        host_to_f32(element_at(g->dembedding.data, to, place), to, sum, count);
        for (uint64_t t = first; t < tokens; t += step) {
            if (!any_word && word_of(g, t) != word_of(g, first))
                continue;
            host_to_f32(element_at(g->dx.data, from, t * hidden + column), from, part, count);
            for (uint64_t i = 0; i < count; i++)
                sum[i] += part[i];
        }
        host_from_f32(sum, element_in(g->dembedding.data, to, place), to, count);
    }
}

static bool is_first_of_its_word(const EmbedGradients *g, uint64_t token)
{
    for (uint64_t t = token; t-- > 0;)
        if (word_of(g, t) == word_of(g, token))
            return false;
    return true;
}

// One word's tokens are summed before they are rounded to the embedding's dtype.
void host_embed_backward(const ModelDims *dims, Tensor tokens, Tensor dx, Tensor dembedding)
{
    EmbedGradients g = {.dims = dims, .words = tokens.data, .dx = dx, .dembedding = dembedding};
    assert(dx.rows >= model_tokens(dims) && dembedding.rows * dembedding.cols >= model_embedding_elements(dims));
    for (uint64_t t = 0; t < model_tokens(dims); t++)
        if (is_first_of_its_word(&g, t))
            add_tokens(&g, t, 1, false, (uint64_t)word_of(&g, t));
    for (uint64_t s = 0; s < dims->sequence; s++)
        add_tokens(&g, s, dims->sequence, true, dims->vocabulary + s);
}
