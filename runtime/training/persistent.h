// Which buffers of a plan outlive an iteration, and what they are to a rank: what a checkpoint holds, and how another
// strategy finds its part in it. Follows from the operands that steps use a buffer as; owns nothing.
#ifndef HEP_PERSISTENT_H
#define HEP_PERSISTENT_H

#include "ir/plan.h"

// Codes are stored in checkpoints, by name.
#define HEP_PERSISTENCES(X)                                                                                            \
    X(NONE, "none")         /* does not outlive an iteration */                                                        \
    X(EQUAL, "equal")       /* the same on every rank: the mean expert */                                              \
    X(SHARE, "share")       /* a flat share of a bundle that all ranks own together: weights, state */                 \
    X(OWN, "own")           /* the share of experts that the rank owns: weights, state, what was sent of them */       \
    X(HELD, "held")         /* of the experts that the rank holds: replicas, what gradients have left out */           \
    X(GATHERED, "gathered") /* the same of a bundle that all ranks own together: shares next to the rank's own */

#define X(name, text) PERSISTENCE_##name,
typedef enum { HEP_PERSISTENCES(X) PERSISTENCE_COUNT } Persistence;
#undef X

extern const NameTable persistence_names;

// Whether such a buffer is of a layer's experts.
static inline bool persistence_is_of_experts(Persistence persistence)
{
    return persistence == PERSISTENCE_OWN || persistence == PERSISTENCE_HELD;
}

// What stands for contents that no checkpoint of another strategy has.
typedef enum {
    REBUILD_NOT,     // nothing does
    REBUILD_WEIGHTS, // the weights, as if they had travelled dense
    REBUILD_MEAN,    // the mean of all experts' weights
    REBUILD_ZERO,
    REBUILD_OUTER, // the weights, and zeros for what follows them: where workers that train apart met last
} Rebuild;

typedef struct {
    Persistence persistence;
    Rebuild rebuild;
    uint32_t parts; // of PERSISTENCE_SHARE and _GATHERED: so many values of each element, one part of the buffer after
                    // another
    uint64_t elements; // of that bundle, all ranks' shares together without padding
} PersistentInfo;

// Is such a buffer of a bundle that all ranks own together?
static inline bool persistence_is_shared(Persistence persistence)
{
    return persistence == PERSISTENCE_SHARE || persistence == PERSISTENCE_GATHERED;
}

// infos [buffer]. False when memory runs out.
bool persistent_infos(const Plan *plan, PersistentInfo infos[]) MUST_CHECK;

#endif
