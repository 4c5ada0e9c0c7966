// The cluster of the report: levels as nested boxes, GPUs coloured by domain, and what crosses each
// level. Clusters of more than GPUS_DRAWN GPUs are drawn in part.
#include "backends/html_parts.h"
#include "backends/plan_facts.h"

enum { GPUS_DRAWN = 64, WORKERS_DRAWN = 8, DOMAIN_COLOURS = 8 };

typedef struct {
    const Plan *plan;
    const Choice *choice;
    uint32_t shown[LEVELS_MAX]; // workers drawn of each level
    Text *out;
} Diagram;

static void choose_shown(Diagram *diagram)
{
    const Cluster *cluster = &diagram->plan->cluster;
    bool all = cluster_gpus(cluster) <= GPUS_DRAWN;
    for (uint32_t l = 0; l < cluster->level_count; l++)
        diagram->shown[l] = all || cluster->levels[l].count < WORKERS_DRAWN ? cluster->levels[l].count : WORKERS_DRAWN;
    for (;;) {
        uint64_t drawn = 1;
        uint32_t most = 0;
        for (uint32_t l = 0; l < cluster->level_count; l++) {
            drawn *= diagram->shown[l];
            most = diagram->shown[l] >= diagram->shown[most] ? l : most;
        }
        if (drawn <= GPUS_DRAWN)
            return;
        diagram->shown[most] = (diagram->shown[most] + 1) / 2;
    }
}

// Where experts are replicated nothing is gathered: each worker is a domain of its own.
static uint32_t domain_size(const Diagram *diagram, uint32_t level)
{
    return level < diagram->plan->replica_levels ? 1 : diagram->choice->domain[level];
}

static uint64_t domain_index(const Diagram *diagram, const uint32_t coordinates[LEVELS_MAX])
{
    uint64_t index = 0;
    for (uint32_t l = 0; l < diagram->plan->cluster.level_count; l++) {
        uint32_t size = domain_size(diagram, l);
        index = index * (diagram->plan->cluster.levels[l].count / size) + coordinates[l] / size;
    }
    return index;
}

static void print_gpu(const Diagram *diagram, const uint32_t coordinates[LEVELS_MAX])
{
    const Cluster *cluster = &diagram->plan->cluster;
    unsigned long long domain = domain_index(diagram, coordinates);
    text_format(diagram->out, "<i class=\"gpu d%llu\" title=\"rank %llu:", domain % DOMAIN_COLOURS,
                (unsigned long long)cluster_rank(cluster, coordinates));
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        text_append(diagram->out, l ? ", " : " ");
        html_escape(diagram->out, cluster->levels[l].name);
        text_format(diagram->out, " %u", coordinates[l]);
    }
    text_format(diagram->out, "; domain %llu\">%llu</i>", domain, domain);
}

static void print_workers(const Diagram *diagram, uint32_t level, uint32_t coordinates[LEVELS_MAX])
{
    const Cluster *cluster = &diagram->plan->cluster;
    bool innermost = level + 1 == cluster->level_count;
    char value[FORMAT_MAX];
    for (coordinates[level] = 0; coordinates[level] < diagram->shown[level]; coordinates[level]++) {
        if (innermost) {
            print_gpu(diagram, coordinates);
            continue;
        }
        text_append(diagram->out, "<div class=\"box\"><h3>");
        html_escape(diagram->out, cluster->levels[level].name);
        text_format(diagram->out, " %u <small>sends %s</small></h3><div class=\"inside\">", coordinates[level],
                    format_bytes(value, plan_port_bytes(diagram->plan, level)));
        print_workers(diagram, level + 1, coordinates);
        text_append(diagram->out, "</div></div>\n");
    }
    if (diagram->shown[level] < cluster->levels[level].count)
        text_format(diagram->out, "<span class=\"more\">+ %u more</span>",
                    cluster->levels[level].count - diagram->shown[level]);
}

static void print_diagram(const Plan *plan, Text *out)
{
    Diagram diagram = {.plan = plan, .choice = &plan->choices[0], .out = out};
    choose_shown(&diagram);
    uint32_t coordinates[LEVELS_MAX] = {0};
    text_append(out, "<div class=\"cluster\"><div class=\"box\"><h3>");
    html_escape(out, plan->cluster.name);
    text_append(out, "</h3><div class=\"inside\">\n");
    print_workers(&diagram, 0, coordinates);
    text_append(out, "</div></div></div>\n");
    text_append(out, "<p class=\"note\">GPUs with the same number and colour form a domain, drawn for ");
    html_layers_print(plan, 0, out);
    text_append(out,
                ": they gather each other's experts, and tokens travel between domains. A box sends what is written in "
                "it through its port in one iteration.");
    if (plan->replica_levels)
        text_format(out, " Experts are replicated over the %u outermost level(s): tokens stay within their copy.",
                    plan->replica_levels);
    text_append(out, "</p>\n");
}

static void print_traffic_bar(const Traffic *traffic, double most, Text *out)
{
    const double kinds[] = {traffic->exchange_bytes, traffic->routing_bytes, traffic->gather_bytes,
                            traffic->reduce_bytes};
    static const char classes[] = {'e', 'q', 'g', 'r'};
    text_append(out, "<td class=\"bar\">");
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        if (kinds[k] > 0)
            text_format(out, "<i class=\"%c\" style=\"width:%.1f%%\"></i>", classes[k],
                        most > 0 ? 100 * kinds[k] / most : 0);
    text_append(out, "</td>");
}

static void print_level(const Plan *plan, uint32_t level, double most, Text *out)
{
    const Level *info = &plan->cluster.levels[level];
    const Traffic *traffic = &plan->strategies[0].traffic[level];
    const double kinds[] = {traffic->exchange_bytes, traffic->routing_bytes, traffic->gather_bytes,
                            traffic->reduce_bytes, plan_port_bytes(plan, level)};
    char value[FORMAT_MAX], latency[FORMAT_MAX];
    text_append(out, "<tr><th scope=\"row\">");
    html_escape(out, info->name);
    text_format(out, "</th><td class=\"n\">%u</td><td class=\"n\">%s<br>%s</td>", info->count,
                format_bandwidth(value, info->bandwidth_bytes_per_s), format_time(latency, info->latency_s));
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        text_format(out, "<td class=\"n\">%s</td>", format_bytes(value, kinds[k]));
    print_traffic_bar(traffic, most, out);
    text_append(out, "</tr>\n");
}

void html_cluster_print(const Plan *plan, Text *out)
{
    text_append(out, "<section>\n<h2>Cluster and traffic</h2>\n");
    if (plan->choice_count > 0)
        print_diagram(plan, out);
    text_append(
        out,
        "<div class=\"scroll\"><table>\n<thead><tr><th>level</th><th class=\"n\">workers</th><th class=\"n\">port</th>"
        "<th class=\"n\"><i class=\"key e\"></i>tokens<br>sent/GPU</th>"
        "<th class=\"n\"><i class=\"key q\"></i>routing<br>sent/GPU</th>"
        "<th class=\"n\"><i class=\"key g\"></i>experts<br>sent/GPU</th>"
        "<th class=\"n\"><i class=\"key r\"></i>gradients<br>sent/GPU</th>"
        "<th class=\"n\">through<br>a port</th><th>sent over the level</th></tr></thead>\n<tbody>\n");
    double most = 0;
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->strategy_count > 0; l++) {
        double total = traffic_total(&plan->strategies[0].traffic[l]);
        most = total > most ? total : most;
    }
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->strategy_count > 0; l++)
        print_level(plan, l, most, out);
    text_append(out, "</tbody></table></div>\n</section>\n");
}
