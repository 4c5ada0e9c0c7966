// Where the simulated iteration's time goes: communication that is exposed or hidden, how busy streams and
// ports are, and which ops the critical path consists of.
#include <math.h>

#include "backends/html_parts.h"
#include "backends/simulation_print.h"
#include "ir/simulate/critical_path.h"

enum { CLASSES_SHOWN = 32 };

static const double PATH_SHARE_MIN = 1e-3; // of the iteration; ops with less are shown together

// ---- overlap ---------------------------------------------------------------------------------

typedef struct {
    const char *key, *name; // key: of its colour; NULL where its own parts are drawn instead
    double part_s;
    bool of_another; // of the part before
} TimePart;

enum { PARTS_MAX = 4 + STREAM_SETS };

static void print_part(const Report *report, const TimePart *part)
{
    double whole_s = html_whole_s(report);
    char value[FORMAT_MAX];
    const char *swatch = part->key ? arena_format(report->arena, "<i class=\"key %s\"></i>", part->key) : "";
    text_format(report->out,
                "<tr%s><th scope=\"row\">%s%s</th><td class=\"n\">%s</td>"
                "<td class=\"n\">%.1f %%</td></tr>\n",
                part->of_another ? " class=\"part\"" : "", swatch, part->name, format_time(value, part->part_s),
                100 * part->part_s / whole_s);
}

// Bits of the streams that communicate: what is under way has the colours it has in the timeline.
static const char *const set_keys[STREAM_SETS] = {
    [1U << STREAM_EXCHANGE] = "e",
    [1U << STREAM_MIGRATE] = "g",
    [1U << STREAM_SYNC] = "s",
    [1U << STREAM_EXCHANGE | 1U << STREAM_MIGRATE] = "eg",
    [1U << STREAM_EXCHANGE | 1U << STREAM_SYNC] = "es",
    [1U << STREAM_MIGRATE | 1U << STREAM_SYNC] = "gs",
    [1U << STREAM_EXCHANGE | 1U << STREAM_MIGRATE | 1U << STREAM_SYNC] = "egs",
};

static uint32_t add_exposed_parts(const Report *report, TimePart parts[PARTS_MAX], uint32_t count)
{
    for (unsigned set = 1; set < STREAM_SETS; set++)
        if (set_keys[set] && report->simulation->last->exposed_with_s[set] > 0)
            parts[count++] = (TimePart){set_keys[set], simulation_carried_name(report->plan, set, report->arena),
                                        report->simulation->last->exposed_with_s[set], true};
    return count;
}

static void print_overlap(const Report *report)
{
    const Simulation *simulation = report->simulation;
    double whole_s = html_whole_s(report);
    double computing_s = simulation->last->stream_busy_s[STREAM_COMPUTE];
    double alone_s = fmax(0, computing_s - simulation->last->hidden_s);
    double busy_s = alone_s + simulation->last->hidden_s + simulation->last->exposed_s;
    double idle_s = fmax(0, simulation->iteration_s - busy_s);
    if (idle_s < 1e-9 * whole_s)
        idle_s = 0;
    TimePart parts[PARTS_MAX] = {{"l", "computation alone", alone_s, false},
                                 {"both", "communication hidden behind computation", simulation->last->hidden_s, false},
                                 {NULL, "communication exposed", simulation->last->exposed_s, false}};
    uint32_t count = add_exposed_parts(report, parts, 3);
    parts[count++] = (TimePart){"idle", "neither", idle_s, false};
    text_append(report->out, "<div class=\"whole bar\">");
    for (uint32_t i = 0; i < count; i++)
        if (parts[i].part_s > 0 && parts[i].key)
            text_format(report->out, "<i class=\"%s\" style=\"width:%.2f%%\"></i>", parts[i].key,
                        100 * parts[i].part_s / whole_s);
    text_append(report->out, "</div>\n<div class=\"columns\">\n<div>\n<table>\n<thead><tr><th>the iteration</th>"
                             "<th class=\"n\">time</th><th class=\"n\">share</th></tr></thead>\n<tbody>\n");
    for (uint32_t i = 0; i < count; i++)
        if (parts[i].part_s > 0)
            print_part(report, &parts[i]);
    text_append(report->out, "</tbody></table>\n");
}

// ---- busy shares -----------------------------------------------------------------------------

static void print_busy(const Report *report, const char *kind, const char *name, const char *detail, const char *key,
                       double busy_s)
{
    char value[FORMAT_MAX];
    double share = 100 * busy_s / html_whole_s(report);
    text_format(report->out, "<tr><th scope=\"row\">%s ", kind);
    html_escape(report->out, name);
    text_format(report->out,
                "</th><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%.1f %%</td>"
                "<td class=\"bar\"><i class=\"%s\" style=\"width:%.1f%%\"></i></td></tr>\n",
                detail, format_time(value, busy_s), share, key, fmin(100, share));
}

static void print_busy_shares(const Report *report)
{
    static const char *const keys[STREAM_COUNT] = {
        [STREAM_COMPUTE] = "l", [STREAM_EXCHANGE] = "e",      [STREAM_MIGRATE] = "g",
        [STREAM_SYNC] = "s",    [STREAM_MIGRATE_OUTER] = "g", [STREAM_SYNC_OUTER] = "s"};
    const Cluster *cluster = &report->plan->cluster;
    char bandwidth[FORMAT_MAX];
    text_append(report->out, "<table>\n<thead><tr><th>busy</th><th class=\"n\">bandwidth</th><th class=\"n\">time</th>"
                             "<th class=\"n\">share</th><th></th></tr></thead>\n<tbody>\n");
    for (int s = 0; s < STREAM_COUNT; s++)
        if (report->simulation->last->stream_busy_s[s] > 0)
            print_busy(report, "stream", stream_name((Stream)s), "", keys[s],
                       report->simulation->last->stream_busy_s[s]);
    for (uint32_t l = 0; l < cluster->level_count; l++)
        print_busy(report, "port", cluster->levels[l].name, format_bandwidth(bandwidth, html_port_bandwidth(report, l)),
                   "port", report->simulation->last->port_busy_s[l]);
    text_append(report->out, "</tbody></table>\n");
}

