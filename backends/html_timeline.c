// The timeline of the report: a lane per stream, load of the ports, memory (html_memory.c), all in one SVG
// whose x axis is predicted time. Coordinates: x in 1/TIMELINE_UNITS of the iteration, y in pixels.
#include <math.h>

#include "backends/html_parts.h"
#include "backends/simulation_print.h"
#include "ir/simulate/critical_path.h"
#include "ir/simulate/occupancy.h"
#include "ir/unroll.h"

enum { DRAWN_APART = 20000, CROWD_UNITS = 40 }; // steps; units: less than a pixel
enum { AXIS_HEIGHT = 22, LANE_HEIGHT = 30, PATH_HEIGHT = 4, PORT_HEIGHT = 34, LANE_GAP = 8 };

typedef struct {
    const Report *report;
    double scale; // units per second
    int height;
    int stream_top[STREAM_COUNT]; // NONE where a stream has no step
    int port_top[LEVELS_MAX];
    int memory_top, arena_top; // NONE without buffers
} Timeline;

static const char shape_classes[] = {
    [SHAPE_LOCAL] = 'l', [SHAPE_EXCHANGE] = 'e', [SHAPE_GATHER] = 'g', [SHAPE_SCATTER] = 's', [SHAPE_REDUCE] = 'r'};

static void lay_out(Timeline *timeline)
{
    const Plan *plan = timeline->report->plan;
    timeline->height = AXIS_HEIGHT;
    for (int s = 0; s < STREAM_COUNT; s++)
        timeline->stream_top[s] = NONE;
    for (uint32_t i = 0; i < plan->step_count; i++)
        timeline->stream_top[step_stream(plan, &plan->steps[i])] = 0;
    for (int s = 0; s < STREAM_COUNT; s++)
        if (timeline->stream_top[s] != NONE) {
            timeline->stream_top[s] = timeline->height;
            timeline->height += LANE_HEIGHT + LANE_GAP;
        }
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        timeline->port_top[l] = timeline->height;
        timeline->height += PORT_HEIGHT + LANE_GAP;
    }
    timeline->memory_top = timeline->arena_top = NONE;
    if (plan->buffer_count && plan->arena_bytes) {
        timeline->memory_top = timeline->height;
        timeline->arena_top = timeline->memory_top + MEMORY_HEIGHT + LANE_GAP;
        timeline->height = timeline->arena_top + ARENA_HEIGHT + LANE_GAP;
    }
}

// ---- names at the left -----------------------------------------------------------------------

static void print_name(int top, int height, const char *name, const char *kind, const char *detail, Text *out)
{
    text_format(out, "<div style=\"top:%dpx;height:%dpx\"><b>", top, height);
    html_escape(out, name);
    text_format(out, "</b>%s<small>%s</small></div>\n", kind, detail);
}

static void print_names(const Timeline *timeline, Text *out)
{
    const Plan *plan = timeline->report->plan;
    double whole_s = timeline->report->simulation->iteration_s > 0 ? timeline->report->simulation->iteration_s : 1;
    char value[FORMAT_MAX];
    text_append(out, "<div class=\"names\">\n");
    for (int s = 0; s < STREAM_COUNT; s++)
        if (timeline->stream_top[s] != NONE)
            print_name(timeline->stream_top[s], LANE_HEIGHT, stream_name((Stream)s), "",
                       arena_format(timeline->report->arena, "busy %.0f %%",
                                    100 * timeline->report->simulation->last->stream_busy_s[s] / whole_s),
                       out);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        print_name(timeline->port_top[l], PORT_HEIGHT, plan->cluster.levels[l].name, " port",
                   arena_format(timeline->report->arena, "%.0f %% of %s",
                                100 * timeline->report->simulation->last->port_busy_s[l] / whole_s,
                                format_bandwidth(value, html_port_bandwidth(timeline->report, l))),
                   out);
    if (timeline->memory_top != NONE) {
        MemorySample *samples;
        uint32_t count = occupancy_memory(plan, timeline->report->simulation, timeline->report->arena, &samples);
        double peak_bytes = memory_total(occupancy_peak(samples, count));
        char peak[FORMAT_MAX];
        print_name(timeline->memory_top, MEMORY_HEIGHT, "memory", " live",
                   arena_format(timeline->report->arena, "peak %s of %s", format_bytes(peak, peak_bytes),
                                format_bytes(value, (double)plan->arena_bytes)),
                   out);
    }
    if (timeline->arena_top != NONE)
        print_name(timeline->arena_top, ARENA_HEIGHT, "arena", "", "every buffer at its offset", out);
    text_append(out, "</div>\n");
}

// ---- what is drawn ---------------------------------------------------------------------------

