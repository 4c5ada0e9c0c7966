// The simulator's classes, flows and events against a simulation without any of these: every rank by itself, every
// flow between two ranks by itself, time in small steps. Clusters are random: ports and links alike or not, two
// passes, forced and free domains.
// builds: dev fast  seconds: 5
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/compile.h"
#include "effort.h"
#include "ir/simulate/simulate.h"

enum { STEPS_OF_TIME = 40000, PATH_MAX_PORTS = 2 * LEVELS_MAX + 1 };

// ---- brute force -----------------------------------------------------------------------------

typedef struct {
    bool active;
    int stream;
    uint64_t from, to;
    double left_bytes, rate, latency_s;
    uint32_t path[PATH_MAX_PORTS], path_length; // indices of ports and links
} Flow;

typedef struct {
    int64_t step;     // NONE: idle
    double ready_s;   // overhead or computation is over
    bool sending;     // flows to ranks that are there too have begun
    double arrived_s; // of the last flow so far
    uint64_t met;     // peers whose flows, both ways, have begun
    uint64_t open;    // flows under way, both ways
    uint32_t next;    // in the order of the plan
} Lane;

typedef struct {
    const Plan *plan;
    uint64_t ranks;
    double now_s;
    Lane *lanes; // [rank][stream]
    bool *done;  // [rank][step]
    Flow *flows;
    uint32_t flow_count, flow_limit;
    double *capacity; // of every port, both ways, and every link, both ways
    uint32_t capacity_count, port_first[LEVELS_MAX], link_first;
} Brute;

static Lane *lane(Brute *brute, uint64_t rank, int stream)
{
    return &brute->lanes[rank * STREAM_COUNT + (uint64_t)stream];
}

static void find_capacities(Brute *brute, Arena *arena)
{
    const Cluster *cluster = &brute->plan->cluster;
    uint64_t most = 2 * LEVELS_MAX * brute->ranks + 2 * cluster->link_count;
    brute->capacity = arena_alloc_array(arena, most, sizeof(*brute->capacity));
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        brute->port_first[l] = brute->capacity_count;
        uint64_t workers = brute->ranks / cluster_gpus_below(cluster, l);
        for (uint64_t w = 0; w < workers; w++)
            for (int way = 0; way < 2; way++)
                brute->capacity[brute->capacity_count++] = l == 0 && cluster->port_count
                                                               ? cluster->ports[w].bandwidth_bytes_per_s
                                                               : cluster->levels[l].bandwidth_bytes_per_s;
    }
    brute->link_first = brute->capacity_count;
    for (uint32_t i = 0; i < cluster->link_count; i++)
        for (int way = 0; way < 2; way++)
            brute->capacity[brute->capacity_count++] = cluster->links[i].bandwidth_bytes_per_s;
}

static void find_path(const Brute *brute, Flow *flow)
{
    const Cluster *cluster = &brute->plan->cluster;
    uint32_t outermost = 0;
    while (flow->from / cluster_gpus_below(cluster, outermost) == flow->to / cluster_gpus_below(cluster, outermost))
        outermost++;
    for (uint32_t l = outermost; l < cluster->level_count; l++) {
        uint64_t below = cluster_gpus_below(cluster, l);
        flow->path[flow->path_length++] = brute->port_first[l] + 2 * (uint32_t)(flow->from / below);
        flow->path[flow->path_length++] = brute->port_first[l] + 2 * (uint32_t)(flow->to / below) + 1;
    }
    flow->latency_s = cluster->levels[outermost].latency_s;
    if (outermost > 0 || !cluster->port_count)
        return;
    uint32_t a = (uint32_t)(flow->from / cluster_gpus_below(cluster, 0));
    uint32_t b = (uint32_t)(flow->to / cluster_gpus_below(cluster, 0));
    flow->latency_s = fmax(cluster->ports[a].latency_s, cluster->ports[b].latency_s);
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        const WorkerLink *link = &cluster->links[i];
        if ((link->a == a && link->b == b) || (link->a == b && link->b == a)) {
            flow->path[flow->path_length++] = brute->link_first + 2 * i + (link->a == a);
            flow->latency_s = link->latency_s;
        }
    }
}

