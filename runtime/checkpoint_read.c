// Reading checkpoints. What a rank needs is a list of copies, from a range of a file to a range of a buffer: whole
// buffers where the strategy is the same, rows of experts by their global index where it is not. Files are read from
// end to end, so that their checksums are known.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "runtime/checkpoint_internal.h"
#include "runtime/clock.h"

static const size_t manifest_limit = (size_t)1 << 30;

struct Checkpoint {
    char *path;   // of the directory
    char *before; // of the checkpoint before it, or NULL
    Manifest manifest;
};

// ---- opening ---------------------------------------------------------------------------------

static bool file_exists(const char *dir, const char *name)
{
    struct stat there;
    char *path = checkpoint_join(dir, name);
    bool exists = stat(path, &there) == 0;
    free(path);
    return exists;
}

static char *step_path(const char *dir, uint64_t iteration)
{
    char name[CHECKPOINT_NAME_MAX];
    checkpoint_step_name(name, iteration, "");
    return checkpoint_join(dir, name);
}

// The directory that a checkpoint is in; malloc'ed.
static char *parent_of(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    if (length == 0)
        return strdup(".");
    return strndup(path, length > 1 ? length - 1 : length);
}

static char *last_of(const char *dir, Fault *fault)
{
    uint64_t *found;
    size_t count;
    if (!checkpoint_list(dir, &found, &count, fault))
        return NULL;
    char *path = count > 0 ? step_path(dir, found[count - 1]) : NULL;
    free(found);
    if (!path)
        fault_set(fault, EXIT_INPUT, "--resume %s: there is no checkpoint", dir);
    return path;
}

// The one before `path` in its directory, or NULL.
static char *before_of(const char *path)
{
    uint64_t *found;
    size_t count;
    Fault ignored = {0};
    char *dir = parent_of(path), *before = NULL;
    const char *slash = strrchr(path, '/');
    if (dir && checkpoint_list(dir, &found, &count, &ignored)) {
        for (size_t i = 0; i + 1 < count; i++) {
            char name[CHECKPOINT_NAME_MAX];
            checkpoint_step_name(name, found[i + 1], "");
            if (strcmp(name, slash ? slash + 1 : path) == 0)
                before = step_path(dir, found[i]);
        }
        free(found);
    }
    free(dir);
    return before;
}

// A fault of this checkpoint's files, and what to take instead.
static bool suggest(const Checkpoint *checkpoint, Fault *fault)
{
    size_t used = strlen(fault->message);
    if (checkpoint->before)
        snprintf(fault->message + used, sizeof(fault->message) - used, "; the checkpoint before it: --resume %s",
                 checkpoint->before);
    return false;
}

static bool read_manifest(Checkpoint *checkpoint, Fault *fault)
{
    const char *error;
    size_t length;
    char *path = checkpoint_join(checkpoint->path, CHECKPOINT_MANIFEST);
    char *text = file_read(path, manifest_limit, &length, &error);
    bool ok = text || fault_set(fault, EXIT_IO, "%s: %s", path, error);
    ok = ok && manifest_parse(path, text, &checkpoint->manifest, fault);
    free(text);
    free(path);
    return ok;
}

Checkpoint *checkpoint_open(const char *path, Fault *fault)
{
    Checkpoint *checkpoint = calloc(1, sizeof(*checkpoint));
    if (!checkpoint) {
        fault_set(fault, EXIT_FAULT, "out of memory for a checkpoint");
        return NULL;
    }
    checkpoint->path = file_exists(path, CHECKPOINT_MANIFEST) ? strdup(path) : last_of(path, fault);
    bool ok = checkpoint->path || fault_set(fault, EXIT_FAULT, "out of memory for a checkpoint");
    for (size_t length = ok ? strlen(checkpoint->path) : 0; length > 1 && checkpoint->path[length - 1] == '/';)
        checkpoint->path[--length] = '\0';
    if (ok)
        checkpoint->before = before_of(checkpoint->path);
    if (ok && (read_manifest(checkpoint, fault) || suggest(checkpoint, fault)))
        return checkpoint;
    checkpoint_close(checkpoint);
    return NULL;
}

