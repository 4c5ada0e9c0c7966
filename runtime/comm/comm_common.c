// Byte counters, times, checks of counts and words for groups: the same for every kind of communicator, so that reports
// and messages do not depend on it. Owns no memory.
#include "runtime/comm/comm_common.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    uint64_t routing = comm_sends_counts(exchange) ? sizeof(int32_t) : 0;
    _Atomic uint64_t *of[] = {[CARRIES_ROWS] = &counters->exchange_bytes,
                              [CARRIES_SUMS] = &counters->reduce_bytes,
                              [CARRIES_COUNTS] = &counters->routing_bytes,
                              [CARRIES_WEIGHTS] = &counters->gather_bytes};
    bool routes = exchange->carries == CARRIES_ROWS || exchange->carries == CARRIES_COUNTS;
    for (uint32_t p = 0; p < exchange->part_count; p++) {
        const ExchangePart *part = &exchange->parts[p];
        uint64_t rows = part->fixed_rows ? part->fixed_rows : (uint64_t)exchange->send_counts[member];
        if (p > 0 && routes)
            routing += rows * part->row_bytes;
        else
            atomic_fetch_add(of[exchange->carries], rows * part->row_bytes);
        if (p == 0 && part->fixed_rows && exchange->send_counts)
            atomic_fetch_add(&counters->padding_bytes,
                             (rows - (uint64_t)exchange->send_counts[member]) * part->row_bytes);
    }
    atomic_fetch_add(&counters->routing_bytes, routing);
}

void comm_count_received(CommCounters *counters, const Exchange *exchange, uint32_t member)
{
    if (!exchange->dispatches)
        return;
    uint64_t fixed = exchange->parts[0].fixed_rows;
    atomic_fetch_add(&counters->received_rows, fixed ? fixed : (uint64_t)exchange->recv_counts[member]);
}

void comm_counters_add(CommCounters counters[LEVELS_MAX], CommTraffic totals[LEVELS_MAX], bool reset)
{
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        CommCounters *of_level = &counters[l];
        totals[l].exchange_bytes += atomic_load(&of_level->exchange_bytes);
        totals[l].routing_bytes += atomic_load(&of_level->routing_bytes);
        totals[l].gather_bytes += atomic_load(&of_level->gather_bytes);
        totals[l].reduce_bytes += atomic_load(&of_level->reduce_bytes);
        totals[l].padding_bytes += atomic_load(&of_level->padding_bytes);
        totals[l].received_rows += atomic_load(&of_level->received_rows);
        if (!reset)
            continue;
        atomic_store(&of_level->exchange_bytes, 0);
        atomic_store(&of_level->routing_bytes, 0);
        atomic_store(&of_level->gather_bytes, 0);
        atomic_store(&of_level->reduce_bytes, 0);
        atomic_store(&of_level->padding_bytes, 0);
        atomic_store(&of_level->received_rows, 0);
    }
}

void comm_counters_count(CommCounters counters[LEVELS_MAX], const CommTraffic moved[LEVELS_MAX])
{
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        atomic_fetch_add(&counters[l].exchange_bytes, moved[l].exchange_bytes);
        atomic_fetch_add(&counters[l].routing_bytes, moved[l].routing_bytes);
        atomic_fetch_add(&counters[l].gather_bytes, moved[l].gather_bytes);
        atomic_fetch_add(&counters[l].reduce_bytes, moved[l].reduce_bytes);
        atomic_fetch_add(&counters[l].padding_bytes, moved[l].padding_bytes);
        atomic_fetch_add(&counters[l].received_rows, moved[l].received_rows);
    }
}

bool comm_is_fixed(const Exchange *exchange)
{
    return exchange->part_count > 0 && exchange->parts[0].fixed_rows > 0;
}

bool comm_sends_counts(const Exchange *exchange)
{
    return !exchange->counts_known && !comm_is_fixed(exchange);
}

bool comm_check_send(const Exchange *exchange, uint32_t member, uint64_t rank, Fault *fault)
{
    if (!exchange->send_counts)
        return true;
    int32_t rows = exchange->send_counts[member];
    if (rows < 0)
        return fault_set(fault, FAULT_RUN, "%" PRId32 " rows to send to rank %" PRIu64, rows, rank);
    uint64_t fixed = comm_is_fixed(exchange) ? exchange->parts[0].fixed_rows : (uint64_t)rows;
    return (uint64_t)rows <= fixed ||
           fault_set(fault, FAULT_RUN, "%" PRId32 " rows to send to rank %" PRIu64 " in a message of %" PRIu64, rows,
                     rank, fixed);
}

static uint64_t first_row(RowLayout layout, const int32_t *counts, uint32_t member, uint32_t own)
{
    uint64_t rows = 0;
    for (uint32_t m = 0; layout != ROWS_SAME && m < member; m++)
        rows += m == own && layout == ROWS_OTHERS ? 0 : (uint64_t)counts[m];
    return rows;
}

static CommRows part_rows(const ExchangePart *part, RowLayout layout, const int32_t *counts, uint32_t member,
                          uint32_t own)
{
    if (!part->fixed_rows)
        return (CommRows){first_row(layout, counts, member, own), (uint64_t)counts[member]};
    uint64_t place = layout == ROWS_SAME ? 0 : part->own_place ? member : member - (member > own);
    return (CommRows){place * part->fixed_rows, part->fixed_rows};
}

CommRows comm_rows_to(const Exchange *exchange, uint32_t part, uint32_t member, uint32_t own)
{
    return part_rows(&exchange->parts[part], exchange->send_layout, exchange->send_counts, member, own);
}

