// The threads communicator: who gets which rows, byte counters, faults, and the time of collectives
// over emulated links.
// builds: dev fast  seconds: 5  alone
#include <criterion/criterion.h>

#include <pthread.h>
#include <string.h>

#include "engines/sums.h"
#include "runtime/base/clock.h"
#include "runtime/comm/comm_sums.h"
#include "runtime/comm/comm_threads.h"
#include "runtime/engine/moves.h"

enum { RANKS = 6, ROWS_MAX = 64, COLUMNS = 3 };

static const Cluster cluster = {
    .name = "comm",
    .level_count = 2,
    .levels = {{.name = "dc", .count = 2, .bandwidth_bytes_per_s = 10e6, .latency_s = 0.03},
               {.name = "gpu", .count = 3, .bandwidth_bytes_per_s = 100e6}},
};

typedef struct {
    ThreadWorld *world;
    Comm *comm;
    bool (*body)(Comm *comm, Fault *fault);
    Fault fault;
    bool ok;
} Rank;

static void *rank_run(void *argument)
{
    Rank *rank = argument;
    rank->ok = rank->body(rank->comm, &rank->fault);
    if (!rank->ok)
        rank->comm->ops->abort(rank->comm, &rank->fault);
    return NULL;
}

// Runs `body` on every rank; returns the first fault.
static Fault ranks_run(LinkEmulation *links, double timeout_s, bool (*body)(Comm *, Fault *))
{
    ThreadWorld *world = thread_world_create(&cluster, links, timeout_s);
    Rank ranks[RANKS];
    pthread_t threads[RANKS];
    for (uint64_t r = 0; r < RANKS; r++) {
        ranks[r] = (Rank){.world = world, .comm = thread_world_comm(world, r), .body = body};
        pthread_create(&threads[r], NULL, rank_run, &ranks[r]);
    }
    for (uint64_t r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    Fault cause = thread_world_cause(world);
    for (uint64_t r = 0; r < RANKS; r++)
        cr_assert_eq(ranks[r].ok, cause.kind == FAULT_NONE, "rank %d", (int)r);
    thread_world_destroy(world);
    return cause;
}

static const Group of_gpus = {GROUP_EXCHANGE, 1, 1}, of_dcs = {GROUP_LEVEL, 0, 1}, of_all = {GROUP_WORLD, NONE, 1};

// Uneven and partly zero, different in every round.
static int32_t rows_between(uint64_t from, uint64_t to, uint32_t round)
{
    return (int32_t)((from * 5 + to * 3 + round) % 4);
}

static float value_of(uint64_t from, uint64_t to, uint32_t row, uint32_t column)
{
    return (float)(from * 1000 + to * 100 + row * 10 + column);
}

static bool exchange_round(Comm *comm, int channel, const Group *group, uint32_t round, Fault *fault)
{
    float sent[ROWS_MAX][COLUMNS], received[ROWS_MAX][COLUMNS], returned[ROWS_MAX][COLUMNS];
    int32_t tags[ROWS_MAX], received_tags[ROWS_MAX], send_counts[RANKS], recv_counts[RANKS];
    uint32_t members = (uint32_t)group_size(comm->cluster, group), row = 0;
    uint32_t own = (uint32_t)group_index(comm->cluster, group, comm->rank);
    for (uint32_t m = 0; m < members; m++) {
        uint64_t peer = group_member_rank(comm->cluster, group, comm->rank, m);
        send_counts[m] = rows_between(comm->rank, peer, round);
        recv_counts[m] = -7;
        for (int32_t i = 0; m != own && i < send_counts[m]; i++, row++) {
            tags[row] = (int32_t)comm->rank;
            for (uint32_t c = 0; c < COLUMNS; c++)
                sent[row][c] = value_of(comm->rank, peer, (uint32_t)i, c);
        }
    }
    Exchange there = {.part_count = 2,
                      .parts = {{.send = sent, .recv = received, .row_bytes = sizeof(*sent)},
                                {.send = tags, .recv = received_tags, .row_bytes = sizeof(*tags)}},
                      .send_counts = send_counts,
                      .recv_counts = recv_counts,
                      .recv_capacity = ROWS_MAX};
    if (!comm->ops->exchange(comm, channel, &there, fault))
        return false;
    row = 0;
    for (uint32_t m = 0; m < members; m++) {
        uint64_t peer = group_member_rank(comm->cluster, group, comm->rank, m);
        cr_assert_eq(recv_counts[m], m == own ? -7 : rows_between(peer, comm->rank, round));
        for (int32_t i = 0; m != own && i < recv_counts[m]; i++, row++) {
            cr_assert_eq(received_tags[row], (int32_t)peer);
            for (uint32_t c = 0; c < COLUMNS; c++)
                cr_assert_eq(received[row][c], value_of(peer, comm->rank, (uint32_t)i, c));
        }
    }
    Exchange back = {.part_count = 1,
                     .parts = {{.send = received, .recv = returned, .row_bytes = sizeof(*received)}},
                     .send_counts = recv_counts,
                     .recv_counts = send_counts,
                     .counts_known = true,
                     .recv_capacity = ROWS_MAX};
    if (!comm->ops->exchange(comm, channel, &back, fault))
        return false;
    uint32_t rows = 0;
    for (uint32_t m = 0; m < members; m++)
        rows += m == own ? 0 : (uint32_t)send_counts[m];
    cr_assert(memcmp(sent, returned, rows * sizeof(*sent)) == 0, "rows did not come home");
    return true;
}

static bool exchange_many(Comm *comm, Fault *fault)
{
    const Group *groups[] = {&of_gpus, &of_dcs, &of_all};
    for (size_t g = 0; g < COUNT_OF(groups); g++) {
        int channel = comm->ops->open(comm, groups[g], STREAM_EXCHANGE, fault);
        if (channel < 0)
            return false;
        for (uint32_t round = 0; round < 20; round++) {
            if (!exchange_round(comm, channel, groups[g], round, fault))
                return false;
        }
    }
    return true;
}

Test(comm, exchange_delivers_every_row_and_takes_results_back)
{
    Fault fault = ranks_run(NULL, 10, exchange_many);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
}

Test(comm, exchange_over_links_delivers_the_same)
{
    LinkEmulation *links = links_create(
        &(Cluster){.level_count = 2,
                   .levels = {{.count = 2, .bandwidth_bytes_per_s = 1e9}, {.count = 3, .bandwidth_bytes_per_s = 1e9}}});
    Fault fault = ranks_run(links, 10, exchange_many);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
    links_destroy(links);
}

static bool gather(Comm *comm, int channel, const Group *group, void *shard, void *gathered, uint64_t bytes,
                   Fault *fault)
{
    int32_t counts[2 * RANKS];
    Tensor own = {.data = shard, .dtype = DTYPE_U8, .rows = 1, .cols = bytes}, all = own;
    SumGroup of = {.comm = comm,
                   .channel = channel,
                   .members = (uint32_t)group_size(comm->cluster, group),
                   .own = (uint32_t)group_index(comm->cluster, group, comm->rank),
                   .counts = counts};
    all.data = gathered;
    all.rows = of.members;
    return comm_all_gather(&of, 1, &own, &all, fault);
}

static bool gather_and_reduce(Comm *comm, Fault *fault)
{
    uint64_t shard[5], gathered[3][5];
    int channel = comm->ops->open(comm, &of_gpus, STREAM_MIGRATE, fault);
    if (channel < 0)
        return false;
    for (uint64_t round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < 5; i++)
            shard[i] = comm->rank * 100 + round * 10 + i;
        if (!gather(comm, channel, &of_gpus, shard, gathered, sizeof(shard), fault))
            return false;
        for (uint64_t m = 0; m < 3; m++) {
            for (uint64_t i = 0; i < 5; i++)
                cr_assert_eq(gathered[m][i], (comm->rank / 3 * 3 + m) * 100 + round * 10 + i);
        }
    }
    double sums[100], largest = (double)comm->rank;
    for (uint32_t i = 0; i < 100; i++)
        sums[i] = (double)(comm->rank + i);
    if (!comm->ops->all_reduce_sum(comm, sums, 100, fault) || !comm->ops->all_reduce_max(comm, &largest, 1, fault))
        return false;
    for (uint32_t i = 0; i < 100; i++)
        cr_assert_eq(sums[i], 15 + 6.0 * i);
    cr_assert_eq(largest, 5);
    return true;
}

