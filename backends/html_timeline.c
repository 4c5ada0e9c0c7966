// The timeline of the report: a lane per stream, load of the ports, live memory, all in one SVG whose
// x axis is predicted time. Coordinates: x in 1/UNITS of the iteration, y in pixels.
#include <math.h>

#include "backends/html_parts.h"
#include "backends/occupancy.h"

enum { UNITS = 100000, AXIS_HEIGHT = 22, LANE_HEIGHT = 30, PORT_HEIGHT = 34, MEMORY_HEIGHT = 96, LANE_GAP = 8 };

typedef struct {
    const Plan *plan;
    const Simulation *simulation;
    Arena *arena;
    double scale; // units per second
    int height;
    int stream_top[STREAM_COUNT]; // NONE where a stream has no step
    int port_top[LEVELS_MAX];
    int memory_top; // NONE without buffers
} Timeline;

static const char shape_classes[] = {
    [SHAPE_LOCAL] = 'l', [SHAPE_EXCHANGE] = 'e', [SHAPE_GATHER] = 'g', [SHAPE_SCATTER] = 's', [SHAPE_REDUCE] = 'r'};

static void lay_out(Timeline *timeline)
{
    const Plan *plan = timeline->plan;
    timeline->height = AXIS_HEIGHT;
    for (int s = 0; s < STREAM_COUNT; s++)
        timeline->stream_top[s] = NONE;
    for (uint32_t i = 0; i < plan->step_count; i++)
        timeline->stream_top[op_info((int)plan->steps[i].op)->stream] = 0;
    for (int s = 0; s < STREAM_COUNT; s++)
        if (timeline->stream_top[s] != NONE) {
            timeline->stream_top[s] = timeline->height;
            timeline->height += LANE_HEIGHT + LANE_GAP;
        }
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        timeline->port_top[l] = timeline->height;
        timeline->height += PORT_HEIGHT + LANE_GAP;
    }
    timeline->memory_top = plan->buffer_count ? timeline->height : NONE;
    if (plan->buffer_count)
        timeline->height += MEMORY_HEIGHT + LANE_GAP;
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
    const Plan *plan = timeline->plan;
    double whole_s = timeline->simulation->iteration_s > 0 ? timeline->simulation->iteration_s : 1;
    char value[FORMAT_MAX];
    text_append(out, "<div class=\"names\">\n");
    for (int s = 0; s < STREAM_COUNT; s++)
        if (timeline->stream_top[s] != NONE)
            print_name(
                timeline->stream_top[s], LANE_HEIGHT, stream_name((Stream)s), "",
                arena_format(timeline->arena, "busy %.0f %%", 100 * timeline->simulation->stream_busy_s[s] / whole_s),
                out);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        print_name(timeline->port_top[l], PORT_HEIGHT, plan->cluster.levels[l].name, " port",
                   arena_format(timeline->arena, "%s, busy %.0f %%",
                                format_bandwidth(value, plan->cluster.levels[l].bandwidth_bytes_per_s),
                                100 * timeline->simulation->port_busy_s[l] / whole_s),
                   out);
    if (timeline->memory_top != NONE)
        print_name(timeline->memory_top, MEMORY_HEIGHT, "memory", "",
                   arena_format(timeline->arena, "live, of %s", format_bytes(value, (double)plan->arena_bytes)), out);
    text_append(out, "</div>\n");
}

// ---- what is drawn ---------------------------------------------------------------------------

static void print_step(const Timeline *timeline, uint32_t index, Text *out)
{
    const Plan *plan = timeline->plan;
    const Step *step = &plan->steps[index];
    const OpInfo *info = op_info((int)step->op);
    double begin_s = timeline->simulation->steps[index].begin_s, end_s = timeline->simulation->steps[index].end_s;
    char a[FORMAT_MAX], b[FORMAT_MAX];
    text_format(out, "<rect class=\"%c%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"><title>%s",
                shape_classes[info->shape], step->layer % 2 ? " o" : "", begin_s * timeline->scale,
                timeline->stream_top[info->stream], (end_s - begin_s) * timeline->scale, LANE_HEIGHT, info->name);
    if (step->level != NONE) {
        text_append(out, " ");
        html_escape(out, plan->cluster.levels[step->level].name);
    }
    text_format(out, "\nstep s%u", index);
    if (step->layer != NONE)
        text_format(out, ", layer %d", step->layer);
    text_format(out, "\n%s: from %.7g to %.7g ms", format_time(a, end_s - begin_s), begin_s * 1e3, end_s * 1e3);
    if (step->group != NONE)
        text_format(out, "\n%s per GPU, %llu members\n%s if alone", format_bytes(a, step->bytes),
                    (unsigned long long)group_size(&plan->cluster, &plan->groups[step->group]),
                    format_time(b, step->cost_s));
    text_append(out, "</title></rect>\n");
}

