// See html.h. This file writes the page's frame and its first lines; html_*.c write a section each.
#include "backends/html.h"

#include <stdio.h>
#include <string.h>

#include "backends/html_parts.h"
#include "ir/plan_facts.h"

void html_escape(Text *out, const char *text)
{
    for (; *text; text++) {
        const char *entity = *text == '&'    ? "&amp;"
                             : *text == '<'  ? "&lt;"
                             : *text == '>'  ? "&gt;"
                             : *text == '"'  ? "&quot;"
                             : *text == '\'' ? "&#39;"
                                             : NULL;
        if (entity)
            text_append(out, entity);
        else
            text_append_bytes(out, text, 1);
    }
}

void html_layers_print(const Plan *plan, uint32_t first, Text *out)
{
    uint32_t from = plan->choices[first].layer, to = plan->choices[plan_choice_run_end(plan, first) - 1].layer;
    if (from == to)
        text_format(out, "layer %u", from);
    else
        text_format(out, "layers %u to %u", from, to);
}

void html_worker_print(const Plan *plan, uint32_t position, Text *out)
{
    if (position < plan->cluster.port_count) {
        html_escape(out, plan->cluster.ports[position].name);
        return;
    }
    html_escape(out, plan->cluster.levels[0].name);
    text_format(out, " %u", position);
}

bool choices_equal(const Choice *a, const Choice *b)
{
    return a->regather == b->regather && memcmp(a->domain, b->domain, sizeof a->domain) == 0;
}

double html_port_bandwidth(const Report *report, uint32_t level)
{
    const Cluster *cluster = &report->plan->cluster;
    if (level > 0)
        return cluster->levels[level].bandwidth_bytes_per_s;
    if (!report->simulation->class_of)
        return cluster_slowest_port(cluster);
    return cluster->ports[report->simulation->last->first_worker].bandwidth_bytes_per_s;
}

double html_whole_s(const Report *report)
{
    return report->simulation->iteration_s > 0 ? report->simulation->iteration_s : 1;
}

static void print_head(const Plan *plan, Text *out)
{
    text_append(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    html_escape(out, plan->model.name);
    text_append(out, " on ");
    html_escape(out, plan->cluster.name);
    text_append(out, "</title>\n<style>\n");
    text_append(out, report_css);
    text_append(out, "</style>\n</head>\n<body>\n<main>\n<h1>");
    html_escape(out, plan->model.name);
    text_append(out, " <small>on</small> ");
    html_escape(out, plan->cluster.name);
    text_append(out, "</h1>\n");
}

static void print_lead(const Plan *plan, Text *out)
{
    const Cluster *cluster = &plan->cluster;
    const ModelDims *model = &plan->model;
    char a[FORMAT_MAX], b[FORMAT_MAX];
    text_format(out, "<p class=\"lead\">%llu GPUs (", (unsigned long long)cluster_gpus(cluster));
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        text_format(out, "%s%u ", l ? " × " : "", cluster->levels[l].count);
        html_escape(out, cluster->levels[l].name);
    }
    text_format(out, "); %u layer%s, %u of them MoE", model->layers, model->layers == 1 ? "" : "s", plan->choice_count);
    if (model->experts)
        text_format(out, ", %u experts, top-%u", model->experts, model->top_k);
    if (model->total_parameters > 0)
        text_format(out, ", %s parameters (%s active)", format_count(a, model->total_parameters),
                    format_count(b, model->active_parameters));
    if (!model->abstract) // given volumes may differ between layers: the choices say what each sends
        text_format(out, ". In a MoE layer a GPU has %s of token data and %s of experts",
                    format_bytes(a, model->data_bytes), format_bytes(b, model->expert_bytes));
    text_format(out, ". Pass %s, dispatch %s%s", pass_name(plan->pass), dispatch_name(plan->dispatch),
                plan->exchange == EXCHANGE_PADDED ? ", exchanges padded" : "");
    if (plan->codec != CODEC_DENSE)
        text_format(out, ", experts sent as %s 1/%s", codec_name(plan->codec), format_double(a, plan->codec_ratio));
    if (plan->gradient_ratio > 1)
        text_format(out, ", their gradients as the largest 1/%s", format_double(a, plan->gradient_ratio));
    text_append(out, ".</p>\n");
}

static void print_figure(const char *value, const char *label, Text *out)
{
    text_format(out, "<div><b>%s</b><span>%s</span></div>\n", value, label);
}

static void print_figures(const Plan *plan, const Simulation *simulation, Text *out)
{
    char value[FORMAT_MAX], ratio[FORMAT_MAX];
    const Strategy *ep = plan_find_baseline(plan, "ep");
    text_append(out, "<div class=\"figures\">\n");
    print_figure(format_time(value, simulation->iteration_s), "iteration, simulated", out);
    if (ep && ep->iteration_s > 0 && plan->iteration_s > 0) {
        snprintf(ratio, sizeof ratio, "%.2f×", ep->iteration_s / plan->iteration_s);
        print_figure(ratio, "faster than plain EP, by the cost model", out);
    }
    print_figure(format_time(value, simulation->last->exposed_s), "communication, exposed", out);
    print_figure(format_time(value, simulation->last->hidden_s), "communication, behind computation", out);
    if (plan->arena_bytes > 0)
        print_figure(format_bytes(value, (double)plan->arena_bytes), "memory per GPU", out);
    text_append(out, "</div>\n");
}

void html_print(const Plan *plan, const char *reasons, Text *out)
{
    Arena *arena = arena_create();
    const Report report = {.plan = plan, .simulation = simulate(plan, arena), .arena = arena, .out = out};
    print_head(plan, out);
    print_lead(plan, out);
    print_figures(plan, report.simulation, out);
    html_comparison_print(&report);
    text_append(out, reasons ? reasons
                             : "<section>\n<h2>Reasons</h2>\n<p class=\"note\">A plan does not hold the reasons it was "
                               "chosen for: a report written from the .hep file gives them, as hepc --explain "
                               "does.</p>\n</section>\n");
    html_time_print(&report);
    html_timeline_print(&report);
    html_cluster_print(&report);
    html_memory_print(&report);
    text_append(out, "<footer>Written by hepc. Times are predicted, not measured; GB are 10⁹ bytes, Gbit/s are 10⁹ "
                     "bits.</footer>\n</main>\n<script>\n");
    text_append(out, report_js);
    text_append(out, "</script>\n</body>\n</html>\n");
    arena_destroy(arena);
}