Test(comm, gathers_and_reductions)
{
    Fault fault = ranks_run(NULL, 10, gather_and_reduce);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
}

enum { SUMMED_MAX = 5000 };

// What rank `rank` adds to element i: exact in every dtype, and so is the sum of all.
static float summand_of(uint64_t rank, uint64_t i)
{
    return (float)((rank + 1) * (i % 7 + 1));
}

static void fill_summands(Tensor tensor, uint64_t rank)
{
    for (uint64_t i = 0; i < tensor.rows * tensor.cols; i++) {
        float value = summand_of(rank, i);
        host_from_f32(&value, (char *)tensor.data + i * dtype_bytes(tensor.dtype), tensor.dtype, 1);
    }
}

static float value_at(Tensor tensor, uint64_t i)
{
    float value;
    host_to_f32((const char *)tensor.data + i * dtype_bytes(tensor.dtype), tensor.dtype, &value, 1);
    return value;
}

// Members of the group of `of_gpus`: three ranks in a row.
static float sum_of(uint64_t rank, uint64_t i)
{
    float sum = 0;
    for (uint64_t m = 0; m < 3; m++)
        sum += summand_of(rank / 3 * 3 + m, i);
    return sum;
}

static bool sum_many(Comm *comm, Fault *fault)
{
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    static const uint64_t sizes[] = {1, 2, 3, 7, 100, SUMMED_MAX};
    float data[SUMMED_MAX], shard_data[SUMMED_MAX], scratch[2 * SUMMED_MAX];
    int32_t counts[2 * 3];
    uint32_t own_index = (uint32_t)group_index(comm->cluster, &of_gpus, comm->rank);
    Meeting meeting = {.comm = comm, .place = {.members = 3, .own = own_index}, .ops = &host_moves};
    meeting.channel = comm->ops->open(comm, &of_gpus, STREAM_SYNC, fault);
    uint64_t sent = 0;
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t s = 0; s < COUNT_OF(sizes); s++) {
            Tensor whole = {data, dtypes[d], 1, sizes[s]};
            cr_assert_leq(sums_reduce_scratch(3, sizes[s], dtypes[d]), sizeof(scratch));
            fill_summands(whole, comm->rank);
            if (!move_sum(&meeting, whole, counts, scratch, fault))
                return false;
            for (uint64_t i = 0; i < sizes[s]; i++)
                cr_assert_eq(value_at(whole, i), sum_of(comm->rank, i), "element %d of %d", (int)i, (int)sizes[s]);
            if (sizes[s] % 3 == 0) {
                uint64_t own = sizes[s] / 3;
                Tensor shard = {shard_data, dtypes[d], 1, own}, gathered = {data, dtypes[d], 3, own};
                fill_summands(gathered, comm->rank);
                MovedShards shards = {.count = 1, .shard = {shard}, .gathered = {gathered}, .counts = counts};
                if (!move_scatter(&meeting, &shards, scratch, fault))
                    return false;
                for (uint64_t i = 0; i < own; i++)
                    cr_assert_eq(value_at(shard, i), sum_of(comm->rank, own_index * own + i));
                sent += 2 * own * dtype_bytes(dtypes[d]);
            }
            uint64_t part = sizes[s] / 3 * (own_index + 1) + sizes[s] % 3 * (own_index + 1) / 3 -
                            sizes[s] / 3 * own_index - sizes[s] % 3 * own_index / 3;
            sent += (sizes[s] - part + 2 * part) * dtype_bytes(dtypes[d]);
        }
    CommTraffic totals[LEVELS_MAX] = {0};
    comm->ops->traffic(comm, totals, true);
    cr_assert_eq(totals[1].reduce_bytes, sent);
    cr_assert_eq(totals[0].reduce_bytes + totals[1].exchange_bytes + totals[1].routing_bytes, 0);
    return true;
}