// ---- critical path ---------------------------------------------------------------------------

static void print_critical_path(const Report *report)
{
    const Plan *plan = report->plan;
    PathStep *path;
    PathPart *parts;
    uint32_t length = critical_path(plan, report->simulation, report->arena, &path);
    uint32_t count = critical_path_parts(plan, path, length, report->arena, &parts);
    text_append(report->out, "<table>\n<thead><tr><th>critical path</th><th class=\"n\">steps</th><th class=\"n\">time"
                             "</th><th class=\"n\">share</th></tr></thead>\n<tbody>\n");
    char value[FORMAT_MAX];
    PathPart rest = {0};
    for (uint32_t i = 0; i < count; i++) {
        if (parts[i].time_s < PATH_SHARE_MIN * html_whole_s(report)) {
            rest.steps += parts[i].steps;
            rest.time_s += parts[i].time_s;
            continue;
        }
        text_format(report->out, "<tr><th scope=\"row\">%s ", parts[i].info->name);
        if (parts[i].level != NONE)
            html_escape(report->out, plan->cluster.levels[parts[i].level].name);
        text_format(report->out,
                    "</th><td class=\"n\">%u</td><td class=\"n\">%s</td><td class=\"n\">%.1f %%</td></tr>\n",
                    parts[i].steps, format_time(value, parts[i].time_s), 100 * parts[i].time_s / html_whole_s(report));
    }
    if (rest.steps)
        text_format(report->out,
                    "<tr><th scope=\"row\">others</th><td class=\"n\">%u</td><td class=\"n\">%s</td>"
                    "<td class=\"n\">%.1f %%</td></tr>\n",
                    rest.steps, format_time(value, rest.time_s), 100 * rest.time_s / html_whole_s(report));
    text_append(report->out, "</tbody></table>\n</div>\n");
}

// ---- workers that differ ---------------------------------------------------------------------

static void print_share(const Report *report, double part_s)
{
    text_format(report->out, "<td class=\"n\">%.1f %%</td>", 100 * part_s / html_whole_s(report));
}

static void print_class(const Report *report, uint32_t index)
{
    const SimulatedClass *class = &report->simulation->classes[index];
    char end[FORMAT_MAX], exposed[FORMAT_MAX], hidden[FORMAT_MAX];
    text_format(report->out, "<tr%s><th scope=\"row\">", class == report->simulation->last ? " class=\"chosen\"" : "");
    html_escape(report->out, simulation_class_name(report->plan, report->simulation, index, report->arena));
    text_format(report->out, "</th><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td>",
                format_time(end, class->end_s), format_time(exposed, class->exposed_s),
                format_time(hidden, class->hidden_s));
    for (int s = 0; s < STREAM_COUNT; s++)
        if (report->simulation->last->stream_busy_s[s] > 0)
            print_share(report, class->stream_busy_s[s]);
    print_share(report, class->port_busy_s[0]);
    text_append(report->out, "</tr>\n");
}

static void print_classes(const Report *report)
{
    const Simulation *simulation = report->simulation;
    text_append(report->out, "<h3>Workers that differ</h3>\n<div class=\"scroll\"><table class=\"stack\">\n"
                             "<thead><tr><th>workers</th><th class=\"n\">end"
                             "</th><th class=\"n\">exposed</th><th class=\"n\">hidden</th>");
    for (int s = 0; s < STREAM_COUNT; s++)
        if (simulation->last->stream_busy_s[s] > 0)
            text_format(report->out, "<th class=\"n\">%s<br>busy</th>", stream_name((Stream)s));
    text_append(report->out, "<th class=\"n\">own port<br>busy</th></tr></thead>\n<tbody>\n");
    for (uint32_t c = 0; c < simulation->class_count && c < CLASSES_SHOWN; c++)
        print_class(report, c);
    if (simulation->class_count > CLASSES_SHOWN)
        text_format(report->out, "<tr><td colspan=\"99\">and %u more kinds</td></tr>\n",
                    simulation->class_count - CLASSES_SHOWN);
    text_append(report->out, "</tbody></table></div>\n");
}

void html_time_print(const Report *report)
{
    text_append(report->out, "<section>\n<h2>Where the time goes</h2>\n");
    print_overlap(report);
    print_critical_path(report);
    print_busy_shares(report);
    text_append(report->out, "</div>\n");
    if (report->simulation->class_of)
        print_classes(report);
    text_append(report->out, "<p class=\"note\">Of the simulated iteration. Communication is exposed while no "
                             "computation runs beside it; what is listed below it was under way then. A stream is busy "
                             "while one of its steps is under way. A port is busy for as long as its bytes would take "
                             "at full rate. The critical path is the chain of steps that each waited for the one "
                             "before.");
    if (report->simulation->class_of)
        text_append(report->out, " The other tables and the bar are of the worker that ends last.");
    text_append(report->out, "</p>\n</section>\n");
}
