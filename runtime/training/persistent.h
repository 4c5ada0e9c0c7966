// Which buffers of a plan outlive an iteration, and what they are to a rank: what a checkpoint holds, and how another
// strategy finds its part in it. Follows from the operands that steps use a buffer as; owns nothing.
#ifndef HEP_PERSISTENT_H
#define HEP_PERSISTENT_H

#include "ir/plan.h"

// Codes are stored in checkpoints, by name.
#define HEP_PERSISTENCES(X)                                                                                            \
    X(NONE, "none")   /* does not outlive an iteration */                                                              \
    X(EQUAL, "equal") /* the same on every rank: dense weights, their state, the mean expert */                        \
    X(OWN, "own")     /* the share of experts that the rank owns: weights, state, what was sent of them */             \
    X(HELD, "held")   /* of the experts that the rank holds: replicas, what gradients have left out */

#define X(name, text) PERSISTENCE_##name,
typedef enum { HEP_PERSISTENCES(X) PERSISTENCE_COUNT } Persistence;
#undef X

extern const NameTable persistence_names;

// What stands for contents that no checkpoint of another strategy has.
typedef enum {
    REBUILD_NOT,     // nothing does
    REBUILD_WEIGHTS, // the experts' weights, as if they had travelled dense
    REBUILD_MEAN,    // the mean of all experts' weights
    REBUILD_ZERO,
} Rebuild;

typedef struct {
    Persistence persistence;
    Rebuild rebuild;
} PersistentInfo;

// Of one buffer; steps are searched for it.
PersistentInfo persistent_info(const Plan *plan, uint32_t buffer);

#endif
