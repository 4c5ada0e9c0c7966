// See data.h.
#include "runtime/data.h"

#include <assert.h>
#include <stdlib.h>

#include "ir/base/text.h"
#include "runtime/random.h"

enum { SOURCES = 8, KEY_WINDOW = 100, KEY_SOURCE, KEY_STEP };

static const size_t file_limit = (size_t)1 << 40;

bool data_open(const char *path, bool sources, const ModelDims *dims, Data *out, Fault *fault)
{
    *out = (Data){.sources = sources};
    if (!path)
        return true;
    const char *error;
    char *bytes = file_read(path, file_limit, &out->count, &error);
    if (!bytes)
        return fault_set(fault, EXIT_IO, "--data %s: %s", path, error);
    out->bytes = (unsigned char *)bytes;
    size_t least = dims->sequence + (size_t)1;
    unsigned char largest = 0;
    for (size_t i = 0; i < out->count; i++)
        largest = out->bytes[i] > largest ? out->bytes[i] : largest;
    bool ok = true;
    if (out->count < least)
        ok = fault_set(fault, EXIT_INPUT, "--data %s: %zu bytes, a sequence and the token after it are %zu", path,
                       out->count, least);
    else if (largest >= dims->vocabulary)
        ok = fault_set(fault, EXIT_INPUT, "--data %s: a byte of value %d, the model's vocabulary has %u words: "
                                          "vocabulary = 256 takes every file", path, largest, dims->vocabulary);
    if (!ok)
        data_close(out);
    return ok;
}

void data_close(Data *data)
{
    free(data->bytes);
    *data = (Data){0};
}

static uint32_t draw(uint64_t key, uint64_t count)
{
    return (uint32_t)((random_mix(key) >> 32) * count >> 32);
}

// The word after `word` in a source: the first of its four successors with the greatest probability.
static int32_t next_word(uint64_t seed, uint32_t source, int32_t word, uint64_t key, uint32_t vocabulary)
{
    uint32_t chance = draw(key, 100), successor = chance < 70 ? 0 : chance < 90 ? 1 : chance < 97 ? 2 : 3;
    return (int32_t)draw(random_key(seed, KEY_STEP, source * SOURCES + successor, (uint64_t)word), vocabulary);
}

static void generate(const Data *data, const ModelDims *dims, uint64_t seed, uint64_t key, int32_t *words)
{
    for (uint64_t i = 0; !data->sources && i <= dims->sequence; i++)
        words[i] = (int32_t)draw(key + i, dims->vocabulary);
    if (!data->sources)
        return;
    uint32_t source = draw(key, SOURCES);
    words[0] = (int32_t)draw(key + 1, dims->vocabulary);
    for (uint64_t i = 1; i <= dims->sequence; i++)
        words[i] = next_word(seed, source, words[i - 1], key + 1 + i, dims->vocabulary);
}

void data_fill(const Data *data, const ModelDims *dims, uint64_t seed, uint64_t rank, uint64_t iteration,
               Tensor tokens)
{
    uint64_t length = dims->sequence + 1ull;
    assert(tokens.dtype == DTYPE_I32 && tokens.rows * tokens.cols >= dims->batch * length);
    for (uint64_t b = 0; b < dims->batch; b++) {
        int32_t *words = (int32_t *)tokens.data + b * length;
        uint64_t key = random_key(seed, KEY_WINDOW, rank, iteration * dims->batch + b);
        if (!data->bytes) {
            generate(data, dims, seed, key, words);
            continue;
        }
        const unsigned char *window = data->bytes + random_mix(key) % (data->count - length + 1);
        for (uint64_t i = 0; i < length; i++)
            words[i] = window[i];
    }
}