void checkpoint_close(Checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    manifest_free(&checkpoint->manifest);
    free(checkpoint->path);
    free(checkpoint->before);
    free(checkpoint);
}

const char *checkpoint_path(const Checkpoint *checkpoint)
{
    return checkpoint->path;
}

TrainingPoint checkpoint_point(const Checkpoint *checkpoint)
{
    return checkpoint->manifest.point;
}

uint32_t checkpoint_sum(const Checkpoint *checkpoint)
{
    return checkpoint->manifest.sum;
}

bool checkpoint_fits(const Checkpoint *checkpoint, const Plan *plan, Fault *fault)
{
    return manifest_same_model(&checkpoint->manifest, plan, checkpoint->path, fault);
}

bool checkpoint_is_same_strategy(const Checkpoint *checkpoint, const Plan *plan)
{
    Manifest own;
    Fault ignored = {0};
    if (!manifest_of_plan(plan, &own, &ignored))
        return false;
    bool same = manifest_same_strategy(&checkpoint->manifest, &own);
    manifest_free(&own);
    return same;
}

// ---- copies ----------------------------------------------------------------------------------

typedef struct {
    uint64_t from, bytes; // in the file
    uint32_t buffer;
    uint64_t to;
} Copy;

typedef struct {
    const Checkpoint *checkpoint;
    const CheckpointRank *rank;
    Manifest own; // of the plan that is to run
    char *chunk;
    Copy *copies;
    size_t count, capacity;
} Reader;

static bool add_copy(Reader *reader, Copy copy, Fault *fault)
{
    if (reader->count == reader->capacity) {
        size_t capacity = reader->capacity ? 2 * reader->capacity : 64;
        Copy *larger = realloc(reader->copies, capacity * sizeof(*larger));
        if (!larger)
            return fault_set(fault, EXIT_FAULT, "out of memory for a checkpoint");
        reader->copies = larger;
        reader->capacity = capacity;
    }
    reader->copies[reader->count++] = copy;
    return true;
}

// What of the copies lies in bytes at..at + length of the file.
static bool scatter(const Reader *reader, uint64_t at, uint64_t length, Fault *fault)
{
    const CheckpointRank *rank = reader->rank;
    for (size_t c = 0; c < reader->count; c++) {
        const Copy *copy = &reader->copies[c];
        uint64_t from = copy->from > at ? copy->from : at;
        uint64_t end = copy->from + copy->bytes < at + length ? copy->from + copy->bytes : at + length;
        if (from < end && !rank->ops->write(rank->engine, copy->buffer, copy->to + (from - copy->from), end - from,
                                            reader->chunk + (from - at), fault))
            return false;
    }
    return true;
}

