// Sums over the members of a group, made of exchanges, so that every communicator has them: each member sums one part
// of the elements, in the order of the members, whatever the order in which they came. So all communicators give the
// same bits.
#ifndef HEP_COMM_SUMS_H
#define HEP_COMM_SUMS_H

#include "kernels/host/kernels.h"
#include "runtime/comm/comm.h"

// A channel and the calling rank's place in its group.
typedef struct {
    Comm *comm;
    int channel;
    uint32_t members, own;
    int32_t *counts; // [2][members], scratch
    void *scratch;   // comm_sums_scratch bytes
} SumGroup;

// The part of `elements` that a member sums: its first element and how many.
uint64_t comm_part_begin(uint64_t elements, uint32_t members, uint32_t member);
uint64_t comm_part_size(uint64_t elements, uint32_t members, uint32_t member);

// Bytes of scratch for a tensor that is scattered into shards of `shard` elements, and for one that is reduced.
uint64_t comm_scatter_scratch(uint32_t members, uint64_t shard, Dtype dtype);
uint64_t comm_reduce_scratch(uint32_t members, uint64_t elements, Dtype dtype);

// gathered: [members] shards of the shard's size. Every member ends with the sum of its shards.
bool comm_reduce_scatter(const SumGroup *group, Tensor gathered, Tensor shard, Fault *fault) MUST_CHECK;
// Every member ends with the same sum. Sends 2 (members - 1) / members of the elements.
bool comm_all_reduce(const SumGroup *group, Tensor gradient, Fault *fault) MUST_CHECK;

#endif
