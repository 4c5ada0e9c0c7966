// The links between workers of the outermost level: drawn with what crosses them, and listed by name where
// they differ. Bytes are what the plan expects, the same both ways.
#include <math.h>

#include "backends/html_parts.h"
#include "ir/plan_facts.h"

enum { WORKERS_DRAWN = 16, PORTS_LISTED = 64, RADIUS = 20, LINE_MAX = 12, WIDTH = 420, MARGIN = 58 };

typedef struct {
    double x, y;
} Point;

static Point place(uint32_t position, uint32_t count, int height)
{
    // From the top clockwise; two stand side by side, four in the corners.
    double first = count == 2 ? 1.5 : count == 4 ? 0.5 : 0;
    double angle = 2 * acos(-1) * (position + first) / count;
    return (Point){WIDTH / 2.0 + (WIDTH / 2.0 - MARGIN - RADIUS) * sin(angle),
                   height / 2.0 - (height / 2.0 - RADIUS - 22) * cos(angle)};
}

static bool are_peers(const Group *group, uint32_t a, uint32_t b)
{
    if (group->kind == GROUP_GATHER)
        return a / group->domain == b / group->domain;
    return group->kind != GROUP_EXCHANGE || a % group->domain == b % group->domain;
}

enum { SHAPES = SHAPE_REDUCE + 1 };

// Bytes that a worker sends to each of its peers in one iteration.
typedef struct {
    double bytes[SHAPES];
} PeerBytes;

// By group, in the layers of the choice; NULL: in all.
static const PeerBytes *peer_bytes(const Report *report, const Choice *choice)
{
    const Plan *plan = report->plan;
    PeerBytes *sums = arena_alloc_array(report->arena, (uint64_t)plan->group_count + 1, sizeof(*sums));
    bool *counts = arena_alloc_array(report->arena, plan->model.layers, sizeof(*counts));
    for (uint32_t i = 0; i < plan->choice_count && choice; i++)
        counts[plan->choices[i].layer] = choices_equal(&plan->choices[i], choice);
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        if (step->group == NONE || step->level > 0 || (choice && (step->layer == NONE || !counts[step->layer])))
            continue;
        const Group *group = &plan->groups[step->group];
        double workers =
            group->kind == GROUP_WORLD ? plan->cluster.levels[0].count : (double)group_size(&plan->cluster, group);
        if (workers > 1)
            sums[step->group].bytes[op_info((int)step->op)->shape] +=
                step->bytes * (double)cluster_gpus_below(&plan->cluster, 0) / (workers - 1);
    }
    return sums;
}

// From position a to position b, by shape of op.
static PeerBytes pair_bytes(const Plan *plan, const PeerBytes *sums, uint32_t a, uint32_t b)
{
    PeerBytes pair = {{0}};
    for (uint32_t g = 0; g < plan->group_count; g++)
        for (int shape = 0; shape < SHAPES && are_peers(&plan->groups[g], a, b); shape++)
            pair.bytes[shape] += sums[g].bytes[shape];
    return pair;
}

static double total_bytes(const PeerBytes *pair)
{
    return pair->bytes[SHAPE_EXCHANGE] + pair->bytes[SHAPE_GATHER] + pair->bytes[SHAPE_SCATTER] +
           pair->bytes[SHAPE_REDUCE];
}

// ---- the path between two --------------------------------------------------------------------

typedef struct {
    double bandwidth_bytes_per_s, latency_s;
} Way;

static Way way_between(const Cluster *cluster, uint32_t a, uint32_t b)
{
    if (cluster->port_count == 0)
        return (Way){cluster->levels[0].bandwidth_bytes_per_s, cluster->levels[0].latency_s};
    const WorkerPort *from = &cluster->ports[a], *to = &cluster->ports[b];
    Way way = {fmin(from->bandwidth_bytes_per_s, to->bandwidth_bytes_per_s), fmax(from->latency_s, to->latency_s)};
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        const WorkerLink *link = &cluster->links[i];
        if ((link->a == a && link->b == b) || (link->a == b && link->b == a)) {
            way.bandwidth_bytes_per_s = fmin(way.bandwidth_bytes_per_s, link->bandwidth_bytes_per_s);
            way.latency_s = link->latency_s;
        }
    }
    return way;
}

// ---- the drawing -----------------------------------------------------------------------------

static const struct {
    OpShape shape;
    const char *key, *name;
} kinds[] = {{SHAPE_EXCHANGE, "e", "tokens"},
             {SHAPE_GATHER, "g", "experts"},
             {SHAPE_SCATTER, "s", "gradients returned"},
             {SHAPE_REDUCE, "r", "gradients summed"}};

