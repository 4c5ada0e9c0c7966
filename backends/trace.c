// See trace.h. One event per line. Times are microseconds, whole nanoseconds, so that the end of an
// event and the begin of the next compare equal.
#include "backends/trace.h"

#include <cjson/cJSON.h>
#include <math.h>

#include "backends/occupancy.h"
#include "backends/simulate.h"

enum { PROCESS = 1 };

typedef struct {
    const Plan *plan;
    const Simulation *simulation;
    Arena *arena;
    Text *out;
    bool any; // an event was written
} Tracer;

static double microseconds(double time_s)
{
    return round(time_s * 1e9) / 1e3;
}

static cJSON *event_create(const char *phase, const char *name, int thread)
{
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "ph", phase);
    cJSON_AddStringToObject(event, "name", name);
    cJSON_AddNumberToObject(event, "pid", PROCESS);
    cJSON_AddNumberToObject(event, "tid", thread);
    return event;
}

static void event_write(Tracer *tracer, cJSON *event)
{
    char *text = cJSON_PrintUnformatted(event);
    text_append(tracer->out, tracer->any ? ",\n" : "\n");
    text_append(tracer->out, text);
    tracer->any = true;
    cJSON_free(text);
    cJSON_Delete(event);
}

static int stream_thread(Stream stream)
{
    return (int)stream + 1;
}

static void name_track(Tracer *tracer, const char *what, int thread, const char *name)
{
    cJSON *event = event_create("M", what, thread);
    cJSON_AddStringToObject(cJSON_AddObjectToObject(event, "args"), "name", name);
    event_write(tracer, event);
}

static void write_tracks(Tracer *tracer)
{
    name_track(tracer, "process_name", 0, "predicted");
    for (int s = 0; s < STREAM_COUNT; s++) {
        name_track(tracer, "thread_name", stream_thread((Stream)s), stream_name((Stream)s));
        cJSON *order = event_create("M", "thread_sort_index", stream_thread((Stream)s));
        cJSON_AddNumberToObject(cJSON_AddObjectToObject(order, "args"), "sort_index", s);
        event_write(tracer, order);
    }
}

static void add_step_arguments(cJSON *event, const Plan *plan, uint32_t index)
{
    const Step *step = &plan->steps[index];
    const OpInfo *info = op_info((int)step->op);
    cJSON *args = cJSON_AddObjectToObject(event, "args");
    cJSON_AddNumberToObject(args, "step", index);
    if (step->layer != NONE)
        cJSON_AddNumberToObject(args, "layer", step->layer);
    if (step->level != NONE)
        cJSON_AddStringToObject(args, "level", plan->cluster.levels[step->level].name);
    if (step->group != NONE) {
        cJSON_AddStringToObject(args, "group", group_kind_name(plan->groups[step->group].kind));
        cJSON_AddNumberToObject(args, "members", (double)group_size(&plan->cluster, &plan->groups[step->group]));
        cJSON_AddNumberToObject(args, "bytes", step->bytes);
    }
    cJSON_AddNumberToObject(args, "cost_us", step->cost_s * 1e6);
    cJSON *buffers = cJSON_AddObjectToObject(args, "buffers");
    const int32_t *operands = step_operands(plan, step);
    for (uint32_t k = 0; k < info->operand_count; k++)
        if (operands[k] != NONE)
            cJSON_AddStringToObject(buffers, info->operands[k].name, plan->buffers[operands[k]].name);
}

static void write_step(Tracer *tracer, uint32_t index)
{
    const Step *step = &tracer->plan->steps[index];
    const OpInfo *info = op_info((int)step->op);
    double begin_us = microseconds(tracer->simulation->steps[index].begin_s);
    cJSON *event = event_create("X", info->name, stream_thread(info->stream));
    cJSON_AddStringToObject(event, "cat", info->shape == SHAPE_LOCAL ? "local" : "communication");
    cJSON_AddNumberToObject(event, "ts", begin_us);
    double whole_ns = round(1e3 * (microseconds(tracer->simulation->steps[index].end_s) - begin_us));
    cJSON_AddNumberToObject(event, "dur", whole_ns / 1e3);
    add_step_arguments(event, tracer->plan, index);
    event_write(tracer, event);
}

// An arrow from the step that was waited for, bound by a time within it, to the one that waited.
static void write_wait(Tracer *tracer, uint32_t index)
{
    const Plan *plan = tracer->plan;
    int32_t cause = tracer->simulation->steps[index].cause;
    if (cause == NONE)
        return;
    Stream from = op_info((int)plan->steps[cause].op)->stream, to = op_info((int)plan->steps[index].op)->stream;
    if (from == to)
        return;
    cJSON *begin = event_create("s", "wait", stream_thread(from));
    cJSON_AddStringToObject(begin, "cat", "wait");
    cJSON_AddNumberToObject(begin, "id", index);
    cJSON_AddNumberToObject(begin, "ts", microseconds(tracer->simulation->steps[cause].begin_s));
    event_write(tracer, begin);
    cJSON *end = event_create("f", "wait", stream_thread(to));
    cJSON_AddStringToObject(end, "cat", "wait");
    cJSON_AddStringToObject(end, "bp", "e");
    cJSON_AddNumberToObject(end, "id", index);
    cJSON_AddNumberToObject(end, "ts", microseconds(tracer->simulation->steps[index].begin_s));
    event_write(tracer, end);
}

static void write_port(Tracer *tracer, uint32_t level)
{
    const char *name = arena_format(tracer->arena, "port %s, Gbit/s", tracer->plan->cluster.levels[level].name);
    PortSample *samples;
    uint32_t count = occupancy_port(tracer->plan, tracer->simulation, level, tracer->arena, &samples);
    for (uint32_t i = 0; i < count; i++) {
        cJSON *event = event_create("C", name, 0);
        cJSON_AddNumberToObject(event, "ts", microseconds(samples[i].time_s));
        cJSON *args = cJSON_AddObjectToObject(event, "args");
        for (int s = 0; s < STREAM_COUNT; s++)
            if (s != STREAM_COMPUTE)
                cJSON_AddNumberToObject(args, stream_name((Stream)s), samples[i].bytes_per_s[s] * 8e-9);
        event_write(tracer, event);
    }
}

static void write_memory(Tracer *tracer)
{
    MemorySample *samples;
    uint32_t count = occupancy_memory(tracer->plan, tracer->simulation, tracer->arena, &samples);
    for (uint32_t i = 0; i < count; i++) {
        cJSON *event = event_create("C", "live memory, bytes", 0);
        cJSON_AddNumberToObject(event, "ts", microseconds(samples[i].time_s));
        cJSON *args = cJSON_AddObjectToObject(event, "args");
        for (int k = 0; k < BUFFER_KIND_COUNT; k++)
            cJSON_AddNumberToObject(args, buffer_kind_name((BufferKind)k), samples[i].bytes[k]);
        event_write(tracer, event);
    }
}

void trace_print(const Plan *plan, Text *out)
{
    Tracer tracer = {.plan = plan, .out = out, .arena = arena_create()};
    tracer.simulation = simulate(plan, tracer.arena);
    text_append(out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
    write_tracks(&tracer);
    for (uint32_t i = 0; i < plan->step_count; i++)
        write_step(&tracer, i);
    for (uint32_t i = 0; i < plan->step_count; i++)
        write_wait(&tracer, i);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        write_port(&tracer, l);
    if (plan->buffer_count > 0)
        write_memory(&tracer);
    text_append(out, "\n]}\n");
    arena_destroy(tracer.arena);
}
