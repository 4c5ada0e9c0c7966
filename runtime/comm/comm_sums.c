// See comm_sums.h. Sums are taken in f32 a block at a time; the result is rounded once.
#include "runtime/comm/comm_sums.h"

#include <inttypes.h>

enum { BLOCK = 1024 }; // elements

uint64_t comm_part_begin(uint64_t elements, uint32_t members, uint32_t member)
{
    return elements / members * member + elements % members * member / members;
}

uint64_t comm_part_size(uint64_t elements, uint32_t members, uint32_t member)
{
    return comm_part_begin(elements, members, member + 1) - comm_part_begin(elements, members, member);
}

uint64_t comm_scatter_scratch(uint32_t members, uint64_t shard, Dtype dtype)
{
    return (members - 1) * shard * dtype_bytes(dtype);
}

uint64_t comm_reduce_scratch(uint32_t members, uint64_t elements, Dtype dtype)
{
    return (members - 1) * (elements / members + 1) * dtype_bytes(dtype);
}

static const void *summand(const SumGroup *group, const char *own, uint64_t bytes, uint32_t member)
{
    if (member == group->own)
        return own;
    return (const char *)group->scratch + (member - (member > group->own)) * bytes;
}

// out = the sum of the members' parts, `own` among those that lie in the scratch; out may be own.
static void add_up(const SumGroup *group, const void *own, void *out, uint64_t elements, Dtype dtype)
{
    float sum[BLOCK], part[BLOCK];
    uint64_t size = dtype_bytes(dtype);
    for (uint64_t first = 0; first < elements; first += BLOCK) {
        uint64_t count = elements - first < BLOCK ? elements - first : BLOCK;
        for (uint32_t m = 0; m < group->members; m++) {
            const char *from = (const char *)summand(group, own, elements * size, m) + first * size;
            host_to_f32(from, dtype, m == 0 ? sum : part, count);
            for (uint64_t i = 0; m > 0 && i < count; i++)
                sum[i] += part[i];
        }
        host_from_f32(sum, (char *)out + first * size, dtype, count);
    }
}

// Sends every member its part of `from` and receives the own part from each into the scratch; counts in units of
// `unit` bytes are in place.
static bool scatter(const SumGroup *group, const void *from, uint64_t unit, Fault *fault)
{
    int32_t *send = group->counts, *recv = group->counts + group->members;
    Exchange exchange = {.part_count = 1,
                         .parts = {{.send = from, .recv = group->scratch, .row_bytes = unit}},
                         .send_layout = ROWS_ALL,
                         .send_counts = send,
                         .recv_counts = recv,
                         .counts_known = true,
                         .recv_capacity = (uint64_t)recv[group->own] * group->members,
                         .carries = CARRIES_SUMS};
    return group->comm->ops->exchange(group->comm, group->channel, &exchange, fault);
}

bool comm_reduce_scatter(const SumGroup *group, Tensor gathered, Tensor shard, Fault *fault)
{
    uint64_t row_bytes = shard.cols * dtype_bytes(shard.dtype);
    for (uint32_t m = 0; m < group->members; m++)
        group->counts[m] = group->counts[group->members + m] = (int32_t)shard.rows;
    if (!scatter(group, gathered.data, row_bytes, fault))
        return false;
    const char *own = (const char *)gathered.data + group->own * shard.rows * row_bytes;
    add_up(group, own, shard.data, shard.rows * shard.cols, shard.dtype);
    return true;
}

bool comm_all_reduce(const SumGroup *group, Tensor gradient, Fault *fault)
{
    uint64_t elements = gradient.rows * gradient.cols, size = dtype_bytes(gradient.dtype);
    if (elements > INT32_MAX)
        return fault_set(fault, FAULT_RUN,
                         "a gradient of %" PRIu64 " elements: sums are made of messages of at most %d", elements,
                         INT32_MAX);
    int32_t *send = group->counts, *recv = group->counts + group->members;
    uint64_t own_size = comm_part_size(elements, group->members, group->own);
    for (uint32_t m = 0; m < group->members; m++) {
        send[m] = (int32_t)comm_part_size(elements, group->members, m);
        recv[m] = (int32_t)own_size;
    }
    if (!scatter(group, gradient.data, size, fault))
        return false;
    char *own = (char *)gradient.data + comm_part_begin(elements, group->members, group->own) * size;
    add_up(group, own, own, own_size, gradient.dtype);
    // The way back: every member sends its sum to all, and finds theirs in place.
    for (uint32_t m = 0; m < group->members; m++) {
        recv[m] = (int32_t)comm_part_size(elements, group->members, m);
        send[m] = (int32_t)own_size;
    }
    Exchange exchange = {.part_count = 1,
                         .parts = {{.send = own, .recv = gradient.data, .row_bytes = size}},
                         .send_layout = ROWS_SAME,
                         .recv_layout = ROWS_ALL,
                         .send_counts = send,
                         .recv_counts = recv,
                         .counts_known = true,
                         .recv_capacity = elements,
                         .carries = CARRIES_SUMS};
    return group->comm->ops->exchange(group->comm, group->channel, &exchange, fault);
}