static void print_step(const Timeline *timeline, uint32_t index, Text *out)
{
    const Plan *plan = timeline->report->plan;
    const Step *step = &plan->steps[index];
    const OpInfo *info = op_info((int)step->op);
    double begin_s = timeline->report->simulation->last->steps[index].begin_s,
           end_s = timeline->report->simulation->last->steps[index].end_s;
    bool odd = step->layer != NONE && step->layer % 2;
    char a[FORMAT_MAX], b[FORMAT_MAX];
    text_format(out, "<rect class=\"%c%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"><title>%s",
                shape_classes[info->shape], odd ? " o" : "", begin_s * timeline->scale,
                timeline->stream_top[step_stream(plan, step)], (end_s - begin_s) * timeline->scale, LANE_HEIGHT,
                info->name);
    if (step->level != NONE) {
        text_append(out, " ");
        html_escape(out, plan->cluster.levels[step->level].name);
    }
    bool unrolled = plan->unrolled;
    text_format(out, "\nstep s%u%s", unrolled ? step->written : index,
                html_micro_batch(timeline->report, step_repeats(step), step->micro_batch));
    if (step->layer != NONE)
        text_format(out, ", layer %d", step->layer);
    text_format(out, "\n%s: from %.7g to %.7g ms", format_time(a, end_s - begin_s), begin_s * 1e3, end_s * 1e3);
    if (step->group != NONE)
        text_format(out, "\n%s per GPU, %llu members\n%s if alone", format_bytes(a, step->bytes),
                    (unsigned long long)group_size(&plan->cluster, &plan->groups[step->group]),
                    format_time(b, step->cost_s));
    text_append(out, "</title></rect>\n");
}

// Steps of a stream that stand too close to be told apart.
typedef struct {
    uint32_t first, count;
    double begin_s, end_s;
} Crowd;

static void print_crowd(const Timeline *timeline, const Crowd *crowd, Text *out)
{
    const Plan *plan = timeline->report->plan;
    const Step *first = &plan->steps[crowd->first];
    if (crowd->count == 1)
        print_step(timeline, crowd->first, out);
    if (crowd->count < 2)
        return;
    text_format(
        out,
        "<rect class=\"%c\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"><title>%u steps\nfrom %.7g to %.7g ms"
        "</title></rect>\n",
        shape_classes[op_info((int)first->op)->shape], crowd->begin_s * timeline->scale,
        timeline->stream_top[step_stream(plan, first)], (crowd->end_s - crowd->begin_s) * timeline->scale, LANE_HEIGHT,
        crowd->count, crowd->begin_s * 1e3, crowd->end_s * 1e3);
}

// Where there are very many, neighbours share a box.
static void print_steps(const Timeline *timeline, Text *out)
{
    const Plan *plan = timeline->report->plan;
    double least_s = plan->unrolled && plan->step_count > DRAWN_APART ? CROWD_UNITS / timeline->scale : 0;
    Crowd crowds[STREAM_COUNT] = {0};
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const SimulatedStep *at = &timeline->report->simulation->last->steps[i];
        Crowd *crowd = &crowds[step_stream(plan, &plan->steps[i])];
        bool joins = crowd->count && at->end_s - crowd->begin_s < least_s;
        if (!joins) {
            print_crowd(timeline, crowd, out);
            *crowd = (Crowd){.first = i, .begin_s = at->begin_s};
        }
        crowd->end_s = at->end_s;
        crowd->count++;
    }
    for (int s = 0; s < STREAM_COUNT; s++)
        print_crowd(timeline, &crowds[s], out);
}

static void print_path(const Timeline *timeline, Text *out)
{
    const Plan *plan = timeline->report->plan;
    PathStep *path;
    uint32_t length = critical_path(plan, timeline->report->simulation, timeline->report->arena, &path);
    text_append(out, "<path class=\"critical\" d=\"");
    for (uint32_t i = 0; i < length; i++) {
        double width = (path[i].end_s - path[i].begin_s) * timeline->scale;
        int lane = timeline->stream_top[step_stream(plan, &plan->steps[path[i].step])];
        if (width > 0)
            text_format(out, "M%.1f %dh%.1fv%dh%.1fz", path[i].begin_s * timeline->scale,
                        lane + LANE_HEIGHT - PATH_HEIGHT / 2, width, PATH_HEIGHT, -width);
    }
    text_append(out, "\"/>\n");
}

static void print_port(const Timeline *timeline, uint32_t level, Text *out)
{
    double capacity = html_port_bandwidth(timeline->report, level);
    int bottom = timeline->port_top[level] + PORT_HEIGHT;
    PortSample *samples;
    uint32_t count =
        occupancy_port(timeline->report->plan, timeline->report->simulation, level, timeline->report->arena, &samples);
    text_format(out,
                "<rect class=\"ground\" x=\"0\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n<path class=\"port\" d=\"M0 %d",
                timeline->port_top[level], TIMELINE_UNITS, PORT_HEIGHT, bottom);
    for (uint32_t i = 0; i < count; i++) {
        double load = 0;
        for (int s = 0; s < STREAM_COUNT; s++)
            load += samples[i].bytes_per_s[s] / capacity;
        text_format(out, "H%.1fV%.1f", samples[i].time_s * timeline->scale, bottom - PORT_HEIGHT * fmin(load, 1));
    }
    text_format(out, "H%dV%dZ\"/>\n", TIMELINE_UNITS, bottom);
}