Test(comm, sums_over_a_group)
{
    Fault fault = ranks_run(NULL, 10, sum_many);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
}

static bool count_bytes(Comm *comm, Fault *fault)
{
    float rows[8][COLUMNS] = {{0}}, received[8][COLUMNS];
    int32_t tags[8] = {0}, received_tags[8], send_counts[RANKS], recv_counts[RANKS];
    uint64_t shard = 0, gathered[2];
    int world = comm->ops->open(comm, &of_all, STREAM_EXCHANGE, fault);
    int pairs = comm->ops->open(comm, &of_dcs, STREAM_MIGRATE, fault);
    for (uint32_t m = 0; m < RANKS; m++)
        send_counts[m] = 1;
    Exchange exchange = {.part_count = 2,
                         .parts = {{.send = rows, .recv = received, .row_bytes = sizeof(*rows)},
                                   {.send = tags, .recv = received_tags, .row_bytes = sizeof(*tags)}},
                         .send_counts = send_counts,
                         .recv_counts = recv_counts,
                         .recv_capacity = 8};
    if (!comm->ops->exchange(comm, world, &exchange, fault) ||
        !gather(comm, pairs, &of_dcs, &shard, gathered, sizeof(shard), fault))
        return false;
    CommTraffic totals[LEVELS_MAX] = {0}, after[LEVELS_MAX] = {0};
    comm->ops->traffic(comm, totals, true);
    comm->ops->traffic(comm, after, false);
    // Three peers in the other data centre, two in this one; a row of 12 bytes, a tag and a count of 4.
    cr_assert_eq(totals[0].exchange_bytes, 36);
    cr_assert_eq(totals[1].exchange_bytes, 24);
    cr_assert_eq(totals[0].routing_bytes, 24);
    cr_assert_eq(totals[1].routing_bytes, 16);
    cr_assert_eq(totals[0].gather_bytes, 8);
    cr_assert_eq(totals[1].gather_bytes, 0);
    cr_assert_eq(after[0].exchange_bytes + after[1].exchange_bytes + after[0].gather_bytes, 0);
    return true;
}

