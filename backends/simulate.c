// See simulate.h. At most one step per stream is active, so an event costs a handful of operations
// whatever the size of the cluster.
#include "backends/simulate.h"

#include <math.h>

typedef enum { PHASE_DELAY, PHASE_TRANSFER, PHASE_LATENCY } Phase;

// What a stream is doing.
typedef struct {
    bool active;
    Phase phase;
    uint32_t step;
    double until_s;     // end of PHASE_DELAY or PHASE_LATENCY
    double left_bytes;  // of PHASE_TRANSFER, per GPU
    double rate;        // bytes/s per GPU
    double flows;       // weight in sharing: peers
} Activity;

typedef struct {
    const Plan *plan;
    Simulation *out;
    uint32_t *queue[STREAM_COUNT]; // steps of each stream
    uint32_t queue_count[STREAM_COUNT], next[STREAM_COUNT];
    bool *done;
    Activity activities[STREAM_COUNT];
    double now_s;
    WorstPair *worst_pairs; // of each group at the outermost level; NULL where its workers are alike
} Simulator;

// Where workers of the outermost level differ, the slowest stands for all.
static double port_capacity(const Plan *plan, uint32_t level)
{
    double bandwidth = level == 0 ? cluster_slowest_port(&plan->cluster)
                                  : plan->cluster.levels[level].bandwidth_bytes_per_s;
    return bandwidth / (double)cluster_gpus_below(&plan->cluster, level);
}

// What the slowest link in any group of the step lets a GPU send, bytes/s.
static double link_capacity(const Simulator *sim, const Activity *activity)
{
    const Step *step = &sim->plan->steps[activity->step];
    double s_per_byte = step->level == 0 && sim->worst_pairs ? sim->worst_pairs[step->group].link_s_per_byte : 0;
    return s_per_byte > 0 ? activity->flows / s_per_byte / (double)cluster_gpus_below(&sim->plan->cluster, 0)
                          : INFINITY;
}

static double start_latency_s(const Simulator *sim, const Step *step)
{
    return step->level == 0 && sim->worst_pairs ? sim->worst_pairs[step->group].latency_s
                                                : sim->plan->cluster.levels[step->level].latency_s;
}

// Weighted max-min rates of the transfers under way: fill the tightest port first, repeatedly.
static void share_ports(Simulator *sim)
{
    const Plan *plan = sim->plan;
    bool fixed[STREAM_COUNT];
    double left[LEVELS_MAX];
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        left[l] = port_capacity(plan, l);
    int open = 0;
    for (int s = 0; s < STREAM_COUNT; s++) {
        const Activity *activity = &sim->activities[s];
        fixed[s] = !activity->active || activity->phase != PHASE_TRANSFER;
        open += !fixed[s];
    }
    while (open > 0) {
        double tightest = INFINITY;
        uint32_t port = 0;
        for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
            double weight = 0;
            for (int s = 0; s < STREAM_COUNT; s++)
                if (!fixed[s] && plan->steps[sim->activities[s].step].level <= (int32_t)l)
                    weight += sim->activities[s].flows;
            if (weight > 0 && left[l] / weight < tightest) {
                tightest = left[l] / weight;
                port = l;
            }
        }
        int limited = -1; // the transfer whose links allow less than the tightest port does
        for (int s = 0; s < STREAM_COUNT; s++) {
            const Activity *activity = &sim->activities[s];
            if (fixed[s] || link_capacity(sim, activity) >= tightest * activity->flows)
                continue;
            tightest = link_capacity(sim, activity) / activity->flows;
            limited = s;
        }
        for (int s = 0; s < STREAM_COUNT; s++) {
            Activity *activity = &sim->activities[s];
            int32_t level = fixed[s] ? 0 : plan->steps[activity->step].level;
            if (fixed[s] || (limited >= 0 ? s != limited : level > (int32_t)port))
                continue;
            activity->rate = tightest * activity->flows;
            fixed[s] = true;
            open--;
            for (uint32_t l = (uint32_t)level; l < plan->cluster.level_count; l++)
                left[l] = fmax(0, left[l] - activity->rate);
        }
    }
}

static bool ready(const Simulator *sim, uint32_t step, int32_t *cause)
{
    const Plan *plan = sim->plan;
    const Step *s = &plan->steps[step];
    for (uint32_t i = 0; i < s->after_count; i++) {
        uint32_t before = plan->after[s->after_first + i];
        if (!sim->done[before])
            return false;
        if (*cause == NONE || sim->out->steps[before].end_s >= sim->out->steps[*cause].end_s)
            *cause = (int32_t)before;
    }
    return true;
}

