// See trace.h. Steps, streams and waits are the timeline's; the counters are this file's.
#include "backends/trace.h"

#include "backends/simulation_print.h"
#include "ir/simulate/occupancy.h"
#include "ir/unroll.h"

typedef struct {
    const Plan *plan;
    const Simulation *simulation;
    Arena *arena;
    Timeline timeline;
    int process; // of the class that ends last: the one whose ports and memory are shown
} Tracer;

static void write_port(Tracer *tracer, uint32_t level)
{
    const char *name = arena_format(tracer->arena, "port %s, Gbit/s", tracer->plan->cluster.levels[level].name);
    PortSample *samples;
    uint32_t count = occupancy_port(tracer->plan, tracer->simulation, level, tracer->arena, &samples);
    const char *names[STREAM_COUNT];
    double values[STREAM_COUNT];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t n = 0;
        for (int s = 0; s < STREAM_COUNT; s++) {
            if (s == STREAM_COMPUTE || !plan_has_stream(tracer->plan, (Stream)s))
                continue;
            names[n] = stream_name((Stream)s);
            values[n++] = samples[i].bytes_per_s[s] * 8e-9;
        }
        TimelineSample sample = {.count = n, .names = names, .values = values};
        timeline_write_counter(&tracer->timeline, tracer->process, name, samples[i].time_s, &sample);
    }
}

static void write_memory(Tracer *tracer)
{
    MemorySample *samples;
    uint32_t count = occupancy_memory(tracer->plan, tracer->simulation, tracer->arena, &samples);
    const char *names[BUFFER_KIND_COUNT];
    for (int k = 0; k < BUFFER_KIND_COUNT; k++)
        names[k] = buffer_kind_name((BufferKind)k);
    for (uint32_t i = 0; i < count; i++) {
        TimelineSample sample = {.count = BUFFER_KIND_COUNT, .names = names, .values = samples[i].bytes};
        timeline_write_counter(&tracer->timeline, tracer->process, "live memory, bytes", samples[i].time_s, &sample);
    }
}

// One process per class of workers.
static void write_class(Tracer *tracer, uint32_t class)
{
    const Plan *plan = tracer->plan;
    const SimulatedStep *steps = tracer->simulation->classes[class].steps;
    int process = TIMELINE_PREDICTED + (int)class;
    const char *name = "predicted";
    if (tracer->simulation->class_of)
        name = arena_format(tracer->arena, "predicted: %s",
                            simulation_class_name(plan, tracer->simulation, class, tracer->arena));
    timeline_write_process(&tracer->timeline, plan, process, name);
    for (uint32_t i = 0; i < plan->step_count; i++)
        timeline_write_step(&tracer->timeline, plan, process, i, steps[i].begin_s, steps[i].end_s);
    for (uint32_t i = 0; i < plan->step_count; i++) {
        if (steps[i].cause == NONE)
            continue;
        TimelineWait wait = {.step = i,
                             .cause = (uint32_t)steps[i].cause,
                             .begin_s = steps[i].begin_s,
                             .cause_begin_s = steps[steps[i].cause].begin_s};
        timeline_write_wait(&tracer->timeline, plan, process, &wait);
    }
}

bool trace_print(const Plan *written, const TraceRun *run, Text *out, Fault *fault)
{
    Arena *arena = arena_create();
    const Plan *plan = plan_unroll_all(written, arena);
    Tracer tracer = {.plan = plan, .arena = arena, .timeline = timeline_begin(plan, out)};
    tracer.simulation = simulate(plan, tracer.arena);
    tracer.process = TIMELINE_PREDICTED + (int)(tracer.simulation->last - tracer.simulation->classes);
    for (uint32_t c = 0; c < tracer.simulation->class_count; c++)
        write_class(&tracer, c);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        write_port(&tracer, l);
    if (plan->buffer_count > 0)
        write_memory(&tracer);
    bool ok = !run || timeline_merge(&tracer.timeline, plan, run->text, run->length, fault);
    timeline_end(&tracer.timeline);
    arena_destroy(tracer.arena);
    return ok;
}
