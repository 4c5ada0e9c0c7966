// The simulator against closed forms: single transfers, shared ports, chains, fork and join.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "ir/simulate/classes.h"
#include "ir/simulate/critical_path.h"
#include "ir/simulate/occupancy.h"
#include "ir/simulate/simulate.h"

enum { STEPS_MAX = 8 };

// A hand-written abstract plan: 2 workers of 4 GPUs, 1 GB/s outside, 1 GB/s per GPU inside.
typedef struct {
    Plan plan;
    Step steps[STEPS_MAX];
    Group groups[4];
    uint32_t after[STEPS_MAX];
} Toy;

static void toy_init(Toy *toy)
{
    memset(toy, 0, sizeof(*toy));
    toy->plan.cluster =
        (Cluster){.name = "c", .level_count = 2, .levels = {{"dc", 2, 1e9, 1e-3, 0}, {"gpu", 4, 1e9, 1e-4, 1e-5}}};
    toy->groups[0] = (Group){GROUP_EXCHANGE, 0, 1};
    toy->groups[1] = (Group){GROUP_GATHER, 0, 2};
    toy->groups[2] = (Group){GROUP_EXCHANGE, 1, 1};
    toy->groups[3] = (Group){GROUP_GATHER, 1, 4};
    toy->plan.model.abstract = true;
    toy->plan.groups = toy->groups;
    toy->plan.steps = toy->steps;
    toy->plan.after = toy->after;
    toy->plan.group_count = 4;
}

static uint32_t add(Toy *toy, Op op, int32_t group, double cost_s, double bytes, int32_t after)
{
    Step *step = &toy->steps[toy->plan.step_count];
    *step = (Step){.op = op, .layer = NONE, .group = group, .cost_s = cost_s, .bytes = bytes};
    step->level = group == NONE ? NONE : toy->groups[group].level;
    step->after_first = toy->plan.after_count;
    if (after != NONE) {
        step->after_count = 1;
        toy->after[toy->plan.after_count++] = (uint32_t)after;
    }
    return toy->plan.step_count++;
}

static double run(const Toy *toy)
{
    Arena *arena = arena_create();
    double time_s = simulate(&toy->plan, arena)->iteration_s;
    arena_destroy(arena);
    return time_s;
}

static void expect(const Toy *toy, double wanted_s)
{
    double got_s = run(toy);
    cr_assert(fabs(got_s - wanted_s) <= 1e-9 * wanted_s, "%.12g s, not %.12g s", got_s, wanted_s);
}

Test(simulate, one_transfer_takes_latency_and_bytes_through_the_shared_port)
{
    Toy toy;
    toy_init(&toy);
    add(&toy, OP_DISPATCH, 0, 0, 1e6, NONE);
    expect(&toy, 1e-3 + 4e6 / 1e9); // four GPUs share the outer port
    toy_init(&toy);
    add(&toy, OP_DISPATCH, 2, 0, 1e6, NONE);
    expect(&toy, 1e-4 + 3e-5 + 1e6 / 1e9); // three messages
}

// Of a plan whose rows have counts these go ahead: another latency, and another three messages.
Test(simulate, counts_are_a_start_up_ahead_of_what_is_dispatched)
{
    Toy toy;
    toy_init(&toy);
    toy.plan.model.abstract = false;
    add(&toy, OP_DISPATCH, 2, 0, 1e6, NONE);
    expect(&toy, 2 * (1e-4 + 3e-5) + 1e6 / 1e9);
    toy.steps[0].op = OP_COMBINE;
    expect(&toy, 1e-4 + 3e-5 + 1e6 / 1e9);
    toy.steps[0].op = OP_DISPATCH;
    toy.plan.exchange = EXCHANGE_PADDED;
    expect(&toy, 1e-4 + 3e-5 + 1e6 / 1e9);
}

Test(simulate, gather_and_exchange_share_a_port_by_flows)
{
    Toy toy;
    toy_init(&toy);
    add(&toy, OP_DISPATCH, 0, 0, 1e6, NONE);
    add(&toy, OP_GATHER, 1, 0, 3e6, NONE);
    // One flow each: half the port until the exchange has sent 4 MB (8 ms), then the gather alone.
    expect(&toy, 1e-3 + 8e-3 + 8e-3);
}