// Kinds side by side, as wide as their share of the most that any pair sends.
static void print_line(const Report *report, Point a, Point b, const PeerBytes *pair, double most)
{
    double length = hypot(b.x - a.x, b.y - a.y), total = 0, done = 0;
    Point across = {-(b.y - a.y) / length, (b.x - a.x) / length};
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        total += LINE_MAX * pair->bytes[kinds[k].shape] / most;
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        double width = LINE_MAX * pair->bytes[kinds[k].shape] / most, shift = done + width / 2 - total / 2;
        if (width > 0)
            text_format(report->out, "<path class=\"%s\" d=\"M%.1f %.1fL%.1f %.1f\" stroke-width=\"%.2f\"/>",
                        kinds[k].key, a.x + shift * across.x, a.y + shift * across.y, b.x + shift * across.x,
                        b.y + shift * across.y, fmax(width, 0.7));
        done += width;
    }
}

static void print_pair(const Report *report, const PeerBytes *pair, uint32_t a, uint32_t b, double most, int height)
{
    const Plan *plan = report->plan;
    Way way = way_between(&plan->cluster, a, b);
    char value[FORMAT_MAX], latency[FORMAT_MAX];
    uint32_t count = plan->cluster.levels[0].count;
    text_append(report->out, "<g><title>");
    html_worker_print(plan, a, report->out);
    text_append(report->out, " – ");
    html_worker_print(plan, b, report->out);
    text_format(report->out, "\n%s, %s", format_bandwidth(value, way.bandwidth_bytes_per_s),
                format_time(latency, way.latency_s));
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        if (pair->bytes[kinds[k].shape] > 0)
            text_format(report->out, "\n%s each way: %s", kinds[k].name,
                        format_bytes(value, pair->bytes[kinds[k].shape]));
    text_append(report->out, "</title>");
    print_line(report, place(a, count, height), place(b, count, height), pair, most);
    text_append(report->out, "</g>\n");
}

static void print_worker(const Report *report, const Choice *choice, uint32_t position, int height)
{
    const Plan *plan = report->plan;
    uint32_t count = plan->cluster.levels[0].count, size = plan->replica_levels ? 1 : choice->domain[0];
    Point at = place(position, count, height);
    bool below = at.y >= height / 2.0 - 1;
    text_format(report->out,
                "<circle class=\"d%u\" cx=\"%.1f\" cy=\"%.1f\" r=\"%d\"/><text class=\"in\" x=\"%.1f\" y=\"%.1f\">%u"
                "</text><text x=\"%.1f\" y=\"%.1f\">",
                position / size % 8, at.x, at.y, RADIUS, at.x, at.y + 4, position / size, at.x,
                at.y + (below ? RADIUS + 14 : -RADIUS - 6));
    html_worker_print(plan, position, report->out);
    text_append(report->out, "</text>\n");
}

bool html_links_drawn(const Plan *plan)
{
    return plan->cluster.levels[0].count >= 2 && plan->cluster.levels[0].count <= WORKERS_DRAWN;
}

void html_links_print(const Report *report, const Choice *choice)
{
    const Plan *plan = report->plan;
    uint32_t count = plan->cluster.levels[0].count;
    if (!html_links_drawn(plan))
        return;
    const PeerBytes *sums = peer_bytes(report, choice);
    double most = 0;
    for (uint32_t a = 0; a < count; a++)
        for (uint32_t b = a + 1; b < count; b++) {
            PeerBytes pair = pair_bytes(plan, sums, a, b);
            most = fmax(most, total_bytes(&pair));
        }
    int height = count == 2 ? 120 : count <= 4 ? 240 : 330;
    text_format(report->out,
                "<svg class=\"links\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" "
                "aria-label=\"Traffic between workers\">\n",
                WIDTH, height, WIDTH, height);
    for (uint32_t a = 0; a < count && most > 0; a++)
        for (uint32_t b = a + 1; b < count; b++) {
            PeerBytes pair = pair_bytes(plan, sums, a, b);
            print_pair(report, &pair, a, b, most, height);
        }
    for (uint32_t w = 0; w < count; w++)
        print_worker(report, choice, w, height);
    text_append(report->out, "</svg>\n");
}

void html_links_legend_print(const Report *report)
{
    const PeerBytes *sums = peer_bytes(report, NULL);
    if (!html_links_drawn(report->plan))
        return;
    text_append(report->out, "<p class=\"legend\">Lines: ");
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        double bytes = 0;
        for (uint32_t g = 0; g < report->plan->group_count; g++)
            bytes += sums[g].bytes[kinds[k].shape];
        if (bytes > 0)
            text_format(report->out, "<span><i class=\"key %s\"></i>%s</span> ", kinds[k].key, kinds[k].name);
    }
    text_append(report->out, "</p>\n");
}

// ---- names, ports and links ------------------------------------------------------------------

