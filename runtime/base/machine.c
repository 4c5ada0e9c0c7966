// Reads Linux's limits; a limit that cannot be read does not count.
#include "runtime/base/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/base/cgroup.h"

// The number after `key` at the beginning of a line; with an empty key the first number of the file.
static bool read_number(const char *path, const char *key, uint64_t *value)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    char line[256];
    bool found = false;
    while (!found && fgets(line, sizeof(line), file)) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        char *begin = line + strlen(key), *end;
        *value = strtoull(begin, &end, 10);
        found = end != begin;
    }
    fclose(file);
    return found;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t machine_available_bytes(bool *of_group)
{
    uint64_t available = UINT64_MAX, kibibytes, group = cgroup_memory_bytes("");
    if (read_number("/proc/meminfo", "MemAvailable:", &kibibytes))
        available = kibibytes * 1024;
    *of_group = group < available;
    return smaller(available, group);
}

uint64_t machine_process_bytes(void)
{
    struct rlimit limit;
    uint64_t kibibytes = 0;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    (void)read_number("/proc/self/status", "VmSize:", &kibibytes);
    return limit.rlim_cur - smaller(limit.rlim_cur, kibibytes * 1024);
}

uint64_t machine_thread_limit(void)
{
    uint64_t threads = UINT64_MAX, value;
    if (read_number("/proc/sys/kernel/threads-max", "", &value))
        threads = smaller(threads, value);
    threads = smaller(threads, cgroup_threads(""));
    struct rlimit limit;
    if (getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        threads = smaller(threads, limit.rlim_cur);
    return threads;
}

double machine_load(void)
{
    double loads[1];
    return getloadavg(loads, 1) == 1 ? loads[0] : -1;
}

ProcessState machine_process_state(int64_t pid)
{
    char path[64], state = 0;
    snprintf(path, sizeof(path), "/proc/%" PRId64 "/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return errno == ENOENT ? PROCESS_GONE : PROCESS_UNKNOWN;
    // The name, in parentheses, may hold anything but ends with the last one.
    char line[512];
    size_t length = fread(line, 1, sizeof(line) - 1, file);
    fclose(file);
    line[length] = '\0';
    const char *end = strrchr(line, ')');
    if (end && end[1] == ' ')
        state = end[2];
    switch (state) {
    case 'T':
        return PROCESS_STOPPED;
    case 'Z':
    case 'X':
        return PROCESS_GONE;
    case '\0':
        return PROCESS_UNKNOWN;
    }
    return PROCESS_RUNS;
}