// Textbook progressive filling, one full resource at a time.
static void share(Brute *brute)
{
    double *left = calloc(brute->capacity_count, sizeof(*left));
    uint32_t *users = calloc(brute->capacity_count, sizeof(*users));
    bool *fixed = calloc(brute->flow_limit, sizeof(*fixed));
    for (uint32_t r = 0; r < brute->capacity_count; r++)
        left[r] = brute->capacity[r];
    uint32_t open = 0;
    for (uint32_t f = 0; f < brute->flow_count; f++) {
        fixed[f] = !brute->flows[f].active;
        open += !fixed[f];
        for (uint32_t p = 0; p < brute->flows[f].path_length && !fixed[f]; p++)
            users[brute->flows[f].path[p]]++;
    }
    while (open > 0) {
        uint32_t tightest = UINT32_MAX;
        for (uint32_t r = 0; r < brute->capacity_count; r++)
            if (users[r] > 0 && (tightest == UINT32_MAX || left[r] / users[r] < left[tightest] / users[tightest]))
                tightest = r;
        double rate = left[tightest] / users[tightest];
        for (uint32_t f = 0; f < brute->flow_count; f++) {
            Flow *flow = &brute->flows[f];
            bool passes = false;
            for (uint32_t p = 0; p < flow->path_length && !fixed[f]; p++)
                passes = passes || flow->path[p] == tightest;
            if (!passes)
                continue;
            flow->rate = rate;
            fixed[f] = true;
            open--;
            for (uint32_t p = 0; p < flow->path_length; p++) {
                left[flow->path[p]] = fmax(0, left[flow->path[p]] - rate);
                users[flow->path[p]]--;
            }
        }
    }
    free(left);
    free(users);
    free(fixed);
}

static bool may_begin(const Brute *brute, uint64_t rank, uint32_t step)
{
    const Step *s = &brute->plan->steps[step];
    for (uint32_t i = 0; i < s->after_count; i++)
        if (!brute->done[rank * brute->plan->step_count + brute->plan->after[s->after_first + i]])
            return false;
    return true;
}

// A sum is two collectives, there and back; the shared expert's is made every few iterations, and counts for its part.
// What is dispatched waits for its counts.
static double startups(const Brute *brute, const Step *step)
{
    bool counted = step->op == OP_DISPATCH && brute->plan->exchange == EXCHANGE_COUNTED && !brute->plan->model.abstract;
    double ways = step->op == OP_ALL_REDUCE || counted ? 2 : 1;
    return ways / plan_step_period(brute->plan, step);
}

static bool begin_steps(Brute *brute)
{
    const Plan *plan = brute->plan;
    bool any = false;
    for (uint64_t rank = 0; rank < brute->ranks; rank++)
        for (int s = 0; s < STREAM_COUNT; s++) {
            Lane *l = lane(brute, rank, s);
            while (l->next < plan->step_count && (int)step_stream(plan, &plan->steps[l->next]) != s)
                l->next++;
            if (l->step != NONE || l->next == plan->step_count || !may_begin(brute, rank, l->next))
                continue;
            const Step *step = &plan->steps[l->next];
            double wait_s = step->cost_s;
            if (step->group != NONE)
                wait_s = plan->cluster.levels[step->level].overhead_s *
                         (double)(group_size(&plan->cluster, &plan->groups[step->group]) - 1) * startups(brute, step);
            double now_s = brute->now_s;
            *l = (Lane){.step = l->next, .ready_s = now_s + wait_s, .arrived_s = now_s, .next = l->next + 1};
            any = true;
        }
    return any;
}

static void add_flow(Brute *brute, int stream, uint64_t from, uint64_t to, double bytes)
{
    uint32_t f = 0;
    while (f < brute->flow_count && brute->flows[f].active)
        f++;
    cr_assert_lt(f, brute->flow_limit);
    brute->flow_count = f == brute->flow_count ? f + 1 : brute->flow_count;
    Flow *flow = &brute->flows[f];
    *flow = (Flow){.active = true, .stream = stream, .from = from, .to = to, .left_bytes = bytes};
    find_path(brute, flow);
}