static bool go_on(const CheckpointRank *rank, Fault *fault)
{
    atomic_store(rank->alive_s, clock_now_s());
    return !rank->interrupted || !*rank->interrupted ||
           fault_set(fault, EXIT_FAULT, "interrupted while a checkpoint was read");
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

static bool damaged(const Reader *reader, const char *path, const char *how, Fault *fault)
{
    fault_set(fault, EXIT_INPUT, "%s: damaged: %s", path, how);
    return suggest(reader->checkpoint, fault);
}

// Reads to the end, also behind what the manifest says.
static bool read_open_file(Reader *reader, const SavedFile *file, const char *path, int descriptor, Fault *fault)
{
    uint32_t crc = 0;
    uint64_t at = 0;
    for (;;) {
        ssize_t got = go_on(reader->rank, fault) ? read_fully(descriptor, reader->chunk, CHECKPOINT_CHUNK) : 0;
        if (fault->code != EXIT_DONE)
            return false;
        if (got < 0)
            return fault_set(fault, EXIT_IO, "%s: %s", path, strerrordesc_np(errno));
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

// The copies are done with afterwards.
static bool read_file(Reader *reader, uint64_t index, Fault *fault)
{
    const SavedFile *file = &reader->checkpoint->manifest.files[index];
    char *path = checkpoint_join(reader->checkpoint->path, file->name);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = descriptor >= 0;
    if (!ok) {
        fault_set(fault, EXIT_IO, "%s: %s", path, strerrordesc_np(errno));
        suggest(reader->checkpoint, fault);
    }
    ok = ok && read_open_file(reader, file, path, descriptor, fault);
    if (descriptor >= 0)
        close(descriptor);
    free(path);
    reader->count = 0;
    return ok;
}

// ---- the same strategy -------------------------------------------------------------------------

static bool read_same(Reader *reader, Fault *fault)
{
    const uint64_t files[] = {0, reader->rank->comm->rank + 1};
    for (size_t f = 0; f < COUNT_OF(files); f++) {
        for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
            const SavedBuffer *of = &reader->own.buffers[b];
            if ((of->persistence == PERSISTENCE_EQUAL) == (f == 0) &&
                !add_copy(reader, (Copy){of->offset, saved_bytes(of), (uint32_t)of->buffer, 0}, fault))
                return false;
        }
        if (!read_file(reader, files[f], fault))
            return false;
    }
    return true;
}

// ---- another strategy --------------------------------------------------------------------------

static const SavedBuffer *find_saved(const Manifest *manifest, const char *name)
{
    for (uint32_t b = 0; b < manifest->buffer_count; b++)
        if (strcmp(manifest->buffers[b].name, name) == 0)
            return &manifest->buffers[b];
    return NULL;
}

// The weights of the experts of a layer, in a manifest of a plan.
static const SavedBuffer *experts_of(const Reader *reader, int32_t layer)
{
    const Plan *plan = reader->rank->plan;
    for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
        const SavedBuffer *of = &reader->own.buffers[b];
        if (of->persistence == PERSISTENCE_OWN && of->rebuild == REBUILD_NOT &&
            plan->buffers[of->buffer].kind == BUFFER_WEIGHT && plan->buffers[of->buffer].layer == layer)
            return of;
    }
    return NULL;
}

// The buffer of the checkpoint that `of` is filled from: the one of its name, or the weights of its layer's experts;
// NULL where there is none of its shape.
static const SavedBuffer *source_of(const Reader *reader, const SavedBuffer *of)
{
    const SavedBuffer *like = of;
    if (of->rebuild == REBUILD_WEIGHTS)
        like = experts_of(reader, reader->rank->plan->buffers[of->buffer].layer);
    const SavedBuffer *source = like ? find_saved(&reader->checkpoint->manifest, like->name) : NULL;
    bool fits = source && source->dtype == of->dtype && source->cols == of->cols &&
                source->persistence == like->persistence &&
                (source->persistence != PERSISTENCE_EQUAL || source->rows == of->rows);
    return fits ? source : NULL;
}

static uint64_t row_bytes(const SavedBuffer *buffer)
{
    return buffer->cols * dtype_bytes(buffer->dtype);
}

// Row of a buffer of this rank that is of the expert, or -1.
static int64_t row_of(const Reader *reader, const SavedBuffer *of, uint32_t expert)
{
    const Plan *plan = reader->rank->plan;
    uint64_t rank = reader->rank->comm->rank;
    if (of->persistence == PERSISTENCE_OWN) {
        int64_t row = (int64_t)expert - (int64_t)plan_first_expert(plan, rank);
        return row < (int64_t)of->rows ? row : -1;
    }
    for (uint32_t c = 0; c < plan->choice_count; c++)
        if ((int32_t)plan->choices[c].layer == plan->buffers[of->buffer].layer)
            return plan_expert_slot(plan, plan->choices[c].domain, rank, expert);
    return -1;
}

// Is the file the first that has the expert? Replicas of the ranks of another level have it again.
static bool is_owner(const Manifest *manifest, uint64_t index, uint32_t expert)
{
    for (uint64_t f = 1; f <= index; f++)
        if (expert >= manifest->files[f].first_expert &&
            expert - manifest->files[f].first_expert < manifest->files[f].experts)
            return f == index;
    return false;
}

static bool add_experts(Reader *reader, uint64_t index, const SavedBuffer *of, Fault *fault)
{
    const SavedBuffer *source = source_of(reader, of);
    const SavedFile *file = &reader->checkpoint->manifest.files[index];
    for (uint64_t row = 0; source && row < file->experts; row++) {
        uint32_t expert = (uint32_t)(file->first_expert + row);
        int64_t to = row_of(reader, of, expert);
        if (to < 0 || !is_owner(&reader->checkpoint->manifest, index, expert))
            continue;
        uint64_t bytes = row_bytes(source);
        if (!add_copy(reader, (Copy){source->offset + row * bytes, bytes, (uint32_t)of->buffer, (uint64_t)to * bytes},
                      fault))
            return false;
    }
    return true;
}

static bool fill_zero(Reader *reader, const SavedBuffer *of, Fault *fault)
{
    uint64_t bytes = saved_bytes(of);
    memset(reader->chunk, 0, CHECKPOINT_CHUNK);
    for (uint64_t at = 0; at < bytes; at += CHECKPOINT_CHUNK) {
        uint64_t length = bytes - at < CHECKPOINT_CHUNK ? bytes - at : CHECKPOINT_CHUNK;
        if (!reader->rank->ops->write(reader->rank->engine, (uint32_t)of->buffer, at, length, reader->chunk, fault))
            return false;
    }
    return true;
}

static bool check_sources(const Reader *reader, Fault *fault)
{
    for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
        const SavedBuffer *of = &reader->own.buffers[b];
        if (of->rebuild != REBUILD_ZERO && !source_of(reader, of))
            return fault_set(fault, EXIT_INPUT, "%s: it has no buffer '%s' of %" PRIu64 " columns of %s",
                             reader->checkpoint->path, of->name, of->cols, dtype_name(of->dtype));
    }
    return true;
}

