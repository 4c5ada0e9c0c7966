// Rows and weights on the move, in host memory: what steps of the host engine and calls of libhep do when they route,
// exchange, gather or return, on whatever tensors they are given. Plans, steps and arenas are the callers'.
#ifndef HEP_HOST_MOVES_H
#define HEP_HOST_MOVES_H

#include "kernels/host/kernels.h"
#include "runtime/engine/engine_exchange.h"

// Where members of a group meet.
typedef struct {
    Comm *comm;
    int channel;
    MessagePlace place;
    CommCall call; // what for, where members are to find out that they mean the same
} Meeting;

// Splits `row_count` record rows. False and a fault: they do not fit.
bool host_move_route(const RouteTable *table, uint64_t row_count, uint32_t fanout, const struct route_tensors *t,
                     Fault *fault) MUST_CHECK;

// Rows to their domains, with records where there are any. `counts_known`: next_counts are there already
// (host_move_counts).
bool host_move_dispatch(const Meeting *meeting, const struct dispatch_tensors *t, bool counts_known,
                        Fault *fault) MUST_CHECK;
// Counts alone: next_counts says how many rows will come from each member, own among them. ones: [members], scratch.
bool host_move_counts(const Meeting *meeting, Tensor send_counts, Tensor next_counts, int32_t *ones,
                      Fault *fault) MUST_CHECK;
// What the rows of a dispatch became, back to where they came from.
bool host_move_back(const Meeting *meeting, const ReturnTensors *t, Fault *fault) MUST_CHECK;

enum { MOVE_PARTS_MAX = EXCHANGE_PARTS_MAX };

// Shards that travel together: [rows][cols] each, of as many rows. `gathered` [members][rows][cols].
typedef struct {
    uint32_t count; // at most MOVE_PARTS_MAX
    Tensor shard[MOVE_PARTS_MAX], gathered[MOVE_PARTS_MAX];
    int32_t *counts; // [2][members], scratch
} MovedShards;

// Every member's shards to all. The own ones are copied to their places among those gathered, if they are not there.
bool host_move_gather(const Meeting *meeting, const MovedShards *t, Fault *fault) MUST_CHECK;
// The reverse: every member ends with the sums of its shards, which are in their places among those gathered or
// elsewhere. scratch: of sums_scatter_scratch for each part.
bool host_move_scatter(const Meeting *meeting, const MovedShards *t, void *scratch, Fault *fault) MUST_CHECK;

#endif
