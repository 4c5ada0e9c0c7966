// See data.h.
#include "runtime/training/data.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "ir/base/text.h"
#include "runtime/training/random.h"

enum { PIECE_BYTES = 1 << 20, SOURCES = 8, KEY_WINDOW = 100, KEY_SOURCE, KEY_STEP, KEY_HELD_OUT };

static bool check_part(const DataOptions *options, const ModelDims *dims, size_t bytes, const char *part, Fault *fault)
{
    uint64_t batch = dims->batch * (dims->sequence + 1ull);
    return bytes >= batch || fault_set(fault, FAULT_INPUT,
                                       "--data %s: %zu bytes%s, fewer than a rank's batch of %" PRIu64 " (%" PRIu32
                                       " x %" PRIu64 " tokens and the one after them)",
                                       options->path, bytes, part, batch, dims->batch, (uint64_t)dims->sequence);
}

static bool check_file(const DataOptions *options, const ModelDims *dims, const Data *data, unsigned char largest,
                       Fault *fault)
{
    if (data->count == 0)
        return fault_set(fault, FAULT_INPUT, "--data %s: the file is empty", options->path);
    if (!check_part(options, dims, data->training, options->validation_share > 0 ? " to train on" : "", fault))
        return false;
    if (options->validates && !check_part(options, dims, data->count - data->training, " for validation", fault))
        return false;
    return largest < dims->vocabulary || fault_set(fault, FAULT_INPUT,
                                                   "--data %s: a byte of value %d, the model's vocabulary has %" PRIu32
                                                   " words: vocabulary = 256 takes every file",
                                                   options->path, largest, dims->vocabulary);
}

static bool read_fault(const Data *data, ssize_t got, Fault *fault)
{
    return fault_set(fault, FAULT_IO, "--data %s: %s", data->path,
                     got < 0 ? strerrordesc_np(errno) : "the file has become shorter");
}

// Length, checksum and the largest byte.
static bool look_through(Data *data, const atomic_int *interrupted, unsigned char *largest, Fault *fault)
{
    unsigned char *piece = malloc(PIECE_BYTES);
    ssize_t got = -1;
    bool stopped = false;
    while (piece && !stopped && (got = read(data->descriptor, piece, PIECE_BYTES)) != 0) {
        stopped = interrupted && atomic_load(interrupted) != 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        data->count += (size_t)got;
        data->identity.crc = (uint32_t)crc32_z(data->identity.crc, piece, (size_t)got);
        for (ssize_t i = 0; i < got; i++)
            *largest = piece[i] > *largest ? piece[i] : *largest;
    }
    free(piece);
    if (!piece)
        return fault_set(fault, FAULT_MEMORY, "out of memory for --data %s", data->path);
    if (stopped)
        return fault_set(fault, FAULT_INTERRUPTED, "interrupted while --data was read");
    return got == 0 || read_fault(data, got, fault);
}

bool data_open(const DataOptions *options, const ModelDims *dims, Data *out, Fault *fault)
{
    *out = (Data){.sources = options->sources, .identity.generated = options->path == NULL};
    if (!options->path)
        return true;
    unsigned char largest = 0;
    out->path = options->path;
    out->descriptor = file_open_regular(options->path, fault);
    if (out->descriptor < 0)
        return fault_prefix(fault, "--data %s", options->path);
    bool ok = look_through(out, options->interrupted, &largest, fault);
    out->training = out->count - (size_t)((double)out->count * options->validation_share);
    out->identity.bytes = out->count;
    if (ok && check_file(options, dims, out, largest, fault))
        return true;
    data_close(out);
    return false;
}

void data_close(Data *data)
{
    if (data->path && data->descriptor >= 0)
        close(data->descriptor);
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

// Bytes of a window become words, in place: those begin as the end of the memory for these.
static bool read_window(const Data *data, uint64_t at, uint64_t length, int32_t *words, Fault *fault)
{
    unsigned char *bytes = (unsigned char *)(words + length) - length;
    for (uint64_t done = 0; done < length;) {
        ssize_t got = pread(data->descriptor, bytes + done, length - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return read_fault(data, got, fault);
        done += (uint64_t)got;
    }
    for (uint64_t i = 0; i < length; i++) {
        unsigned char byte = bytes[i]; // which lies past the word, until the last
        words[i] = byte;
    }
    return true;
}

bool data_fill(const Data *data, const ModelDims *dims, const DataBatch *batch, int32_t *tokens, Fault *fault)
{
    uint64_t length = dims->sequence + 1ull;
    bool held_out = batch->part == DATA_VALIDATION;
    size_t first = held_out ? data->training : 0;
    size_t bytes = held_out ? data->count - data->training : data->training;
    for (uint64_t b = 0; b < dims->batch; b++) {
        int32_t *words = tokens + b * length;
        uint64_t key = random_key(batch->seed, held_out ? KEY_HELD_OUT : KEY_WINDOW, batch->rank,
                                  batch->iteration * dims->batch + b);
        if (!data->path) {
            generate(data, dims, batch->seed, key, words);
            continue;
        }
        if (!read_window(data, first + random_mix(key) % (bytes - length + 1), length, words, fault))
            return false;
    }
    return true;
}
