// Signals that ask a run to end, and to tell its state. Of the process; what they ask for is done elsewhere.
#ifndef HEP_SIGNALS_H
#define HEP_SIGNALS_H

#include <stdatomic.h>

#include "ir/base/text.h"

// The signal of a name such as USR2 or SIGUSR2, or of a number; 0 where it is none that a run can be ended by.
int signals_parse(const char *name);
// The index-th name that signals_parse knows, NULL after the last.
const char *signals_name(size_t index);
// "SIGTERM"
const char *signals_describe(int signal, char text[FORMAT_MAX]);

// At the start of the program: writing beyond a limit of file sizes becomes an error like others.
void signals_prepare(void);
// From now on SIGINT, SIGTERM, SIGHUP (unless ignored: nohup) and `chosen` (0: none) ask for the end: until
// signals_heed they call `end`, which ends the process at once and must be safe in a handler, with 0. SIGUSR1, unless
// chosen, sets signals_state_asked.
void signals_catch(int chosen, void (*end)(int second));
// The caller looks at signals_asked from now on: the first signal sets it, one that comes later ends the process at
// once.
void signals_heed(void);

// The signal that asked for the end first; 0: none yet.
extern atomic_int signals_asked;
extern atomic_int signals_state_asked;

#endif
