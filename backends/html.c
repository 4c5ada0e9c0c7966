// See html.h. This file writes the page and its tables; html_timeline.c and html_cluster.c draw.
#include "backends/html.h"

#include <stdio.h>

#include "backends/html_parts.h"
#include "backends/occupancy.h"
#include "backends/plan_facts.h"

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
    text_format(out, ". In a MoE layer a GPU has %s of token data and %s of experts. Pass %s, dispatch %s",
                format_bytes(a, model->data_bytes), format_bytes(b, model->expert_bytes), pass_name(plan->pass),
                dispatch_name(plan->dispatch));
    if (plan->codec != CODEC_DENSE)
        text_format(out, ", experts sent as %s 1/%s", codec_name(plan->codec), format_double(a, plan->codec_ratio));
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
    print_figure(format_time(value, simulation->exposed_s), "communication, exposed", out);
    print_figure(format_time(value, simulation->hidden_s), "communication, behind computation", out);
    if (plan->arena_bytes > 0)
        print_figure(format_bytes(value, (double)plan->arena_bytes), "memory per GPU", out);
    text_append(out, "</div>\n");
}

// ---- comparison ------------------------------------------------------------------------------

static double slowest_s(const Plan *plan)
{
    double slowest = 0;
    for (uint32_t i = 0; i < plan->strategy_count; i++)
        if (plan->strategies[i].iteration_s > slowest)
            slowest = plan->strategies[i].iteration_s;
    return slowest;
}

static void print_strategy(const Plan *plan, uint32_t index, double ep_s, Text *out)
{
    const Strategy *strategy = &plan->strategies[index];
    double slowest = slowest_s(plan);
    char domain[256], value[FORMAT_MAX];
    text_format(out, "<tr%s><th scope=\"row\">", index == 0 ? " class=\"chosen\"" : "");
    html_escape(out, plan_strategy_title(strategy, index == 0));
    text_append(out, "</th><td>");
    html_escape(out, plan_strategy_domain(plan, strategy, index == 0, domain, sizeof domain));
    text_format(out, "</td><td class=\"bar\"><i style=\"width:%.1f%%\"></i></td><td class=\"n\">%s</td>",
                slowest > 0 ? 100 * strategy->iteration_s / slowest : 0, format_time(value, strategy->iteration_s));
    if (ep_s > 0 && strategy->iteration_s > 0)
        text_format(out, "<td class=\"n\">%.2f×</td>", ep_s / strategy->iteration_s);
    else
        text_append(out, "<td class=\"n\">–</td>");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, "<td class=\"n\">%s</td>", format_bytes(value, traffic_total(&strategy->traffic[l])));
    text_format(out, "<td class=\"n\">%s%s</td></tr>\n",
                plan->model.abstract ? "–" : format_bytes(value, strategy->memory_bytes),
                strategy->fits ? "" : " <em>does not fit</em>");
}

static void print_comparison(const Plan *plan, Text *out)
{
    const Strategy *ep = plan_find_baseline(plan, "ep");
    text_append(out, "<section>\n<h2>Comparison</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>strategy</th>"
                     "<th>domain, workers</th><th colspan=\"2\">iteration, predicted</th><th class=\"n\">over EP</th>");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        text_append(out, "<th class=\"n\">");
        html_escape(out, plan->cluster.levels[l].name);
        text_append(out, " link<br>sent/GPU</th>");
    }
    text_append(out, "<th class=\"n\">memory<br>per GPU</th></tr></thead>\n<tbody>\n");
    for (uint32_t i = 1; i < plan->strategy_count; i++)
        print_strategy(plan, i, ep ? ep->iteration_s : 0, out);
    if (plan->strategy_count > 0)
        print_strategy(plan, 0, ep ? ep->iteration_s : 0, out);
    text_append(out, "</tbody></table></div>\n<p class=\"note\">");
    text_format(out, "The choice is %s (", status_name(plan->status));
    html_escape(out, plan->solver);
    text_append(out, ").");
    for (uint32_t i = 0; i < plan->choice_count; i = plan_choice_run_end(plan, i)) {
        char domain[256];
        text_append(out, i ? "; " : " Domains: ");
        html_layers_print(plan, i, out);
        text_append(out, " ");
        html_escape(out, plan_format_domain(plan, plan->choices[i].domain, domain, sizeof domain));
        if (plan->pass == PASS_TRAINING)
            text_append(out, plan->choices[i].regather ? ", replicas gathered again" : ", replicas kept");
    }
    text_append(out, plan->choice_count ? ".</p>\n</section>\n" : "</p>\n</section>\n");
}

