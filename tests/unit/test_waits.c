// Which rank, which port is slow, judged by times of ranks.
#include <criterion/criterion.h>

#include "runtime/comm/waits.h"

static const Cluster cluster = {.level_count = 2, .levels = {{.name = "dc", .count = 3}, {.name = "gpu", .count = 2}}};

Test(waits, nobody_stands_out_among_equals)
{
    RankTimes ranks[6];
    for (int r = 0; r < 6; r++)
        ranks[r] = (RankTimes){.exchange_late_s = 0.2, .exchange_rows_s = 0.2, .awaited_s = 0.04, .last_s = 0.04};
    cr_assert_eq(waits_slow_rank(ranks, 6, 1), -1);
    cr_assert_eq(waits_slow_worker(&cluster, ranks, 1), -1);
}

Test(waits, who_is_late_by_itself_is_slow_not_who_is_kept_waiting)
{
    // Rank 4 is late by 0.4 s, rank 5 waits for it and so is late for rank 1 and 3, as 4 is for 0 and 2.
    RankTimes ranks[6] = {{.exchange_late_s = 0.4}, {.exchange_late_s = 0.4},
                          {.exchange_late_s = 0.4}, {.exchange_late_s = 0.4},
                          {.awaited_s = 0.24},      {.exchange_late_s = 0.4, .awaited_s = 0.16}};
    cr_assert_eq(waits_slow_rank(ranks, 6, 1), 4);
    cr_assert_eq(waits_slow_rank(ranks, 6, 10), -1, "not a notable part of the iteration");
}

Test(waits, the_worker_whose_rows_come_last_has_the_slow_port)
{
    RankTimes ranks[6] = {{.last_s = 0.02}, {.last_s = 0.03}, {.last_s = 0.2}, {.last_s = 0.15}, {.last_s = 0.04}};
    cr_assert_eq(waits_slow_worker(&cluster, ranks, 1), 1);
    // Between two, either may be the slow one.
    Cluster two = cluster;
    two.levels[0].count = 2;
    cr_assert_eq(waits_slow_worker(&two, ranks, 1), -1);
}
