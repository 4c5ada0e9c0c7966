// See simulate.h. Of each class at most one step per stream is active, so an event costs a handful of operations
// whatever the size of the cluster.
#include "ir/simulate/simulate.h"

#include <math.h>

#include "ir/simulate/sharing.h"
#include "ir/unroll.h"

typedef enum { PHASE_DELAY, PHASE_TRANSFER, PHASE_LATENCY } Phase;

// What a stream of a class is doing.
typedef struct {
    bool active;
    Phase phase;
    uint32_t step;
    double until_s;       // end of PHASE_DELAY or PHASE_LATENCY
    uint32_t outstanding; // kinds of flows to and from this class that have not ended, in PHASE_TRANSFER
} Activity;

typedef struct {
    const Plan *plan;
    Simulation *out;
    const double *sent_bytes; // [steps]: with those of all that joined it, which send nothing themselves
    const Classes *classes;
    Sharing *sharing;
    uint32_t *queue[STREAM_COUNT]; // steps of each stream
    uint32_t queue_count[STREAM_COUNT];
    uint32_t *next;       // [class][stream], into queue
    bool *done;           // [class][step]
    Activity *activities; // [class][stream]
    // A class may be a step ahead of another: a stream has up to two groups' transfers under way, told apart by step.
    Transfer **transfers; // [step][kind of flow of its group]; NULL before any class reached the step
    SharedFlow *flows;    // those that send now
    uint32_t flow_count;
    Arena *arena;
    double now_s;
} Simulator;

static Activity *activity_of(const Simulator *sim, uint32_t class, int stream)
{
    return &sim->activities[class * STREAM_COUNT + (uint32_t)stream];
}

static const FlowKinds *flows_of(const Simulator *sim, uint32_t step)
{
    return &sim->classes->flows[sim->plan->steps[step].group];
}

static SimulatedStep *record(const Simulator *sim, uint32_t class, uint32_t step)
{
    return &sim->out->classes[class].steps[step];
}

static double peers(const Simulator *sim, const Step *step)
{
    return (double)group_size(&sim->plan->cluster, &sim->plan->groups[step->group]) - 1;
}

// How often a step pays its start-up in an iteration: some sums are made every few iterations only.
static double startups(const Simulator *sim, const Step *step)
{
    return (double)plan_step_startups(sim->plan, step) / plan_step_period(sim->plan, step);
}

// ---- begin -----------------------------------------------------------------------------------

static bool ready(const Simulator *sim, uint32_t class, uint32_t step, int32_t *cause)
{
    const Plan *plan = sim->plan;
    const Step *s = &plan->steps[step];
    for (uint32_t i = 0; i < s->after_count; i++) {
        uint32_t before = plan->after[s->after_first + i];
        if (!sim->done[class * plan->step_count + before])
            return false;
        if (*cause == NONE || record(sim, class, before)->end_s >= record(sim, class, (uint32_t)*cause)->end_s)
            *cause = (int32_t)before;
    }
    return true;
}

static void begin(Simulator *sim, uint32_t class, int stream, uint32_t step, int32_t cause)
{
    const Step *s = &sim->plan->steps[step];
    *record(sim, class, step) = (SimulatedStep){.begin_s = sim->now_s, .cause = cause, .late_class = class};
    double delay_s = s->cost_s;
    if (s->group != NONE)
        delay_s = sim->plan->cluster.levels[s->level < 0 ? 0 : s->level].overhead_s * peers(sim, s) * startups(sim, s);
    *activity_of(sim, class, stream) =
        (Activity){.active = true, .phase = PHASE_DELAY, .step = step, .until_s = sim->now_s + delay_s};
}

static bool start_ready_steps(Simulator *sim)
{
    bool started = false;
    for (uint32_t c = 0; c < sim->classes->count; c++) {
        for (int s = 0; s < STREAM_COUNT; s++) {
            uint32_t *next = &sim->next[c * STREAM_COUNT + (uint32_t)s];
            if (activity_of(sim, c, s)->active || *next == sim->queue_count[s])
                continue;
            uint32_t step = sim->queue[s][*next];
            int32_t cause = *next ? (int32_t)sim->queue[s][*next - 1] : NONE;
            if (!ready(sim, c, step, &cause))
                continue;
            begin(sim, c, s, step, cause);
            ++*next;
            started = true;
        }
    }
    return started;
}

// ---- transfers -------------------------------------------------------------------------------

static bool has_reached(const Simulator *sim, uint32_t class, uint32_t step)
{
    const Activity *activity = activity_of(sim, class, (int)step_stream(sim->plan, &sim->plan->steps[step]));
    return activity->active && activity->step == step && activity->phase == PHASE_TRANSFER;
}

// A flow has ended at `class`: its step waits for the last one to arrive.
static void count_end(Simulator *sim, uint32_t class, uint32_t step, double arrival_s)
{
    Activity *activity = activity_of(sim, class, (int)step_stream(sim->plan, &sim->plan->steps[step]));
    activity->until_s = fmax(activity->until_s, arrival_s);
    if (--activity->outstanding == 0)
        activity->phase = PHASE_LATENCY;
}

