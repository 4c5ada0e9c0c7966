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

// Writes the parts of one tensor one after another.
typedef struct {
    Tensor out;
    uint64_t key, index;      // of the next value in the whole tensor
    uint64_t at;              // place of the next value in `out`
    uint64_t begin, end;      // values with other indices are left out, where `end` is not 0
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
    memset(block, 0, count * sizeof *block);
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

// What of the next values is to be written; the others are passed over.
static uint64_t clip(Filler *filler, uint64_t count)
{
    uint64_t begin = filler->index, end = begin + count;
    if (filler->end == 0)
        return count;
    uint64_t first = begin > filler->begin ? begin : filler->begin, last = end < filler->end ? end : filler->end;
    filler->index = first < last ? first : end;
    return first < last ? last - first : 0;
}

static void fill(Filler *filler, uint64_t all, float mean, float deviation)
{
    float block[BLOCK];
    uint64_t end = filler->index + all, count = clip(filler, all);
    assert(filler->at + count <= filler->out.rows * filler->out.cols);
    char *to = (char *)filler->out.data + filler->at * dtype_bytes(filler->out.dtype);
    for (uint64_t done = 0; done < count; done += BLOCK) {
        uint64_t length = count - done < BLOCK ? count - done : BLOCK;
        (filler->averaged ? draw_mean : draw)(filler, filler->index + done, length, mean, deviation, block);
        host_from_f32(block, to + done * dtype_bytes(filler->out.dtype), filler->out.dtype, length);
    }
    filler->index = end;
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

void weights_fill_embedding(const ModelDims *dims, uint64_t seed, Tensor out)
{
    Filler filler = {.out = out, .key = random_key(seed, KIND_EMBEDDING, 0, 0)};
    float deviation = fminf(0.02f, 1.0f / sqrtf((float)dims->hidden));
    fill(&filler, ((uint64_t)dims->vocabulary + dims->sequence) * dims->hidden, 0, deviation);
    fill_norm(&filler, dims->hidden);
}

void weights_fill_attention(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    Filler filler = {.out = out, .key = random_key(seed, KIND_ATTENTION, layer, 0)};
    uint64_t queries = (uint64_t)dims->heads * dims->head_dim, keys = (uint64_t)dims->kv_heads * dims->head_dim;
    fill_norm(&filler, dims->hidden);
    fill_matrix(&filler, dims->hidden, queries);
    fill_matrix(&filler, dims->hidden, keys);
    fill_matrix(&filler, dims->hidden, keys);
    fill_matrix(&filler, queries, dims->hidden);
}

void weights_fill_router(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    Filler filler = {.out = out, .key = random_key(seed, KIND_ROUTER, layer, 0)};
    fill_norm(&filler, dims->hidden);
    fill_matrix(&filler, dims->hidden, dims->experts);
}

void weights_fill_ffn(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    Filler filler = {.out = out, .key = random_key(seed, KIND_FFN, layer, 0)};
    fill_norm(&filler, dims->hidden);
    fill_feed_forward(&filler, dims, dims->ffn_inner);
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
    uint64_t elements = model_expert_elements(dims), end = first + count;
    Filler filler = {.out = out, .key = random_key(seed, KIND_EXPERT, layer, 0), .begin = first, .end = end};
    filler.index = first / elements * elements;
    while (filler.index < end)
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

void weights_fill_shared(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out)
{
    Filler filler = {.out = out, .key = random_key(seed, KIND_SHARED, layer, 0)};
    fill_feed_forward(&filler, dims, (uint64_t)dims->shared_experts * dims->inner);
}