// ---- memory ----------------------------------------------------------------------------------

static const MemorySample *peak_memory(const MemorySample *samples, uint32_t count)
{
    const MemorySample *peak = samples;
    double most = -1;
    for (uint32_t i = 0; i < count; i++) {
        double total = 0;
        for (int k = 0; k < BUFFER_KIND_COUNT; k++)
            total += samples[i].bytes[k];
        if (total > most) {
            most = total;
            peak = &samples[i];
        }
    }
    return peak;
}

static void print_memory_kind(const Plan *plan, BufferKind kind, double live_bytes, Text *out)
{
    char value[FORMAT_MAX], live[FORMAT_MAX];
    uint32_t count = 0;
    double bytes = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        if (plan->buffers[b].kind == kind) {
            count++;
            bytes += (double)buffer_bytes(&plan->buffers[b]);
        }
    if (count == 0)
        return;
    text_format(out,
                "<tr><th scope=\"row\"><i class=\"key k%d\"></i>%s</th><td class=\"n\">%u</td><td class=\"n\">%s</td>"
                "<td class=\"n\">%s</td><td class=\"bar\"><i class=\"k%d\" style=\"width:%.1f%%\"></i></td></tr>\n",
                (int)kind, buffer_kind_name(kind), count, format_bytes(value, bytes), format_bytes(live, live_bytes),
                (int)kind, plan->arena_bytes ? 100 * live_bytes / (double)plan->arena_bytes : 0);
}

static void print_memory(const Plan *plan, const Simulation *simulation, Arena *arena, Text *out)
{
    char value[FORMAT_MAX], at[FORMAT_MAX];
    text_append(out, "<section>\n<h2>Memory of a GPU</h2>\n");
    if (plan->buffer_count == 0) {
        text_append(out, "<p class=\"note\">The model is abstract: its volumes and times were given, no buffers are "
                         "planned.</p>\n</section>\n");
        return;
    }
    MemorySample *samples;
    uint32_t count = occupancy_memory(plan, simulation, arena, &samples);
    const MemorySample *peak = peak_memory(samples, count);
    text_append(
        out,
        "<div class=\"scroll\"><table>\n<thead><tr><th>kind</th><th class=\"n\">buffers</th><th class=\"n\">"
        "sizes added up</th><th class=\"n\">live at the peak</th><th>share of the arena</th></tr></thead>\n<tbody>\n");
    for (int k = 0; k < BUFFER_KIND_COUNT; k++)
        print_memory_kind(plan, (BufferKind)k, peak->bytes[k], out);
    text_format(
        out,
        "</tbody></table></div>\n<p class=\"note\">The arena has %s. Buffers share memory where the order of steps "
        "guarantees that they are never live together, so it may exceed what is live in this run. The peak is "
        "reached at %s; the timeline shows live memory throughout.</p>\n</section>\n",
        format_bytes(value, (double)plan->arena_bytes), format_time(at, peak->time_s));
}

void html_print(const Plan *plan, Text *out)
{
    Arena *arena = arena_create();
    const Simulation *simulation = simulate(plan, arena);
    print_head(plan, out);
    print_lead(plan, out);
    print_figures(plan, simulation, out);
    print_comparison(plan, out);
    html_timeline_print(plan, simulation, arena, out);
    html_cluster_print(plan, out);
    print_memory(plan, simulation, arena, out);
    text_append(
        out,
        "<footer>Written by hepc from the plan alone. Times are predicted, not measured; GB are 10⁹ bytes.</footer>\n"
        "</main>\n<script>\n");
    text_append(out, report_js);
    text_append(out, "</script>\n</body>\n</html>\n");
    arena_destroy(arena);
}
