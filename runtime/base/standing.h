// Where a rank's device was last seen: what its process says of it when another rank waits too long.
#ifndef HEP_STANDING_H
#define HEP_STANDING_H

#include "ir/plan.h"

// Holds no pointer: it travels between processes.
typedef struct {
    uint64_t iteration;       // that it is in, from 1; 0: none yet
    int64_t at[STREAM_COUNT]; // step that each stream was at, -1: after its last
    double still_s;           // for how long it had not moved
} Standing;

#endif