Test(simulate, exposed_time_is_named_by_what_is_under_way)
{
    Toy toy;
    toy_init(&toy);
    uint32_t first = add(&toy, OP_PRE_EXPERT, NONE, 2e-3, 0, NONE);
    add(&toy, OP_DISPATCH, 0, 0, 1e6, (int32_t)first);
    add(&toy, OP_GATHER, 1, 0, 3e6, (int32_t)first);
    Arena *arena = arena_create();
    const SimulatedClass *last = simulate(&toy.plan, arena)->last;
    // The exchange has half the port for 8 ms and arrives a latency of 1 ms later, the gather 8 ms after that.
    const unsigned tokens = 1U << STREAM_EXCHANGE, experts = 1U << STREAM_MIGRATE;
    cr_assert_float_eq(last->exposed_with_s[tokens | experts], 9e-3, 1e-9);
    cr_assert_float_eq(last->exposed_with_s[experts], 8e-3, 1e-9);
    cr_assert_eq(last->exposed_with_s[tokens], 0);
    cr_assert_float_eq(last->exposed_s, 17e-3, 1e-9);
    arena_destroy(arena);
}

Test(simulate, an_outer_transfer_slows_an_inner_one_on_the_inner_port)
{
    Toy toy;
    toy_init(&toy);
    toy.plan.cluster.levels[1].overhead_s = 0;
    add(&toy, OP_DISPATCH, 0, 0, 1e6, NONE); // limited to 250 MB/s a GPU by the outer port, or less
    add(&toy, OP_GATHER, 3, 0, 3e6, NONE);   // three flows: 3/4 of the GPU's port
    // 250 MB/s and 750 MB/s for 4 ms; both end there.
    expect(&toy, 4e-3 + 1e-3);
    // Half of the outer port, which leaves the gather 875 MB/s; and a billionth of all bytes and bandwidths.
    toy.plan.cluster.levels[0].bandwidth_bytes_per_s /= 2;
    Arena *arena = arena_create();
    for (uint32_t i = 0; i < 2; i++) {
        toy.plan.cluster.levels[i].bandwidth_bytes_per_s *= 1e-9;
        toy.steps[i].bytes *= 1e-9;
    }
    const SimulatedClass *last = simulate(&toy.plan, arena)->last;
    cr_assert_float_eq(last->steps[0].end_s, 1e-3 + 8e-3, 1e-9);
    cr_assert_float_eq(last->steps[1].end_s, 1e-4 + 3e6 / 875e6, 1e-9);
    arena_destroy(arena);
}

Test(simulate, chain_fork_and_join)
{
    Toy toy;
    toy_init(&toy);
    uint32_t first = add(&toy, OP_PRE_EXPERT, NONE, 2e-3, 0, NONE);
    uint32_t sent = add(&toy, OP_DISPATCH, 0, 0, 1e6, (int32_t)first); // 5 ms from 2 ms
    add(&toy, OP_GATHER, 3, 0, 0, NONE);                               // nothing to send
    add(&toy, OP_SHARED_EXPERT, NONE, 3e-3, 0, NONE);                  // beside the dispatch
    add(&toy, OP_EXPERT, NONE, 1e-3, 0, (int32_t)sent);
    expect(&toy, 2e-3 + 5e-3 + 1e-3);
    Arena *arena = arena_create();
    const Simulation *simulation = simulate(&toy.plan, arena);
    cr_assert_eq(simulation->last->steps[4].cause, (int32_t)sent);
    cr_assert_eq(simulation->last->steps[sent].cause, (int32_t)first);
    cr_assert_eq(simulation->last->steps[3].cause, (int32_t)first); // the one before on its stream
    cr_assert(fabs(simulation->last->hidden_s + simulation->last->exposed_s - (5e-3 + 1.3e-4)) < 1e-3);
    arena_destroy(arena);
}