// Ranks of a group that are all past their overhead, two by two: their flows begin.
static bool begin_flows(Brute *brute, int stream)
{
    const Plan *plan = brute->plan;
    bool any = false;
    for (uint64_t rank = 0; rank < brute->ranks; rank++) {
        Lane *mine = lane(brute, rank, stream);
        bool waits = mine->step != NONE && plan->steps[mine->step].group != NONE && !mine->sending;
        if (!waits || mine->ready_s > brute->now_s)
            continue;
        const Step *step = &plan->steps[mine->step];
        const Group *group = &plan->groups[step->group];
        uint64_t size = group_size(&plan->cluster, group);
        mine->sending = true;
        for (uint64_t m = 0; m < size; m++) {
            uint64_t peer = group_member_rank(&plan->cluster, group, rank, m);
            Lane *other = lane(brute, peer, stream);
            if (peer == rank || other->step != mine->step || !other->sending)
                continue;
            double bytes = step->bytes * fmax(1, step->busiest) / (double)(size - 1);
            mine->met++;
            other->met++;
            if (bytes > 0) {
                mine->open += 2;
                other->open += 2;
                add_flow(brute, stream, rank, peer, bytes);
                add_flow(brute, stream, peer, rank, bytes);
            } else {
                Flow probe = {.from = rank, .to = peer};
                find_path(brute, &probe);
                mine->arrived_s = fmax(mine->arrived_s, brute->now_s + probe.latency_s * startups(brute, step));
                other->arrived_s = fmax(other->arrived_s, brute->now_s + probe.latency_s * startups(brute, step));
            }
            any = true;
        }
    }
    return any;
}

static bool is_over(const Brute *brute, const Lane *l)
{
    const Step *step = &brute->plan->steps[l->step];
    if (step->group == NONE)
        return l->ready_s <= brute->now_s;
    uint64_t size = group_size(&brute->plan->cluster, &brute->plan->groups[step->group]);
    return l->sending && l->met == size - 1 && l->open == 0 && l->arrived_s <= brute->now_s;
}

static bool end_steps(Brute *brute)
{
    bool any = false;
    for (uint64_t rank = 0; rank < brute->ranks; rank++)
        for (int s = 0; s < STREAM_COUNT; s++) {
            Lane *l = lane(brute, rank, s);
            if (l->step == NONE || !is_over(brute, l))
                continue;
            brute->done[rank * brute->plan->step_count + (uint64_t)l->step] = true;
            l->step = NONE;
            any = true;
        }
    return any;
}

static bool send_for(Brute *brute, double elapsed_s)
{
    bool ended = false;
    for (uint32_t f = 0; f < brute->flow_count; f++) {
        Flow *flow = &brute->flows[f];
        if (!flow->active)
            continue;
        flow->left_bytes -= flow->rate * elapsed_s;
        if (flow->left_bytes > 0)
            continue;
        flow->active = false;
        ended = true;
        Lane *ends[] = {lane(brute, flow->from, flow->stream), lane(brute, flow->to, flow->stream)};
        for (size_t i = 0; i < 2; i++) {
            ends[i]->open--;
            double latency_s = flow->latency_s * startups(brute, &brute->plan->steps[ends[i]->step]);
            ends[i]->arrived_s = fmax(ends[i]->arrived_s, brute->now_s + latency_s);
        }
    }
    return ended;
}

static bool all_done(const Brute *brute)
{
    for (uint64_t i = 0; i < brute->ranks * brute->plan->step_count; i++)
        if (!brute->done[i])
            return false;
    return true;
}

static double brute_force(const Plan *plan, double about_s, Arena *arena)
{
    Brute brute = {.plan = plan, .ranks = cluster_gpus(&plan->cluster)};
    brute.lanes = arena_alloc_array(arena, brute.ranks * STREAM_COUNT, sizeof(*brute.lanes));
    brute.done = arena_alloc_array(arena, brute.ranks * plan->step_count, sizeof(*brute.done));
    brute.flow_limit = (uint32_t)(brute.ranks * brute.ranks * STREAM_COUNT);
    brute.flows = arena_alloc_array(arena, brute.flow_limit, sizeof(*brute.flows));
    find_capacities(&brute, arena);
    for (uint64_t i = 0; i < brute.ranks * STREAM_COUNT; i++)
        brute.lanes[i].step = NONE;
    double small_s = about_s / STEPS_OF_TIME;
    while (!all_done(&brute)) {
        bool changed = true, flows_changed = send_for(&brute, small_s);
        while (changed) {
            changed = end_steps(&brute);
            changed = begin_steps(&brute) || changed;
            for (int s = 0; s < STREAM_COUNT; s++)
                flows_changed = begin_flows(&brute, s) || flows_changed;
        }
        if (flows_changed)
            share(&brute);
        brute.now_s += small_s;
        cr_assert_lt(brute.now_s, 2 * about_s, "still not done");
    }
    return brute.now_s;
}

// ---- the two compared ------------------------------------------------------------------------

static int pick(int count)
{
    return rand() / 7 % count;
}

