// See comm_sums.h. Sums are taken in f32 a block at a time; the result is rounded once.
#include "runtime/comm/comm_sums.h"

#include <inttypes.h>
#include <string.h>

enum { BLOCK = 1024 }; // elements

uint64_t comm_part_begin(uint64_t elements, uint32_t members, uint32_t member)
{
    return elements / members * member + elements % members * member / members;
}

uint64_t comm_part_size(uint64_t elements, uint32_t members, uint32_t member)
{
    return comm_part_begin(elements, members, member + 1) - comm_part_begin(elements, members, member);
}

// ---- what travels ----------------------------------------------------------------------------

// Sends every member its part of `from` and receives the own part from each into the scratch; counts in units of
// `unit` bytes are in place.
static Exchange scatter_exchange(const SumGroup *group, const void *from, uint64_t unit)
{
    const int32_t *send = group->counts;
    int32_t *recv = group->counts + group->members;
    return (Exchange){.part_count = 1,
                      .parts = {{.send = from, .recv = group->scratch, .row_bytes = unit}},
                      .send_layout = ROWS_ALL,
                      .send_counts = send,
                      .recv_counts = recv,
                      .counts_known = true,
                      .recv_capacity = (uint64_t)recv[group->own] * group->members,
                      .carries = CARRIES_SUMS,
                      .call = group->call};
}

Exchange comm_shards_exchange(const SumGroup *group, Tensor gathered, Tensor shard)
{
    for (uint32_t m = 0; m < group->members; m++)
        group->counts[m] = group->counts[group->members + m] = 1;
    return scatter_exchange(group, gathered.data, shard.rows * shard.cols * dtype_bytes(shard.dtype));
}

void *comm_add_shards(Exchange *shards, uint32_t members, Tensor gathered, Tensor shard)
{
    const ExchangePart *before = &shards->parts[shards->part_count - 1];
    void *scratch = (char *)before->recv + before->row_bytes * (members - 1);
    shards->parts[shards->part_count++] = (ExchangePart){
        .send = gathered.data, .recv = scratch, .row_bytes = shard.rows * shard.cols * dtype_bytes(shard.dtype)};
    return scratch;
}

Tensor comm_own_shard(Tensor gathered, Tensor shard, uint32_t own)
{
    shard.data = (char *)gathered.data + own * shard.rows * shard.cols * dtype_bytes(shard.dtype);
    return shard;
}

Tensor comm_own_part(Tensor gradient, uint32_t members, uint32_t own)
{
    uint64_t elements = gradient.rows * gradient.cols;
    uint64_t first = comm_part_begin(elements, members, own) * dtype_bytes(gradient.dtype);
    return (Tensor){.data = (char *)gradient.data + first,
                    .dtype = gradient.dtype,
                    .rows = 1,
                    .cols = comm_part_size(elements, members, own)};
}

bool comm_parts_exchange(const SumGroup *group, Tensor gradient, Tensor *own, Exchange *exchange, Fault *fault)
{
    uint64_t elements = gradient.rows * gradient.cols, size = dtype_bytes(gradient.dtype);
    if (elements > INT32_MAX)
        return fault_set(fault, FAULT_RUN,
                         "a gradient of %" PRIu64 " elements: sums are made of messages of at most %d", elements,
                         INT32_MAX);
    *own = comm_own_part(gradient, group->members, group->own);
    for (uint32_t m = 0; m < group->members; m++) {
        group->counts[m] = (int32_t)comm_part_size(elements, group->members, m);
        group->counts[group->members + m] = (int32_t)own->cols;
    }
    *exchange = scatter_exchange(group, gradient.data, size);
    return true;
}

Exchange comm_sums_exchange(const SumGroup *group, Tensor gradient, Tensor own)
{
    uint64_t elements = gradient.rows * gradient.cols;
    int32_t *send = group->counts, *recv = group->counts + group->members;
    for (uint32_t m = 0; m < group->members; m++) {
        send[m] = (int32_t)own.cols;
        recv[m] = (int32_t)comm_part_size(elements, group->members, m);
    }
    return (Exchange){.part_count = 1,
                      .parts = {{.send = own.data, .recv = gradient.data, .row_bytes = dtype_bytes(gradient.dtype)}},
                      .send_layout = ROWS_SAME,
                      .recv_layout = ROWS_ALL,
                      .send_counts = send,
                      .recv_counts = recv,
                      .counts_known = true,
                      .recv_capacity = elements,
                      .carries = CARRIES_SUMS,
                      .call = group->call};
}

Exchange comm_gather_exchange(const SumGroup *group, uint32_t count, const Tensor shard[], const Tensor gathered[])
{
    Exchange exchange = {.part_count = count,
                         .send_layout = ROWS_SAME,
                         .recv_layout = ROWS_ALL,
                         .send_counts = group->counts,
                         .recv_counts = group->counts + group->members,
                         .counts_known = true,
                         .recv_capacity = group->members,
                         .carries = CARRIES_WEIGHTS,
                         .call = group->call};
    for (uint32_t m = 0; m < 2 * group->members; m++)
        group->counts[m] = 1; // a row is a whole shard, so that shards of different sizes travel together
    for (uint32_t p = 0; p < count; p++)
        exchange.parts[p] = (ExchangePart){.send = shard[p].data,
                                           .recv = gathered[p].data,
                                           .row_bytes = shard[p].rows * shard[p].cols * dtype_bytes(shard[p].dtype)};
    return exchange;
}

const void *comm_summand(const SumGroup *group, Tensor own, uint32_t member)
{
    if (member == group->own)
        return own.data;
    return (const char *)group->scratch +
           (member - (member > group->own)) * own.rows * own.cols * dtype_bytes(own.dtype);
}

// ---- sums in host memory ---------------------------------------------------------------------

void comm_add_up(const SumGroup *group, Tensor own, void *out)
{
    float sum[BLOCK], part[BLOCK];
    uint64_t elements = own.rows * own.cols, size = dtype_bytes(own.dtype);
    for (uint64_t first = 0; first < elements; first += BLOCK) {
        uint64_t count = elements - first < BLOCK ? elements - first : BLOCK;
        for (uint32_t m = 0; m < group->members; m++) {
            const char *from = (const char *)comm_summand(group, own, m) + first * size;
            host_to_f32(from, own.dtype, m == 0 ? sum : part, count);
            for (uint64_t i = 0; m > 0 && i < count; i++)
                sum[i] += part[i];
        }
        host_from_f32(sum, (char *)out + first * size, own.dtype, count);
    }
}

bool comm_all_gather(const SumGroup *group, uint32_t count, const Tensor shard[], const Tensor gathered[], Fault *fault)
{
    Exchange exchange = comm_gather_exchange(group, count, shard, gathered);
    for (uint32_t p = 0; p < count; p++) {
        uint64_t bytes = exchange.parts[p].row_bytes;
        char *own = (char *)gathered[p].data + group->own * bytes;
        if (own != shard[p].data && bytes > 0)
            memcpy(own, shard[p].data, bytes);
    }
    return group->comm->ops->exchange(group->comm, group->channel, &exchange, fault);
}
