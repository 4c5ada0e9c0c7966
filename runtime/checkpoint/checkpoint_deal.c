// Reading a checkpoint that another strategy, or another number of ranks, wrote: experts, with their state, are
// out by their global index from the files of the ranks that owned them; what codecs remember is made from the weights.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/checkpoint/checkpoint_internal.h"

static const SavedBuffer *find_saved(const Manifest *manifest, const char *name)
{
    for (uint32_t b = 0; b < manifest->buffer_count; b++)
        if (strcmp(manifest->buffers[b].name, name) == 0)
            return &manifest->buffers[b];
    return NULL;
}

// The weights of the experts of a layer, in a manifest of a plan.
static const SavedBuffer *experts_of(const CheckpointReader *reader, int32_t layer)
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
static const SavedBuffer *source_of(const CheckpointReader *reader, const SavedBuffer *of)
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

// The experts in the checkpoint whose mean the buffer is, or NULL.
static const SavedBuffer *weights_of(const CheckpointReader *reader, const SavedBuffer *of)
{
    const SavedBuffer *like = experts_of(reader, reader->rank->plan->buffers[of->buffer].layer);
    const SavedBuffer *source = like ? find_saved(&reader->checkpoint->manifest, like->name) : NULL;
    bool fits = source && source->dtype == of->dtype && source->cols == of->cols && of->rows == 1 &&
                source->persistence == PERSISTENCE_OWN;
    return fits ? source : NULL;
}

static uint64_t row_bytes(const SavedBuffer *buffer)
{
    return buffer->cols * dtype_bytes(buffer->dtype);
}

// Row of a buffer of this rank that is of the expert, or -1.
static int64_t row_of(const CheckpointReader *reader, const SavedBuffer *of, uint32_t expert)
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

static bool add_experts(CheckpointReader *reader, uint64_t index, const SavedBuffer *of, Fault *fault)
{
    const SavedBuffer *source = source_of(reader, of);
    const SavedFile *file = &reader->checkpoint->manifest.files[index];
    for (uint64_t row = 0; source && row < file->experts; row++) {
        uint32_t expert = (uint32_t)(file->first_expert + row);
        int64_t to = row_of(reader, of, expert);
        if (to < 0 || !is_owner(&reader->checkpoint->manifest, index, expert))
            continue;
        uint64_t bytes = row_bytes(source);
        CheckpointCopy copy = {source->offset + row * bytes, bytes, (uint32_t)of->buffer, (uint64_t)to * bytes};
        if (!reader_add(reader, copy, fault))
            return false;
    }
    return true;
}

static bool fill_zero(CheckpointReader *reader, const SavedBuffer *of, Fault *fault)
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

static bool check_sources(const CheckpointReader *reader, Fault *fault)
{
    for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
        const SavedBuffer *of = &reader->own.buffers[b];
        bool is_made = of->rebuild == REBUILD_ZERO || (of->rebuild == REBUILD_MEAN && weights_of(reader, of));
        if (!is_made && !source_of(reader, of))
            return fault_set(fault, FAULT_INPUT, "%s: it has no buffer '%s' of %" PRIu64 " columns of %s",
                             reader->checkpoint->path, of->name, of->cols, dtype_name(of->dtype));
    }
    return true;
}

// Every expert of the model is in one of the files.
static bool check_experts(const CheckpointReader *reader, Fault *fault)
{
    const Manifest *manifest = &reader->checkpoint->manifest;
    for (uint32_t expert = 0; manifest->choice_count > 0 && expert < manifest->model.experts; expert++) {
        bool found = false;
        for (uint64_t f = 1; f <= manifest->ranks && !found; f++)
            found = expert >= manifest->files[f].first_expert &&
                    expert - manifest->files[f].first_expert < manifest->files[f].experts;
        if (!found)
            return fault_set(fault, FAULT_INPUT, "%s: expert %" PRIu32 " is in none of its files",
                             reader->checkpoint->path, expert);
    }
    return true;
}

// ---- the mean of experts -----------------------------------------------------------------------

