// Reading a checkpoint that another strategy, or another number of ranks, wrote. A rank's file holds flat shares of the
// experts, of dense weights and of their state: what a rank needs are ranges of elements, which are copied from the
// files of their owners. What codecs remember is made from the weights.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/bundle.h"
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

// The same of a bundle that all ranks own together.
static const SavedBuffer *bundle_of(const CheckpointReader *reader, int32_t layer)
{
    const Plan *plan = reader->rank->plan;
    for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
        const SavedBuffer *of = &reader->own.buffers[b];
        const Buffer *buffer = &plan->buffers[of->buffer];
        if (of->persistence == PERSISTENCE_SHARE && buffer->kind == BUFFER_WEIGHT && buffer->layer == layer)
            return of;
    }
    return NULL;
}

// Values for each element of experts: one weight, or several of the optimizer's state. 1 for what is no experts'.
static uint64_t parts_of(const Manifest *manifest, const SavedBuffer *of)
{
    return of->layer == NONE ? 1 : of->cols / manifest_shares(manifest, of->layer).cols;
}

// Of these, so many are read from the buffer that it is filled from.
static uint64_t parts_read(const CheckpointReader *reader, const SavedBuffer *of)
{
    bool shared = persistence_is_shared(of->persistence);
    return of->rebuild == REBUILD_OUTER ? 1 : shared ? of->parts : parts_of(&reader->own, of);
}

// Are the shares of all ranks together the whole bundle that `of` is a share of?
static bool holds_bundle(const Manifest *manifest, const SavedBuffer *source, const SavedBuffer *of, uint64_t parts)
{
    uint64_t ranks = 1, all;
    for (uint32_t l = 0; l < manifest->level_count; l++)
        if (!checked_mul(ranks, manifest->levels[l], &ranks))
            return false;
    return ranks == manifest->ranks && source->rows == 1 && source->cols % parts == 0 &&
           checked_mul(source->cols / parts, ranks, &all) && all >= of->elements;
}

// The buffer of the checkpoint that `of` is filled from: the one of its name, or the weights of its layer's experts;
// NULL where there is none of its shape.
static const SavedBuffer *source_of(const CheckpointReader *reader, const SavedBuffer *of)
{
    const SavedBuffer *like = of;
    if (of->rebuild == REBUILD_WEIGHTS || of->rebuild == REBUILD_OUTER)
        like = (persistence_is_shared(of->persistence) ? bundle_of : experts_of)(
            reader, reader->rank->plan->buffers[of->buffer].layer);
    const Manifest *manifest = &reader->checkpoint->manifest;
    const SavedBuffer *source = like ? find_saved(manifest, like->name) : NULL;
    if (!source || source->dtype != of->dtype || source->persistence != like->persistence)
        return NULL;
    if (persistence_is_shared(of->persistence))
        return holds_bundle(manifest, source, of, parts_read(reader, of)) ? source : NULL;
    bool fits = source->layer == like->layer && parts_of(manifest, source) == parts_read(reader, of) &&
                (source->persistence != PERSISTENCE_EQUAL || (source->rows == of->rows && source->cols == of->cols));
    return fits ? source : NULL;
}

// The experts in the checkpoint whose mean the buffer is, or NULL.
static const SavedBuffer *weights_of(const CheckpointReader *reader, const SavedBuffer *of)
{
    const SavedBuffer *like = experts_of(reader, reader->rank->plan->buffers[of->buffer].layer);
    const SavedBuffer *source = like ? find_saved(&reader->checkpoint->manifest, like->name) : NULL;
    bool fits = source && source->dtype == of->dtype && source->persistence == PERSISTENCE_OWN;
    return fits ? source : NULL;
}

// A part of experts' elements in a buffer: where the range begins that a rank has, and how it lies there.
typedef struct {
    ElementRange range;
    uint64_t share_cols, cols; // of weights, of the buffer
} Laid;

static Laid laid_out(const Manifest *manifest, const SavedBuffer *of, uint64_t rank)
{
    ExpertShares shares = manifest_shares(manifest, of->layer);
    bool held = of->persistence == PERSISTENCE_HELD;
    return (Laid){held ? share_held_part(&shares, rank, of->rows / shares.rows) : share_owned(&shares, rank),
                  shares.cols, of->cols};
}

// Where a value of an element lies: part `part` of its row.
static uint64_t place_in(const Laid *laid, uint64_t element, uint64_t part)
{
    uint64_t index = element - laid->range.first;
    return index / laid->share_cols * laid->cols + part * laid->share_cols + index % laid->share_cols;
}

