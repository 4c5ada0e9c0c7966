// Initial weights: see weights.h. A value depends on its key (seed, kind, layer) and its index only.
#include "runtime/training/weights.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "runtime/training/random.h"

enum { BLOCK = 512 };

typedef enum { KIND_EMBEDDING, KIND_ATTENTION, KIND_ROUTER, KIND_FFN, KIND_EXPERT, KIND_SHARED } Kind;

// Sum of four uniforms of 16 bits, shifted and scaled to mean 0 and variance 1: near enough to a
// normal distribution, bounded, and the same on every machine. Variance of the sum: 4 x 65536^2 / 12.
static float normal_at(uint64_t key, uint64_t index)
{
    uint64_t bits = random_mix(key + index);
    int32_t sum = (int32_t)((bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48));
    return (float)(sum - 2 * 65535) * (1.7320508f / 65536.0f);
}

// Writes the parts of one tensor, or of a bundle of tensors, one after another: of all of it what lies in `out`.
typedef struct {
    Tensor out;
    uint64_t first;           // place of the first element of `out`
    uint64_t key, index;      // of the next value in its tensor
    uint64_t at;              // its place
    uint64_t averaged, apart; // where this many values, so far apart, become their mean; 0: no
} Filler;

static void draw(const Filler *filler, uint64_t index, uint64_t count, float mean, float deviation, float *block)
{
    for (uint64_t i = 0; i < count; i++)
        block[i] = mean + deviation * normal_at(filler->key, index + i);
}

// The mean of values as they are stored, summed in the order of their places.
static void draw_mean(const Filler *filler, uint64_t index, uint64_t count, float mean, float deviation, float *block)
{
    float stored[BLOCK], value[BLOCK];
    memset(block, 0, count * sizeof(*block));
    for (uint64_t v = 0; v < filler->averaged; v++) {
        draw(filler, index + v * filler->apart, count, mean, deviation, value);
        host_from_f32(value, stored, filler->out.dtype, count);
        host_to_f32(stored, filler->out.dtype, value, count);
        for (uint64_t i = 0; i < count; i++)
            block[i] += value[i];
    }
    for (uint64_t i = 0; i < count; i++)
        block[i] /= (float)filler->averaged;
}

static void fill(Filler *filler, uint64_t count, float mean, float deviation)
{
    float block[BLOCK];
    uint64_t held = filler->first + filler->out.rows * filler->out.cols;
    uint64_t from = filler->at > filler->first ? filler->at : filler->first;
    uint64_t end = filler->at + count < held ? filler->at + count : held;
    for (uint64_t at = from; at < end; at += BLOCK) {
        uint64_t length = end - at < BLOCK ? end - at : BLOCK, index = filler->index + (at - filler->at);
        (filler->averaged ? draw_mean : draw)(filler, index, length, mean, deviation, block);
        char *to = (char *)filler->out.data + (at - filler->first) * dtype_bytes(filler->out.dtype);
        host_from_f32(block, to, filler->out.dtype, length);
    }
    filler->index += count;
    filler->at += count;
}

static void fill_norm(Filler *filler, uint64_t hidden)
{
    fill(filler, hidden, 1, 0.02f);
    fill(filler, hidden, 0, 0.02f);
}

static void fill_matrix(Filler *filler, uint64_t fan_in, uint64_t fan_out)
{
    fill(filler, fan_in * fan_out, 0, 1.0f / sqrtf((float)fan_in));
}

// up, gate where there is one, down.
static void fill_feed_forward(Filler *filler, const ModelDims *dims, uint64_t inner)
{
    for (uint32_t matrix = 1; matrix < activation_matrices(dims->activation); matrix++)
        fill_matrix(filler, dims->hidden, inner);
    fill_matrix(filler, inner, dims->hidden);
}

// ---- tensors -----------------------------------------------------------------------------------

static void begin_tensor(Filler *filler, uint64_t seed, Kind kind, uint32_t layer)
{
    filler->key = random_key(seed, (uint64_t)kind, layer, 0);
    filler->index = 0;
}

static void fill_embedding(Filler *filler, const ModelDims *dims)
{
    float deviation = fminf(0.02f, 1.0f / sqrtf((float)dims->hidden));
    fill(filler, ((uint64_t)dims->vocabulary + dims->sequence) * dims->hidden, 0, deviation);
    fill_norm(filler, dims->hidden);
}

static void fill_attention(Filler *filler, const ModelDims *dims)
{
    uint64_t queries = (uint64_t)dims->heads * dims->head_dim, keys = (uint64_t)dims->kv_heads * dims->head_dim;
    fill_norm(filler, dims->hidden);
    fill_matrix(filler, dims->hidden, queries);
    fill_matrix(filler, dims->hidden, keys);
    fill_matrix(filler, dims->hidden, keys);
    fill_matrix(filler, queries, dims->hidden);
}

