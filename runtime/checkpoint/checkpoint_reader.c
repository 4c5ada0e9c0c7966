// A rank's reader of a checkpoint: a list of copies, from a range of a file to a range of a buffer, which are made when
// the file is read. Files are read from end to end, so that their checksums are known.
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "runtime/base/clock.h"
#include "runtime/checkpoint/checkpoint_internal.h"

bool reader_add(CheckpointReader *reader, CheckpointCopy copy, Fault *fault)
{
    if (reader->count == reader->capacity) {
        size_t capacity = reader->capacity ? 2 * reader->capacity : 64;
        CheckpointCopy *larger = realloc(reader->copies, capacity * sizeof(*larger));
        if (!larger)
            return fault_set(fault, FAULT_MEMORY, "out of memory for a checkpoint");
        reader->copies = larger;
        reader->capacity = capacity;
    }
    reader->copies[reader->count++] = copy;
    return true;
}

// What of the copies lies in bytes at..at + length of the file.
static bool scatter(const CheckpointReader *reader, uint64_t at, uint64_t length, Fault *fault)
{
    const CheckpointRank *rank = reader->rank;
    for (size_t c = 0; c < reader->count; c++) {
        const CheckpointCopy *copy = &reader->copies[c];
        uint64_t from = copy->from > at ? copy->from : at;
        uint64_t end = copy->from + copy->bytes < at + length ? copy->from + copy->bytes : at + length;
        if (from < end && !rank->ops->write(rank->engine, copy->buffer, copy->to + (from - copy->from), end - from,
                                            reader->chunk + (from - at), fault))
            return false;
    }
    return true;
}

bool reader_goes_on(const CheckpointRank *rank, Fault *fault)
{
    atomic_store(rank->alive_s, clock_now_s());
    return !rank->stopped || !atomic_load(rank->stopped) ||
           fault_set(fault, FAULT_INTERRUPTED, "interrupted while a checkpoint was read");
}

static ssize_t read_fully(int descriptor, char *out, size_t length)
{
    size_t used = 0;
    while (used < length) {
        ssize_t got = read(descriptor, out + used, length - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? got : (ssize_t)used;
        used += (size_t)got;
    }
    return (ssize_t)used;
}

static bool damaged(const CheckpointReader *reader, const char *path, const char *how, Fault *fault)
{
    fault_set(fault, FAULT_INPUT, "%s: damaged: %s", path, how);
    return checkpoint_suggest(reader->checkpoint, fault);
}

// Reads to the end, also past what the manifest says.
static bool read_open_file(CheckpointReader *reader, const SavedFile *file, const char *path, int descriptor,
                           Fault *fault)
{
    uint32_t crc = 0;
    uint64_t at = 0;
    for (;;) {
        ssize_t got = reader_goes_on(reader->rank, fault) ? read_fully(descriptor, reader->chunk, CHECKPOINT_CHUNK) : 0;
        if (fault->kind != FAULT_NONE)
            return false;
        if (got < 0)
            return fault_set(fault, fault_kind_of(errno), "%s: %s", path, strerrordesc_np(errno));
        if (got == 0)
            break;
        crc = (uint32_t)crc32_z(crc, (const Bytef *)reader->chunk, (size_t)got);
        if (at + (uint64_t)got > file->bytes)
            return damaged(reader, path, "it is longer than its manifest says", fault);
        if (!scatter(reader, at, (uint64_t)got, fault))
            return false;
        at += (uint64_t)got;
    }
    if (at < file->bytes)
        return damaged(reader, path, "it is shorter than its manifest says", fault);
    return crc == file->crc || damaged(reader, path, "its checksum is another", fault);
}

bool reader_read(CheckpointReader *reader, uint64_t index, Fault *fault)
{
    const SavedFile *file = &reader->checkpoint->manifest.files[index];
    char *path = checkpoint_join(reader->checkpoint->path, file->name);
    int descriptor = file_open_regular(path, fault);
    bool ok = descriptor >= 0;
    if (!ok) {
        fault_prefix(fault, "%s", path);
        checkpoint_suggest(reader->checkpoint, fault);
    }
    ok = ok && read_open_file(reader, file, path, descriptor, fault);
    if (descriptor >= 0)
        close(descriptor);
    free(path);
    reader->count = 0;
    return ok;
}

bool checkpoint_verify(const Checkpoint *checkpoint, uint64_t part, uint64_t parts, Fault *fault)
{
    _Atomic double alive_s = 0;
    CheckpointRank nobody = {.alive_s = &alive_s};
    CheckpointReader reader = {.checkpoint = checkpoint, .rank = &nobody, .chunk = malloc(CHECKPOINT_CHUNK)};
    bool ok = reader.chunk || fault_set(fault, FAULT_MEMORY, "out of memory for a checkpoint");
    for (uint64_t f = part; ok && f <= checkpoint->manifest.ranks; f += parts)
        ok = reader_read(&reader, f, fault);
    free(reader.chunk);
    return ok;
}