static void print_cell(const Report *report, const PeerBytes *sums, uint32_t a, uint32_t b)
{
    PeerBytes pair = pair_bytes(report->plan, sums, a, b);
    Way way = way_between(&report->plan->cluster, a, b);
    double sent = total_bytes(&pair), share = sent / way.bandwidth_bytes_per_s / html_whole_s(report);
    char value[FORMAT_MAX], latency[FORMAT_MAX];
    text_format(report->out, "<td class=\"n\" style=\"--share:%.0f%%\">%s", 100 * fmin(1, share),
                format_bandwidth(value, way.bandwidth_bytes_per_s));
    text_format(report->out, "<br><small>%s</small>", format_time(latency, way.latency_s));
    text_format(report->out, "<br>%s", format_bytes(value, sent));
    text_format(report->out, "<br><b>%.0f %%</b></td>", 100 * share);
}

static void print_port_row(const Report *report, const PeerBytes *sums, uint32_t a)
{
    const WorkerPort *port = &report->plan->cluster.ports[a];
    uint32_t count = report->plan->cluster.port_count;
    char value[FORMAT_MAX], latency[FORMAT_MAX];
    double sent = plan_port_bytes(report->plan, 0);
    text_append(report->out, "<tr><th scope=\"row\">");
    html_escape(report->out, port->name);
    text_format(report->out, "</th><td class=\"n own\">%s<br><small>%s</small>",
                format_bandwidth(value, port->bandwidth_bytes_per_s), format_time(latency, port->latency_s));
    text_format(report->out, "<br>%s<br><b>%.0f %%</b></td>", format_bytes(value, sent),
                100 * sent / port->bandwidth_bytes_per_s / html_whole_s(report));
    for (uint32_t b = 0; b < count; b++) {
        if (b == a)
            text_append(report->out, "<td></td>");
        else
            print_cell(report, sums, a, b);
    }
    text_append(report->out, "</tr>\n");
}

// Where they are too many for a table from each to each.
static void print_ports_alone(const Report *report)
{
    const Cluster *cluster = &report->plan->cluster;
    double sent = plan_port_bytes(report->plan, 0);
    text_append(report->out, "<div class=\"scroll\"><table class=\"stack\">\n<thead><tr><th>worker</th>"
                             "<th class=\"n\">bandwidth</th>"
                             "<th class=\"n\">latency</th><th class=\"n\">sends</th><th class=\"n\">busy</th>"
                             "<th></th></tr></thead>\n<tbody>\n");
    for (uint32_t w = 0; w < cluster->port_count && w < PORTS_LISTED; w++) {
        const WorkerPort *port = &cluster->ports[w];
        double share = 100 * sent / port->bandwidth_bytes_per_s / html_whole_s(report);
        char bandwidth[FORMAT_MAX], latency[FORMAT_MAX], bytes[FORMAT_MAX];
        text_append(report->out, "<tr><th scope=\"row\">");
        html_escape(report->out, port->name);
        text_format(report->out,
                    "</th><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%.0f "
                    "%%</td><td class=\"bar\"><i style=\"width:%.0f%%\"></i></td></tr>\n",
                    format_bandwidth(bandwidth, port->bandwidth_bytes_per_s), format_time(latency, port->latency_s),
                    format_bytes(bytes, sent), share, fmin(100, share));
    }
    if (cluster->port_count > PORTS_LISTED)
        text_format(report->out, "<tr><td colspan=\"6\">and %u more</td></tr>\n", cluster->port_count - PORTS_LISTED);
    text_append(report->out, "</tbody></table></div>\n");
}

static void print_matrix(const Report *report)
{
    const Cluster *cluster = &report->plan->cluster;
    const PeerBytes *sums = peer_bytes(report, NULL);
    text_append(report->out, "<div class=\"scroll\"><table class=\"matrix stack\">\n<thead><tr><th>from</th>"
                             "<th class=\"n\">its port</th>");
    for (uint32_t b = 0; b < cluster->port_count; b++) {
        text_append(report->out, "<th class=\"n\">to ");
        html_escape(report->out, cluster->ports[b].name);
        text_append(report->out, "</th>");
    }
    text_append(report->out, "</tr></thead>\n<tbody>\n");
    for (uint32_t a = 0; a < cluster->port_count; a++)
        print_port_row(report, sums, a);
    text_append(report->out, "</tbody></table></div>\n<p class=\"note\">In each direction, from top to bottom: the "
                             "bandwidth that ports and link allow, the latency, the bytes of one iteration, and "
                             "the share of the simulated iteration that these take at that bandwidth.</p>\n");
}

void html_ports_print(const Report *report)
{
    const Cluster *cluster = &report->plan->cluster;
    if (!cluster->port_count)
        return;
    text_append(report->out, "<h3>Ports and links of ");
    html_escape(report->out, cluster->levels[0].name);
    text_append(report->out, "</h3>\n");
    (cluster->port_count > WORKERS_DRAWN ? print_ports_alone : print_matrix)(report);
}