Test(comm, bytes_are_counted_by_the_level_they_cross)
{
    Fault fault = ranks_run(NULL, 10, count_bytes);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
}

static bool late_gather(Comm *comm, Fault *fault)
{
    uint64_t shard = 0, gathered[3];
    double seconds[2][RANKS] = {{0}};
    int channel = comm->ops->open(comm, &of_gpus, STREAM_MIGRATE, fault);
    if (channel < 0 || !comm->ops->barrier(comm, fault))
        return false;
    if (comm->rank == 4)
        clock_sleep_until(clock_now_s() + 0.1);
    if (!gather(comm, channel, &of_gpus, &shard, gathered, sizeof(shard), fault))
        return false;
    CommTimes times = {.late_s = seconds[0], .last_s = seconds[1]};
    comm->ops->times(comm, &times, true);
    double late_s = comm->rank == 3 || comm->rank == 5 ? 0.1 : 0; // 0 to 2 do not wait for 4
    cr_assert_geq(times.gather.late_s, 0.9 * late_s);
    cr_assert_geq(seconds[0][4], 0.9 * late_s);
    cr_assert_leq(seconds[0][4], times.gather.late_s);
    cr_assert_eq(times.exchange.late_s + times.exchange.transfer_s, 0);
    times.gather = (CommTime){0};
    comm->ops->times(comm, &times, false);
    cr_assert_eq(times.gather.late_s + times.gather.transfer_s, 0);
    return true;
}

Test(comm, waiting_is_counted_against_who_came_last)
{
    Fault fault = ranks_run(NULL, 10, late_gather);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
}

