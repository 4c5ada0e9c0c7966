// The cluster of the report: per choice of domains levels as nested boxes, GPUs coloured by domain, and
// what crosses each level. Clusters of more than GPUS_DRAWN GPUs are drawn in part.
#include "backends/html_parts.h"
#include "ir/plan_facts.h"

enum { GPUS_DRAWN = 64, WORKERS_DRAWN = 8, DOMAIN_COLOURS = 8, CHOICES_DRAWN = 4 };

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
    text_append(diagram->out, " ");
    html_worker_print(diagram->plan, coordinates[0], diagram->out);
    for (uint32_t l = 1; l < cluster->level_count; l++) {
        text_append(diagram->out, ", ");
        html_escape(diagram->out, cluster->levels[l].name);
        text_format(diagram->out, " %u", coordinates[l]);
    }
    text_format(diagram->out, "; domain %llu\">%llu</i>", domain, domain);
}

static void print_workers(const Diagram *diagram, uint32_t level, uint32_t coordinates[LEVELS_MAX])
{
    const Cluster *cluster = &diagram->plan->cluster;
    bool innermost = level + 1 == cluster->level_count;
    for (coordinates[level] = 0; coordinates[level] < diagram->shown[level]; coordinates[level]++) {
        if (innermost) {
            print_gpu(diagram, coordinates);
            continue;
        }
        text_append(diagram->out, "<div class=\"box\"><h3>");
        if (level == 0) {
            html_worker_print(diagram->plan, coordinates[0], diagram->out);
        } else {
            html_escape(diagram->out, cluster->levels[level].name);
            text_format(diagram->out, " %u", coordinates[level]);
        }
        text_append(diagram->out, "</h3><div class=\"inside\">");
        print_workers(diagram, level + 1, coordinates);
        text_append(diagram->out, "</div></div>\n");
    }
    if (diagram->shown[level] < cluster->levels[level].count)
        text_format(diagram->out, "<span class=\"more\">+ %u more</span>",
                    cluster->levels[level].count - diagram->shown[level]);
}

// Every layer with this choice: "layers 0 to 5, layers 8 to 9".
static void print_layers_of(const Plan *plan, const Choice *choice, Text *out)
{
    bool any = false;
    for (uint32_t i = 0; i < plan->choice_count; i = plan_choice_run_end(plan, i)) {
        if (!choices_equal(&plan->choices[i], choice))
            continue;
        text_append(out, any ? ", " : "");
        html_layers_print(plan, i, out);
        any = true;
    }
}

static void print_diagram(const Report *report, const Choice *choice)
{
    const Plan *plan = report->plan;
    Text *out = report->out;
    Diagram diagram = {.plan = plan, .choice = choice, .out = out};
    choose_shown(&diagram);
    uint32_t coordinates[LEVELS_MAX] = {0};
    char domain[DOMAIN_TEXT_MAX];
    text_append(out, "<figure><figcaption>Domains of <b>");
    html_escape(out, plan_format_domain(plan, choice->domain, domain, sizeof(domain)));
    text_append(out, "</b> in MoE ");
    print_layers_of(plan, choice, out);
    if (plan->pass == PASS_TRAINING && plan_gathers(plan, choice)) {
        char returned[DOMAIN_TEXT_MAX];
        text_format(
            out, "; for the backward pass gathered experts are %s%s",
            plan_format_gathered(plan, choice->regather, choice->once, domain, sizeof(domain)),
            plan_format_returned(plan, choice->returns_apart, choice->once_gradient, returned, sizeof(returned)));
    }
    text_append(out, "</figcaption>\n<div class=\"cluster\">");
    html_links_print(report, choice);
    text_append(out, "<div class=\"inside\">\n");
    print_workers(&diagram, 0, coordinates);
    text_append(out, "</div></div></figure>\n");
}

