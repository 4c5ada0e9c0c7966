// The MPI communicator by itself, in messages of a few bytes so that every flow takes many chunks: who gets which
// rows, known and unknown counts, gathers, reductions, byte counters. Two streams at once. Started with four ranks
// by e2e/test_mpi.sh; prints what is wrong and ends the world with 1.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/comm/comm_mpi.h"
#include "runtime/comm/comm_sums.h"
#include "runtime/engine/moves.h"

enum { SUMMED = 101, RANKS = 4, ROWS_MAX = 64, COLUMNS = 5, ROUNDS = 20, SHARD = 1001 };

static const Cluster cluster = {
    .name = "mpi",
    .level_count = 2,
    .levels = {{.name = "dc", .count = 2, .bandwidth_bytes_per_s = 1e9},
               {.name = "gpu", .count = 2, .bandwidth_bytes_per_s = 1e9}},
};
static const Group of_all = {GROUP_WORLD, NONE, 1}, of_dcs = {GROUP_LEVEL, 0, 1};

static void report(void *context, const Fault *cause)
{
    (void)context;
    fprintf(stderr, "test: rank %d: %s\n", (int)cause->rank, cause->message);
}

static _Noreturn void end(FaultKind kind, bool all)
{
    if (all)
        mpi_end_all((int)kind);
    _exit((int)kind);
}

static void must(Comm *comm, bool ok, Fault *fault, const char *what)
{
    if (ok)
        return;
    fault_set(fault, FAULT_MISMATCH, "wrong: %s", what);
    fault->rank = (int64_t)comm->rank;
    comm->ops->abort(comm, fault);
}

static int32_t rows_between(uint64_t from, uint64_t to, uint32_t round)
{
    return (int32_t)((from * 5 + to * 3 + round) % 7);
}

static float value_of(uint64_t from, uint64_t to, int32_t row, uint32_t column)
{
    return (float)(from * 1000 + to * 100) + (float)row * 10 + (float)column;
}

// There and back again: rows with tags by unknown counts, rows alone by the counts then known.
static void exchange_round(Comm *comm, int channel, uint32_t round)
{
    float sent[ROWS_MAX][COLUMNS], received[ROWS_MAX][COLUMNS], returned[ROWS_MAX][COLUMNS];
    int32_t tags[ROWS_MAX], received_tags[ROWS_MAX], send_counts[RANKS], recv_counts[RANKS], row = 0;
    for (uint64_t m = 0; m < RANKS; m++) {
        send_counts[m] = rows_between(comm->rank, m, round);
        recv_counts[m] = -7;
        for (int32_t i = 0; m != comm->rank && i < send_counts[m]; i++, row++) {
            tags[row] = (int32_t)comm->rank;
            for (uint32_t c = 0; c < COLUMNS; c++)
                sent[row][c] = value_of(comm->rank, m, i, c);
        }
    }
    Fault fault = {0};
    Exchange there = {.part_count = 2,
                      .parts = {{.send = sent, .recv = received, .row_bytes = sizeof(sent[0])},
                                {.send = tags, .recv = received_tags, .row_bytes = sizeof(tags[0])}},
                      .send_counts = send_counts,
                      .recv_counts = recv_counts,
                      .recv_capacity = ROWS_MAX};
    must(comm, comm->ops->exchange(comm, channel, &there, &fault), &fault, "the exchange");
    must(comm, recv_counts[comm->rank] == -7, &fault, "the own count was touched");
    int32_t at = 0;
    for (uint64_t m = 0; m < RANKS; m++) {
        int32_t rows = m == comm->rank ? 0 : rows_between(m, comm->rank, round);
        must(comm, m == comm->rank || recv_counts[m] == rows, &fault, "a count");
        for (int32_t i = 0; i < rows; i++, at++) {
            must(comm, received_tags[at] == (int32_t)m, &fault, "a tag");
            for (uint32_t c = 0; c < COLUMNS; c++)
                must(comm, received[at][c] == value_of(m, comm->rank, i, c), &fault, "a row");
        }
    }
    Exchange back = {.part_count = 1,
                     .parts = {{.send = received, .recv = returned, .row_bytes = sizeof(sent[0])}},
                     .send_counts = recv_counts,
                     .recv_counts = send_counts,
                     .counts_known = true,
                     .recv_capacity = ROWS_MAX};
    must(comm, comm->ops->exchange(comm, channel, &back, &fault), &fault, "the exchange back");
    must(comm, memcmp(sent, returned, (size_t)row * sizeof(sent[0])) == 0, &fault, "the rows that came back");
}

typedef struct {
    Comm *comm;
    int channel;
} Stage;

