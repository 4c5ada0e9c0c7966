// Memory in the report: live bytes over the simulated time by kind, the arena with every buffer at its
// offset, the peak and what is live then. In the lanes x is 1/TIMELINE_UNITS of the iteration, y pixels.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/html_parts.h"
#include "ir/simulate/occupancy.h"
#include "ir/unroll.h"

enum { VALUES_APART = 20000 };                 // beyond, those that each micro-batch overwrites are left out
enum { LARGEST_SHOWN = 12, EDGED_HEIGHT = 4 }; // thinner buffers would be all edge

static double position(const Report *report, double time_s)
{
    return TIMELINE_UNITS * fmin(time_s, report->simulation->iteration_s) / html_whole_s(report);
}

static void print_ground(const char *class, int top, int height, const char *attributes, Text *out)
{
    text_format(out, "<rect class=\"%s\" x=\"0\" y=\"%d\" width=\"%d\" height=\"%d\"%s/>\n", class, top, TIMELINE_UNITS,
                height, attributes);
}

// ---- live bytes ------------------------------------------------------------------------------

// The area of one kind lies on those of the kinds before it.
static void print_kind_area(const Report *report, const MemorySample *samples, uint32_t count, int kind, int bottom)
{
    double unit = MEMORY_HEIGHT / (double)report->plan->arena_bytes, last = -1;
    bool any = false;
    for (uint32_t i = 0; i < count; i++)
        any = any || samples[i].bytes[kind] > 0;
    if (!any)
        return;
    text_format(report->out, "<path class=\"k%d\" d=\"M0 %d", kind, bottom);
    for (uint32_t i = 0; i < count; i++) {
        double below = 0;
        for (int k = 0; k <= kind; k++)
            below += samples[i].bytes[k];
        if (below != last)
            text_format(report->out, "H%.1fV%.1f", position(report, samples[i].time_s), bottom - unit * below);
        last = below;
    }
    text_format(report->out, "H%dV%dZ\"/>\n", TIMELINE_UNITS, bottom);
}

void html_memory_lane_print(const Report *report, int top)
{
    MemorySample *samples;
    uint32_t count = occupancy_memory(report->plan, report->simulation, report->arena, &samples);
    const MemorySample *peak = occupancy_peak(samples, count);
    print_ground("ground", top, MEMORY_HEIGHT, "", report->out);
    for (int k = BUFFER_KIND_COUNT - 1; k >= 0; k--) // the lower ones cover the feet of the higher
        print_kind_area(report, samples, count, k, top + MEMORY_HEIGHT);
    double level = top + MEMORY_HEIGHT * (1 - memory_total(peak) / (double)report->plan->arena_bytes);
    text_format(report->out, "<path class=\"peak\" d=\"M0 %.1fH%d\"/>\n", level, TIMELINE_UNITS);
    print_ground("over", top, MEMORY_HEIGHT, "", report->out);
}

// ---- the arena -------------------------------------------------------------------------------

// Values of one buffer stand in a row and share its name.
static bool same_buffer(const Plan *plan, uint32_t a, uint32_t b)
{
    return plan->buffers[a].name == plan->buffers[b].name;
}

static bool has_values(const Buffer *buffer)
{
    return buffer->span != SPAN_ITERATION;
}

static void print_buffer(const Report *report, uint32_t index, uint32_t value, const BufferLife *life, int top)
{
    const Buffer *buffer = &report->plan->buffers[index];
    double unit = ARENA_HEIGHT / (double)report->plan->arena_bytes, bytes = (double)buffer_bytes(buffer);
    double left = position(report, life->begin_s), right = position(report, life->end_s);
    char size[FORMAT_MAX];
    text_format(report->out,
                "<rect class=\"k%d%s%s\" x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\" data-b=\"%.0f\">"
                "<title>",
                (int)buffer->kind, buffer->layer != NONE && buffer->layer % 2 ? " o" : "",
                unit * bytes >= EDGED_HEIGHT ? " edged" : "", left, top + unit * (double)buffer->offset, right - left,
                unit * bytes, bytes);
    html_escape(report->out, buffer->name);
    text_append(report->out, html_micro_batch(report, has_values(buffer), value));
    text_format(report->out, "\n%s, %s of %llu × %llu, %s", format_bytes(size, bytes), dtype_name(buffer->dtype),
                (unsigned long long)buffer->rows, (unsigned long long)buffer->cols, buffer_kind_name(buffer->kind));
    if (buffer->layer != NONE)
        text_format(report->out, " of layer %d", buffer->layer);
    text_format(report->out, "\nat offset %llu\n", (unsigned long long)buffer->offset);
    if (isinf(life->end_s) && life->begin_s <= 0)
        text_append(report->out, "live throughout");
    else if (isinf(life->end_s))
        text_format(report->out, "live from %.7g ms", 1e3 * life->begin_s);
    else
        text_format(report->out, "live from %.7g to %.7g ms", 1e3 * life->begin_s, 1e3 * life->end_s);
    text_append(report->out, "</title></rect>\n");
}

