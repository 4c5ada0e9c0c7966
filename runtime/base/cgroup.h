// Limits of the control groups that this process is in, of both versions, with all groups above: the least counts.
#ifndef HEP_CGROUP_H
#define HEP_CGROUP_H

#include "ir/base/base.h"

// Memory that the group, or one above it, leaves to its processes; UINT64_MAX where none has a limit. Pages of files
// count as free. `root`: of the file system, "" but in tests.
uint64_t cgroup_memory_bytes(const char *root);
// Processes and threads likewise.
uint64_t cgroup_threads(const char *root);

#endif
