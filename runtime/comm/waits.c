// Judges times of ranks. A rank stands out when others lose a notable part of the iteration to it, and much more than
// to the rest. What others lose to a rank that waits itself is not its doing: so its own waits count against that.
#include "runtime/comm/waits.h"

#include <math.h>

static const double notable = 0.05; // of the iteration
static const double much_more = 2;  // than to the next

static double late_of(const RankTimes *rank)
{
    return rank->exchange_late_s + rank->gather_late_s;
}

int64_t waits_slow_rank(const RankTimes *ranks, uint64_t count, double iteration_s)
{
    double longest = 0, most = 0, next = 0;
    int64_t slow = -1;
    for (uint64_t r = 0; r < count; r++)
        longest = fmax(longest, late_of(&ranks[r]));
    for (uint64_t r = 0; r < count; r++) {
        // Who waits as long as those that wait longest is one of the victims.
        double share = longest > 0 ? 1 - late_of(&ranks[r]) / longest : 0;
        double lost = ranks[r].awaited_s * share;
        if (lost > most) {
            next = most;
            most = lost;
            slow = (int64_t)r;
        } else {
            next = fmax(next, lost);
        }
    }
    bool stands_out = slow >= 0 && ranks[slow].awaited_s > notable * iteration_s && most > much_more * next;
    return stands_out ? slow : -1;
}

int64_t waits_slow_worker(const Cluster *cluster, const RankTimes *ranks, double iteration_s)
{
    uint64_t below = cluster_gpus_below(cluster, 0), workers = cluster->levels[0].count;
    double most = 0, next = 0;
    int64_t slow = -1;
    for (uint64_t w = 0; w < workers; w++) {
        double lost = 0;
        for (uint64_t r = w * below; r < (w + 1) * below; r++)
            lost += ranks[r].last_s;
        if (lost > most) {
            next = most;
            most = lost;
            slow = (int64_t)w;
        } else {
            next = fmax(next, lost);
        }
    }
    return workers > 2 && most > notable * iteration_s && most > much_more * next ? slow : -1;
}
