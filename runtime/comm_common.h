// What communicators of every kind share: byte counters per level, and words for groups.
#ifndef HEP_COMM_COMMON_H
#define HEP_COMM_COMMON_H

#include <stdatomic.h>

#include "runtime/comm.h"

// One rank's, counted by all its streams.
typedef struct {
    _Atomic uint64_t exchange_bytes, routing_bytes, gather_bytes, reduce_bytes;
} CommCounters;

// Outermost level at which the two ranks differ.
uint32_t comm_level_between(const Cluster *cluster, uint64_t a, uint64_t b);
// Counts what `exchange` sends to member `member`, over `counters` of the level between the two ranks.
void comm_count_exchange(CommCounters *counters, const Exchange *exchange, uint32_t member);
// As CommOps.traffic.
void comm_counters_add(CommCounters counters[LEVELS_MAX], CommTraffic totals[LEVELS_MAX], bool reset);

// Counts of what is to be sent, or was received, must be sane; what is received must fit.
bool comm_check_send(const Exchange *exchange, uint32_t member, uint64_t rank, Fault *fault) MUST_CHECK;
bool comm_check_receive(const Exchange *exchange, uint32_t members, uint32_t own, const uint64_t *ranks,
                        Fault *fault) MUST_CHECK;
// The first row for, or from, `member`.
uint64_t comm_first_row(RowLayout layout, const int32_t *counts, uint32_t member, uint32_t own);

void comm_describe_group(const Cluster *cluster, const Group *group, char *out, size_t size);

#endif
