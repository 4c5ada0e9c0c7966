// Writing checkpoints: every rank its file, the first also what all have alike, then the manifest; a rename makes the
// checkpoint complete. The ranks agree between these by reductions, so that it is complete for all of them or none.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/checkpoint/checkpoint_internal.h"
#include "runtime/engine/nonfinite.h"

enum { KEPT = 2 };

struct CheckpointDir {
    char *path;
    bool made;      // by this run
    int descriptor; // holds the lock; -1 where this process does not manage the directory
    Manifest manifest;
};

static bool io_fault(Fault *fault, const char *path)
{
    return fault_set(fault, fault_kind_of(errno), "%s: %s", path, strerrordesc_np(errno));
}

// ---- the directory ---------------------------------------------------------------------------

static bool check_last(CheckpointDir *dir, const Plan *plan, uint64_t last, uint64_t iteration, Fault *fault)
{
    char name[CHECKPOINT_NAME_MAX];
    checkpoint_step_name(name, last, "");
    char *path = checkpoint_join(dir->path, name);
    bool ok = last <= iteration ||
              fault_set(fault, FAULT_INPUT,
                        "--checkpoint %s: there is a checkpoint of iteration %" PRIu64
                        ", beyond where this run begins: --resume it, move %s away, or name another directory",
                        dir->path, last, name);
    Fault unread = {0};
    Checkpoint *checkpoint = ok ? checkpoint_open(path, &unread) : NULL;
    if (checkpoint && !checkpoint_fits(checkpoint, plan, &unread))
        ok = fault_set(fault, FAULT_INPUT, "--checkpoint %s: another model's checkpoints are there: %s", dir->path,
                       unread.message);
    checkpoint_close(checkpoint);
    free(path);
    return ok;
}

static bool look_around(CheckpointDir *dir, const Plan *plan, uint64_t iteration, Fault *fault)
{
    uint64_t *found;
    size_t count;
    if (!checkpoint_remove_unfinished(dir->path, fault) || !checkpoint_list(dir->path, &found, &count, fault))
        return false;
    bool ok = count == 0 || check_last(dir, plan, found[count - 1], iteration, fault);
    free(found);
    return ok;
}

// A file can be made there.
static bool probe(const char *path, Fault *fault)
{
    Text name = {0};
    text_format(&name, "%s/probe.XXXXXX", path);
    int file = mkostemp(name.data, O_CLOEXEC);
    if (file >= 0)
        unlink(name.data);
    bool ok = file >= 0 || io_fault(fault, path);
    if (file >= 0)
        close(file);
    text_free(&name);
    return ok;
}

static uint64_t checkpoint_bytes(const Manifest *manifest)
{
    uint64_t bytes = 0;
    for (uint32_t b = 0; b < manifest->buffer_count; b++)
        bytes += saved_bytes(&manifest->buffers[b]) *
                 (manifest->buffers[b].persistence == PERSISTENCE_EQUAL ? 1 : manifest->ranks);
    return bytes;
}

// At most one more than those that are kept is there at a time, and earlier ones go for new ones.
static bool check_space(const CheckpointDir *dir, uint64_t count, Fault *fault)
{
    struct statvfs disk;
    uint64_t *found;
    size_t there;
    char each[FORMAT_MAX], need[FORMAT_MAX], left[FORMAT_MAX];
    if (!checkpoint_list(dir->path, &found, &there, fault))
        return false;
    free(found);
    uint64_t at_once = there < KEPT ? KEPT + 1 - there : 1, bytes = checkpoint_bytes(&dir->manifest);
    count = count < at_once ? count : at_once;
    if (statvfs(dir->path, &disk) != 0)
        return io_fault(fault, dir->path);
    double available = (double)disk.f_bavail * (double)disk.f_frsize;
    return available >= (double)bytes * (double)count ||
           fault_set(
               fault, FAULT_IO,
               "--checkpoint %s: checkpoints take %s each, %s at once besides what is there; the disk has %s left",
               dir->path, format_bytes(each, (double)bytes), format_bytes(need, (double)bytes * (double)count),
               format_bytes(left, available));
}

static bool dir_manage(CheckpointDir *dir, const Plan *plan, uint64_t iteration, uint64_t count, Fault *fault)
{
    dir->made = mkdir(dir->path, 0777) == 0;
    if (!dir->made && errno != EEXIST)
        return io_fault(fault, dir->path);
    dir->descriptor = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->descriptor < 0)
        return io_fault(fault, dir->path);
    if (flock(dir->descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(dir->descriptor);
        dir->descriptor = -1; // nothing there is this run's to clean up
        return fault_set(fault, FAULT_IO, "--checkpoint %s: another run writes its checkpoints there", dir->path);
    }
    return probe(dir->path, fault) && look_around(dir, plan, iteration, fault) && check_space(dir, count, fault);
}

