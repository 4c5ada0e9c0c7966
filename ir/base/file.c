// Whole files in and out: bounded reads, atomic writes. Paths and bytes only; what they mean is for
// the callers, who name the file in what they say.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ir/base/arena.h"
#include "ir/base/text.h"

enum { LINKS_MAX = 40 };

static bool system_fault(int code, Fault *fault)
{
    const char *reason = strerrordesc_np(code); // static storage, unlike strerror's
    return fault_set(fault, fault_kind_of(code), "%s", reason ? reason : "unknown error");
}

static bool read_descriptor(int file, size_t limit_bytes, char **data, size_t *length, Fault *fault)
{
    size_t capacity = limit_bytes < 64 * 1024 ? limit_bytes + 1 : 64 * 1024;
    *length = 0;
    for (*data = malloc(capacity + 1); *data;) {
        ssize_t got = read(file, *data + *length, capacity - *length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return system_fault(errno, fault);
        if (got == 0) {
            (*data)[*length] = '\0';
            return true;
        }
        *length += (size_t)got;
        if (*length > limit_bytes)
            return fault_set(fault, FAULT_IO, "the file is too large");
        if (*length == capacity) {
            capacity = capacity > limit_bytes / 2 ? limit_bytes + 1 : capacity * 2;
            char *larger = realloc(*data, capacity + 1);
            if (!larger)
                free(*data);
            *data = larger;
        }
    }
    memory_exhausted();
}

// A pipe that nobody writes to would be waited for, and some devices never end.
int file_open_regular(const char *path, Fault *fault)
{
    struct stat there;
    int file = stat(path, &there) == 0 ? 0 : -1;
    if (file == 0 && !S_ISREG(there.st_mode) && !S_ISDIR(there.st_mode)) {
        fault_set(fault, FAULT_IO, "%s: expected a regular file",
                  S_ISFIFO(there.st_mode)   ? "a pipe"
                  : S_ISSOCK(there.st_mode) ? "a socket"
                                            : "a device");
        return -1;
    }
    file = file == 0 ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (file < 0)
        system_fault(errno, fault);
    return file;
}

char *file_read(const char *path, size_t limit_bytes, size_t *length, Fault *fault)
{
    if (limit_bytes > SIZE_MAX - 2)
        limit_bytes = SIZE_MAX - 2;
    bool standard = strcmp(path, "-") == 0;
    int file = standard ? STDIN_FILENO : file_open_regular(path, fault);
    if (file < 0)
        return NULL;
    char *data = NULL;
    bool ok = read_descriptor(file, limit_bytes, &data, length, fault);
    if (!standard)
        close(file);
    if (ok)
        return data;
    free(data);
    return NULL;
}

static bool write_all(int file, const char *data, size_t length, Fault *fault)
{
    while (length) {
        ssize_t put = write(file, data, length);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return system_fault(errno, fault);
        if (put == 0)
            return fault_set(fault, FAULT_IO, "nothing could be written");
        data += put;
        length -= (size_t)put;
    }
    return true;
}

// What open(2) would have given a new file. The mask can only be read by setting it.
static mode_t default_mode(void)
{
    mode_t mask = umask(022);
    umask(mask);
    return 0666 & ~mask;
}

static bool write_temporary(int file, const char *target, const void *data, size_t length, Fault *fault)
{
    struct stat old;
    mode_t mode = stat(target, &old) == 0 ? old.st_mode & 07777 : default_mode();
    if (!write_all(file, data, length, fault))
        return false;
    if (fchmod(file, mode) != 0 || (fsync(file) != 0 && errno != EINVAL && errno != EROFS))
        return system_fault(errno, fault);
    return true;
}

// The file a chain of symbolic links ends at, so that replacing it keeps the links; malloc'ed.
static char *resolve_target(const char *path)
{
    char *target = realpath(path, NULL);
    if (!target)
        target = strdup(path);
    for (int links = 0; target && links < LINKS_MAX; links++) { // to what is not there yet
        char next[PATH_MAX];
        ssize_t length = readlink(target, next, sizeof(next) - 1);
        if (length < 0)
            break;
        next[length] = '\0';
        char *slash = next[0] == '/' ? NULL : strrchr(target, '/'), *joined = NULL;
        int joining = asprintf(&joined, "%.*s%s", slash ? (int)(slash + 1 - target) : 0, target, next);
        free(target);
        target = joining < 0 ? NULL : joined;
    }
    if (!target)
        memory_exhausted();
    return target;
}

// A new file beside `target`, whose name goes into `path`; -1 on failure.
static int create_temporary(const char *target, Text *path, Fault *fault)
{
    text_format(path, "%s.XXXXXX", target);
    int file = mkostemp(path->data, O_CLOEXEC);
    if (file < 0)
        system_fault(errno, fault);
    return file;
}

// Writing replaces a file by a new one beside it, so it is the directory that has to allow it.
static bool replace_probe(const char *target, Fault *fault)
{
    Text temporary = {0};
    int file = create_temporary(target, &temporary, fault);
    if (file >= 0) {
        close(file);
        unlink(temporary.data);
    }
    text_free(&temporary);
    return file >= 0;
}

// A signal that ends the program waits until the new file has its name or is removed.
static bool replace_file(const char *target, const void *data, size_t length, Fault *fault)
{
    Text temporary = {0};
    sigset_t held, before;
    sigemptyset(&held);
    sigaddset(&held, SIGHUP);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &held, &before);
    int file = create_temporary(target, &temporary, fault);
    bool ok = file >= 0;
    if (file >= 0) {
        ok = write_temporary(file, target, data, length, fault);
        if (close(file) != 0 && ok)
            ok = system_fault(errno, fault);
        if (ok && rename(temporary.data, target) != 0)
            ok = system_fault(errno, fault);
        if (!ok)
            unlink(temporary.data);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    text_free(&temporary);
    return ok;
}

// May `path` be written, and is it to be replaced: it is a file, or not there yet?
static bool check_target(const char *path, bool *replaced, Fault *fault)
{
    struct stat existing;
    bool exists = stat(path, &existing) == 0;
    if (!exists && errno == ELOOP)
        return system_fault(errno, fault);
    *replaced = !exists || S_ISREG(existing.st_mode);
    if (exists && S_ISDIR(existing.st_mode))
        return system_fault(EISDIR, fault);
    return !exists || access(path, W_OK) == 0 || system_fault(errno, fault);
}

bool file_write(const char *path, const void *data, size_t length, Fault *fault)
{
    bool replaced;
    if (strcmp(path, "-") == 0)
        return write_all(STDOUT_FILENO, data, length, fault);
    if (!check_target(path, &replaced, fault))
        return false;
    if (!replaced) { // a device or a pipe
        int file = open(path, O_WRONLY | O_CLOEXEC);
        if (file < 0)
            return system_fault(errno, fault);
        bool ok = write_all(file, data, length, fault);
        return (close(file) == 0 || system_fault(errno, fault)) && ok;
    }
    char *target = resolve_target(path);
    bool ok = replace_file(target, data, length, fault);
    free(target);
    return ok;
}

bool file_probe(const char *path, Fault *fault)
{
    bool replaced;
    if (strcmp(path, "-") == 0)
        return true;
    if (!check_target(path, &replaced, fault))
        return false;
    if (!replaced)
        return true;
    char *target = resolve_target(path);
    bool ok = replace_probe(target, fault);
    free(target);
    return ok;
}

bool file_is_same(const char *path, const char *other)
{
    struct stat a, b;
    return path && other && stat(path, &a) == 0 && stat(other, &b) == 0 && S_ISREG(a.st_mode) && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

bool file_set_aside(const char *path, Fault *fault)
{
    struct stat there;
    if (strcmp(path, "-") == 0 || stat(path, &there) != 0 || !S_ISREG(there.st_mode) || there.st_size == 0)
        return true;
    char *target = resolve_target(path);
    Text aside = {0};
    for (int n = 1; aside.length == 0 || access(aside.data, F_OK) == 0; n++) {
        text_free(&aside);
        text_format(&aside, "%s.~%d~", target, n);
    }
    bool ok = rename(target, aside.data) == 0 || system_fault(errno, fault);
    text_free(&aside);
    free(target);
    return ok;
}
