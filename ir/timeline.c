// See timeline.h. One event per line. Rounding to whole nanoseconds makes the end of an event and the
// begin of the next compare equal.
#include "ir/timeline.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "ir/unroll.h"

static double microseconds(double time_s)
{
    return round(time_s * 1e9) / 1e3;
}

static int stream_thread(Stream stream)
{
    return (int)stream + 1;
}

static cJSON *event_create(const char *phase, const char *name, int process, int thread)
{
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "ph", phase);
    cJSON_AddStringToObject(event, "name", name);
    cJSON_AddNumberToObject(event, "pid", process);
    cJSON_AddNumberToObject(event, "tid", thread);
    return event;
}

static void event_append(Timeline *timeline, const cJSON *event)
{
    char *text = cJSON_PrintUnformatted(event);
    text_append(timeline->out, timeline->any ? ",\n" : "\n");
    text_append(timeline->out, text);
    timeline->any = true;
    cJSON_free(text);
}

static void event_write(Timeline *timeline, cJSON *event)
{
    event_append(timeline, event);
    cJSON_Delete(event);
}

Timeline timeline_begin(const Plan *plan, Text *out)
{
    cJSON *about = cJSON_CreateObject();
    cJSON_AddStringToObject(about, "cluster", plan->cluster.name);
    cJSON_AddNumberToObject(about, "steps", plan->step_count);
    char *text = cJSON_PrintUnformatted(about);
    text_format(out, "{\"displayTimeUnit\":\"ms\",\"otherData\":%s,\"traceEvents\":[", text);
    cJSON_free(text);
    cJSON_Delete(about);
    return (Timeline){.out = out};
}

void timeline_end(Timeline *timeline)
{
    text_append(timeline->out, "\n]}\n");
}

// ---- tracks ----------------------------------------------------------------------------------

static void write_name(Timeline *timeline, const char *what, int process, int thread, const char *name)
{
    cJSON *event = event_create("M", what, process, thread);
    cJSON_AddStringToObject(cJSON_AddObjectToObject(event, "args"), "name", name);
    event_write(timeline, event);
}

static void write_place(Timeline *timeline, const char *what, int process, int thread, int place)
{
    cJSON *event = event_create("M", what, process, thread);
    cJSON_AddNumberToObject(cJSON_AddObjectToObject(event, "args"), "sort_index", place);
    event_write(timeline, event);
}

void timeline_write_process(Timeline *timeline, const Plan *plan, int process, const char *name)
{
    write_name(timeline, "process_name", process, 0, name);
    write_place(timeline, "process_sort_index", process, 0, process);
    for (int s = 0; s < STREAM_COUNT; s++) {
        if (!plan_has_stream(plan, (Stream)s))
            continue;
        write_name(timeline, "thread_name", process, stream_thread((Stream)s), stream_name((Stream)s));
        write_place(timeline, "thread_sort_index", process, stream_thread((Stream)s), s);
    }
}

// "dispatch dc", as reports call it: traces are coloured and summed by name.
static void append_step_name(Text *out, const Plan *plan, uint32_t index)
{
    const Step *step = &plan->steps[index];
    text_append(out, op_info((int)step->op)->name);
    if (step->level != NONE)
        text_format(out, " %s", plan->cluster.levels[step->level].name);
}

// ---- events ----------------------------------------------------------------------------------