CheckpointDir *checkpoint_dir_open(const char *path, const Plan *plan, uint64_t iteration, uint64_t count, bool first,
                                   Fault *fault)
{
    CheckpointDir *dir = calloc(1, sizeof(*dir));
    if (dir) {
        dir->descriptor = -1;
        dir->path = strdup(path);
    }
    bool ok = (dir && dir->path) || fault_set(fault, FAULT_MEMORY, "out of memory for checkpoints");
    ok = ok && manifest_of_plan(plan, &dir->manifest, fault) &&
         (!first || dir_manage(dir, plan, iteration, count, fault));
    if (ok)
        return dir;
    checkpoint_dir_close(dir);
    return NULL;
}

void checkpoint_dir_close(CheckpointDir *dir)
{
    if (!dir)
        return;
    Fault ignored = {0}; // the next run tries again
    if (dir->descriptor >= 0) {
        if (!checkpoint_remove_unfinished(dir->path, &ignored))
            ignored.kind = FAULT_NONE;
        if (dir->made)
            (void)rmdir(dir->path); // where it is empty: the run has failed before
        close(dir->descriptor);
    }
    manifest_free(&dir->manifest);
    free(dir->path);
    free(dir);
}

// ---- one rank's bytes ------------------------------------------------------------------------

static bool go_on(const CheckpointRank *rank, Fault *fault)
{
    atomic_store(rank->alive_s, clock_now_s());
    return !rank->stopped || !atomic_load(rank->stopped) ||
           fault_set(fault, FAULT_INTERRUPTED, "interrupted while a checkpoint was written");
}

// What would end a training that continues from it is not written.
static bool check_finite(const SavedBuffer *of, const void *values, uint64_t bytes, Fault *fault)
{
    return !nonfinite_among(values, of->dtype, bytes / dtype_bytes(of->dtype)) ||
           fault_set(fault, FAULT_RUN, "'%s' has a number that is not finite: no checkpoint was written", of->name);
}

// A checkpoint being written by one rank.
typedef struct {
    CheckpointDir *dir;
    const CheckpointRank *rank;
    char *path;    // where it is until it is complete
    char *chunk;   // CHECKPOINT_CHUNK bytes
    double *table; // bytes and checksum of every file, of which a rank knows its own
} Writer;

// Appends all equal buffers, or all others; a file that is not open only gets their checksum.
static bool append_buffers(const Writer *writer, bool equal, CheckpointFile *file, Fault *fault)
{
    const Manifest *manifest = &writer->dir->manifest;
    const CheckpointRank *rank = writer->rank;
    for (uint32_t b = 0; b < manifest->buffer_count; b++) {
        const SavedBuffer *of = &manifest->buffers[b];
        uint64_t bytes = (of->persistence == PERSISTENCE_EQUAL) == equal ? saved_bytes(of) : 0;
        for (uint64_t at = 0; at < bytes; at += CHECKPOINT_CHUNK) {
            uint64_t length = bytes - at < CHECKPOINT_CHUNK ? bytes - at : CHECKPOINT_CHUNK;
            if (!go_on(rank, fault) ||
                !rank->ops->read(rank->engine, (uint32_t)of->buffer, at, length, writer->chunk, fault) ||
                !check_finite(of, writer->chunk, length, fault) ||
                !checkpoint_file_append(file, writer->chunk, length, fault))
                return false;
        }
    }
    return true;
}

static bool write_file(const Writer *writer, uint64_t index, Fault *fault)
{
    CheckpointFile file;
    if (!checkpoint_file_begin(&file, writer->path, writer->dir->manifest.files[index].name, fault))
        return false;
    bool ok = append_buffers(writer, index == 0, &file, fault);
    writer->table[2 * index] = (double)file.bytes;
    writer->table[2 * index + 1] = file.crc;
    return checkpoint_file_end(&file, ok, fault);
}

// The checksum of what all ranks have alike, where it is: what is stored once is what every rank has.
static bool compare_equal(const Writer *writer, Fault *fault)
{
    Comm *comm = writer->rank->comm;
    CheckpointFile none = {.descriptor = -1};
    if (!append_buffers(writer, true, &none, fault))
        return false;
    double extremes[2] = {none.crc, -(double)none.crc};
    if (!comm->ops->all_reduce_max(comm, extremes, 2, fault))
        return false;
    return extremes[0] == -extremes[1] ||
           fault_set(fault, FAULT_RUN,
                     "weights that all ranks should have alike differ between ranks: no checkpoint was written");
}

