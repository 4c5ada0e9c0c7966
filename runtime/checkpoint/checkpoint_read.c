// Reading checkpoints: whole buffers where the strategy is the same; what checkpoint_deal.c finds where it is not.
#include <stdlib.h>

#include "runtime/checkpoint/checkpoint_internal.h"

static bool read_same(CheckpointReader *reader, Fault *fault)
{
    const uint64_t files[] = {0, reader->rank->comm->rank + 1};
    for (size_t f = 0; f < COUNT_OF(files); f++) {
        for (uint32_t b = 0; b < reader->own.buffer_count; b++) {
            const SavedBuffer *of = &reader->own.buffers[b];
            if ((of->persistence == PERSISTENCE_EQUAL) == (f == 0) &&
                !reader_add(reader, (CheckpointCopy){of->offset, saved_bytes(of), (uint32_t)of->buffer, 0}, fault))
                return false;
        }
        if (!reader_read(reader, files[f], fault))
            return false;
    }
    return true;
}

bool checkpoint_read(const Checkpoint *checkpoint, const CheckpointRank *rank, Fault *fault)
{
    CheckpointReader reader = {.checkpoint = checkpoint, .rank = rank, .chunk = malloc(CHECKPOINT_CHUNK)};
    bool ok = (reader.chunk || fault_set(fault, FAULT_MEMORY, "out of memory for a checkpoint")) &&
              manifest_of_plan(rank->plan, &reader.own, fault);
    if (ok)
        ok = manifest_same_strategy(&checkpoint->manifest, &reader.own) ? read_same(&reader, fault)
                                                                        : reader_deal(&reader, fault);
    manifest_free(&reader.own);
    free(reader.copies);
    free(reader.chunk);
    return ok;
}