static bool overflow(Comm *comm, Fault *fault)
{
    char rows[3][8] = {{0}}, received[2][8];
    int32_t send_counts[] = {1, 1, 1}, recv_counts[3];
    int channel = comm->ops->open(comm, &of_gpus, STREAM_EXCHANGE, fault);
    if (channel < 0)
        return false;
    Exchange exchange = {.part_count = 1,
                         .parts = {{.send = rows, .recv = received, .row_bytes = 8}},
                         .send_counts = send_counts,
                         .recv_counts = recv_counts,
                         .recv_capacity = comm->rank == 4 ? 1 : 2};
    return comm->ops->exchange(comm, channel, &exchange, fault) && comm->ops->barrier(comm, fault);
}

Test(comm, more_rows_than_fit_end_every_rank)
{
    Fault fault = ranks_run(NULL, 10, overflow);
    cr_assert_eq(fault.kind, FAULT_RUN);
    cr_assert_not_null(strstr(fault.message, "received 2 rows, its buffer holds 1"), "%s", fault.message);
}

// Two rows for every peer, of which `counts` count; rank 4 has three where `uneven`.
static bool exchange_fixed(Comm *comm, bool uneven, Fault *fault)
{
    uint64_t rows[6], received[6] = {0}, fixed = uneven && comm->rank == 4 ? 3 : 2;
    int32_t counts[3], received_counts[3] = {-7, -7, -7};
    uint32_t own = (uint32_t)group_index(comm->cluster, &of_gpus, comm->rank);
    for (uint32_t i = 0; i < 6; i++)
        rows[i] = 10 * comm->rank + i;
    for (uint32_t m = 0; m < 3; m++)
        counts[m] = (int32_t)(m % 2);
    int channel = comm->ops->open(comm, &of_gpus, STREAM_EXCHANGE, fault);
    Exchange exchange = {
        .part_count = 2,
        .parts = {{.send = rows, .recv = received, .row_bytes = 8, .fixed_rows = fixed},
                  {.send = counts, .recv = received_counts, .row_bytes = 4, .fixed_rows = 1, .own_place = true}},
        .send_counts = counts};
    if (channel < 0 || !comm->ops->exchange(comm, channel, &exchange, fault) || !comm->ops->barrier(comm, fault))
        return false;
    CommTraffic totals[LEVELS_MAX] = {0};
    comm->ops->traffic(comm, totals, true);
    for (uint32_t m = 0, place = 0; m < 3; m++) {
        uint64_t peer = group_member_rank(comm->cluster, &of_gpus, comm->rank, m);
        cr_assert_eq(received_counts[m], m == own ? -7 : (int32_t)(own % 2));
        for (uint32_t i = 0; m != own && i < 2; i++, place++) // a peer's places: those before it, without its own
            cr_assert_eq(received[place], 10 * peer + 2 * (own - (own > m)) + i);
    }
    cr_assert_eq(totals[1].exchange_bytes, 2 * 2 * 8);
    cr_assert_eq(totals[1].padding_bytes, own == 1 ? 2 * 2 * 8 : (1 + 2) * 8, "one of two rows to member 1, none else");
    cr_assert_eq(totals[1].routing_bytes, 2 * 4);
    return true;
}

static bool fixed_alike(Comm *comm, Fault *fault)
{
    return exchange_fixed(comm, false, fault);
}

static bool fixed_unlike(Comm *comm, Fault *fault)
{
    return exchange_fixed(comm, true, fault);
}

Test(comm, messages_of_fixed_size)
{
    Fault fault = ranks_run(NULL, 10, fixed_alike);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
    fault = ranks_run(NULL, 10, fixed_unlike);
    cr_assert_eq(fault.kind, FAULT_RUN);
    cr_assert_not_null(strstr(fault.message, "the number of rows differs"), "%s", fault.message);
}

static bool mismatch(Comm *comm, Fault *fault)
{
    uint64_t shard[2] = {0}, gathered[3][2];
    int channel = comm->ops->open(comm, &of_gpus, STREAM_MIGRATE, fault);
    return channel >= 0 && gather(comm, channel, &of_gpus, shard, gathered, comm->rank == 2 ? 8 : 16, fault) &&
           comm->ops->barrier(comm, fault);
}

Test(comm, members_that_disagree_are_a_fault)
{
    Fault fault = ranks_run(NULL, 10, mismatch);
    cr_assert_eq(fault.kind, FAULT_RUN);
    cr_assert_not_null(strstr(fault.message, "the size of a row differs"), "%s", fault.message);
    cr_assert_geq(fault.peer, 0);
}

