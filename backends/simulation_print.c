// See simulation_print.h.
#include "backends/simulation_print.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#include "ir/simulate/critical_path.h"
#include "ir/unroll.h"

enum { LONGEST_MAX = 12, NAMES_MAX = 4 };

static double whole(const Simulation *simulation)
{
    return simulation->iteration_s > 0 ? simulation->iteration_s : 1;
}

const char *simulation_class_name(const Plan *plan, const Simulation *simulation, uint32_t class, Arena *arena)
{
    if (!simulation->class_of)
        return "all";
    const char *label = "";
    uint32_t named = 0;
    for (uint32_t w = 0; w < plan->cluster.port_count && named < NAMES_MAX; w++)
        if (simulation->class_of[w] == class)
            label = arena_format(arena, "%s%s%s", label, named++ ? ", " : "", plan->cluster.ports[w].name);
    uint32_t workers = simulation->classes[class].workers;
    return workers > named ? arena_format(arena, "%s and %u more", label, workers - named) : label;
}

static const char *carried_name(const Plan *plan, Stream stream)
{
    switch (stream) {
    case STREAM_COMPUTE:
        return "computation";
    case STREAM_EXCHANGE:
        return "tokens";
    case STREAM_MIGRATE:
    case STREAM_MIGRATE_OUTER:
        return "experts";
    case STREAM_SYNC:
    case STREAM_SYNC_OUTER:
        return plan->pass == PASS_TRAINING ? "gradients" : "means of experts";
    case STREAM_COUNT:
        break;
    }
    return "";
}

const char *simulation_carried_name(const Plan *plan, unsigned streams, Arena *arena)
{
    const char *name = "";
    for (int s = 0; streams >> s; s++) {
        if (!(streams & 1U << s))
            continue;
        bool last = streams >> s == 1;
        name = arena_format(arena, "%s%s%s", name, !*name ? "" : last ? " and " : ", ", carried_name(plan, (Stream)s));
    }
    return name;
}

// ---- text ------------------------------------------------------------------------------------

static const char *level_name(const Plan *plan, int32_t level)
{
    return level == NONE ? "-" : plan->cluster.levels[level].name;
}

// The longest first; steps that differ by rounding alone stay in the order of the plan.
static int compare_lengths(const void *left, const void *right)
{
    const PathStep *a = left, *b = right;
    float a_s = (float)(a->end_s - a->begin_s), b_s = (float)(b->end_s - b->begin_s);
    return a_s != b_s ? (a_s < b_s) - (a_s > b_s) : (a->step > b->step) - (a->step < b->step);
}

static void print_parts(const Plan *plan, const Simulation *simulation, const PathStep *path, uint32_t length,
                        Arena *arena, Text *out)
{
    PathPart *parts;
    uint32_t count = critical_path_parts(plan, path, length, arena, &parts);
    text_format(out, "%-24s %-8s %8s %12s %8s\n%-24s %-8s %8s %12s %8s\n", "critical path: op", "level", "steps",
                "time", "share", "", "", "", "", "%");
    char value[FORMAT_MAX];
    for (uint32_t i = 0; i < count; i++)
        text_format(out, "%-24s %-8s %8u %12s %8.1f\n", parts[i].info->name, level_name(plan, parts[i].level),
                    parts[i].steps, format_time(value, parts[i].time_s), 100 * parts[i].time_s / whole(simulation));
}

// As the plan file has it; with its micro-batch, as "35/2", where it runs in each.
static const char *step_number(const Plan *plan, uint32_t index, Arena *arena)
{
    const Step *step = &plan->steps[index];
    if (plan->unrolled && step_repeats(step))
        return arena_format(arena, "%u/%u", step->written, step->micro_batch);
    return arena_format(arena, "%u", plan->unrolled ? step->written : index);
}