static bool read_row(const CheckpointReader *reader, uint64_t index, uint64_t from, void *row, uint64_t bytes,
                     Fault *fault)
{
    char *path = checkpoint_join(reader->checkpoint->path, reader->checkpoint->manifest.files[index].name);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = descriptor >= 0 && pread(descriptor, row, bytes, (off_t)from) == (ssize_t)bytes;
    if (!ok)
        fault_set(fault, FAULT_IO, "%s: %s", path, descriptor < 0 ? strerrordesc_np(errno) : "it ends early");
    if (descriptor >= 0)
        close(descriptor);
    free(path);
    return ok;
}

// Sums the experts of all files in the order of their index, the same on every rank.
static bool sum_experts(const CheckpointReader *reader, const SavedBuffer *source, void *row, float *values, float *sum,
                        Fault *fault)
{
    const Manifest *manifest = &reader->checkpoint->manifest;
    uint64_t bytes = row_bytes(source);
    for (uint32_t expert = 0; expert < manifest->model.experts; expert++) {
        for (uint64_t f = 1; f <= manifest->ranks; f++) {
            if (!is_owner(manifest, f, expert))
                continue;
            uint64_t from = source->offset + (expert - manifest->files[f].first_expert) * bytes;
            if (!reader_goes_on(reader->rank, fault) || !read_row(reader, f, from, row, bytes, fault))
                return false;
            host_to_f32(row, source->dtype, values, source->cols);
            for (uint64_t i = 0; i < source->cols; i++)
                sum[i] += values[i] / (float)manifest->model.experts;
        }
    }
    return true;
}

// After the reading of all files, so that their checksums are known to be right.
static bool fill_mean(CheckpointReader *reader, const SavedBuffer *of, Fault *fault)
{
    const SavedBuffer *source = weights_of(reader, of);
    void *row = malloc(row_bytes(of) + 1);
    float *values = calloc(of->cols + 1, sizeof(float)), *sum = calloc(of->cols + 1, sizeof(float));
    bool ok = (row && values && sum) || fault_set(fault, FAULT_MEMORY, "out of memory for a checkpoint");
    ok = ok && sum_experts(reader, source, row, values, sum, fault);
    if (ok) {
        host_from_f32(sum, row, of->dtype, of->cols);
        ok = reader->rank->ops->write(reader->rank->engine, (uint32_t)of->buffer, 0, row_bytes(of), row, fault);
    }
    free(row);
    free(values);
    free(sum);
    return ok;
}

static bool needs_mean(const CheckpointReader *reader, const SavedBuffer *of)
{
    return of->rebuild == REBUILD_MEAN && !source_of(reader, of);
}

bool reader_deal(CheckpointReader *reader, Fault *fault)
{
    bool every_file = false;
    if (!check_sources(reader, fault) || !check_experts(reader, fault))
        return false;
    for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
        const SavedBuffer *of = &reader->own.buffers[b], *source = source_of(reader, of);
        every_file = every_file || needs_mean(reader, of);
        if (of->rebuild == REBUILD_ZERO && !fill_zero(reader, of, fault))
            return false;
        if (of->persistence == PERSISTENCE_EQUAL && source &&
            !reader_add(reader, (CheckpointCopy){source->offset, saved_bytes(of), (uint32_t)of->buffer, 0}, fault))
            return false;
    }
    if (!reader_read(reader, 0, fault))
        return false;
    for (uint64_t f = 1; f <= reader->checkpoint->manifest.ranks; f++) {
        for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
            const SavedBuffer *of = &reader->own.buffers[b];
            if (of->persistence != PERSISTENCE_EQUAL && of->rebuild != REBUILD_ZERO &&
                !add_experts(reader, f, of, fault))
                return false;
        }
        if ((reader->count > 0 || every_file) && !reader_read(reader, f, fault))
            return false;
    }
    for (uint32_t b = 0; b < reader->own.buffer_count; b++)
        if (needs_mean(reader, &reader->own.buffers[b]) && !fill_mean(reader, &reader->own.buffers[b], fault))
            return false;
    return true;
}
