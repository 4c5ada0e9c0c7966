// Link emulation: transfers take the time that the ports of their path need. Concurrent transfers are
// played in virtual time, each reserving its next chunk when the one before has passed, as threads
// that never oversleep would; one transfer is played in real time.
// builds: dev  seconds: 5  alone
#include <criterion/criterion.h>

#include <math.h>

#include "runtime/base/clock.h"
#include "runtime/comm/links.h"
#include "runtime/comm/links_machine.h"

// 2 x 2 x 2 ranks: 10 MB/s, 40 MB/s, 80 MB/s.
static const Cluster cluster = {
    .name = "links",
    .level_count = 3,
    .levels = {{.name = "dc", .count = 2, .bandwidth_bytes_per_s = 10e6, .latency_s = 0.02},
               {.name = "node", .count = 2, .bandwidth_bytes_per_s = 40e6, .latency_s = 0.001},
               {.name = "gpu", .count = 2, .bandwidth_bytes_per_s = 80e6}},
};

typedef struct {
    uint64_t from, to, bytes;
    uint64_t moved;
    double took_s;
    LinkFlow flow;
} Transfer;

static uint64_t next_chunk(const Transfer *transfer)
{
    uint64_t rest = transfer->bytes - transfer->moved;
    return transfer->flow.chunk_bytes < rest ? transfer->flow.chunk_bytes : rest;
}

// All transfers begin at time 0; whoever is ready first reserves next.
static void transfers_run_on(const Cluster *on, Transfer *transfers, size_t count)
{
    LinkEmulation *links = links_create(on);
    for (size_t t = 0; t < count; t++)
        links_flow_begin(links, &transfers[t].flow, transfers[t].from, transfers[t].to, transfers[t].bytes, 0);
    for (;;) {
        Transfer *ready = NULL;
        for (size_t t = 0; t < count; t++)
            if (transfers[t].moved < transfers[t].bytes && (!ready || transfers[t].flow.clock_s < ready->flow.clock_s))
                ready = &transfers[t];
        if (!ready)
            break;
        uint64_t chunk = next_chunk(ready);
        ready->took_s = links_flow_reserve(links, &ready->flow, chunk);
        ready->moved += chunk;
    }
    links_destroy(links);
}

static void transfers_run(Transfer *transfers, size_t count)
{
    transfers_run_on(&cluster, transfers, count);
}

static void expect_time(const Transfer *transfer, double expected_s)
{
    cr_assert(fabs(transfer->took_s - expected_s) <= 0.05 * expected_s, "took %g s, expected %g s", transfer->took_s,
              expected_s);
}

Test(links, lone_transfer_takes_volume_over_bandwidth)
{
    Transfer outer[] = {{.from = 0, .to = 4, .bytes = 2000000}}, inner[] = {{.from = 0, .to = 1, .bytes = 16000000}};
    transfers_run(outer, 1);
    expect_time(&outer[0], 0.2);
    transfers_run(inner, 1);
    expect_time(&inner[0], 0.2);
}

Test(links, a_lone_transfer_in_real_time_is_never_faster_and_hardly_slower)
{
    enum { TRIES = 5, BYTES = 1000000 };
    double best_s = INFINITY, expected_s = BYTES / 10e6;
    for (int try = 0; try < TRIES && best_s > 1.05 * expected_s; try++) { // a busy machine may wake us late
        LinkEmulation *links = links_create(&cluster);
        Transfer transfer = {.from = 0, .to = 4, .bytes = BYTES};
        double start_s = clock_now_s();
        links_flow_begin(links, &transfer.flow, 0, 4, BYTES, start_s);
        while (transfer.moved < BYTES) {
            uint64_t chunk = next_chunk(&transfer);
            clock_sleep_until(links_flow_reserve(links, &transfer.flow, chunk));
            transfer.moved += chunk;
        }
        double took_s = clock_now_s() - start_s;
        cr_assert_geq(took_s, 0.999 * expected_s);
        best_s = fmin(best_s, took_s);
        links_destroy(links);
    }
    cr_assert_leq(best_s, 1.05 * expected_s, "took %g s, expected %g s", best_s, expected_s);
}

Test(links, two_transfers_out_of_one_port_share_it)
{
    Transfer transfers[] = {{.from = 0, .to = 4, .bytes = 1000000}, {.from = 1, .to = 5, .bytes = 1000000}};
    transfers_run(transfers, 2);
    expect_time(&transfers[0], 0.2);
    expect_time(&transfers[1], 0.2);
}

Test(links, two_transfers_into_one_port_share_it)
{
    Transfer transfers[] = {{.from = 0, .to = 1, .bytes = 8000000}, {.from = 0, .to = 1, .bytes = 8000000}};
    transfers[1].from = 3; // through node 1's egress, and into node 0's: not the gpu egress of rank 0
    transfers_run(transfers, 2);
    // The port of rank 1 takes 80 MB/s; the transfer from the other node gets at most its 40 MB/s of it.
    expect_time(&transfers[0], 0.2);
    expect_time(&transfers[1], 0.2);
}

Test(links, a_short_transfer_leaves_the_port_to_the_long_one)
{
    Transfer transfers[] = {{.from = 0, .to = 4, .bytes = 500000}, {.from = 0, .to = 4, .bytes = 1500000}};
    transfers_run(transfers, 2);
    expect_time(&transfers[0], 0.1);
    expect_time(&transfers[1], 0.2);
}