static void print_longest(const Plan *plan, const Simulation *simulation, PathStep *path, uint32_t length, Arena *arena,
                          Text *out)
{
    char begin[FORMAT_MAX], takes[FORMAT_MAX];
    qsort(path, length, sizeof(*path), compare_lengths);
    uint32_t shown = length < LONGEST_MAX ? length : LONGEST_MAX;
    text_format(out, "\n%-24s %8s %6s %-8s %12s %12s %8s%s\n%-24s %8s %6s %-8s %12s %12s %8s\n", "its longest steps",
                plan->unrolled ? "step/mb" : "step", "layer", "level", "from", "takes", "share",
                simulation->class_of ? "  waits for" : "", "", "", "", "", "", "", "%");
    for (uint32_t i = 0; i < shown; i++) {
        const Step *step = &plan->steps[path[i].step];
        double takes_s = path[i].end_s - path[i].begin_s;
        text_format(out, "%-24s %8s %6s %-8s %12s %12s %8.1f%s%s\n", op_info((int)step->op)->name,
                    step_number(plan, path[i].step, arena),
                    step->layer == NONE ? "-" : arena_format(arena, "%d", step->layer), level_name(plan, step->level),
                    format_time(begin, path[i].begin_s), format_time(takes, takes_s), 100 * takes_s / whole(simulation),
                    simulation->class_of ? "  " : "",
                    simulation->class_of ? simulation_class_name(plan, simulation, path[i].class, arena) : "");
    }
}

static void print_busy(const Plan *plan, const Simulation *simulation, uint32_t index, Arena *arena, Text *out)
{
    const SimulatedClass *class = &simulation->classes[index];
    char value[FORMAT_MAX], other[FORMAT_MAX];
    if (simulation->class_of)
        text_format(out, "\n%s: ends at %s; communication: %s exposed, %s hidden",
                    simulation_class_name(plan, simulation, index, arena), format_time(value, class->end_s),
                    format_time(other, class->exposed_s), format_time((char[FORMAT_MAX]){0}, class->hidden_s));
    text_format(out, "\n%-24s %12s %8s\n%-24s %12s %8s\n", "busy", "time", "share", "", "", "%");
    for (int s = 0; s < STREAM_COUNT; s++)
        if (class->stream_busy_s[s] > 0)
            text_format(out, "stream %-17s %12s %8.1f\n", stream_name((Stream)s),
                        format_time(value, class->stream_busy_s[s]), 100 * class->stream_busy_s[s] / whole(simulation));
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, "port   %-17s %12s %8.1f\n", plan->cluster.levels[l].name,
                    format_time(value, class->port_busy_s[l]), 100 * class->port_busy_s[l] / whole(simulation));
}

// What computation waits for, the longest first: "tokens 1.2 s, tokens and gradients 300 ms".
static void print_exposed(const Plan *plan, const SimulatedClass *class, Arena *arena, Text *out)
{
    char value[FORMAT_MAX];
    bool printed[STREAM_SETS] = {false};
    for (;;) {
        unsigned longest = 0;
        for (unsigned set = 1; set < STREAM_SETS; set++)
            if (!printed[set] && class->exposed_with_s[set] > (longest ? class->exposed_with_s[longest] : 0))
                longest = set;
        if (!longest)
            return;
        printed[longest] = true;
        text_format(out, "  %-42s %11s\n", simulation_carried_name(plan, longest, arena),
                    format_time(value, class->exposed_with_s[longest]));
    }
}

void simulation_print(const Plan *plan, const Simulation *simulation, Text *out)
{
    Arena *arena = arena_create();
    char value[FORMAT_MAX], other[FORMAT_MAX], change[FORMAT_MAX];
    text_format(out, "simulated iteration: %s (predicted by the cost model: %s, %s)\n",
                format_time(value, simulation->iteration_s), format_time(other, plan->iteration_s),
                format_change(change, (plan->iteration_s - simulation->iteration_s) / whole(simulation)));
    if (plan->unrolled)
        text_format(out, "per micro-batch, of %u: %s\n", plan->micro_batches,
                    format_time(value, simulation->iteration_s / plan->micro_batches));
    text_format(out, "communication: %s hidden behind computation, %s exposed%s\n",
                format_time(value, simulation->last->hidden_s), format_time(other, simulation->last->exposed_s),
                simulation->last->exposed_s > 0 ? "; under way while no computation runs:" : "");
    print_exposed(plan, simulation->last, arena, out);
    if (simulation->merged)
        text_format(out, "workers: too many that differ; simulated as if each had the slowest port and link\n");
    text_format(out, "\n");
    PathStep *path;
    uint32_t length = critical_path(plan, simulation, arena, &path);
    print_parts(plan, simulation, path, length, arena, out);
    print_longest(plan, simulation, path, length, arena, out);
    for (uint32_t c = 0; c < simulation->class_count; c++)
        print_busy(plan, simulation, c, arena, out);
    arena_destroy(arena);
}

// ---- JSON ------------------------------------------------------------------------------------