CommRows comm_rows_from(const Exchange *exchange, uint32_t part, uint32_t member, uint32_t own)
{
    return part_rows(&exchange->parts[part], exchange->recv_layout, exchange->recv_counts, member, own);
}

bool comm_check_receive(const Exchange *exchange, uint32_t members, uint32_t own, const uint64_t *ranks, Fault *fault)
{
    if (comm_is_fixed(exchange))
        return true;
    for (uint32_t m = 0; m < members; m++) {
        if (m != own && exchange->recv_counts[m] < 0)
            return fault_set(fault, FAULT_RUN, "rank %" PRIu64 " sends %" PRId32 " rows", ranks[m],
                             exchange->recv_counts[m]);
    }
    uint64_t rows = first_row(ROWS_OTHERS, exchange->recv_counts, members, own);
    if (rows > exchange->recv_capacity)
        return fault_set(fault, FAULT_RUN,
                         "received %" PRIu64 " rows, its buffer holds %" PRIu64
                         ": more tokens chose experts of this rank than the plan reserves for",
                         rows, exchange->recv_capacity);
    return true;
}

const char *comm_describe_call(const CommCall *call, char *out, size_t size)
{
#define X(name, text) text,
    static const char *const names[] = {HEP_CALLS(X)};
#undef X
    const char *name = (size_t)call->purpose < COUNT_OF(names) ? names[call->purpose] : "an unknown call";
    if (call->layer == NONE)
        snprintf(out, size, "%s", name);
    else
        snprintf(out, size, "%s of layer %" PRId32, name, call->layer);
    return out;
}

bool comm_calls_equal(const CommCall *a, const CommCall *b)
{
    return a->purpose == b->purpose && a->layer == b->layer && a->pass == b->pass;
}

void comm_describe_group(const Cluster *cluster, const Group *group, char *out, size_t size)
{
    if (group->level == NONE)
        snprintf(out, size, "the %s group", group_kind_name(group->kind));
    else
        snprintf(out, size, "the %s group of level '%s' (domain %" PRIu32 ")", group_kind_name(group->kind),
                 cluster->levels[group->level].name, group->domain);
}

bool comm_tally_create(CommTally *tally, uint32_t members)
{
    tally->of_peers = calloc(members, sizeof(*tally->of_peers));
    return tally->of_peers;
}

void comm_tally_begin(CommTally *tally, uint32_t own, double now_s)
{
    tally->began_s = tally->came_s = tally->delivered_s = now_s;
    tally->own = tally->came_last = tally->delivered_last = own;
}

// In the order that begins after `own` and ends with it.
static bool is_nearer(uint32_t own, uint32_t a, uint32_t b)
{
    return a - own - 1 < b - own - 1; // wraps around at 2^32 instead of the members: the same order
}

void comm_tally_came(CommTally *tally, uint32_t member, double now_s)
{
    if (now_s > tally->came_s || (now_s == tally->came_s && is_nearer(tally->own, member, tally->came_last)))
        tally->came_last = member;
    tally->came_s = fmax(tally->came_s, now_s);
}

void comm_tally_delivered(CommTally *tally, uint32_t member, double now_s)
{
    if (now_s > tally->delivered_s ||
        (now_s == tally->delivered_s && is_nearer(tally->own, member, tally->delivered_last)))
        tally->delivered_last = member;
    tally->delivered_s = fmax(tally->delivered_s, now_s);
}

CommTime *comm_tally_of(CommTally *tally, const Exchange *exchange)
{
    bool rows = exchange->carries == CARRIES_ROWS || exchange->carries == CARRIES_COUNTS;
    return rows ? &tally->exchange : &tally->gather;
}

void comm_tally_end(CommTally *tally, CommTime *kind, double now_s)
{
    double late_s = tally->came_s - tally->began_s, transfer_s = fmax(now_s - tally->came_s, 0);
    kind->late_s += late_s;
    kind->transfer_s += transfer_s;
    tally->of_peers[tally->came_last].late_s += late_s;
    tally->of_peers[tally->delivered_last].transfer_s += transfer_s;
}

void comm_tally_add(CommTally *tally, uint32_t members, const uint64_t *ranks, CommTimes *totals, bool reset)
{
    totals->exchange.late_s += tally->exchange.late_s;
    totals->exchange.transfer_s += tally->exchange.transfer_s;
    totals->gather.late_s += tally->gather.late_s;
    totals->gather.transfer_s += tally->gather.transfer_s;
    for (uint32_t m = 0; m < members; m++) {
        totals->late_s[ranks[m]] += tally->of_peers[m].late_s;
        totals->last_s[ranks[m]] += tally->of_peers[m].transfer_s;
    }
    if (!reset)
        return;
    tally->exchange = tally->gather = (CommTime){0};
    memset(tally->of_peers, 0, members * sizeof(*tally->of_peers));
}

bool comm_is_placed(const Comm *comm)
{
    return comm->cluster && comm->cluster->port_count && cluster_gpus(comm->cluster) == comm->size;
}

void comm_fold(const Comm *comm, const double *gathered, double *values, uint32_t count, bool sum)
{
    bool placed = comm_is_placed(comm);
    for (uint64_t rank = 0; rank < comm->size; rank++) {
        const double *given = gathered + (placed ? cluster_process_of_rank(comm->cluster, rank) : rank) * count;
        for (uint32_t i = 0; i < count; i++)
            values[i] = rank == 0 ? given[i] : sum ? values[i] + given[i] : fmax(values[i], given[i]);
    }
}