static void print_port(const Timeline *timeline, uint32_t level, Text *out)
{
    double capacity = timeline->plan->cluster.levels[level].bandwidth_bytes_per_s;
    int bottom = timeline->port_top[level] + PORT_HEIGHT;
    PortSample *samples;
    uint32_t count = occupancy_port(timeline->plan, timeline->simulation, level, timeline->arena, &samples);
    text_format(out,
                "<rect class=\"ground\" x=\"0\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n<path class=\"port\" d=\"M0 %d",
                timeline->port_top[level], UNITS, PORT_HEIGHT, bottom);
    for (uint32_t i = 0; i < count; i++) {
        double load = 0;
        for (int s = 0; s < STREAM_COUNT; s++)
            load += samples[i].bytes_per_s[s] / capacity;
        text_format(out, "H%.1fV%.1f", samples[i].time_s * timeline->scale, bottom - PORT_HEIGHT * fmin(load, 1));
    }
    text_format(out, "H%dV%dZ\"/>\n", UNITS, bottom);
}

// The area of one kind lies on those of the kinds before it.
static void print_memory_kind(const Timeline *timeline, const MemorySample *samples, uint32_t count, int kind,
                              Text *out)
{
    double unit = MEMORY_HEIGHT / (double)timeline->plan->arena_bytes;
    int bottom = timeline->memory_top + MEMORY_HEIGHT;
    double last = -1;
    bool any = false;
    for (uint32_t i = 0; i < count; i++)
        any = any || samples[i].bytes[kind] > 0;
    if (!any)
        return;
    text_format(out, "<path class=\"k%d\" d=\"M0 %d", kind, bottom);
    for (uint32_t i = 0; i < count; i++) {
        double below = 0;
        for (int k = 0; k <= kind; k++)
            below += samples[i].bytes[k];
        if (below != last)
            text_format(out, "H%.1fV%.1f", samples[i].time_s * timeline->scale, bottom - unit * below);
        last = below;
    }
    text_format(out, "H%dV%dZ\"/>\n", UNITS, bottom);
}

static void print_memory(const Timeline *timeline, Text *out)
{
    MemorySample *samples;
    uint32_t count = occupancy_memory(timeline->plan, timeline->simulation, timeline->arena, &samples);
    text_format(out, "<rect class=\"ground\" x=\"0\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n", timeline->memory_top,
                UNITS, MEMORY_HEIGHT);
    for (int k = BUFFER_KIND_COUNT - 1; k >= 0; k--) // the lower ones cover the feet of the higher
        print_memory_kind(timeline, samples, count, k, out);
}

// Steps of 1, 2 or 5 times a power of ten, about eight of them.
static void print_axis(const Timeline *timeline, Text *out)
{
    double whole_s = timeline->simulation->iteration_s;
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
    const Plan *plan = timeline->plan;
    text_format(
        out,
        "<div class=\"plot\">\n<svg class=\"steps\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" role=\"img\" "
        "aria-label=\"Simulated schedule\">\n",
        UNITS, timeline->height);
    for (int s = 0; s < STREAM_COUNT; s++)
        if (timeline->stream_top[s] != NONE)
            text_format(out, "<rect class=\"ground\" x=\"0\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
                        timeline->stream_top[s], UNITS, LANE_HEIGHT);
    text_append(out, "<g class=\"schedule\">\n");
    for (uint32_t i = 0; i < plan->step_count; i++)
        print_step(timeline, i, out);
    text_append(out, "</g>\n");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        print_port(timeline, l, out);
    if (timeline->memory_top != NONE)
        print_memory(timeline, out);
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
    text_append(out, "<span><i class=\"key port\"></i>port in use</span> ");
    for (int k = 0; k < BUFFER_KIND_COUNT; k++)
        if (kinds[k])
            text_format(out, "<span><i class=\"key k%d\"></i>%s memory</span> ", k, buffer_kind_name((BufferKind)k));
    text_append(out, "</p>\n");
}

void html_timeline_print(const Plan *plan, const Simulation *simulation, Arena *arena, Text *out)
{
    Timeline timeline = {.plan = plan, .simulation = simulation, .arena = arena};
    timeline.scale = simulation->iteration_s > 0 ? UNITS / simulation->iteration_s : 0;
    lay_out(&timeline);
    char value[FORMAT_MAX];
    text_format(
        out,
        "<section>\n<h2>Timeline</h2>\n<p class=\"note\">One iteration of one GPU, %s, %u steps; all GPUs run the "
        "same schedule. Steps of odd layers are paler.<span class=\"hint\"> Wheel to zoom, drag to move, "
        "double-click to see all.</span></p>\n",
        format_time(value, simulation->iteration_s), plan->step_count);
    print_legend(plan, out);
    text_format(out, "<div class=\"timeline\" style=\"height:%dpx\" data-seconds=\"", timeline.height);
    text_number(out, simulation->iteration_s);
    text_append(out, "\">\n");
    print_names(&timeline, out);
    print_plot(&timeline, out);
    text_append(out, "</div>\n</section>\n");
}
