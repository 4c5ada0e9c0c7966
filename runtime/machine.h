// What this machine can hold, asked before a job takes it.
#ifndef HEP_MACHINE_H
#define HEP_MACHINE_H

#include "ir/base/base.h"

// Memory that can still be taken: the least of what the system, the control group and the process
// limit leave. UINT64_MAX when none of them can be read.
uint64_t machine_available_bytes(void);
// Threads that this user may have, as far as limits are known. UINT64_MAX when there is no limit.
uint64_t machine_thread_limit(void);

#endif