static void begin(Simulator *sim, int stream, uint32_t step, int32_t cause)
{
    const Step *s = &sim->plan->steps[step];
    Activity *activity = &sim->activities[stream];
    sim->out->steps[step] = (SimulatedStep){.begin_s = sim->now_s, .cause = cause};
    *activity = (Activity){.active = true, .phase = PHASE_DELAY, .step = step, .until_s = sim->now_s + s->cost_s};
    if (s->group == NONE)
        return;
    activity->flows = (double)group_size(&sim->plan->cluster, &sim->plan->groups[s->group]) - 1;
    activity->left_bytes = s->bytes * fmax(1, s->busiest); // the group waits for its busiest member
    activity->until_s = sim->now_s + sim->plan->cluster.levels[s->level].overhead_s * activity->flows;
}

static bool start_ready_steps(Simulator *sim)
{
    bool started = false;
    for (int s = 0; s < STREAM_COUNT; s++) {
        if (sim->activities[s].active || sim->next[s] == sim->queue_count[s])
            continue;
        uint32_t step = sim->queue[s][sim->next[s]];
        int32_t cause = sim->next[s] ? (int32_t)sim->queue[s][sim->next[s] - 1] : NONE;
        if (!ready(sim, step, &cause))
            continue;
        begin(sim, s, step, cause);
        sim->next[s]++;
        started = true;
    }
    return started;
}

static double next_event_s(const Simulator *sim)
{
    double next_s = INFINITY;
    for (int s = 0; s < STREAM_COUNT; s++) {
        const Activity *activity = &sim->activities[s];
        if (!activity->active)
            continue;
        double end_s = activity->until_s;
        if (activity->phase == PHASE_TRANSFER)
            end_s = activity->left_bytes > 0 ? sim->now_s + activity->left_bytes / activity->rate : sim->now_s;
        next_s = fmin(next_s, end_s);
    }
    return next_s;
}

// Accounts for the time up to `next_s`, when nothing changes but transfers go on.
static void pass_time(Simulator *sim, double next_s)
{
    double elapsed_s = next_s - sim->now_s;
    bool communicating = false, computing = false;
    for (int s = 0; s < STREAM_COUNT; s++) {
        Activity *activity = &sim->activities[s];
        if (!activity->active)
            continue;
        sim->out->stream_busy_s[s] += elapsed_s;
        bool local = sim->plan->steps[activity->step].group == NONE;
        computing = computing || local;
        communicating = communicating || !local;
        if (activity->phase == PHASE_TRANSFER)
            activity->left_bytes -= activity->rate * elapsed_s;
    }
    if (communicating)
        *(computing ? &sim->out->hidden_s : &sim->out->exposed_s) += elapsed_s;
    sim->now_s = next_s;
}

static void finish_phases(Simulator *sim)
{
    double instant_s = 1e-12 * sim->now_s;
    for (int s = 0; s < STREAM_COUNT; s++) {
        Activity *activity = &sim->activities[s];
        if (!activity->active)
            continue;
        const Step *step = &sim->plan->steps[activity->step];
        if (activity->phase == PHASE_DELAY && activity->until_s <= sim->now_s && step->group != NONE)
            activity->phase = PHASE_TRANSFER;
        if (activity->phase == PHASE_TRANSFER) {
            if (activity->left_bytes > activity->rate * instant_s && activity->left_bytes > 1e-9 * step->bytes)
                continue;
            activity->phase = PHASE_LATENCY;
            activity->until_s = sim->now_s + start_latency_s(sim, step);
        }
        if (activity->until_s <= sim->now_s) {
            activity->active = false;
            sim->done[activity->step] = true;
            sim->out->steps[activity->step].end_s = sim->now_s;
        }
    }
}

static void sort_steps(Simulator *sim, Arena *arena)
{
    const Plan *plan = sim->plan;
    for (int s = 0; s < STREAM_COUNT; s++)
        sim->queue[s] = arena_alloc_array(arena, plan->step_count, sizeof(uint32_t));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Stream stream = op_info((int)plan->steps[i].op)->stream;
        sim->queue[stream][sim->queue_count[stream]++] = i;
    }
}

static void count_port_time(const Plan *plan, Simulation *out)
{
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        for (uint32_t l = step->group == NONE ? plan->cluster.level_count : (uint32_t)step->level;
             l < plan->cluster.level_count; l++)
            out->port_busy_s[l] += step->bytes / port_capacity(plan, l);
    }
}

