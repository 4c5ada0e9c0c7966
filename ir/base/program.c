// See program.h. Linux tells the path of the file itself, links resolved.
#include "ir/base/program.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

const char *program_relative(Arena *arena, const char *relative)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (length <= 0)
        return NULL;
    path[length] = '\0';
    char *slash = strrchr(path, '/');
    return slash ? arena_format(arena, "%.*s/%s", (int)(slash - path), path, relative) : NULL;
}
