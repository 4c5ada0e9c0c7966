// Files and directories of checkpoints: written through to the disk in pieces, listed, removed. Paths and bytes only.
#include "runtime/checkpoint/checkpoint_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static const uint64_t sync_bytes = 64 << 20; // that may wait for the disk: a sign of life at least so often
static const char step_prefix[] = "step-", unfinished[] = ".tmp";

static bool io_fault(Fault *fault, const char *path)
{
    return fault_set(fault, fault_kind_of(errno), "%s: %s", path, strerrordesc_np(errno));
}

char *checkpoint_join(const char *dir, const char *name)
{
    Text path = {0};
    text_format(&path, "%s/%s", dir, name);
    return path.data;
}

void checkpoint_step_name(char out[CHECKPOINT_NAME_MAX], uint64_t iteration, const char *ending)
{
    snprintf(out, CHECKPOINT_NAME_MAX, "%s%06" PRIu64 "%s", step_prefix, iteration, ending);
}

void checkpoint_rank_name(char out[CHECKPOINT_NAME_MAX], uint64_t rank)
{
    snprintf(out, CHECKPOINT_NAME_MAX, "rank-%05" PRIu64, rank);
}

// ---- writing ---------------------------------------------------------------------------------

bool checkpoint_file_begin(CheckpointFile *file, const char *dir, const char *name, Fault *fault)
{
    *file = (CheckpointFile){.path = checkpoint_join(dir, name)};
    file->descriptor = open(file->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->descriptor >= 0)
        return true;
    io_fault(fault, file->path);
    free(file->path);
    return false;
}

static bool file_sync(CheckpointFile *file, Fault *fault)
{
    file->unsynced = 0;
    return fsync(file->descriptor) == 0 || errno == EINVAL || io_fault(fault, file->path);
}

bool checkpoint_file_append(CheckpointFile *file, const void *data, uint64_t bytes, Fault *fault)
{
    file->crc = (uint32_t)crc32_z(file->crc, data, bytes);
    if (file->descriptor < 0)
        return true;
    file->bytes += bytes;
    file->unsynced += bytes;
    for (const char *at = data; bytes > 0;) {
        ssize_t put = write(file->descriptor, at, bytes);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return io_fault(fault, file->path);
        at += put;
        bytes -= (uint64_t)put;
    }
    return file->unsynced < sync_bytes || file_sync(file, fault);
}

bool checkpoint_file_end(CheckpointFile *file, bool ok, Fault *fault)
{
    ok = ok && file_sync(file, fault);
    if (close(file->descriptor) != 0 && ok)
        ok = io_fault(fault, file->path);
    if (!ok)
        unlink(file->path);
    free(file->path);
    file->path = NULL;
    return ok;
}

bool checkpoint_sync_directory(const char *path, Fault *fault)
{
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0)
        return io_fault(fault, path);
    bool ok = fsync(descriptor) == 0 || errno == EINVAL || io_fault(fault, path);
    close(descriptor);
    return ok;
}

// ---- listing and removing ----------------------------------------------------------------------

// Is it "step-", digits and `ending`? Then which.
static bool parse_step(const char *name, const char *ending, uint64_t *iteration)
{
    char *end;
    if (strncmp(name, step_prefix, strlen(step_prefix)) != 0 || name[strlen(step_prefix)] < '0' ||
        name[strlen(step_prefix)] > '9')
        return false;
    errno = 0;
    *iteration = strtoull(name + strlen(step_prefix), &end, 10);
    return errno == 0 && strcmp(end, ending) == 0;
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

bool checkpoint_list(const char *path, uint64_t **iterations, size_t *count, Fault *fault)
{
    DIR *dir = opendir(path);
    *count = 0;
    *iterations = NULL;
    if (!dir)
        return io_fault(fault, path);
    size_t capacity = 0;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        uint64_t iteration;
        if (!parse_step(entry->d_name, "", &iteration))
            continue;
        if (*count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            uint64_t *larger = realloc(*iterations, capacity * sizeof(**iterations));
            if (!larger) {
                closedir(dir);
                free(*iterations);
                return fault_set(fault, FAULT_MEMORY, "out of memory for the checkpoints of %s", path);
            }
            *iterations = larger;
        }
        (*iterations)[(*count)++] = iteration;
    }
    closedir(dir);
    if (*count > 0)
        qsort(*iterations, *count, sizeof(**iterations), compare_numbers);
    return true;
}

static bool is_of_checkpoint(const char *name)
{
    return strcmp(name, CHECKPOINT_MANIFEST) == 0 || strcmp(name, CHECKPOINT_EQUAL) == 0 ||
           (strncmp(name, "rank-", 5) == 0 && strspn(name + 5, "0123456789") == strlen(name + 5));
}

bool checkpoint_remove(const char *path, Fault *fault)
{
    struct stat of;
    if (lstat(path, &of) == 0 && S_ISLNK(of.st_mode))
        return unlink(path) == 0 || io_fault(fault, path);
    DIR *dir = opendir(path);
    bool ok = dir || io_fault(fault, path);
    for (struct dirent *entry = dir ? readdir(dir) : NULL; ok && entry; entry = readdir(dir)) {
        if (!is_of_checkpoint(entry->d_name))
            continue;
        char *name = checkpoint_join(path, entry->d_name);
        ok = unlink(name) == 0 || io_fault(fault, name);
        free(name);
    }
    if (dir)
        closedir(dir);
    return ok && (rmdir(path) == 0 || errno == ENOTEMPTY || errno == EEXIST || io_fault(fault, path));
}

bool checkpoint_remove_unfinished(const char *path, Fault *fault)
{
    DIR *dir = opendir(path);
    bool ok = dir || io_fault(fault, path);
    for (struct dirent *entry = dir ? readdir(dir) : NULL; ok && entry; entry = readdir(dir)) {
        uint64_t iteration;
        if (!parse_step(entry->d_name, unfinished, &iteration))
            continue;
        char *name = checkpoint_join(path, entry->d_name);
        ok = checkpoint_remove(name, fault);
        free(name);
    }
    if (dir)
        closedir(dir);
    return ok;
}