// 5 ms of transfers beside a computation of 10 ms, then 5 ms beside none.
Test(simulate, what_computation_covers_is_hidden)
{
    Toy toy;
    toy_init(&toy);
    uint32_t computed = add(&toy, OP_PRE_EXPERT, NONE, 10e-3, 0, NONE);
    add(&toy, OP_DISPATCH, 0, 0, 1e6, NONE);
    add(&toy, OP_COMBINE, 0, 0, 1e6, (int32_t)computed);
    Arena *arena = arena_create();
    const SimulatedClass *last = simulate(&toy.plan, arena)->last;
    cr_assert_float_eq(last->hidden_s, 5e-3, 1e-9);
    cr_assert_float_eq(last->exposed_s, 5e-3, 1e-9);
    cr_assert_float_eq(last->stream_busy_s[STREAM_COMPUTE], 10e-3, 1e-9);
    cr_assert_float_eq(last->stream_busy_s[STREAM_EXCHANGE], 10e-3, 1e-9);
    toy.steps[0].cost_s = 12e-3; // it covers the whole of the dispatch, and nothing of the combine
    last = simulate(&toy.plan, arena)->last;
    cr_assert_float_eq(last->hidden_s, 5e-3, 1e-9);
    cr_assert_float_eq(last->exposed_s, 5e-3, 1e-9);
    arena_destroy(arena);
}

// Three times the bytes of an average member, through a port of four GPUs.
Test(simulate, a_group_waits_for_its_busiest_member)
{
    Toy toy;
    toy_init(&toy);
    uint32_t step = add(&toy, OP_DISPATCH, 0, 0, 1e6, NONE);
    toy.steps[step].busiest = 3;
    expect(&toy, 1e-3 + 12e6 / 1e9);
    Arena *arena = arena_create();
    cr_assert_float_eq(simulate(&toy.plan, arena)->last->port_busy_s[0], 12e-3, 1e-9);
    cr_assert_float_eq(simulate(&toy.plan, arena)->last->port_busy_s[1], 3e-3, 1e-9);
    arena_destroy(arena);
}

// To and fro: two latencies, and twice three messages.
Test(simulate, a_sum_starts_up_twice)
{
    Toy toy;
    toy_init(&toy);
    toy.groups[2] = (Group){GROUP_LEVEL, 1, 1};
    add(&toy, OP_ALL_REDUCE, 2, 0, 1e6, NONE);
    expect(&toy, 2 * (1e-4 + 3e-5) + 1e6 / 1e9);
}

Test(simulate, the_critical_path_begins_with_the_first_step)
{
    Toy toy;
    toy_init(&toy);
    add(&toy, OP_PRE_EXPERT, NONE, 3e-3, 0, NONE);
    add(&toy, OP_DISPATCH, 2, 0, 1e6, NONE); // over before
    Arena *arena = arena_create();
    PathStep *path;
    cr_assert_eq(critical_path(&toy.plan, simulate(&toy.plan, arena), arena, &path), 1);
    cr_assert_eq(path[0].step, 0);
    uint32_t last = add(&toy, OP_EXPERT, NONE, 1e-3, 0, 1);
    cr_assert_eq(critical_path(&toy.plan, simulate(&toy.plan, arena), arena, &path), 2);
    cr_assert_eq(path[0].step, 0);
    cr_assert_eq(path[1].step, last);
    cr_assert_float_eq(path[1].begin_s, 3e-3, 1e-12);
    arena_destroy(arena);
}

