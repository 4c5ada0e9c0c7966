// Token and position embeddings.
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