// Elements up to the end of the row.
static uint64_t run_of(const Laid *laid, uint64_t element)
{
    return laid->share_cols - (element - laid->range.first) % laid->share_cols;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static ElementRange overlap(ElementRange a, ElementRange b)
{
    uint64_t first = a.first > b.first ? a.first : b.first;
    uint64_t end = least(a.first + a.count, b.first + b.count);
    return (ElementRange){first, end > first ? end - first : 0};
}

// What one file has of the elements that a buffer of this rank needs.
static bool add_experts(CheckpointReader *reader, uint64_t index, const SavedBuffer *of, Fault *fault)
{
    const SavedBuffer *source = source_of(reader, of);
    if (!source)
        return true;
    uint64_t size = dtype_bytes(of->dtype), parts = parts_read(reader, of);
    Laid from = laid_out(&reader->checkpoint->manifest, source, index - 1);
    Laid to = laid_out(&reader->own, of, reader->rank->comm->rank);
    ElementRange shared = overlap(from.range, to.range);
    for (uint64_t done = 0, length; done < shared.count; done += length) {
        uint64_t element = shared.first + done;
        length = least(shared.count - done, least(run_of(&from, element), run_of(&to, element)));
        for (uint64_t part = 0; part < parts; part++) {
            CheckpointCopy copy = {source->offset + place_in(&from, element, part) * size, length * size,
                                   (uint32_t)of->buffer, place_in(&to, element, part) * size};
            if (!reader_add(reader, copy, fault))
                return false;
        }
    }
    return true;
}

// The share of bundles that the rank of a file had.
static uint64_t share_of_file(const Manifest *manifest, uint64_t index)
{
    Cluster cluster = {.level_count = manifest->level_count};
    for (uint32_t l = 0; l < manifest->level_count; l++)
        cluster.levels[l].count = manifest->levels[l];
    return share_of_rank(&cluster, manifest->replica_levels, index - 1);
}

// What a file's share and that of this rank have in common.
static bool add_share(CheckpointReader *reader, uint64_t index, const SavedBuffer *of, Fault *fault)
{
    const SavedBuffer *source = source_of(reader, of);
    const Plan *plan = reader->rank->plan;
    uint64_t parts = parts_read(reader, of), there = source->cols / parts, here = of->cols / of->parts;
    uint64_t element = dtype_bytes(of->dtype);
    uint64_t from = share_of_file(&reader->checkpoint->manifest, index) * there;
    uint64_t own = share_of_rank(&plan->cluster, plan->replica_levels, reader->rank->comm->rank), all = of->rows * here;
    uint64_t to = own / of->rows * all; // a row for each of the shares next to the own one
    uint64_t first = from > to ? from : to, end = from + there < to + all ? from + there : to + all;
    for (uint64_t part = 0; first < end && part < parts; part++) {
        CheckpointCopy copy = {source->offset + (part * there + first - from) * element, (end - first) * element,
                               (uint32_t)of->buffer, (part * here + first - to) * element};
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

// ---- the mean of experts -----------------------------------------------------------------------

static bool read_row(const CheckpointReader *reader, uint64_t index, uint64_t from, void *row, uint64_t bytes,
                     Fault *fault)
{
    char *path = checkpoint_join(reader->checkpoint->path, reader->checkpoint->manifest.files[index].name);
    int descriptor = file_open_regular(path, fault);
    bool ok = descriptor >= 0 && (pread(descriptor, row, bytes, (off_t)from) == (ssize_t)bytes ||
                                  fault_set(fault, FAULT_IO, "it ends early"));
    if (!ok)
        fault_prefix(fault, "%s", path);
    if (descriptor >= 0)
        close(descriptor);
    free(path);
    return ok;
}

// One expert, from all files that have elements of it.
static bool read_expert(const CheckpointReader *reader, const SavedBuffer *source, uint32_t expert, char *row,
                        Fault *fault)
{
    const Manifest *manifest = &reader->checkpoint->manifest;
    uint64_t size = dtype_bytes(source->dtype), elements = model_expert_elements(&manifest->model);
    for (uint64_t f = 1; f <= manifest->ranks; f++) {
        Laid from = laid_out(manifest, source, f - 1);
        ElementRange shared = overlap(from.range, (ElementRange){expert * elements, elements});
        uint64_t at = source->offset + (shared.count ? place_in(&from, shared.first, 0) * size : 0);
        if (shared.count && !read_row(reader, f, at, row + (shared.first - expert * elements) * size,
                                      shared.count * size, fault)) // weights lie one after another
            return false;
    }
    return true;
}

// Sums the experts in the order of their index, the same on every rank.
static bool sum_experts(const CheckpointReader *reader, const SavedBuffer *source, void *row, float *values, float *sum,
                        Fault *fault)
{
    const ModelDims *model = &reader->checkpoint->manifest.model;
    uint64_t elements = model_expert_elements(model);
    for (uint32_t expert = 0; expert < model->experts; expert++) {
        if (!reader_goes_on(reader->rank, fault) || !read_expert(reader, source, expert, row, fault))
            return false;
        host_to_f32(row, source->dtype, values, elements);
        for (uint64_t i = 0; i < elements; i++)
            sum[i] += values[i] / (float)model->experts;
    }
    return true;
}

// After the reading of all files, so that their checksums are known to be right.
static bool fill_mean(CheckpointReader *reader, const SavedBuffer *of, Fault *fault)
{
    const SavedBuffer *source = weights_of(reader, of);
    void *row = malloc(saved_bytes(of) + 1);
    float *values = calloc(of->cols + 1, sizeof(float)), *sum = calloc(of->cols + 1, sizeof(float));
    bool ok = (row && values && sum) || fault_set(fault, FAULT_MEMORY, "out of memory for a checkpoint");
    ok = ok && sum_experts(reader, source, row, values, sum, fault);
    if (ok) {
        host_from_f32(sum, row, of->dtype, of->cols);
        ok = reader->rank->ops->write(reader->rank->engine, (uint32_t)of->buffer, 0, saved_bytes(of), row, fault);
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
    if (!check_sources(reader, fault))
        return false;
    for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
        const SavedBuffer *of = &reader->own.buffers[b], *source = source_of(reader, of);
        every_file = every_file || needs_mean(reader, of);
        bool clears = of->rebuild == REBUILD_ZERO || of->rebuild == REBUILD_OUTER ||
                      persistence_is_shared(of->persistence); // its padding
        if (clears && !fill_zero(reader, of, fault))
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
            if (of->persistence == PERSISTENCE_EQUAL || of->rebuild == REBUILD_ZERO)
                continue;
            bool shares = persistence_is_shared(of->persistence);
            if (!(shares ? add_share : add_experts)(reader, f, of, fault))
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