// Two dispatches of 5 ms, computation of 2 and 1 ms, and between them what takes as long as another part.
Test(simulate, the_critical_path_adds_up_by_op_and_level)
{
    Toy toy;
    toy_init(&toy);
    add(&toy, OP_PRE_EXPERT, NONE, 2e-3, 0, NONE);
    uint32_t there = add(&toy, OP_DISPATCH, 0, 0, 1e6, 0);
    add(&toy, OP_EXPERT, NONE, 3e-3, 0, (int32_t)there);
    uint32_t again = add(&toy, OP_DISPATCH, 0, 0, 1e6, 2);
    add(&toy, OP_PRE_EXPERT, NONE, 1e-3, 0, (int32_t)again);
    uint32_t inside = add(&toy, OP_DISPATCH, 2, 0, 1e6, 4);
    Arena *arena = arena_create();
    PathStep *path;
    PathPart *parts;
    uint32_t length = critical_path(&toy.plan, simulate(&toy.plan, arena), arena, &path);
    cr_assert_eq(length, 6);
    cr_assert_eq(path[5].step, inside);
    uint32_t count = critical_path_parts(&toy.plan, path, length, arena, &parts);
    static const struct {
        Op op;
        int32_t level;
        uint32_t steps;
        double time_s;
    } expected[] = {{OP_DISPATCH, 0, 2, 10e-3},
                    {OP_PRE_EXPERT, NONE, 2, 3e-3},
                    {OP_EXPERT, NONE, 1, 3e-3},
                    {OP_DISPATCH, 1, 1, 1e-4 + 3e-5 + 1e-3}};
    cr_assert_eq(count, 4);
    for (uint32_t i = 0; i < count; i++) {
        cr_assert_eq(parts[i].info->op, expected[i].op, "part %u", i);
        cr_assert_eq(parts[i].level, expected[i].level);
        cr_assert_eq(parts[i].steps, expected[i].steps);
        cr_assert_float_eq(parts[i].time_s, expected[i].time_s, 1e-9);
    }
    cr_assert_eq(critical_path_parts(&toy.plan, path, 0, arena, &parts), 0);
    arena_destroy(arena);
}

// 1 MB of each of four GPUs passes the outer port in 5 ms; what stays inside passes the inner one alone.
Test(simulate, ports_carry_what_passes_them)
{
    Toy toy;
    toy_init(&toy);
    add(&toy, OP_DISPATCH, 0, 0, 1e6, NONE);
    add(&toy, OP_GATHER, 3, 0, 3e5, NONE);
    Arena *arena = arena_create();
    PortSample *samples;
    const Simulation *simulation = simulate(&toy.plan, arena);
    uint32_t count = occupancy_port(&toy.plan, simulation, 0, arena, &samples);
    cr_assert_eq(count, 2);
    cr_assert_float_eq(samples[0].bytes_per_s[STREAM_EXCHANGE], 4e6 / 5e-3, 1);
    cr_assert_eq(samples[0].bytes_per_s[STREAM_MIGRATE], 0);
    cr_assert_float_eq(samples[1].time_s, 5e-3, 1e-9);
    cr_assert_eq(samples[1].bytes_per_s[STREAM_EXCHANGE], 0);
    count = occupancy_port(&toy.plan, simulation, 1, arena, &samples);
    double gathered_s = simulation->last->steps[1].end_s;
    cr_assert_eq(count, 3);
    cr_assert_float_eq(samples[0].bytes_per_s[STREAM_EXCHANGE], 1e6 / 5e-3, 1);
    cr_assert_float_eq(samples[0].bytes_per_s[STREAM_MIGRATE], 3e5 / gathered_s, 1);
    cr_assert_float_eq(samples[1].time_s, gathered_s, 1e-9);
    cr_assert_eq(samples[1].bytes_per_s[STREAM_MIGRATE], 0);
    // What ends and what begins at the same time is one sample.
    toy_init(&toy);
    add(&toy, OP_DISPATCH, 0, 0, 1e6, NONE);
    add(&toy, OP_COMBINE, 0, 0, 5e5, NONE);
    count = occupancy_port(&toy.plan, simulate(&toy.plan, arena), 0, arena, &samples);
    cr_assert_eq(count, 3);
    cr_assert_float_eq(samples[1].time_s, 5e-3, 1e-9);
    cr_assert_float_eq(samples[1].bytes_per_s[STREAM_EXCHANGE], 2e6 / 3e-3, 1);
    cr_assert_float_eq(samples[2].time_s, 8e-3, 1e-9);
    cr_assert_eq(samples[2].bytes_per_s[STREAM_EXCHANGE], 0);
    arena_destroy(arena);
}

