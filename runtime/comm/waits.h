// Who keeps whom waiting: times of every rank, and which rank or which port is slow by them.
#ifndef HEP_WAITS_H
#define HEP_WAITS_H

#include "runtime/comm/comm.h"

// One rank's, per iteration. Numbers only: reduced as an array of them. Of ranks whose memory is a device's it is not
// known who came late: late_s, awaited_s and last_s are NaN, and transfer_s has the waits in it.
typedef struct {
    double compute_s;          // in steps that need no peer, on all streams
    CommTime exchange, gather; // in collectives, as its streams saw them
    double awaited_s;          // each other rank waited so long for this one to come, on average
    double last_s;             // each other rank took rows so long in collectives where this one delivered last
} RankTimes;

// The rank that comes late by itself: others wait for it, it does not wait for others. -1: none stands out.
int64_t waits_slow_rank(const RankTimes *ranks, uint64_t count, double iteration_s);
// The worker of the outermost level whose ranks deliver last, where there are three or more. -1: none stands out.
int64_t waits_slow_worker(const Cluster *cluster, const RankTimes *ranks, double iteration_s);

#endif