// Steps of 1, 2 or 5 times a power of ten, about eight of them.
static void print_axis(const Timeline *timeline, Text *out)
{
    double whole_s = timeline->report->simulation->iteration_s;
    char value[FORMAT_MAX];
    text_append(out, "<svg class=\"axis\" aria-hidden=\"true\">\n");
    if (whole_s > 0) {
        double power = pow(10, floor(log10(whole_s / 8))), least = whole_s / 8 / power;
        double tick_s = power * (least <= 1 ? 1 : least <= 2 ? 2 : least <= 5 ? 5 : 10);
        for (int i = 0; i * tick_s <= whole_s; i++) {
            double x = 100 * i * tick_s / whole_s;
            text_format(
                out, "<line x1=\"%.3f%%\" x2=\"%.3f%%\" y1=\"16\" y2=\"%d\"/><text x=\"%.3f%%\" y=\"11\"%s>%s</text>\n",
                x, x, timeline->height, x, x > 94 ? " text-anchor=\"end\"" : "", format_time(value, i * tick_s));
        }
    }
    text_append(out, "</svg>\n");
}

static void print_plot(const Timeline *timeline, Text *out)
{
    const Plan *plan = timeline->report->plan;
    text_format(
        out,
        "<div class=\"plot\">\n<svg class=\"steps\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" role=\"img\" "
        "aria-label=\"Simulated schedule\">\n",
        TIMELINE_UNITS, timeline->height);
    for (int s = 0; s < STREAM_COUNT; s++)
        if (timeline->stream_top[s] != NONE)
            text_format(out, "<rect class=\"ground\" x=\"0\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
                        timeline->stream_top[s], TIMELINE_UNITS, LANE_HEIGHT);
    text_append(out, "<g class=\"schedule\">\n");
    print_steps(timeline, out);
    text_append(out, "</g>\n");
    print_path(timeline, out);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        print_port(timeline, l, out);
    if (timeline->memory_top != NONE) {
        html_memory_lane_print(timeline->report, timeline->memory_top);
        html_arena_lane_print(timeline->report, timeline->arena_top);
    }
    text_append(out, "</svg>\n");
    print_axis(timeline, out);
    text_append(out, "</div>\n");
}

static void print_legend(const Plan *plan, Text *out)
{
    static const char *const names[] = {[SHAPE_LOCAL] = "computation",
                                        [SHAPE_EXCHANGE] = "tokens exchanged",
                                        [SHAPE_GATHER] = "experts gathered",
                                        [SHAPE_SCATTER] = "gradients returned",
                                        [SHAPE_REDUCE] = "gradients summed"};
    bool used[COUNT_OF(names)] = {false}, kinds[BUFFER_KIND_COUNT] = {false};
    for (uint32_t i = 0; i < plan->step_count; i++)
        used[op_info((int)plan->steps[i].op)->shape] = true;
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        kinds[plan->buffers[b].kind] = true;
    text_append(out, "<p class=\"legend\">");
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (used[i])
            text_format(out, "<span><i class=\"key %c\"></i>%s</span> ", shape_classes[i], names[i]);
    text_append(out, "<span><i class=\"key critical\"></i>critical path</span> "
                     "<span><i class=\"key port\"></i>port in use</span> ");
    for (int k = 0; k < BUFFER_KIND_COUNT; k++)
        if (kinds[k])
            text_format(out, "<span><i class=\"key k%d\"></i>%s memory</span> ", k, buffer_kind_name((BufferKind)k));
    text_append(out, "</p>\n");
}

void html_timeline_print(const Report *report)
{
    const Simulation *simulation = report->simulation;
    Text *out = report->out;
    Timeline timeline = {.report = report};
    timeline.scale = simulation->iteration_s > 0 ? TIMELINE_UNITS / simulation->iteration_s : 0;
    lay_out(&timeline);
    char value[FORMAT_MAX];
    text_append(out, "<section>\n<h2>Timeline</h2>\n<p class=\"note\">One iteration of ");
    if (simulation->class_of) {
        text_append(out, "a GPU of ");
        uint32_t shown = (uint32_t)(simulation->last - simulation->classes);
        html_escape(out, simulation_class_name(report->plan, simulation, shown, report->arena));
        text_append(out, ", which ends last");
    } else {
        text_append(out, "one GPU");
    }
    text_format(
        out,
        ", %s, %u steps%s; all GPUs run the same schedule. Steps of odd layers are fainter.<span class=\"hint\"> "
        "Wheel to zoom, drag to move, double-click to see all; point at a step, at the memory or at a buffer to "
        "see what it is.</span></p>\n",
        format_time(value, simulation->iteration_s), report->plan->step_count,
        report->plan->unrolled
            ? arena_format(report->arena, " in %u micro-batches, all of which pass a layer before the next begins",
                           report->written->micro_batches)
            : "");
    print_legend(report->plan, out);
    text_format(out, "<div class=\"timeline\" style=\"height:%dpx\" data-seconds=\"", timeline.height);
    text_number(out, simulation->iteration_s);
    text_append(out, "\">\n");
    print_names(&timeline, out);
    print_plot(&timeline, out);
    text_append(out, "</div>\n</section>\n");
}