static const char *random_ports(uint32_t sites, Arena *arena)
{
    const char *text = "";
    for (uint32_t w = 0; w < sites && pick(2); w++)
        text = arena_format(arena, "%s  port dc[%u] { bandwidth = %d Mbit/s }\n", text, w, w % 2 ? 200 : 600);
    for (uint32_t w = 0; w < sites && text[0] == 0; w++)
        if (pick(2))
            text = arena_format(arena, "%s  port dc[%u] { bandwidth = %d Mbit/s  latency = %d us }\n", text, w,
                                200 * (1 + pick(4)), 100 * (1 + pick(3)));
    for (uint32_t a = 0; a < sites; a++)
        for (uint32_t b = a + 1; b < sites; b++)
            if (!pick(3))
                text = arena_format(arena, "%s  link dc[%u], dc[%u] { bandwidth = %d Mbit/s  latency = %d us }\n", text,
                                    a, b, 50 * (1 + pick(4)), 100 * (1 + pick(9)));
    return text;
}

static const char *random_source(int kind, Arena *arena)
{
    uint32_t sites = (uint32_t[]){2, 4, 6}[pick(3)], gpus = (uint32_t)(1 + pick(3));
    const char *domain = pick(2) ? "" : arena_format(arena, "  domain = { dc = %u }\n", pick(2) ? 2 : sites);
    return arena_format(arena,
                        "cluster c {\n  level dc { count = %u  bandwidth = %d Mbit/s  latency = 1 ms }\n"
                        "  level gpu { count = %u  bandwidth = 4 Gbit/s  latency = 20 us }\n"
                        "  device { compute = %d GFLOP/s  memory = 40 GB }\n%s}\n"
                        "model m { layers = 3  hidden = 64  heads = 4  vocabulary = 64  sequence = 64  batch = 8\n"
                        "  moe { experts = %u  top_k = 2  inner = 128 }\n}\n"
                        "plan {\n  pass = %s\n%s  migration { codec = sr  ratio = %d }\n}\n",
                        sites, 400 * (1 + pick(4)), gpus, 20 * (1 + pick(20)),
                        kind == 0 ? "" : random_ports(sites, arena), 2 * sites * gpus, pick(3) ? "forward" : "training",
                        domain, 2 + pick(20));
}

static Plan *compiled(const char *source, Compilation *compilation, Arena *arena)
{
    Diag *diag = diag_create(arena);
    CompileOptions options = {.name = "random.hep",
                              .text = source,
                              .length = strlen(source),
                              .dispatch = NONE,
                              .planner = {.limits.gap = 1e-4, .time_limit_s = 10},
                              .stop_after = STAGE_PLAN};
    Fault fault = {0};
    if (!compile_file(&options, arena, diag, compilation, &fault)) {
        diag_print(diag, stderr, false);
        cr_assert_fail("%s", source);
    }
    return compilation->plan;
}

static void compare(int kind, int instances)
{
    uint32_t several = 0, merged = 0;
    double worst = 0;
    for (int i = 0; i < instances; i++) {
        Arena *arena = arena_create();
        Compilation compilation = {0};
        const char *source = random_source(kind, arena);
        Plan *plan = compiled(source, &compilation, arena);
        const Simulation *simulation = simulate(plan, arena);
        double brute_s = brute_force(plan, simulation->iteration_s, arena);
        double off = fabs(simulation->iteration_s / brute_s - 1);
        several += simulation->class_count > 1;
        merged += simulation->class_count > 1 && simulation->class_count < plan->cluster.levels[0].count;
        worst = fmax(worst, off);
        cr_assert(!simulation->merged);
        cr_assert_lt(off, 0.01, "instance %d, %u classes: %.9g s, by small steps %.9g s\n%s", i,
                     simulation->class_count, simulation->iteration_s, brute_s, source);
        compile_release(&compilation);
        arena_destroy(arena);
    }
    printf("worst difference to small steps of time: %.2f %% of %d plans, %u with several classes, %u of them with "
           "several workers to a class\n",
           100 * worst, instances, several, merged);
    cr_assert(kind == 0 || several > (uint32_t)instances / 2);
    cr_assert(kind == 0 || merged > (uint32_t)instances / 8);
}

Test(simulate_ranks, equal_links)
{
    srand(11);
    compare(0, INSTANCES(20));
}

Test(simulate_ranks, unlike_ports_and_links)
{
    srand(12);
    compare(1, INSTANCES(60));
}
