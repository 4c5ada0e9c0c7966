// Link emulation: every worker of every level has a port of the plan's bandwidth each way, links of the
// outermost level that the plan lists limit their pair of workers each way, and transfers between ranks take
// the time those would need, shared between the transfers that pass them. Only time is modelled here; who
// moves bytes asks how long to wait before a chunk may be copied. Times are seconds of CLOCK_MONOTONIC
// (runtime/base/clock.h). Thread-safe.
#ifndef HEP_LINKS_H
#define HEP_LINKS_H

#include "ir/plan.h"

typedef struct LinkEmulation LinkEmulation;

// Returns NULL when memory is exhausted.
LinkEmulation *links_create(const Cluster *cluster);
void links_destroy(LinkEmulation *links); // takes NULL

// One transfer between two ranks. It passes, at the outermost level where they differ and at every
// level inside it, the sender's egress and the receiver's ingress port, and the link between their outermost
// workers where there is one. It has one chunk under way at a time, so that transfers through one port share
// it about evenly.
typedef struct {
    uint32_t port_count;
    uint32_t ports[2 * LEVELS_MAX + 1]; // a link is passed like a port
    uint64_t chunk_bytes;               // how much to reserve at once
    double clock_s;                     // when the last reserved chunk has passed all ports
    double latency_s, overhead_s;       // of the way: to be added once per collective, and per message
} LinkFlow;

// A transfer of `bytes` that may start at `start_s`.
void links_flow_begin(const LinkEmulation *links, LinkFlow *flow, uint64_t from, uint64_t to, uint64_t bytes,
                      double start_s);

// Reserves the path for the next `bytes` of the flow and returns when they have passed. Reservations
// continue from the flow's own clock, not from the present: waking up late costs no bandwidth.
double links_flow_reserve(LinkEmulation *links, LinkFlow *flow, uint64_t bytes);

#endif
