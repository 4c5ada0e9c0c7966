// Byte counters, checks of counts and words for groups: the same for every kind of communicator, so that reports
// and messages do not depend on it. Owns no memory.
#include "runtime/comm_common.h"

#include <inttypes.h>
#include <stdio.h>

uint32_t comm_level_between(const Cluster *cluster, uint64_t a, uint64_t b)
{
    uint32_t of_a[LEVELS_MAX], of_b[LEVELS_MAX], level = 0;
    cluster_coordinates(cluster, a, of_a);
    cluster_coordinates(cluster, b, of_b);
    while (level + 1 < cluster->level_count && of_a[level] == of_b[level])
        level++;
    return level;
}

void comm_count_exchange(CommCounters *counters, const Exchange *exchange, uint32_t member)
{
    uint64_t rows = (uint64_t)exchange->send_counts[member], routing = exchange->counts_known ? 0 : sizeof(int32_t);
    if (exchange->part_count > 0)
        atomic_fetch_add(exchange->sums ? &counters->reduce_bytes : &counters->exchange_bytes,
                         rows * exchange->parts[0].row_bytes);
    if (exchange->part_count > 1)
        routing += rows * exchange->parts[1].row_bytes;
    atomic_fetch_add(&counters->routing_bytes, routing);
}

void comm_counters_add(CommCounters counters[LEVELS_MAX], CommTraffic totals[LEVELS_MAX], bool reset)
{
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        CommCounters *of_level = &counters[l];
        totals[l].exchange_bytes += atomic_load(&of_level->exchange_bytes);
        totals[l].routing_bytes += atomic_load(&of_level->routing_bytes);
        totals[l].gather_bytes += atomic_load(&of_level->gather_bytes);
        totals[l].reduce_bytes += atomic_load(&of_level->reduce_bytes);
        if (!reset)
            continue;
        atomic_store(&of_level->exchange_bytes, 0);
        atomic_store(&of_level->routing_bytes, 0);
        atomic_store(&of_level->gather_bytes, 0);
        atomic_store(&of_level->reduce_bytes, 0);
    }
}

bool comm_check_send(const Exchange *exchange, uint32_t member, uint64_t rank, Fault *fault)
{
    int32_t rows = exchange->send_counts[member];
    return rows >= 0 || fault_set(fault, EXIT_FAULT, "%" PRId32 " rows to send to rank %" PRIu64, rows, rank);
}

uint64_t comm_first_row(RowLayout layout, const int32_t *counts, uint32_t member, uint32_t own)
{
    uint64_t rows = 0;
    for (uint32_t m = 0; layout != ROWS_SAME && m < member; m++)
        rows += m == own && layout == ROWS_OTHERS ? 0 : (uint64_t)counts[m];
    return rows;
}

bool comm_check_receive(const Exchange *exchange, uint32_t members, uint32_t own, const uint64_t *ranks, Fault *fault)
{
    for (uint32_t m = 0; m < members; m++) {
        if (m != own && exchange->recv_counts[m] < 0)
            return fault_set(fault, EXIT_FAULT, "rank %" PRIu64 " sends %" PRId32 " rows", ranks[m],
                             exchange->recv_counts[m]);
    }
    uint64_t rows = comm_first_row(ROWS_OTHERS, exchange->recv_counts, members, own);
    if (rows > exchange->recv_capacity)
        return fault_set(fault, EXIT_FAULT,
                         "received %" PRIu64 " rows, its buffer holds %" PRIu64
                         ": more tokens chose experts behind this rank than the plan reserves for",
                         rows, exchange->recv_capacity);
    return true;
}

void comm_describe_group(const Cluster *cluster, const Group *group, char *out, size_t size)
{
    if (group->level == NONE)
        snprintf(out, size, "the %s group", group_kind_name(group->kind));
    else
        snprintf(out, size, "the %s group of level '%s' (domain %" PRIu32 ")", group_kind_name(group->kind),
                 cluster->levels[group->level].name, group->domain);
}
