// Workers of the outermost level sorted into classes whose ranks the simulator need not tell apart: alike in
// their ports and, for every group of the plan, in the peers and links they see. Workers on equal links are one
// class whatever their number. Also the flows each group has, between which classes and how many.
// Reads the plan, changes nothing; knows nothing of time.
#ifndef HEP_CLASSES_H
#define HEP_CLASSES_H

#include "ir/plan.h"

enum { CLASSES_MAX = 16 };

// The flows from each GPU of class `from` to its peers of class `to` over links of one kind.
typedef struct {
    uint32_t from, to;
    double count;    // per GPU of `from`
    double count_in; // per GPU of `to`
    double latency_s;
    uint32_t link; // into Classes.links; NO_LINK where only ports limit
} FlowKind;

// Links between workers of two classes that are alike, and in the same groups: flows of several groups between a
// GPU and one peer share what one such flow may use.
typedef struct {
    uint32_t from, to;
    uint64_t membership;           // of the pair in the plan's groups: a hash
    double bytes_per_s, latency_s; // of a GPU's even share
} LinkKind;

#define NO_LINK UINT32_MAX

typedef struct {
    uint32_t count;
    FlowKind *kinds;
} FlowKinds;

typedef struct {
    uint32_t count;
    uint32_t *of;              // class of each worker, by position; NULL where all are alike
    uint32_t *first, *workers; // of each class: its first worker, and how many
    FlowKinds *flows;          // [plan->group_count]
    uint32_t link_count;
    LinkKind *links;
    bool merged; // there are more than CLASSES_MAX kinds: the slowest port and link stand for all
} Classes;

const Classes *classes_create(const Plan *plan, Arena *arena);

// Bytes/s of one GPU's even share of its worker's port at the level.
double classes_port(const Classes *classes, const Plan *plan, uint32_t class, uint32_t level);

#endif