// Every expert of the model is in one of the files.
static bool check_experts(const Reader *reader, Fault *fault)
{
    const Manifest *manifest = &reader->checkpoint->manifest;
    for (uint32_t expert = 0; manifest->choice_count > 0 && expert < manifest->model.experts; expert++) {
        bool found = false;
        for (uint64_t f = 1; f <= manifest->ranks && !found; f++)
            found = expert >= manifest->files[f].first_expert &&
                    expert - manifest->files[f].first_expert < manifest->files[f].experts;
        if (!found)
            return fault_set(fault, EXIT_INPUT, "%s: expert %" PRIu32 " is in none of its files",
                             reader->checkpoint->path, expert);
    }
    return true;
}

static bool read_other(Reader *reader, Fault *fault)
{
    if (!check_sources(reader, fault) || !check_experts(reader, fault))
        return false;
    for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
        const SavedBuffer *of = &reader->own.buffers[b], *source = source_of(reader, of);
        if (of->rebuild == REBUILD_ZERO && !fill_zero(reader, of, fault))
            return false;
        if (of->persistence == PERSISTENCE_EQUAL && source &&
            !add_copy(reader, (Copy){source->offset, saved_bytes(of), (uint32_t)of->buffer, 0}, fault))
            return false;
    }
    if (!read_file(reader, 0, fault))
        return false;
    for (uint64_t f = 1; f <= reader->checkpoint->manifest.ranks; f++) {
        for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
            const SavedBuffer *of = &reader->own.buffers[b];
            if (of->persistence != PERSISTENCE_EQUAL && of->rebuild != REBUILD_ZERO &&
                !add_experts(reader, f, of, fault))
                return false;
        }
        if (reader->count > 0 && !read_file(reader, f, fault))
            return false;
    }
    return true;
}

bool checkpoint_read(const Checkpoint *checkpoint, const CheckpointRank *rank, Fault *fault)
{
    Reader reader = {.checkpoint = checkpoint, .rank = rank, .chunk = malloc(CHECKPOINT_CHUNK)};
    bool ok = (reader.chunk || fault_set(fault, EXIT_FAULT, "out of memory for a checkpoint")) &&
              manifest_of_plan(rank->plan, &reader.own, fault);
    if (ok)
        ok = manifest_same_strategy(&checkpoint->manifest, &reader.own) ? read_same(&reader, fault)
                                                                      : read_other(&reader, fault);
    manifest_free(&reader.own);
    free(reader.copies);
    free(reader.chunk);
    return ok;
}
