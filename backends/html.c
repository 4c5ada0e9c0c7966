// See html.h. This file writes the page's frame and its first lines; html_*.c write a section each.
#include "backends/html.h"

#include <stdio.h>

#include "backends/decision.h"
#include "backends/html_parts.h"
#include "ir/codec.h"
#include "ir/plan_facts.h"
#include "ir/unroll.h"

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

static void print_decision(const Plan *plan, Text *out)
{
    Text decision = {0};
    decision_append(plan, &decision);
    if (decision.length > 0) {
        text_append(out, "<p class=\"decision\">");
        html_escape(out, decision.data);
        text_append(out, "</p>\n");
    }
    text_free(&decision);
}

static void print_compression(const Plan *plan, Text *out)
{
    char value[FORMAT_MAX];
    if (codec_info(plan->experts.codec)->encodes)
        text_format(out, ", experts compressed by %s to %s", codec_name(plan->experts.codec),
                    format_packing(value, coding_packing(&plan->experts), plan->model.dtype));
    if (plan->experts.gradient != GRADIENT_DENSE)
        text_format(out, ", their gradients by %s to %s", gradient_name(plan->experts.gradient),
                    format_packing(value, coding_gradient_packing(&plan->experts), plan->model.dtype));
    if (codec_info(plan->dense.codec)->encodes)
        text_format(out, ", dense weights by %s to %s", codec_name(plan->dense.codec),
                    format_packing(value, coding_packing(&plan->dense), plan->model.dtype));
    if (plan->dense.gradient != GRADIENT_DENSE)
        text_format(out, ", dense gradients by %s to %s", gradient_name(plan->dense.gradient),
                    format_packing(value, coding_gradient_packing(&plan->dense), plan->model.dtype));
    if (plan->whole_iterations > 0)
        text_format(out, ", all of them whole in the first %u iterations", plan->whole_iterations);
    plan_append_tokens(plan, out);
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
    text_format(out, "). %u layer%s, ", model->layers, model->layers == 1 ? "" : "s");
    if (plan->choice_count == model->layers)
        text_append(out, "all MoE");
    else
        text_format(out, "%u of them MoE", plan->choice_count);
    if (model->experts)
        text_format(out, ", %u experts, top-%u", model->experts, model->top_k);
    if (model->total_parameters > 0)
        text_format(out, ", %s parameters (%s active)", format_count(a, model->total_parameters),
                    format_count(b, model->active_parameters));
    if (!model->abstract) // given volumes may differ between layers: the choices say what each sends
        text_format(out, ". In each MoE layer a GPU has %s of tokens and %s of experts to send",
                    format_bytes(a, model->data_bytes), format_bytes(b, model->expert_bytes));
    text_format(out, ". %s, %s dispatch%s", plan->pass == PASS_TRAINING ? "Training" : "Forward pass",
                plan->dispatch == DISPATCH_NAIVE ? "naive" : "deduplicated",
                plan->exchange == EXCHANGE_PADDED ? ", padded exchanges" : "");
    print_compression(plan, out);
    if (plan->pass == PASS_TRAINING && !plan->model.abstract)
        text_format(out, ". An iteration has %u micro-batch%s of %llu tokens on each GPU; activations are %s",
                    plan->micro_batches, plan->micro_batches == 1 ? "" : "es", (unsigned long long)model_tokens(model),
                    plan->recompute ? "recomputed in the backward pass" : "kept for the backward pass");
    if (plan->lap > 0)
        text_format(out, "; %u micro-batches pass a layer before the next one begins", plan->lap);
    if (plan->abreast > 0)
        text_format(out, "; %u at a time in turns, so that rows of one travel while another is computed",
                    plan->abreast);
    if (plan->bucket > 0)
        text_format(out, "; weights of %u layer%s cross the slowest level together", plan->bucket,
                    plan->bucket == 1 ? "" : "s");
    text_append(out, ".</p>\n");
}

static void print_figure(const char *value, const char *label, Text *out)
{
    text_format(out, "<div><b>%s</b><span>%s</span></div>\n", value, label);
}

static void print_throughput(const Plan *plan, Text *out)
{
    char value[FORMAT_MAX];
    double tokens_per_s = plan_tokens_per_s(plan, plan->iteration_s);
    double utilisation = plan_flop_utilisation(plan, plan->iteration_s);
    if (tokens_per_s > 0)
        print_figure(format_count(value, tokens_per_s), "tokens per second on all GPUs, predicted", out);
    if (utilisation <= 0)
        return;
    snprintf(value, sizeof(value), "%.3g %%", 100 * utilisation);
    print_figure(value, "model FLOP utilisation, predicted", out);
}

static void print_figures(const Plan *plan, const Simulation *simulation, Text *out)
{
    char value[FORMAT_MAX];
    const Strategy *best = plan_best_baseline(plan);
    double ratio = plan_speed_up(plan, best);
    text_append(out, "<div class=\"figures\">\n");
    print_figure(format_time(value, simulation->iteration_s), "iteration, simulated", out);
    if (plan->micro_batches > 1)
        print_figure(format_time(value, simulation->iteration_s / plan->micro_batches), "per micro-batch, simulated",
                     out);
    if (ratio > 0) {
        Text what = {0};
        snprintf(value, sizeof(value), "%.2f×", ratio);
        text_append(&what, "as fast as ");
        plan_append_strategy(plan, best, &what);
        text_append(&what, ", the best baseline (predicted)");
        print_figure(value, what.data, out);
        text_free(&what);
    }
    print_throughput(plan, out);
    print_figure(format_time(value, simulation->last->exposed_s), "communication exposed, simulated", out);
    print_figure(format_time(value, simulation->last->hidden_s), "communication hidden, simulated", out);
    if (plan->arena_bytes > 0)
        print_figure(format_bytes(value, plan_memory_bytes(plan)), "memory per GPU", out);
    text_append(out, "</div>\n");
}

void html_print(const Plan *written, const char *reasons, Text *out)
{
    Arena *arena = arena_create();
    const Plan *plan = plan_unroll_all(written, arena);
    const Report report = {
        .written = written, .plan = plan, .simulation = simulate(plan, arena), .arena = arena, .out = out};
    print_head(plan, out);
    print_decision(plan, out);
    print_lead(plan, out);
    print_figures(plan, report.simulation, out);
    html_comparison_print(&report);
    text_append(out, reasons ? reasons
                             : "<section>\n<h2>Reasons</h2>\n<p class=\"note\">A plan does not hold the reasons it was "
                               "chosen for: a report written from the .hep file gives them, as "
                               "<code>hepc --explain</code> does.</p>\n</section>\n");
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