static bool missing_peer(Comm *comm, Fault *fault)
{
    uint64_t shard = 0, gathered[3];
    int channel = comm->ops->open(comm, &of_gpus, STREAM_MIGRATE, fault);
    return channel >= 0 && (comm->rank == 5 || gather(comm, channel, &of_gpus, &shard, gathered, 8, fault)) &&
           comm->ops->barrier(comm, fault);
}

Test(comm, a_peer_that_does_not_come_is_named_in_time)
{
    double start_s = clock_now_s();
    Fault fault = ranks_run(NULL, 0.2, missing_peer);
    cr_assert_lt(clock_now_s() - start_s, 1);
    cr_assert_eq(fault.kind, FAULT_RUN);
    cr_assert_eq(fault.peer, 5);
    cr_assert_not_null(strstr(fault.message, "rank 5 did not arrive in the exchange group of level 'gpu'"), "%s",
                       fault.message);
}

static StreamPoint at_a_step(void *context, Stream stream)
{
    (void)context;
    (void)stream;
    return (StreamPoint){.step = 7, .awaited = -1};
}

static double until_s; // rank 5 computes until then

static double computes(void *context, double now_s)
{
    (void)context;
    return now_s < until_s ? now_s : until_s;
}

static bool late_peer(Comm *comm, Fault *fault)
{
    uint64_t shard = 0, gathered[3];
    int channel = comm->ops->open(comm, &of_gpus, STREAM_MIGRATE, fault);
    if (comm->rank == 5) {
        comm->ops->watch(comm, &(Watch){.point = at_a_step, .life_s = computes});
        clock_sleep_until(until_s);
    }
    return channel >= 0 && gather(comm, channel, &of_gpus, &shard, gathered, 8, fault);
}

Test(comm, a_peer_that_computes_is_waited_for)
{
    until_s = clock_now_s() + 1;
    Fault fault = ranks_run(NULL, 0.2, late_peer);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
}

static bool stuck_peer(Comm *comm, Fault *fault)
{
    comm->ops->watch(comm, &(Watch){.point = at_a_step, .life_s = computes});
    return missing_peer(comm, fault);
}

Test(comm, a_peer_that_stops_computing_tells_where_it_stands)
{
    until_s = clock_now_s() + 0.5;
    Fault fault = ranks_run(NULL, 0.2, stuck_peer);
    cr_assert_geq(clock_now_s(), until_s + 0.2);
    cr_assert_eq(fault.peer, 5);
    cr_assert(fault.peer_told);
    cr_assert_eq(fault.peer_at.step, 7);
}

static double slowest_s;
static pthread_mutex_t slowest_mutex = PTHREAD_MUTEX_INITIALIZER;

static bool timed_gather(Comm *comm, Fault *fault)
{
    static char shards[RANKS][200000], gathered[RANKS][2][200000];
    int channel = comm->ops->open(comm, &of_dcs, STREAM_MIGRATE, fault);
    if (!comm->ops->barrier(comm, fault))
        return false;
    double start_s = clock_now_s();
    bool ok = gather(comm, channel, &of_dcs, shards[comm->rank], gathered[comm->rank], 200000, fault);
    pthread_mutex_lock(&slowest_mutex);
    double took_s = clock_now_s() - start_s;
    slowest_s = took_s > slowest_s ? took_s : slowest_s;
    pthread_mutex_unlock(&slowest_mutex);
    return ok;
}

Test(comm, a_gather_over_links_takes_what_the_cost_model_says)
{
    LinkEmulation *links = links_create(&cluster);
    Fault fault = ranks_run(links, 10, timed_gather);
    cr_assert_eq(fault.kind, FAULT_NONE, "%s", fault.message);
    // a + c V / B = 30 ms + 3 x 200 kB / 10 MB/s
    cr_assert_float_eq(slowest_s, 0.09, 0.05 * 0.09 + 0.003, "took %g s", slowest_s);
    links_destroy(links);
}
