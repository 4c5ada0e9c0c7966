// Who keeps whom waiting: times of every rank, and which rank or which port is slow by them.
#ifndef HEP_WAITS_H
#define HEP_WAITS_H

#include "runtime/comm/comm.h"

// One rank's, per iteration. Numbers only: reduced as an array of them. Of ranks whose memory is a device's it is not
// known who came late: what is late, awaited or last is NaN, and rows have the waits in them.
#define HEP_RANK_TIME(key, ...) double key;
typedef struct {
#include "runtime/comm/measures.def"
} RankTimes;

// The rank that comes late by itself: others wait for it, it does not wait for others. -1: none stands out.
int64_t waits_slow_rank(const RankTimes *ranks, uint64_t count, double iteration_s);
// The worker of the outermost level whose ranks deliver last, where there are three or more. -1: none stands out.
int64_t waits_slow_worker(const Cluster *cluster, const RankTimes *ranks, double iteration_s);

#endif
