// What communicators of every kind share: byte counters per level, and words for groups.
#ifndef HEP_COMM_COMMON_H
#define HEP_COMM_COMMON_H

#include <stdatomic.h>

#include "runtime/comm/comm.h"

// One rank's, counted by all its streams.
typedef struct {
    _Atomic uint64_t exchange_bytes, routing_bytes, gather_bytes, reduce_bytes, padding_bytes, received_rows;
} CommCounters;

// Times of one member of a channel. Its stream alone writes it.
typedef struct {
    CommTime exchange, gather;
    CommTime *of_peers; // [members] by who came and who delivered last
    // Of the call under way:
    double began_s, came_s, delivered_s;
    uint32_t own, came_last, delivered_last;
} CommTally;

bool comm_tally_create(CommTally *tally, uint32_t members) MUST_CHECK;
void comm_tally_begin(CommTally *tally, uint32_t own, double now_s);
// A peer has come, has delivered rows. The last is told by the latest time; of those seen at one time it is the one
// after the own member, which no member of the group is for all others.
void comm_tally_came(CommTally *tally, uint32_t member, double now_s);
void comm_tally_delivered(CommTally *tally, uint32_t member, double now_s);
void comm_tally_end(CommTally *tally, CommTime *kind, double now_s);
// What an exchange's time counts as: `exchange` of rows and their counts; `gather` of weights, gradients and sums.
CommTime *comm_tally_of(CommTally *tally, const Exchange *exchange);
// Adds to the totals; `ranks` are the members'.
void comm_tally_add(CommTally *tally, uint32_t members, const uint64_t *ranks, CommTimes *totals, bool reset);

// Outermost level at which the two ranks differ.
uint32_t comm_level_between(const Cluster *cluster, uint64_t a, uint64_t b);
// Counts what `exchange` sends to member `member`, over `counters` of the level between the two ranks.
void comm_count_exchange(CommCounters *counters, const Exchange *exchange, uint32_t member);
// Counts the rows that it brings from member `member`, if they are counted; recv_counts are known, unless rows are
// fixed.
void comm_count_received(CommCounters *counters, const Exchange *exchange, uint32_t member);
// Do the processes of a world stand at other places than the ranks of its plan? See Cluster.ports.
bool comm_is_placed(const Comm *comm);
// values [count]: the sum, or the largest, of what all processes gave, `gathered` by process [size][count]. Taken in
// the order of ranks, so that every rank and every run gets the same.
void comm_fold(const Comm *comm, const double *gathered, double *values, uint32_t count, bool sum);
// As CommOps.traffic.
void comm_counters_add(CommCounters counters[LEVELS_MAX], CommTraffic totals[LEVELS_MAX], bool reset);

// As DeviceCommOps.count.
void comm_counters_count(CommCounters counters[LEVELS_MAX], const CommTraffic moved[LEVELS_MAX]);

// Counts of what is to be sent, or was received, must be sane; what is received must fit.
bool comm_check_send(const Exchange *exchange, uint32_t member, uint64_t rank, Fault *fault) MUST_CHECK;
bool comm_check_receive(const Exchange *exchange, uint32_t members, uint32_t own, const uint64_t *ranks,
                        Fault *fault) MUST_CHECK;
// Do messages have one size, whatever the counts say?
bool comm_is_fixed(const Exchange *exchange);
// Are counts to travel?
bool comm_sends_counts(const Exchange *exchange);
// The rows of a part for, or from, `member`.
typedef struct {
    uint64_t first, count;
} CommRows;
CommRows comm_rows_to(const Exchange *exchange, uint32_t part, uint32_t member, uint32_t own);
CommRows comm_rows_from(const Exchange *exchange, uint32_t part, uint32_t member, uint32_t own);

const char *comm_describe_call(const CommCall *call, char *out, size_t size); // returns `out`
bool comm_calls_equal(const CommCall *a, const CommCall *b);
void comm_describe_group(const Cluster *cluster, const Group *group, char *out, size_t size);

#endif