static void print_diagrams(const Report *report)
{
    const Plan *plan = report->plan;
    const Choice *drawn[CHOICES_DRAWN];
    uint32_t count = 0;
    bool more = false;
    for (uint32_t i = 0; i < plan->choice_count; i = plan_choice_run_end(plan, i)) {
        uint32_t at = 0;
        while (at < count && !choices_equal(drawn[at], &plan->choices[i]))
            at++;
        if (at < count)
            continue;
        more = count == CHOICES_DRAWN;
        if (more)
            break;
        drawn[count++] = &plan->choices[i];
        print_diagram(report, &plan->choices[i]);
    }
    text_append(report->out, "<p class=\"note\">GPUs with the same number and colour form a domain: they gather each "
                             "other's experts, and tokens travel between domains.");
    if (html_links_drawn(plan))
        text_append(report->out,
                    " The wider a line, the more its two workers send each other in these layers. Numbers in "
                    "circles are domains of the outermost level alone.");
    if (more)
        text_append(report->out, " Other layers have further choices, which are not drawn.");
    if (plan->replica_levels)
        text_format(report->out, " Every %s holds %s: tokens stay within it.",
                    plan->cluster.levels[plan->replica_levels - 1].name,
                    plan->sync.every > 0 ? "all weights and trains apart" : "copies of all experts");
    text_append(report->out, "</p>\n");
    html_links_legend_print(report);
}

static void print_traffic_bar(const Plan *plan, const Traffic *traffic, double most, Text *out)
{
    text_append(out, "<td class=\"bar\">");
    for (size_t kind = 0; kind < traffic_kind_count(plan); kind++)
        if (traffic_of_kind(traffic, kind) > 0)
            text_format(out, "<i class=\"%c\" style=\"width:%.1f%%\"></i>", traffic_kinds[kind].mark,
                        most > 0 ? 100 * traffic_of_kind(traffic, kind) / most : 0);
    text_append(out, "</td>");
}

static void print_level(const Plan *plan, uint32_t level, double most, Text *out)
{
    const Level *info = &plan->cluster.levels[level];
    const Traffic *traffic = &plan->strategies[0].traffic[level];
    char value[FORMAT_MAX], latency[FORMAT_MAX];
    text_append(out, "<tr><th scope=\"row\">");
    html_escape(out, info->name);
    text_format(out, "</th><td class=\"n\">%u</td>", info->count);
    if (level == 0 && plan->cluster.port_count)
        text_append(out, "<td class=\"n\">listed below</td>");
    else
        text_format(out, "<td class=\"n\">%s<br>%s</td>", format_bandwidth(value, info->bandwidth_bytes_per_s),
                    format_time(latency, info->latency_s));
    for (size_t kind = 0; kind < traffic_kind_count(plan); kind++)
        text_format(out, "<td class=\"n\">%s</td>", format_bytes(value, traffic_of_kind(traffic, kind)));
    text_format(out, "<td class=\"n\">%s</td>", format_bytes(value, plan_port_bytes(plan, level)));
    print_traffic_bar(plan, traffic, most, out);
    text_append(out, "</tr>\n");
}

// The swatch stays beside the first word, where a narrow column has to break the title.
static void print_traffic_head(const TrafficKind *kind, Text *out)
{
    int first = (int)strcspn(kind->title, " ");
    text_format(out, "<th class=\"n\"><span class=\"keyed\"><i class=\"key %c\"></i>%.*s</span>%s<br>sent/GPU</th>",
                kind->mark, first, kind->title, kind->title + first);
}

void html_cluster_print(const Report *report)
{
    const Plan *plan = report->plan;
    Text *out = report->out;
    text_append(out, "<section>\n<h2>Cluster and traffic</h2>\n");
    if (plan->choice_count > 0)
        print_diagrams(report);
    text_append(out,
                "<div class=\"scroll\"><table class=\"stack\">\n<thead><tr><th>level</th><th class=\"n\">workers</th>"
                "<th class=\"n\">bandwidth and<br>latency of a port</th>");
    for (size_t kind = 0; kind < traffic_kind_count(plan); kind++)
        print_traffic_head(&traffic_kinds[kind], out);
    text_append(out, "<th class=\"n\">sent through<br>a port</th><th>sent/GPU, by kind</th></tr></thead>\n<tbody>\n");
    double most = 0;
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->strategy_count > 0; l++) {
        double total = traffic_total(&plan->strategies[0].traffic[l]);
        most = total > most ? total : most;
    }
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->strategy_count > 0; l++)
        print_level(plan, l, most, out);
    text_append(out, "</tbody></table></div>\n");
    html_ports_print(report);
    text_append(out, "</section>\n");
}