Test(simulate, the_peak_has_the_most_bytes_of_all_kinds)
{
    MemorySample samples[4] = {{.time_s = 0, .bytes = {[BUFFER_WEIGHT] = 3, [BUFFER_TEMPORARY] = 1}},
                               {.time_s = 1, .bytes = {[BUFFER_WEIGHT] = 3, [BUFFER_TEMPORARY] = 4}},
                               {.time_s = 2, .bytes = {[BUFFER_TEMPORARY] = 6}},
                               {.time_s = 3, .bytes = {[BUFFER_WEIGHT] = 7}}};
    cr_assert_eq(memory_total(&samples[1]), 7);
    cr_assert_eq(occupancy_peak(samples, 4), &samples[1]); // the first of equals
    cr_assert_eq(occupancy_peak(samples, 1), &samples[0]);
    samples[3].bytes[BUFFER_STATE] = 1;
    cr_assert_eq(occupancy_peak(samples, 4), &samples[3]);
}

// Four workers, the last with half the port, in pairs: what differs is what a worker's peers are, too.
Test(simulate, workers_are_alike_whose_peers_are)
{
    Toy toy;
    toy_init(&toy);
    WorkerPort ports[] = {{"a", 0, 1e9, 1e-3}, {"b", 1, 1e9, 1e-3}, {"c", 2, 1e9, 1e-3}, {"d", 3, 5e8, 1e-3}};
    toy.plan.cluster.levels[0].count = toy.plan.cluster.port_count = 4;
    toy.plan.cluster.ports = ports;
    toy.plan.group_count = 2;
    toy.groups[0] = (Group){GROUP_EXCHANGE, 0, 2}; // 0 with 2, 1 with 3
    toy.groups[1] = (Group){GROUP_GATHER, 0, 2};   // 0 with 1, 2 with 3
    add(&toy, OP_GATHER, 1, 0, 1e6, NONE);
    Arena *arena = arena_create();
    const Simulation *all = simulate(&toy.plan, arena);
    cr_assert_eq(all->class_count, 4);
    for (uint32_t w = 0; w < 4; w++) {
        cr_assert_eq(all->classes[all->class_of[w]].first_worker, w);
        cr_assert_eq(all->classes[w].workers, 1);
        // 4 MB through the slower of the two ports.
        cr_assert_float_eq(all->classes[all->class_of[w]].end_s, 1e-3 + 4e6 / (w < 2 ? 1e9 : 5e8), 1e-9, "%u", w);
        cr_assert_float_eq(all->classes[all->class_of[w]].port_busy_s[0], 4e6 / (w < 3 ? 1e9 : 5e8), 1e-9);
    }
    // Without exchanges the first two see the same.
    toy.groups[0] = (Group){GROUP_GATHER, 0, 2};
    all = simulate(&toy.plan, arena);
    cr_assert_eq(all->class_count, 3);
    cr_assert_eq(all->class_of[0], all->class_of[1]);
    cr_assert_eq(all->classes[all->class_of[0]].workers, 2);
    arena_destroy(arena);
}