static void end_flow(Simulator *sim, const FlowKind *kind, uint32_t step)
{
    double arrival_s = sim->now_s + kind->latency_s * startups(sim, &sim->plan->steps[step]);
    count_end(sim, kind->from, step, arrival_s);
    if (kind->to != kind->from)
        count_end(sim, kind->to, step, arrival_s);
}

// The class has reached its step's communication: flows to and from classes that have reached it too begin.
static void enter_transfer(Simulator *sim, uint32_t class, Activity *activity)
{
    uint32_t index = activity->step;
    const Step *step = &sim->plan->steps[index];
    const FlowKinds *flows = flows_of(sim, index);
    activity->phase = PHASE_TRANSFER;
    for (uint32_t i = 0; i < flows->count; i++)
        activity->outstanding += flows->kinds[i].from == class || flows->kinds[i].to == class;
    if (activity->outstanding == 0) {
        activity->phase = PHASE_LATENCY;
        return;
    }
    if (!sim->transfers[index])
        sim->transfers[index] = arena_alloc_array(sim->arena, flows->count, sizeof(**sim->transfers));
    for (uint32_t i = 0; i < flows->count; i++) {
        const FlowKind *kind = &flows->kinds[i];
        uint32_t other = kind->from == class ? kind->to : kind->from;
        if ((kind->from != class && kind->to != class) || !has_reached(sim, other, index))
            continue;
        record(sim, other, index)->late_class = class;
        Transfer *transfer = &sim->transfers[index][i];
        // The group waits for its busiest member.
        *transfer = (Transfer){.left_bytes = sim->sent_bytes[index] * fmax(1, step->busiest) / peers(sim, step)};
        if (transfer->left_bytes <= 0) {
            end_flow(sim, kind, index);
            continue;
        }
        uint32_t level = step->level < 0 ? 0 : (uint32_t)step->level;
        sim->flows[sim->flow_count++] = sharing_flow(sim->sharing, kind, transfer, index, level);
        sharing_touch(sim->sharing, kind->from);
        sharing_touch(sim->sharing, kind->to);
    }
}

static void end_transfers(Simulator *sim)
{
    double instant_s = 1e-12 * sim->now_s;
    uint32_t left = 0;
    for (uint32_t i = 0; i < sim->flow_count; i++) {
        SharedFlow flow = sim->flows[i];
        const Step *step = &sim->plan->steps[flow.step];
        if (flow.transfer->left_bytes > flow.transfer->rate * instant_s &&
            flow.transfer->left_bytes > 1e-9 * sim->sent_bytes[flow.step] / peers(sim, step)) {
            sim->flows[left++] = flow;
            continue;
        }
        sharing_touch(sim->sharing, flow.kind->from);
        sharing_touch(sim->sharing, flow.kind->to);
        end_flow(sim, flow.kind, flow.step);
    }
    sim->flow_count = left;
}

// ---- time ------------------------------------------------------------------------------------

static double next_event_s(const Simulator *sim)
{
    double next_s = INFINITY;
    for (uint32_t i = 0; i < sim->classes->count * STREAM_COUNT; i++) {
        const Activity *activity = &sim->activities[i];
        if (activity->active && activity->phase != PHASE_TRANSFER)
            next_s = fmin(next_s, activity->until_s);
    }
    for (uint32_t i = 0; i < sim->flow_count; i++) {
        const Transfer *transfer = sim->flows[i].transfer;
        next_s = fmin(next_s, sim->now_s + transfer->left_bytes / transfer->rate);
    }
    return next_s;
}

// Accounts for the time up to `next_s`, when nothing changes but transfers go on.
static void pass_time(Simulator *sim, double next_s)
{
    double elapsed_s = next_s - sim->now_s;
    for (uint32_t c = 0; c < sim->classes->count; c++) {
        SimulatedClass *class = &sim->out->classes[c];
        unsigned communicating = 0; // set of streams of ops
        bool computing = false;
        for (int s = 0; s < STREAM_COUNT; s++) {
            const Activity *activity = activity_of(sim, c, s);
            if (!activity->active)
                continue;
            class->stream_busy_s[s] += elapsed_s;
            bool local = sim->plan->steps[activity->step].group == NONE;
            computing = computing || local;
            communicating |= local ? 0 : 1U << op_info((int)sim->plan->steps[activity->step].op)->stream;
        }
        if (communicating)
            *(computing ? &class->hidden_s : &class->exposed_s) += elapsed_s;
        if (!computing)
            class->exposed_with_s[communicating] += elapsed_s;
    }
    for (uint32_t i = 0; i < sim->flow_count; i++)
        sim->flows[i].transfer->left_bytes -= sim->flows[i].transfer->rate * elapsed_s;
    sim->now_s = next_s;
}