static void *gather_rounds(void *argument)
{
    Stage *stage = argument;
    Comm *comm = stage->comm;
    Fault fault = {0};
    char shard[SHARD], gathered[2][SHARD];
    int32_t counts[4];
    Tensor own = {.data = shard, .dtype = DTYPE_U8, .rows = 1, .cols = SHARD},
           all = {.data = gathered, .dtype = DTYPE_U8, .rows = 2, .cols = SHARD};
    SumGroup group = {
        .comm = comm, .channel = stage->channel, .members = 2, .own = (uint32_t)comm->rank / 2, .counts = counts};
    for (uint32_t round = 0; round < ROUNDS; round++) {
        memset(shard, (int)(comm->rank * 16 + round), sizeof(shard));
        must(comm, comm_all_gather(&group, 1, &own, &all, &fault), &fault, "the gather");
        for (uint64_t m = 0; m < 2; m++) {
            char expected = (char)((m * 2 + comm->rank % 2) * 16 + round);
            for (uint32_t i = 0; i < SHARD; i++)
                must(comm, gathered[m][i] == expected, &fault, "a shard");
        }
    }
    return NULL;
}

static void check_traffic(Comm *comm)
{
    Fault fault = {0};
    CommTraffic traffic[LEVELS_MAX] = {0};
    uint64_t exchanged[2] = {0}, routed[2] = {0};
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint64_t m = 0; m < RANKS; m++) {
            uint64_t level = m / 2 == comm->rank / 2, there = (uint64_t)rows_between(comm->rank, m, round),
                     back = (uint64_t)rows_between(m, comm->rank, round);
            if (m == comm->rank)
                continue;
            exchanged[level] += (there + back) * COLUMNS * sizeof(float);
            routed[level] += (there + 1) * sizeof(int32_t);
        }
    }
    comm->ops->traffic(comm, traffic, true);
    for (uint32_t l = 0; l < 2; l++) {
        must(comm, traffic[l].exchange_bytes == exchanged[l], &fault, "the bytes exchanged");
        must(comm, traffic[l].routing_bytes == routed[l], &fault, "the bytes of routing");
    }
    must(comm, traffic[0].gather_bytes == SHARD * ROUNDS && traffic[1].gather_bytes == 0, &fault, "the bytes gathered");
}

// Sums of thirds, in the order of the ranks: the same bits as anywhere else.
static void check_sums(Comm *comm)
{
    Fault fault = {0};
    float data[SUMMED], scratch[SUMMED + RANKS];
    int32_t counts[2 * RANKS];
    Meeting meeting = {.comm = comm, .place = {.members = RANKS, .own = (uint32_t)comm->rank}, .ops = &host_moves};
    meeting.channel = comm->ops->open(comm, &of_all, STREAM_SYNC, &fault);
    for (uint32_t i = 0; i < SUMMED; i++)
        data[i] = (float)(comm->rank + i) / 3;
    must(comm, move_sum(&meeting, (Tensor){data, DTYPE_F32, 1, SUMMED}, counts, scratch, &fault), &fault, "the sums");
    for (uint32_t i = 0; i < SUMMED; i++) {
        float sum = 0;
        for (uint32_t m = 0; m < RANKS; m++)
            sum += (float)(m + i) / 3;
        must(comm, data[i] == sum, &fault, "a sum");
    }
    CommTraffic traffic[LEVELS_MAX] = {0};
    comm->ops->traffic(comm, traffic, true);
    must(comm, traffic[0].reduce_bytes + traffic[1].reduce_bytes > 0 && traffic[0].exchange_bytes == 0, &fault,
         "the bytes of sums");
}

int main(void)
{
    Fault fault = {0};
    WorldOptions options = {.timeout_s = 20, .chunk_bytes = 12, .report = report, .end = end};
    Comm *comm = mpi_world_ops.create(&options, &fault);
    if (!comm)
        return 1;
    mpi_world_ops.place(comm, &cluster);
    must(comm, comm->size == RANKS && comm->machine_size == RANKS, &fault, "the size of the world");
    int exchange = comm->ops->open(comm, &of_all, STREAM_EXCHANGE, &fault);
    Stage stage = {comm, comm->ops->open(comm, &of_dcs, STREAM_MIGRATE, &fault)};
    must(comm, exchange >= 0 && stage.channel >= 0, &fault, "the channels");
    pthread_t thread;
    must(comm, pthread_create(&thread, NULL, gather_rounds, &stage) == 0, &fault, "the second stream");
    for (uint32_t round = 0; round < ROUNDS; round++)
        exchange_round(comm, exchange, round);
    pthread_join(thread, NULL);
    check_traffic(comm);
    check_sums(comm);
    double values[100];
    for (uint32_t i = 0; i < 100; i++)
        values[i] = (double)(comm->rank * i);
    must(comm, comm->ops->all_reduce_sum(comm, values, 100, &fault) && values[99] == 6 * 99, &fault, "the sum");
    must(comm, comm->ops->all_reduce_max(comm, values, 100, &fault) && values[99] == 6 * 99, &fault, "the maximum");
    mpi_world_ops.destroy(comm);
    return 0;
}
