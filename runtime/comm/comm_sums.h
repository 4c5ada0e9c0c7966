// Gathers and sums over the members of a group, made of exchanges, so that every communicator has them. Of a sum each
// member makes one part of the elements, in the order of the members, whatever the order in which they came: so all
// communicators give the same bits.
#ifndef HEP_COMM_SUMS_H
#define HEP_COMM_SUMS_H

#include "kernels/host/kernels.h"
#include "runtime/comm/comm.h"

// A channel and the calling rank's place in its group. counts and scratch: of the channel's stream.
typedef struct {
    Comm *comm;
    int channel;
    uint32_t members, own;
    int32_t *counts; // [2][members], scratch
    void *scratch;   // as large as engines/sums.h says
    CommCall call;
} SumGroup;

// The part of `elements` that a member sums: its first element and how many.
uint64_t comm_part_begin(uint64_t elements, uint32_t members, uint32_t member);
uint64_t comm_part_size(uint64_t elements, uint32_t members, uint32_t member);

// What travels, for any engine. Shards: every member sends the others theirs, and finds theirs of its own in the
// scratch, in the order of members. Parts: the same with the parts of a gradient; *own becomes this rank's, in place.
// Sums: every member sends its part, summed, to all. `counts` must live as long as the exchange.
Exchange comm_shards_exchange(const SumGroup *group, Tensor gathered, Tensor shard);
// The shards of another tensor travel with them, and come to lie after them in the scratch, where the result points.
void *comm_add_shards(Exchange *shards, uint32_t members, Tensor gathered, Tensor shard);
Tensor comm_own_shard(Tensor gathered, Tensor shard, uint32_t own); // where it is gathered
Tensor comm_own_part(Tensor gradient, uint32_t members, uint32_t own);
bool comm_parts_exchange(const SumGroup *group, Tensor gradient, Tensor *own, Exchange *exchange,
                         Fault *fault) MUST_CHECK;
Exchange comm_sums_exchange(const SumGroup *group, Tensor gradient, Tensor own);
// Gathers: every member's shards to all, `count`, at most EXCHANGE_PARTS_MAX, together; own ones are not copied.
Exchange comm_gather_exchange(const SumGroup *group, uint32_t count, const Tensor shard[], const Tensor gathered[]);
// Where a member's summand lies: in the scratch, but the own one at `own`.
const void *comm_summand(const SumGroup *group, Tensor own, uint32_t member);

// Host memory. out = the sum of the members' parts, `own` among those that lie in the scratch; out may be own.
void comm_add_up(const SumGroup *group, Tensor own, void *out);
// Host memory. Every member's shards to all: `count`, at most EXCHANGE_PARTS_MAX, travel together.
// gathered: [members] shards each, among which the own ones are copied if they are not there.
bool comm_all_gather(const SumGroup *group, uint32_t count, const Tensor shard[], const Tensor gathered[],
                     Fault *fault) MUST_CHECK;

#endif
