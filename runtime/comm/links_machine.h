// Whether a machine can emulate the links of a cluster: what it copies per second, and how late threads wake up.
#ifndef HEP_LINKS_MACHINE_H
#define HEP_LINKS_MACHINE_H

#include "ir/base/text.h"
#include "ir/plan.h"

typedef struct {
    double copy_bytes_per_s; // of one processor that has the memory to itself
    uint32_t processors;
    double wake_s; // from when a thread wanted to wake up to when it did, usually
} LinksMachine;

// Of this machine; takes some 30 ms.
LinksMachine links_machine_measure(void);

// A line per level whose ports carry more together than all processors can copy, or whose latency is shorter than
// threads sleep; nothing where the machine can emulate all levels.
void links_machine_explain(const LinksMachine *machine, const Cluster *cluster, Text *out);

#endif