static void find_worst_pairs(Simulator *sim, Arena *arena)
{
    const Plan *plan = sim->plan;
    if (!plan->cluster.port_count)
        return;
    sim->worst_pairs = arena_alloc_array(arena, plan->group_count, sizeof *sim->worst_pairs);
    uint32_t *linked = arena_alloc_array(arena, plan->cluster.port_count, sizeof *linked);
    for (uint32_t g = 0; g < plan->group_count; g++)
        if (plan->groups[g].level <= 0)
            sim->worst_pairs[g] = cluster_worst_pair(&plan->cluster, &plan->groups[g], linked);
}

const Simulation *simulate(const Plan *plan, Arena *arena)
{
    Simulation *out = arena_alloc(arena, sizeof *out);
    out->steps = arena_alloc_array(arena, plan->step_count, sizeof *out->steps);
    Simulator sim = {.plan = plan, .out = out};
    sim.done = arena_alloc_array(arena, plan->step_count, sizeof *sim.done);
    sort_steps(&sim, arena);
    find_worst_pairs(&sim, arena);
    for (;;) {
        while (start_ready_steps(&sim))
            finish_phases(&sim); // steps that take no time end at once and may free others
        share_ports(&sim);
        double next_s = next_event_s(&sim);
        if (isinf(next_s))
            break;
        pass_time(&sim, next_s);
        finish_phases(&sim);
    }
    out->iteration_s = sim.now_s;
    count_port_time(plan, out);
    return out;
}

// ---- printing --------------------------------------------------------------------------------

typedef struct {
    const OpInfo *info;
    double path_s;
    uint32_t steps;
} PathShare;

static size_t critical_path(const Plan *plan, const Simulation *simulation, PathShare shares[64])
{
    int32_t step = NONE;
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (step == NONE || simulation->steps[i].end_s >= simulation->steps[step].end_s)
            step = (int32_t)i;
    size_t count = 0;
    for (; step != NONE; step = simulation->steps[step].cause) {
        const OpInfo *info = op_info((int)plan->steps[step].op);
        size_t at = 0;
        while (at < count && shares[at].info != info)
            at++;
        if (at == count)
            shares[count++] = (PathShare){.info = info};
        shares[at].path_s += simulation->steps[step].end_s - simulation->steps[step].begin_s;
        shares[at].steps++;
    }
    return count;
}

void simulation_print(const Plan *plan, const Simulation *simulation, Text *out)
{
    char value[FORMAT_MAX], other[FORMAT_MAX];
    double whole_s = simulation->iteration_s > 0 ? simulation->iteration_s : 1;
    text_format(out, "simulated iteration: %s (the solver's objective: %s, %+.1f %%)\n",
                format_time(value, simulation->iteration_s), format_time(other, plan->iteration_s),
                100 * (plan->iteration_s - simulation->iteration_s) / whole_s);
    text_format(out, "communication: %s exposed, %s hidden behind computation\n\n",
                format_time(value, simulation->exposed_s), format_time(other, simulation->hidden_s));
    PathShare shares[64];
    size_t count = critical_path(plan, simulation, shares);
    text_format(out, "%-24s %8s %12s %8s\n%-24s %8s %12s %8s\n", "critical path: op", "steps", "time", "share", "", "",
                "", "%");
    for (size_t done = 0; done < count; done++) {
        size_t longest = done;
        for (size_t i = done; i < count; i++)
            if (shares[i].path_s > shares[longest].path_s)
                longest = i;
        PathShare share = shares[longest];
        shares[longest] = shares[done];
        text_format(out, "%-24s %8u %12s %8.1f\n", share.info->name, share.steps, format_time(value, share.path_s),
                    100 * share.path_s / whole_s);
    }
    text_format(out, "\n%-24s %12s %8s\n%-24s %12s %8s\n", "busy", "time", "share", "", "", "%");
    for (int s = 0; s < STREAM_COUNT; s++)
        if (simulation->stream_busy_s[s] > 0)
            text_format(out, "stream %-17s %12s %8.1f\n", stream_name((Stream)s),
                        format_time(value, simulation->stream_busy_s[s]), 100 * simulation->stream_busy_s[s] / whole_s);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, "port   %-17s %12s %8.1f\n", plan->cluster.levels[l].name,
                    format_time(value, simulation->port_busy_s[l]), 100 * simulation->port_busy_s[l] / whole_s);
}