Test(links, outer_transfers_load_the_ports_inside)
{
    // 10 MB/s leave through rank 0's 80 MB/s port towards the other data centre: 70 MB/s are left.
    Transfer transfers[] = {{.from = 0, .to = 4, .bytes = 2000000}, {.from = 0, .to = 1, .bytes = 14000000}};
    transfers_run(transfers, 2);
    expect_time(&transfers[0], 0.2);
    expect_time(&transfers[1], 0.2);
    cr_assert_geq(transfers[1].took_s, 0.19);
}

Test(links, ports_are_independent_and_both_ways)
{
    Transfer transfers[] = {{.from = 0, .to = 4, .bytes = 2000000},
                            {.from = 4, .to = 0, .bytes = 2000000},
                            {.from = 2, .to = 3, .bytes = 16000000}};
    transfers_run(transfers, 3);
    for (size_t t = 0; t < 3; t++)
        expect_time(&transfers[t], 0.2);
}

Test(links, latency_is_of_the_outermost_level_that_differs)
{
    LinkEmulation *links = links_create(&cluster);
    LinkFlow flow;
    links_flow_begin(links, &flow, 1, 5, 1, 0);
    cr_assert_eq(flow.latency_s, 0.02);
    cr_assert_eq(flow.port_count, 6);
    links_flow_begin(links, &flow, 1, 3, 1, 0);
    cr_assert_eq(flow.latency_s, 0.001);
    cr_assert_eq(flow.port_count, 4);
    links_flow_begin(links, &flow, 3, 3, 1, 0);
    cr_assert_eq(flow.port_count, 0);
    links_destroy(links);
}

// Three workers of two ranks: the second has a port of half the bandwidth, 0 and 2 a link of a fifth.
Test(links, unlike_ports_and_links_limit_what_passes_them)
{
    WorkerPort ports[] = {{"a", 2, 10e6, 0.02}, {"b", 0, 5e6, 0.03}, {"c", 1, 10e6, 0.02}};
    WorkerLink link = {0, 2, 2e6, 0.07};
    Cluster heterogeneous = cluster;
    heterogeneous.level_count = 2;
    heterogeneous.levels[0].count = heterogeneous.port_count = 3;
    heterogeneous.ports = ports;
    heterogeneous.links = &link;
    heterogeneous.link_count = 1;
    Transfer slow_port[] = {{.from = 0, .to = 2, .bytes = 1000000}};
    transfers_run_on(&heterogeneous, slow_port, 1);
    expect_time(&slow_port[0], 0.2);
    // The link is shared by all ranks of its workers, each way of its own; 6 MB/s of the port are left to others.
    Transfer over_link[] = {{.from = 0, .to = 4, .bytes = 200000},
                            {.from = 1, .to = 5, .bytes = 200000},
                            {.from = 4, .to = 0, .bytes = 400000},
                            {.from = 0, .to = 3, .bytes = 1000000}};
    transfers_run_on(&heterogeneous, over_link, 4);
    for (int t = 0; t < 4; t++)
        expect_time(&over_link[t], 0.2);
    LinkEmulation *links = links_create(&heterogeneous);
    LinkFlow flow;
    links_flow_begin(links, &flow, 5, 0, 1, 0);
    cr_assert_eq(flow.latency_s, 0.07);
    cr_assert_eq(flow.port_count, 5);
    links_flow_begin(links, &flow, 0, 2, 1, 0);
    cr_assert_eq(flow.latency_s, 0.03);
    cr_assert_eq(flow.port_count, 4);
    links_destroy(links);
}

// All ports of a level at once: 2 of 10 MB/s, 4 of 40 MB/s, 8 of 80 MB/s, which two processors of 100 MB/s cannot copy;
// a latency of 1 ms where threads sleep 5 ms longer than they want to.
Test(links, a_machine_may_be_too_slow_to_emulate_them)
{
    LinksMachine machine = {.copy_bytes_per_s = 100e6, .processors = 2, .wake_s = 5e-3};
    Text text = {0};
    links_machine_explain(&machine, &cluster, &text);
    cr_assert_str_eq(text.data, "this machine cannot emulate the latency of level 'node', 1 ms: threads wake up 5 ms "
                                "late as it is\n"
                                "this machine cannot emulate the bandwidth of level 'gpu': its ports carry 640 MB/s "
                                "together, 2 processors copy at most 200 MB/s: transfers take at least 3.2 times as "
                                "long\n");
    text_free(&text);
    machine = (LinksMachine){.copy_bytes_per_s = 400e6, .processors = 2, .wake_s = 1e-4};
    links_machine_explain(&machine, &cluster, &text);
    cr_assert_eq(text.length, 0, "%s", text.data);
    WorkerPort ports[] = {{"a", 0, 700e6, 0.02}, {"b", 1, 200e6, 0.02}};
    Cluster unequal = cluster;
    unequal.port_count = 2;
    unequal.ports = ports;
    links_machine_explain(&machine, &unequal, &text);
    cr_assert(text.data && strstr(text.data, "level 'dc': its ports carry 900 MB/s together"), "%s", text.data);
    text_free(&text);
    machine = links_machine_measure();
    cr_assert(machine.copy_bytes_per_s > 1e7 && machine.copy_bytes_per_s < 1e13);
    cr_assert(machine.processors >= 1 && machine.wake_s >= 0 && machine.wake_s < 10);
}
