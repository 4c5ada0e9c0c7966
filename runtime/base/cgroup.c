// See cgroup.h. /proc/self/cgroup names the groups, /proc/self/mountinfo says where their files are.
#include "runtime/base/cgroup.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char point[PATH_MAX];  // of the hierarchy's mount
    char folder[PATH_MAX]; // of this process's group: `point`, or below
} Hierarchy;

// What to read, by version of the interface.
typedef struct {
    const char *limit, *used, *stat, *cache;
} Files;

static bool read_number(const char *folder, const char *name, const char *key, uint64_t *value)
{
    char path[2 * PATH_MAX], line[256];
    bool found = false;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof(line), file)) {
        char *begin = line + strlen(key), *end;
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        *value = strtoull(begin, &end, 10); // "max" is no number: no limit
        found = end != begin;
    }
    if (file)
        fclose(file);
    return found;
}

static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

// The path of this process's group in the hierarchy of `controller`, or, NULL, in that of version 2.
static bool find_group(const char *root, const char *controller, char out[PATH_MAX])
{
    char path[PATH_MAX], line[PATH_MAX + 256];
    bool found = false;
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof(line), file)) { // "4:memory:/path", "0::/path"
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        found = controller ? has_word(controllers + 1, controller) : controllers[1] == '\0';
        if (found)
            snprintf(out, PATH_MAX, "%s", group);
    }
    if (file)
        fclose(file);
    return found;
}

// Where that hierarchy is mounted, and which of its groups is at the mount.
static bool find_mount(const char *root, const char *controller, char point[PATH_MAX], char top[PATH_MAX])
{
    char path[PATH_MAX], line[2 * PATH_MAX + 256], type[32], options[256];
    bool found = false;
    snprintf(path, sizeof(path), "%s/proc/self/mountinfo", root);
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof(line), file)) { // "... ROOT POINT ... - TYPE SOURCE OPTIONS"
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(line, "%*s %*s %*s %4095s %4095s", top, point) != 2 ||
            sscanf(rest, " - %31s %*s %255s", type, options) != 2)
            continue;
        found =
            controller ? strcmp(type, "cgroup") == 0 && has_word(options, controller) : strcmp(type, "cgroup2") == 0;
    }
    if (file)
        fclose(file);
    return found;
}

// In a container the mount may begin below the root of the hierarchy, and the group's path above.
static bool find_hierarchy(const char *root, const char *controller, Hierarchy *out)
{
    char group[PATH_MAX], point[PATH_MAX], top[PATH_MAX];
    if (!find_group(root, controller, group) || !find_mount(root, controller, point, top))
        return false;
    size_t above = strcmp(top, "/") == 0 ? 0 : strlen(top);
    bool below = strncmp(group, top, above) == 0 && (group[above] == '/' || group[above] == '\0');
    int point_length = snprintf(out->point, sizeof(out->point), "%s%s", root, point);
    int length = snprintf(out->folder, sizeof(out->folder), "%s%s", out->point, below ? group + above : "");
    if (point_length >= PATH_MAX || length >= PATH_MAX)
        return false;
    if (access(out->folder, F_OK) != 0)
        snprintf(out->folder, sizeof(out->folder), "%s", out->point);
    while ((length = (int)strlen(out->folder)) > 0 && out->folder[length - 1] == '/')
        out->folder[length - 1] = '\0';
    return true;
}

static uint64_t left_in(const char *folder, const Files *files)
{
    uint64_t limit, used = 0, cache = 0;
    if (!read_number(folder, files->limit, "", &limit) || !read_number(folder, files->used, "", &used))
        return UINT64_MAX;
    if (files->stat && read_number(folder, files->stat, files->cache, &cache))
        used -= cache < used ? cache : used;
    return limit > used ? limit - used : 0;
}

// The least of the group and all above it, up to the mount.
static uint64_t least_left(const char *root, const char *controller, const Files *files)
{
    Hierarchy of;
    uint64_t least = UINT64_MAX;
    if (!find_hierarchy(root, controller, &of))
        return least;
    for (;;) {
        uint64_t left = left_in(of.folder, files);
        least = left < least ? left : least;
        char *slash = strrchr(of.folder, '/');
        if (!slash || strlen(of.folder) <= strlen(of.point))
            return least;
        *slash = '\0';
    }
}

uint64_t cgroup_memory_bytes(const char *root)
{
    static const Files second = {"memory.max", "memory.current", "memory.stat", "inactive_file "};
    static const Files first = {"memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat",
                                "total_inactive_file "};
    uint64_t a = least_left(root, NULL, &second), b = least_left(root, "memory", &first);
    return a < b ? a : b;
}

uint64_t cgroup_threads(const char *root)
{
    static const Files files = {"pids.max", "pids.current", NULL, NULL};
    uint64_t a = least_left(root, NULL, &files), b = least_left(root, "pids", &files);
    return a < b ? a : b;
}