static void fill_router(Filler *filler, const ModelDims *dims)
{
    fill_norm(filler, dims->hidden);
    fill_matrix(filler, dims->hidden, dims->experts);
}

static void fill_ffn(Filler *filler, const ModelDims *dims)
{
    fill_norm(filler, dims->hidden);
    fill_feed_forward(filler, dims, dims->ffn_inner);
}

static void fill_shared(Filler *filler, const ModelDims *dims)
{
    fill_feed_forward(filler, dims, model_shared_inner(dims));
}

static const struct {
    Kind kind;
    void (*fill)(Filler *filler, const ModelDims *dims);
} parts[DENSE_PARTS] = {
    [DENSE_ATTENTION] = {KIND_ATTENTION, fill_attention},
    [DENSE_ROUTER] = {KIND_ROUTER, fill_router},
    [DENSE_SHARED] = {KIND_SHARED, fill_shared},
    [DENSE_FFN] = {KIND_FFN, fill_ffn},
};

static void fill_part(Filler *filler, const ModelDims *dims, uint64_t seed, uint32_t layer, DensePart part)
{
    begin_tensor(filler, seed, parts[part].kind, layer);
    parts[part].fill(filler, dims);
}

static void fill_whole(const ModelDims *dims, uint64_t seed, uint32_t layer, DensePart part, Tensor out)
{
    Filler filler = {.out = out};
    assert(model_dense_range(dims, part).count <= out.rows * out.cols);
    fill_part(&filler, dims, seed, layer, part);
}

// What `out` has beyond the bundle.
static void clear_rest(const Filler *filler)
{
    uint64_t size = filler->out.rows * filler->out.cols, element = dtype_bytes(filler->out.dtype);
    uint64_t filled = filler->at > filler->first ? filler->at - filler->first : 0;
    if (filled < size)
        memset((char *)filler->out.data + filled * element, 0, (size - filled) * element);
}

void weights_fill_dense(const ModelDims *dims, uint64_t seed, uint32_t layer, bool is_moe, uint64_t first, Tensor out)
{
    Filler filler = {.out = out, .first = first};
    for (int part = 0; part < DENSE_PARTS; part++)
        if (model_has_part(dims, (DensePart)part, is_moe))
            fill_part(&filler, dims, seed, layer, (DensePart)part);
    clear_rest(&filler);
}

void weights_fill_embedding_share(const ModelDims *dims, uint64_t seed, uint64_t first, Tensor out)
{
    Filler filler = {.out = out, .first = first};
    begin_tensor(&filler, seed, KIND_EMBEDDING, 0);
    fill_embedding(&filler, dims);
    clear_rest(&filler);
}

void weights_fill_embedding(const ModelDims *dims, uint64_t seed, Tensor out)
{
    Filler filler = {.out = out};
    assert(model_embedding_elements(dims) <= out.rows * out.cols);
    begin_tensor(&filler, seed, KIND_EMBEDDING, 0);
    fill_embedding(&filler, dims);
}

void weights_fill_attention(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    fill_whole(dims, seed, layer, DENSE_ATTENTION, out);
}

void weights_fill_router(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    fill_whole(dims, seed, layer, DENSE_ROUTER, out);
}

void weights_fill_ffn(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    fill_whole(dims, seed, layer, DENSE_FFN, out);
}

void weights_fill_shared(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    fill_whole(dims, seed, layer, DENSE_SHARED, out);
}

void weights_fill_experts(const ModelDims *dims, uint64_t seed, uint32_t layer, uint32_t first, uint32_t count,
                          Tensor out)
{
    Filler filler = {.out = out, .key = random_key(seed, KIND_EXPERT, layer, 0)};
    filler.index = first * model_expert_elements(dims);
    for (uint32_t i = 0; i < count; i++)
        fill_feed_forward(&filler, dims, dims->inner);
}

void weights_fill_expert_range(const ModelDims *dims, uint64_t seed, uint32_t layer, uint64_t first, uint64_t count,
                               Tensor out)
{
    uint64_t elements = model_expert_elements(dims), at = first / elements * elements;
    Filler filler = {.out = {out.data, out.dtype, 1, count}, .first = first, .at = at, .index = at};
    filler.key = random_key(seed, KIND_EXPERT, layer, 0);
    while (filler.at < first + count)
        fill_feed_forward(&filler, dims, dims->inner);
}

void weights_fill_mean_expert(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    Filler filler = {.out = out,
                     .key = random_key(seed, KIND_EXPERT, layer, 0),
                     .averaged = dims->experts,
                     .apart = model_expert_elements(dims)};
    fill_feed_forward(&filler, dims, dims->inner);
}
