// How transfers under way share ports and links: max-min fairly, flow by flow, as many bounded TCP streams do. All
// flows of one kind (classes.h) have one rate. Rates are found again only for the classes that a start or an end
// can reach through ports they share.
// Knows transfers and capacities; nothing of steps, dependencies or time.
#ifndef HEP_SHARING_H
#define HEP_SHARING_H

#include "ir/simulate/classes.h"

// The transfer of one step on one stream: one rate per kind of flow of the step's group.
typedef struct {
    double left_bytes; // per flow
    double rate;       // bytes/s per flow
} Transfer;

enum { HOPS_MAX = 2 * LEVELS_MAX + 1 };

typedef struct {
    const FlowKind *kind;
    Transfer *transfer;
    uint32_t step;
    uint32_t hop_count;
    struct {
        uint32_t resource; // a port, one way, or a link
        double flows;      // of the kind, that pass it
    } hops[HOPS_MAX];
} SharedFlow;

typedef struct Sharing Sharing;

Sharing *sharing_create(const Plan *plan, const Classes *classes, uint32_t flows_max, Arena *arena);

// The flows of one kind of the step's transfer: they pass the ports of their group's level and of those inside it.
SharedFlow sharing_flow(const Sharing *sharing, const FlowKind *kind, Transfer *transfer, uint32_t step,
                        uint32_t level);

// A transfer of this class began or ended since rates were last found.
void sharing_touch(Sharing *sharing, uint32_t class);

// Gives every active transfer that a touched class can reach its max-min fair rate. flows: all active ones.
void sharing_rates(Sharing *sharing, const SharedFlow flows[], uint32_t count);

#endif