// Three workers who send each other 6 MB: over a link of 100 MB/s and 5 ms between the first two; the third has half of
// its port for each of them, 500 MB/s.
Test(simulate, links_limit_what_passes_between_two)
{
    Toy toy;
    toy_init(&toy);
    WorkerPort ports[] = {{"a", 0, 1e9, 1e-3}, {"b", 1, 1e9, 1e-3}, {"c", 2, 1e9, 2e-3}};
    WorkerLink links[] = {{0, 1, 1e8, 5e-3}};
    toy.plan.cluster.levels[0].count = toy.plan.cluster.port_count = 3;
    toy.plan.cluster.ports = ports;
    toy.plan.cluster.links = links;
    toy.plan.cluster.link_count = 1;
    toy.plan.group_count = 1;
    toy.groups[0] = (Group){GROUP_GATHER, 0, 3};
    add(&toy, OP_GATHER, 0, 0, 3e6, NONE);
    Arena *arena = arena_create();
    const Simulation *all = simulate(&toy.plan, arena);
    cr_assert_eq(all->class_count, 2);
    cr_assert_eq(all->class_of[0], all->class_of[1]);
    cr_assert_eq(all->last, &all->classes[all->class_of[0]]);
    cr_assert_float_eq(all->classes[all->class_of[0]].end_s, 5e-3 + 6e6 / 1e8, 1e-9);
    cr_assert_float_eq(all->classes[all->class_of[2]].end_s, 2e-3 + 6e6 / 5e8, 1e-9);
    // All share one link's rate where the link is as fast as half a port: 12 ms, and each its own latency.
    links[0].bandwidth_bytes_per_s = 5e8;
    all = simulate(&toy.plan, arena);
    cr_assert_float_eq(all->classes[all->class_of[0]].end_s, 5e-3 + 12e-3, 1e-9);
    cr_assert_float_eq(all->classes[all->class_of[2]].end_s, 2e-3 + 12e-3, 1e-9);
    arena_destroy(arena);
}

// One kind of worker more than are told apart: all have the slowest port and link, and the largest latency.
Test(simulate, too_many_kinds_of_workers_are_as_the_slowest)
{
    enum { WORKERS = CLASSES_MAX + 1 };
    for (uint32_t more = 0; more < 2; more++) {
        Toy toy;
        toy_init(&toy);
        WorkerPort ports[WORKERS];
        for (uint32_t w = 0; w < WORKERS; w++)
            ports[w] = (WorkerPort){"w", w, 1e9 + 1e6 * (w < CLASSES_MAX ? w : w - 1 + more), 1e-3};
        ports[1].latency_s = 2e-3;
        toy.plan.cluster.levels[0].count = toy.plan.cluster.port_count = WORKERS;
        toy.plan.cluster.ports = ports;
        toy.plan.group_count = 1;
        toy.groups[0] = (Group){GROUP_LEVEL, 0, 1};
        add(&toy, OP_ALL_REDUCE, 0, 0, 1e6 * (WORKERS - 1), NONE);
        Arena *arena = arena_create();
        const Simulation *all = simulate(&toy.plan, arena);
        cr_assert_eq(all->merged, more == 1);
        cr_assert_eq(all->class_count, more ? 1 : CLASSES_MAX);
        cr_assert_eq(all->class_of == NULL, more == 1);
        if (more) // there and back, each with its latency
            cr_assert_float_eq(all->iteration_s, 2 * 2e-3 + 4e6 * (WORKERS - 1) / 1e9, 1e-9);
        arena_destroy(arena);
    }
}

// As many kinds of ports as are told apart, in pairs: the last two workers have ports like others, whose peers differ.
Test(simulate, kinds_that_peers_make_count_too)
{
    enum { WORKERS = CLASSES_MAX + 2 };
    for (uint32_t like = 1; like < 3; like++) {
        Toy toy;
        toy_init(&toy);
        WorkerPort ports[WORKERS];
        for (uint32_t w = 0; w < WORKERS; w++)
            ports[w] = (WorkerPort){"w", w, 1e9 + 1e6 * (w % CLASSES_MAX), 1e-3};
        ports[WORKERS - 1].bandwidth_bytes_per_s = ports[like].bandwidth_bytes_per_s;
        toy.plan.cluster.levels[0].count = toy.plan.cluster.port_count = WORKERS;
        toy.plan.cluster.ports = ports;
        toy.plan.group_count = 1;
        toy.groups[0] = (Group){GROUP_GATHER, 0, 2};
        add(&toy, OP_GATHER, 0, 0, 1e6, NONE);
        Arena *arena = arena_create();
        const Simulation *all = simulate(&toy.plan, arena);
        cr_assert_eq(all->class_count, like == 1 ? CLASSES_MAX : 1); // 0 and 1 are pairs twice; or 18 kinds
        arena_destroy(arena);
    }
}

Test(simulate, an_empty_plan_takes_no_time)
{
    Toy toy;
    toy_init(&toy);
    cr_assert_eq(run(&toy), 0);
}
