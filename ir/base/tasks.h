// Independent pieces of work, side by side.
#ifndef HEP_TASKS_H
#define HEP_TASKS_H

#include "ir/base/base.h"

// Calls task(context, i) for every i below `count`, on as many threads as there are processors for this process, the
// calling one among them, and returns when all are done. Tasks share nothing that they change: an arena of its own
// each. Where threads cannot be had, fewer do it all. Ends the guarded action of the caller if memory runs out in any
// of them.
void tasks_run(void (*task)(void *context, uint32_t index), void *context, uint32_t count);

// That this process may run on, and that there are. At least 1.
uint32_t processors_allowed(void);
uint32_t processors_online(void);

#endif