static void finish_phases(Simulator *sim)
{
    end_transfers(sim);
    for (uint32_t c = 0; c < sim->classes->count; c++)
        for (int s = 0; s < STREAM_COUNT; s++) {
            Activity *activity = activity_of(sim, c, s);
            if (activity->active && activity->phase == PHASE_DELAY && activity->until_s <= sim->now_s &&
                sim->plan->steps[activity->step].group != NONE)
                enter_transfer(sim, c, activity);
        }
    for (uint32_t c = 0; c < sim->classes->count; c++)
        for (int s = 0; s < STREAM_COUNT; s++) {
            Activity *activity = activity_of(sim, c, s);
            if (!activity->active || activity->phase == PHASE_TRANSFER || activity->until_s > sim->now_s)
                continue;
            activity->active = false;
            sim->done[c * sim->plan->step_count + activity->step] = true;
            record(sim, c, activity->step)->end_s = sim->now_s;
            sim->out->classes[c].end_s = sim->now_s;
        }
}

// ---- the whole -------------------------------------------------------------------------------

static const double *add_up_runs(const Plan *plan, Arena *arena)
{
    double *sent = arena_alloc_array(arena, (size_t)plan->step_count + 1, sizeof(*sent));
    uint32_t first[STREAM_COUNT] = {0};
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Stream stream = step_stream(plan, &plan->steps[i]);
        first[stream] = plan->steps[i].joined ? first[stream] : i;
        sent[first[stream]] += plan->steps[i].bytes;
    }
    return sent;
}

static void sort_steps(Simulator *sim)
{
    const Plan *plan = sim->plan;
    for (int s = 0; s < STREAM_COUNT; s++)
        sim->queue[s] = arena_alloc_array(sim->arena, plan->step_count, sizeof(uint32_t));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Stream stream = step_stream(plan, &plan->steps[i]);
        sim->queue[stream][sim->queue_count[stream]++] = i;
    }
}

static void count_port_time(const Simulator *sim, uint32_t class)
{
    const Plan *plan = sim->plan;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        if (step->group == NONE)
            continue;
        for (uint32_t l = step->level < 0 ? 0 : (uint32_t)step->level; l < plan->cluster.level_count; l++)
            sim->out->classes[class].port_busy_s[l] +=
                step->bytes * fmax(1, step->busiest) / classes_port(sim->classes, plan, class, l);
    }
}

static Simulation *create_simulation(const Plan *plan, const Classes *classes, Arena *arena)
{
    Simulation *out = arena_alloc(arena, sizeof(*out));
    out->class_count = classes->count;
    out->class_of = classes->of;
    out->merged = classes->merged;
    out->classes = arena_alloc_array(arena, classes->count, sizeof(*out->classes));
    for (uint32_t c = 0; c < classes->count; c++) {
        out->classes[c].first_worker = classes->first[c];
        out->classes[c].workers = classes->workers[c];
        out->classes[c].steps = arena_alloc_array(arena, plan->step_count, sizeof(*out->classes[c].steps));
    }
    return out;
}

// As many flows as can be under way: on each stream those of one step for every class.
static uint32_t count_flows_max(const Plan *plan, const Classes *classes)
{
    uint32_t most = 0;
    for (uint32_t g = 0; g < plan->group_count; g++)
        most = classes->flows[g].count > most ? classes->flows[g].count : most;
    return most * STREAM_COUNT * classes->count;
}

const Simulation *simulate(const Plan *plan, Arena *arena)
{
    Simulator sim = {.plan = plan, .classes = classes_create(plan, arena), .arena = arena};
    uint32_t classes = sim.classes->count, flows_max = count_flows_max(plan, sim.classes);
    sim.out = create_simulation(plan, sim.classes, arena);
    sim.sharing = sharing_create(plan, sim.classes, flows_max, arena);
    sim.done = arena_alloc_array(arena, (uint64_t)classes * plan->step_count, sizeof(*sim.done));
    sim.next = arena_alloc_array(arena, (uint64_t)classes * STREAM_COUNT, sizeof(*sim.next));
    sim.activities = arena_alloc_array(arena, (uint64_t)classes * STREAM_COUNT, sizeof(*sim.activities));
    sim.transfers = arena_alloc_array(arena, plan->step_count, sizeof(*sim.transfers));
    sim.flows = arena_alloc_array(arena, flows_max, sizeof(*sim.flows));
    sim.sent_bytes = add_up_runs(plan, arena);
    sort_steps(&sim);
    for (;;) {
        while (start_ready_steps(&sim))
            finish_phases(&sim); // steps that take no time end at once and may free others
        sharing_rates(sim.sharing, sim.flows, sim.flow_count);
        double next_s = next_event_s(&sim);
        if (isinf(next_s))
            break;
        pass_time(&sim, next_s);
        finish_phases(&sim);
    }
    sim.out->iteration_s = sim.now_s;
    sim.out->last = &sim.out->classes[0];
    for (uint32_t c = 0; c < classes; c++) {
        count_port_time(&sim, c);
        if (sim.out->classes[c].end_s > sim.out->last->end_s)
            sim.out->last = &sim.out->classes[c];
    }
    return sim.out;
}

double simulated_iteration_s(const Plan *plan)
{
    Arena *arena = arena_create();
    double time_s = simulate(plan_unroll_all(plan, arena), arena)->iteration_s;
    arena_destroy(arena);
    return time_s;
}