static cJSON *path_to_json(const Plan *plan, const Simulation *simulation, Arena *arena)
{
    PathStep *path;
    uint32_t length = critical_path(plan, simulation, arena, &path);
    cJSON *array = cJSON_CreateArray();
    for (uint32_t i = 0; i < length; i++) {
        const Step *step = &plan->steps[path[i].step];
        cJSON *object = cJSON_CreateObject();
        cJSON_AddNumberToObject(object, "step", plan->unrolled ? step->written : path[i].step);
        if (plan->unrolled && step_repeats(step))
            cJSON_AddNumberToObject(object, "micro_batch", step->micro_batch);
        cJSON_AddStringToObject(object, "op", op_info((int)step->op)->name);
        if (step->layer != NONE)
            cJSON_AddNumberToObject(object, "layer", step->layer);
        if (step->level != NONE)
            cJSON_AddStringToObject(object, "level", plan->cluster.levels[step->level].name);
        cJSON_AddNumberToObject(object, "class", path[i].class);
        cJSON_AddNumberToObject(object, "begin_s", path[i].begin_s);
        cJSON_AddNumberToObject(object, "end_s", path[i].end_s);
        cJSON_AddItemToArray(array, object);
    }
    return array;
}

// "exchange+sync"
static const char *streams_key(unsigned streams, Arena *arena)
{
    const char *key = "";
    for (int s = 0; streams >> s; s++)
        if (streams & 1U << s)
            key = arena_format(arena, "%s%s%s", key, *key ? "+" : "", stream_name((Stream)s));
    return key;
}

static cJSON *class_to_json(const Plan *plan, const Simulation *simulation, uint32_t index, Arena *arena)
{
    const SimulatedClass *class = &simulation->classes[index];
    cJSON *object = cJSON_CreateObject();
    cJSON *workers = cJSON_AddArrayToObject(object, "workers");
    for (uint32_t w = 0; simulation->class_of && w < plan->cluster.port_count; w++)
        if (simulation->class_of[w] == index)
            cJSON_AddItemToArray(workers, cJSON_CreateString(plan->cluster.ports[w].name));
    cJSON_AddNumberToObject(object, "worker_count", class->workers);
    cJSON_AddNumberToObject(object, "end_s", class->end_s);
    cJSON_AddNumberToObject(object, "exposed_s", class->exposed_s);
    cJSON_AddNumberToObject(object, "hidden_s", class->hidden_s);
    cJSON *exposed = cJSON_AddObjectToObject(object, "exposed_with_s");
    for (unsigned set = 1; set < STREAM_SETS; set++)
        if (class->exposed_with_s[set] > 0)
            cJSON_AddNumberToObject(exposed, streams_key(set, arena), class->exposed_with_s[set]);
    cJSON *streams = cJSON_AddObjectToObject(object, "stream_busy_s");
    for (int s = 0; s < STREAM_COUNT; s++)
        if (plan_has_stream(plan, (Stream)s))
            cJSON_AddNumberToObject(streams, stream_name((Stream)s), class->stream_busy_s[s]);
    cJSON *ports = cJSON_AddObjectToObject(object, "port_busy_s");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        cJSON_AddNumberToObject(ports, plan->cluster.levels[l].name, class->port_busy_s[l]);
    return object;
}

void simulation_print_json(const Plan *plan, const Simulation *simulation, Text *out)
{
    Arena *arena = arena_create();
    cJSON *root = cJSON_CreateObject();
    cJSON_AddNumberToObject(root, "iteration_s", simulation->iteration_s);
    cJSON_AddNumberToObject(root, "objective_s", plan->iteration_s);
    cJSON_AddNumberToObject(root, "exposed_s", simulation->last->exposed_s);
    cJSON_AddNumberToObject(root, "hidden_s", simulation->last->hidden_s);
    cJSON_AddBoolToObject(root, "merged", simulation->merged);
    cJSON *classes = cJSON_AddArrayToObject(root, "classes");
    for (uint32_t c = 0; c < simulation->class_count; c++)
        cJSON_AddItemToArray(classes, class_to_json(plan, simulation, c, arena));
    cJSON_AddItemToObject(root, "critical_path", path_to_json(plan, simulation, arena));
    char *text = cJSON_Print(root);
    text_append(out, text);
    text_append(out, "\n");
    cJSON_free(text);
    cJSON_Delete(root);
    arena_destroy(arena);
}