// ---- all of it -------------------------------------------------------------------------------

static bool dir_begin(const char *unfinished, Fault *fault)
{
    struct stat there;
    if (lstat(unfinished, &there) == 0 && !checkpoint_remove(unfinished, fault))
        return false;
    return mkdir(unfinished, 0777) == 0 || errno == EEXIST || io_fault(fault, unfinished);
}

// A complete one is out of the way at once, whenever this is interrupted.
static bool discard(const CheckpointDir *dir, uint64_t iteration, Fault *fault)
{
    char name[CHECKPOINT_NAME_MAX], ending[CHECKPOINT_NAME_MAX];
    checkpoint_step_name(name, iteration, "");
    checkpoint_step_name(ending, iteration, ".tmp");
    char *from = checkpoint_join(dir->path, name), *to = checkpoint_join(dir->path, ending);
    bool ok = rename(from, to) == 0 || errno == ENOENT || io_fault(fault, from);
    struct stat there;
    ok = ok && (lstat(to, &there) != 0 || checkpoint_remove(to, fault));
    free(from);
    free(to);
    return ok;
}

static bool keep(CheckpointDir *dir, uint64_t iteration, Fault *fault)
{
    uint64_t *found;
    size_t count;
    if (!checkpoint_list(dir->path, &found, &count, fault))
        return false;
    bool ok = true;
    for (size_t i = 0; ok && i + KEPT < count; i++)
        ok = found[i] >= iteration || discard(dir, found[i], fault);
    free(found);
    return ok;
}

static bool dir_complete(CheckpointDir *dir, const TrainingPoint *point, const char *unfinished, Fault *fault)
{
    Text text = {0};
    char name[CHECKPOINT_NAME_MAX];
    CheckpointFile file;
    dir->manifest.point = *point;
    manifest_print(&dir->manifest, &text);
    bool ok = checkpoint_file_begin(&file, unfinished, CHECKPOINT_MANIFEST, fault);
    ok = ok && checkpoint_file_end(&file, checkpoint_file_append(&file, text.data, text.length, fault), fault);
    text_free(&text);
    checkpoint_step_name(name, point->iteration, "");
    char *complete = checkpoint_join(dir->path, name);
    ok = ok && checkpoint_sync_directory(unfinished, fault) &&
         (rename(unfinished, complete) == 0 || io_fault(fault, complete)) &&
         checkpoint_sync_directory(dir->path, fault) && keep(dir, point->iteration, fault);
    free(complete);
    return ok;
}

static bool write_all(const Writer *writer, const TrainingPoint *point, Fault *fault)
{
    Manifest *manifest = &writer->dir->manifest;
    Comm *comm = writer->rank->comm;
    bool first = comm->rank == 0;
    uint64_t files = manifest->ranks + 1;
    if (!compare_equal(writer, fault) || (first && !dir_begin(writer->path, fault)) ||
        !comm->ops->barrier(comm, fault) || (first && !write_file(writer, 0, fault)) ||
        !write_file(writer, comm->rank + 1, fault) ||
        !comm->ops->all_reduce_sum(comm, writer->table, (uint32_t)(2 * files), fault))
        return false;
    for (uint64_t f = 0; first && f < files; f++) {
        manifest->files[f].bytes = (uint64_t)writer->table[2 * f];
        manifest->files[f].crc = (uint32_t)writer->table[2 * f + 1];
    }
    return (!first || dir_complete(writer->dir, point, writer->path, fault)) && comm->ops->barrier(comm, fault);
}

bool checkpoint_write(CheckpointDir *dir, const CheckpointRank *rank, const TrainingPoint *point, uint64_t *bytes,
                      Fault *fault)
{
    char name[CHECKPOINT_NAME_MAX];
    checkpoint_step_name(name, point->iteration, ".tmp");
    Writer writer = {.dir = dir,
                     .rank = rank,
                     .path = checkpoint_join(dir->path, name),
                     .chunk = malloc(CHECKPOINT_CHUNK),
                     .table = calloc(2 * (dir->manifest.ranks + 1), sizeof(double))};
    bool ok = (writer.chunk && writer.table) || fault_set(fault, FAULT_MEMORY, "out of memory for a checkpoint");
    ok = ok && write_all(&writer, point, fault);
    *bytes = 0;
    for (uint64_t f = 0; ok && f <= dir->manifest.ranks; f++)
        *bytes += (uint64_t)writer.table[2 * f];
    free(writer.path);
    free(writer.chunk);
    free(writer.table);
    return ok;
}