void html_arena_lane_print(const Report *report, int top)
{
    const BufferLife *lives = occupancy_buffers(report->plan, report->simulation, report->arena);
    print_ground("ground", top, ARENA_HEIGHT, "", report->out);
    text_append(report->out, "<g class=\"buffers\">\n");
    bool apart = report->plan->buffer_count <= VALUES_APART;
    for (uint32_t b = 0, value = 0; b < report->plan->buffer_count; b++) {
        if (!apart && report->plan->buffers[b].span == SPAN_MICRO_BATCH)
            continue; // gone as soon as the next one comes: too thin to be seen
        value = b > 0 && same_buffer(report->plan, b - 1, b) ? value + 1 : 0;
        print_buffer(report, b, value, &lives[b], top);
    }
    text_append(report->out, "</g>\n");
}

// ---- the section -----------------------------------------------------------------------------

static void print_kind(const Plan *plan, BufferKind kind, double live_bytes, Text *out)
{
    char value[FORMAT_MAX], live[FORMAT_MAX];
    uint32_t count = 0;
    double bytes = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        if (plan->buffers[b].kind == kind) {
            count++;
            bytes += (double)buffer_bytes(&plan->buffers[b]) * plan_buffer_values(plan, &plan->buffers[b]);
        }
    if (count == 0)
        return;
    text_format(out,
                "<tr><th scope=\"row\"><i class=\"key k%d\"></i>%s</th><td class=\"n\">%u</td><td class=\"n\">%s</td>"
                "<td class=\"n\">%s</td><td class=\"bar\"><i class=\"k%d\" style=\"width:%.1f%%\"></i></td></tr>\n",
                (int)kind, buffer_kind_name(kind), count, format_bytes(value, bytes), format_bytes(live, live_bytes),
                (int)kind, plan->arena_bytes ? 100 * live_bytes / (double)plan->arena_bytes : 0);
}

// Buffers that differ in their layer alone, such as "L3.experts" and "L4.experts", and in their micro-batch.
typedef struct {
    const Buffer *first;
    const char *name; // without the layer
    uint32_t count;
    int32_t low_layer, high_layer; // not all between need be there
    double bytes;                  // together
} Live;

static const char *name_without_layer(const Buffer *buffer)
{
    const char *dot = strchr(buffer->name, '.');
    return buffer->layer != NONE && dot ? dot + 1 : buffer->name;
}

static bool is_alike(const Live *live, const Buffer *buffer)
{
    const Buffer *first = live->first;
    return first->kind == buffer->kind && first->dtype == buffer->dtype && first->rows == buffer->rows &&
           first->cols == buffer->cols && (first->layer == NONE) == (buffer->layer == NONE) &&
           strcmp(live->name, name_without_layer(buffer)) == 0;
}

static int compare_live(const void *left, const void *right)
{
    const Live *a = left, *b = right;
    return a->bytes != b->bytes ? (a->bytes < b->bytes) - (a->bytes > b->bytes)
                                : (a->first > b->first) - (a->first < b->first);
}

static uint32_t live_at(const Report *report, double time_s, Live *live)
{
    const Plan *plan = report->plan;
    const BufferLife *lives = occupancy_buffers(plan, report->simulation, report->arena);
    uint32_t count = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        if (lives[b].begin_s > time_s || time_s >= lives[b].end_s)
            continue;
        uint32_t at = 0;
        while (at < count && !is_alike(&live[at], buffer))
            at++;
        if (at == count)
            live[count++] = (Live){buffer, name_without_layer(buffer), 0, buffer->layer, buffer->layer, 0};
        live[at].count++;
        live[at].low_layer = buffer->layer < live[at].low_layer ? buffer->layer : live[at].low_layer;
        live[at].high_layer = buffer->layer > live[at].high_layer ? buffer->layer : live[at].high_layer;
        live[at].bytes += (double)buffer_bytes(buffer);
    }
    qsort(live, count, sizeof(*live), compare_live);
    return count;
}

