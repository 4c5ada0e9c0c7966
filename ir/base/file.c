// Whole files in and out: bounded reads, atomic writes. Paths and bytes only; what they mean is for
// the callers. Errors are static reasons that a message can end with.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ir/base/arena.h"
#include "ir/base/text.h"

static const char *reason_of(int code)
{
    const char *text = strerrordesc_np(code); // static storage, unlike strerror's
    return text ? text : "unknown error";
}

static char *read_descriptor(int file, size_t limit_bytes, size_t *length, const char **error)
{
    size_t capacity = limit_bytes < 64 * 1024 ? limit_bytes + 1 : 64 * 1024, used = 0;
    char *data = malloc(capacity + 1);
    *error = NULL;
    while (data) {
        ssize_t got = read(file, data + used, capacity - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            *error = got < 0 ? reason_of(errno) : NULL;
            break;
        }
        used += (size_t)got;
        if (used > limit_bytes) {
            *error = "the file is too large";
            break;
        }
        if (used == capacity) {
            capacity = capacity > limit_bytes / 2 ? limit_bytes + 1 : capacity * 2;
            char *larger = realloc(data, capacity + 1);
            if (!larger)
                free(data);
            data = larger;
        }
    }
    if (!data)
        memory_exhausted();
    if (*error) {
        free(data);
        return NULL;
    }
    data[used] = '\0';
    *length = used;
    return data;
}

char *file_read(const char *path, size_t limit_bytes, size_t *length, const char **error)
{
    if (limit_bytes > SIZE_MAX - 2)
        limit_bytes = SIZE_MAX - 2;
    bool standard = !strcmp(path, "-");
    int file = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        *error = reason_of(errno);
        return NULL;
    }
    char *data = read_descriptor(file, limit_bytes, length, error);
    if (!standard)
        close(file);
    return data;
}

static const char *write_all(int file, const char *data, size_t length)
{
    while (length) {
        ssize_t put = write(file, data, length);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? reason_of(errno) : "nothing could be written";
        data += put;
        length -= (size_t)put;
    }
    return NULL;
}

// What open(2) would have given a new file. The mask can only be read by setting it.
static mode_t default_mode(void)
{
    mode_t mask = umask(022);
    umask(mask);
    return 0666 & ~mask;
}

static const char *write_temporary(int file, const char *target, const void *data, size_t length)
{
    struct stat old;
    mode_t mode = stat(target, &old) == 0 ? old.st_mode & 07777 : default_mode();
    const char *error = write_all(file, data, length);
    if (!error && fchmod(file, mode) != 0)
        error = reason_of(errno);
    if (!error && fsync(file) != 0 && errno != EINVAL && errno != EROFS)
        error = reason_of(errno);
    return error;
}

// The file a chain of symbolic links ends at, so that replacing it keeps the links; malloc'ed.
static char *resolve_target(const char *path)
{
    char *target = realpath(path, NULL);
    if (!target)
        target = strdup(path);
    if (!target)
        memory_exhausted();
    return target;
}

// Writing replaces a file by a new one beside it, so it is the directory that has to allow it.
static const char *replace_probe(const char *target)
{
    Text temporary = {0};
    text_format(&temporary, "%s.XXXXXX", target);
    int file = mkostemp(temporary.data, O_CLOEXEC);
    const char *error = file < 0 ? reason_of(errno) : NULL;
    if (file >= 0) {
        close(file);
        unlink(temporary.data);
    }
    text_free(&temporary);
    return error;
}

static const char *replace_file(const char *target, const void *data, size_t length)
{
    Text temporary = {0};
    text_format(&temporary, "%s.XXXXXX", target);
    int file = mkostemp(temporary.data, O_CLOEXEC);
    const char *error = file < 0 ? reason_of(errno) : NULL;
    if (file >= 0) {
        error = write_temporary(file, target, data, length);
        if (close(file) != 0 && !error)
            error = reason_of(errno);
        if (!error && rename(temporary.data, target) != 0)
            error = reason_of(errno);
        if (error)
            unlink(temporary.data);
    }
    text_free(&temporary);
    return error;
}

const char *file_write(const char *path, const void *data, size_t length)
{
    if (!strcmp(path, "-"))
        return write_all(STDOUT_FILENO, data, length);
    struct stat existing;
    bool exists = stat(path, &existing) == 0;
    if (exists && S_ISDIR(existing.st_mode))
        return reason_of(EISDIR);
    if (exists && access(path, W_OK) != 0)
        return reason_of(errno);
    if (exists && !S_ISREG(existing.st_mode)) { // a device or a pipe cannot be replaced
        int file = open(path, O_WRONLY | O_CLOEXEC);
        if (file < 0)
            return reason_of(errno);
        const char *error = write_all(file, data, length);
        if (close(file) != 0 && !error)
            error = reason_of(errno);
        return error;
    }
    char *target = resolve_target(path);
    const char *error = replace_file(target, data, length);
    free(target);
    return error;
}

const char *file_probe(const char *path)
{
    struct stat existing;
    if (!strcmp(path, "-"))
        return NULL;
    bool exists = stat(path, &existing) == 0;
    if (exists && S_ISDIR(existing.st_mode))
        return reason_of(EISDIR);
    if (exists && access(path, W_OK) != 0)
        return reason_of(errno);
    if (exists && !S_ISREG(existing.st_mode))
        return NULL;
    char *target = resolve_target(path);
    const char *error = replace_probe(target);
    free(target);
    return error;
}

bool file_is_same(const char *path, const char *other)
{
    struct stat a, b;
    return path && other && stat(path, &a) == 0 && stat(other, &b) == 0 && S_ISREG(a.st_mode) &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}
