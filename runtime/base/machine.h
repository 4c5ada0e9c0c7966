// What this machine can hold, asked before a job takes it.
#ifndef HEP_MACHINE_H
#define HEP_MACHINE_H

#include "ir/base/base.h"

// Memory that all processes together can still take: the least of what the system and the control group leave.
// UINT64_MAX when none of them can be read. `of_group`: it is the control group that leaves less.
uint64_t machine_available_bytes(bool *of_group);
// Address space that this process can still take. UINT64_MAX when there is no limit.
uint64_t machine_process_bytes(void);
// Threads that this user may have, as far as limits are known. UINT64_MAX when there is no limit.
uint64_t machine_thread_limit(void);

// Processes that ran or waited for a processor in the last minute, on average. Negative when it cannot be read.
double machine_load(void);

typedef enum { PROCESS_UNKNOWN, PROCESS_RUNS, PROCESS_STOPPED, PROCESS_GONE } ProcessState;
// Of a process of this machine.
ProcessState machine_process_state(int64_t pid);

#endif