static void print_live(const Plan *plan, const Live *live, Text *out)
{
    const Buffer *buffer = live->first;
    char value[FORMAT_MAX], all[FORMAT_MAX];
    text_append(out, "<tr><th scope=\"row\">");
    html_escape(out, live->name);
    text_format(out, "</th><td>%s</td><td class=\"n\">", buffer_kind_name(buffer->kind));
    if (live->low_layer != live->high_layer)
        text_format(out, "%d to %d", live->low_layer, live->high_layer);
    else if (live->low_layer != NONE)
        text_format(out, "%d", live->low_layer);
    text_format(out,
                "</td><td class=\"n\">%u</td><td class=\"n\">%llu × %llu %s</td><td class=\"n\">%s</td>"
                "<td class=\"n\">%s</td><td class=\"bar\"><i class=\"k%d\" style=\"width:%.1f%%\"></i></td></tr>\n",
                live->count, (unsigned long long)buffer->rows, (unsigned long long)buffer->cols,
                dtype_name(buffer->dtype), format_bytes(value, (double)buffer_bytes(buffer)),
                format_bytes(all, live->bytes), (int)buffer->kind,
                plan->arena_bytes ? 100 * live->bytes / (double)plan->arena_bytes : 0);
}

static void print_largest(const Report *report, double time_s)
{
    const Plan *plan = report->plan;
    Live *live = arena_alloc_array(report->arena, plan->buffer_count, sizeof(*live));
    uint32_t count = live_at(report, time_s, live), buffers = 0;
    double rest = 0;
    char value[FORMAT_MAX], at[FORMAT_MAX];
    text_format(report->out,
                "<div class=\"scroll\"><table class=\"stack\">\n<thead><tr><th>live at the peak, %s</th><th>kind</th>"
                "<th class=\"n\">layers</th><th class=\"n\">%s</th><th class=\"n\">rows × columns</th>"
                "<th class=\"n\">size of one</th><th class=\"n\">together</th><th>share of the arena</th></tr>"
                "</thead>\n<tbody>\n",
                format_time(at, time_s), plan->unrolled ? "values" : "buffers");
    for (uint32_t i = 0; i < count && i < LARGEST_SHOWN; i++)
        print_live(plan, &live[i], report->out);
    for (uint32_t i = LARGEST_SHOWN; i < count; i++) {
        rest += live[i].bytes;
        buffers += live[i].count;
    }
    if (count > LARGEST_SHOWN)
        text_format(report->out,
                    "<tr><th scope=\"row\">all others</th><td></td><td></td><td class=\"n\">%u</td><td></td><td></td>"
                    "<td class=\"n\">%s</td><td class=\"bar\"><i style=\"width:%.1f%%\"></i></td></tr>\n",
                    buffers, format_bytes(value, rest), plan->arena_bytes ? 100 * rest / (double)plan->arena_bytes : 0);
    text_append(report->out, "</tbody></table></div>\n");
}

void html_memory_print(const Report *report)
{
    const Plan *plan = report->plan;
    Text *out = report->out;
    char arena[FORMAT_MAX], own[FORMAT_MAX], live[FORMAT_MAX], at[FORMAT_MAX];
    text_append(out, "<section>\n<h2>Memory of a GPU</h2>\n");
    if (plan->buffer_count == 0) {
        text_append(out, "<p class=\"note\">The model is abstract: its volumes and times were given, no buffers are "
                         "planned.</p>\n</section>\n");
        return;
    }
    MemorySample *samples;
    uint32_t count = occupancy_memory(plan, report->simulation, report->arena, &samples);
    const MemorySample *peak = occupancy_peak(samples, count);
    text_append(out,
                "<div class=\"scroll\"><table class=\"stack\">\n<thead><tr><th>kind</th><th class=\"n\">buffers</th>"
                "<th class=\"n\">sum of sizes</th><th class=\"n\">live at the peak</th><th>share of the arena</th></tr>"
                "</thead>\n<tbody>\n");
    for (int k = 0; k < BUFFER_KIND_COUNT; k++)
        print_kind(report->written, (BufferKind)k, peak->bytes[k], out);
    text_format(out,
                "</tbody></table></div>\n<p class=\"note\">All buffers lie in the arena of %s; engine '%s' takes %s "
                "besides, for scratch and the like. At most %s of the arena are live at a time, first at %s. Buffers "
                "share memory where the schedule guarantees that they are never live together, so the arena may be "
                "larger than what is live in the simulated run. %sThe timeline shows both over time.</p>\n",
                format_bytes(arena, (double)plan->arena_bytes), engine_kind_name(plan->cluster.device.engine),
                format_bytes(own, (double)plan->engine_bytes), format_bytes(live, memory_total(peak)),
                format_time(at, peak->time_s),
                plan->unrolled ? "What is used inside of a layer's pass alone has the memory of one micro-batch, which "
                                 "the next one uses again; what outlives it has a value for each. "
                               : "");
    print_largest(report, peak->time_s);
    text_append(out, "</section>\n");
}