static void add_step_arguments(cJSON *event, const Plan *plan, uint32_t index)
{
    const Step *step = &plan->steps[index];
    const OpInfo *info = op_info((int)step->op);
    cJSON *args = cJSON_AddObjectToObject(event, "args");
    cJSON_AddNumberToObject(args, "step", index);
    if (plan->unrolled && step_repeats(step))
        cJSON_AddNumberToObject(args, "micro_batch", step->micro_batch);
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

void timeline_write_step(Timeline *timeline, const Plan *plan, int process, uint32_t step, double begin_s, double end_s)
{
    const OpInfo *info = op_info((int)plan->steps[step].op);
    double begin_us = microseconds(begin_s);
    Text name = {0};
    append_step_name(&name, plan, step);
    cJSON *event = event_create("X", name.data, process, stream_thread(step_stream(plan, &plan->steps[step])));
    text_free(&name);
    cJSON_AddStringToObject(event, "cat", info->shape == SHAPE_LOCAL ? "local" : "communication");
    cJSON_AddNumberToObject(event, "ts", begin_us);
    double whole_ns = round(1e3 * (microseconds(end_s) - begin_us));
    cJSON_AddNumberToObject(event, "dur", whole_ns / 1e3);
    add_step_arguments(event, plan, step);
    event_write(timeline, event);
}

void timeline_write_wait(Timeline *timeline, const Plan *plan, int process, const TimelineWait *wait)
{
    Stream from = step_stream(plan, &plan->steps[wait->cause]);
    Stream to = step_stream(plan, &plan->steps[wait->step]);
    if (from == to)
        return;
    double number = (double)(process - 1) * plan->step_count + wait->step; // arrows are told apart over the whole file
    cJSON *begin = event_create("s", "wait", process, stream_thread(from));
    cJSON_AddStringToObject(begin, "cat", "wait");
    cJSON_AddNumberToObject(begin, "id", number);
    cJSON_AddNumberToObject(begin, "ts", microseconds(wait->cause_begin_s));
    event_write(timeline, begin);
    cJSON *end = event_create("f", "wait", process, stream_thread(to));
    cJSON_AddStringToObject(end, "cat", "wait");
    cJSON_AddStringToObject(end, "bp", "e");
    cJSON_AddNumberToObject(end, "id", number);
    cJSON_AddNumberToObject(end, "ts", microseconds(wait->begin_s));
    event_write(timeline, end);
}

void timeline_write_counter(Timeline *timeline, int process, const char *name, double time_s,
                            const TimelineSample *sample)
{
    cJSON *event = event_create("C", name, process, 0);
    cJSON_AddNumberToObject(event, "ts", microseconds(time_s));
    cJSON *args = cJSON_AddObjectToObject(event, "args");
    for (uint32_t i = 0; i < sample->count; i++)
        cJSON_AddNumberToObject(args, sample->names[i], sample->values[i]);
    event_write(timeline, event);
}

// ---- another file's events -------------------------------------------------------------------

// An event of a step the plan has not, or has as another op.
static bool is_foreign(const Plan *plan, const cJSON *event)
{
    const cJSON *args = cJSON_GetObjectItemCaseSensitive(event, "args");
    const cJSON *step = cJSON_GetObjectItemCaseSensitive(args, "step");
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(event, "name");
    if (!cJSON_IsNumber(step) || !cJSON_IsString(name))
        return false;
    if (!(step->valuedouble >= 0 && step->valuedouble < plan->step_count))
        return true;
    Text wanted = {0};
    append_step_name(&wanted, plan, (uint32_t)step->valuedouble);
    bool foreign = strcmp(name->valuestring, wanted.data) != 0;
    text_free(&wanted);
    return foreign;
}

// Events of the predicted process would lie over this file's own.
static bool check_events(const Plan *plan, const cJSON *root, Fault *fault)
{
    const cJSON *events = cJSON_GetObjectItemCaseSensitive(root, "traceEvents"), *event;
    const cJSON *about = cJSON_GetObjectItemCaseSensitive(root, "otherData");
    const cJSON *steps = cJSON_GetObjectItemCaseSensitive(about, "steps");
    const cJSON *cluster = cJSON_GetObjectItemCaseSensitive(about, "cluster");
    if (!root)
        return fault_set(fault, FAULT_INPUT, "not JSON");
    if (!cJSON_IsArray(events) || !cJSON_IsNumber(steps) || !cJSON_IsString(cluster))
        return fault_set(fault, FAULT_INPUT, "not a trace that hep-run wrote");
    if (steps->valuedouble != plan->step_count || strcmp(cluster->valuestring, plan->cluster.name) != 0)
        return fault_set(fault, FAULT_INPUT, "the trace of another plan's run");
    cJSON_ArrayForEach(event, events)
    {
        const cJSON *process = cJSON_GetObjectItemCaseSensitive(event, "pid");
        if (!cJSON_IsNumber(process))
            return fault_set(fault, FAULT_INPUT, "not a trace that hep-run wrote");
        if (process->valuedouble < TIMELINE_RANK_0)
            return fault_set(fault, FAULT_INPUT, "the trace of a simulated run: give one that 'hep-run --trace' wrote");
        if (is_foreign(plan, event))
            return fault_set(fault, FAULT_INPUT, "the trace of another plan's run");
    }
    return true;
}

bool timeline_merge(Timeline *timeline, const Plan *plan, const char *text, size_t length, Fault *fault)
{
    cJSON *root = cJSON_ParseWithLength(text, length);
    bool ok = check_events(plan, root, fault);
    if (ok) {
        const cJSON *event;
        cJSON_ArrayForEach(event, cJSON_GetObjectItemCaseSensitive(root, "traceEvents")) event_append(timeline, event);
    }
    cJSON_Delete(root);
    return ok;
}
