// The explanation as sections of the HTML report. The same records and words as explain_print.c, in tables.
#include <math.h>
#include <stdio.h>

#include "backends/html.h"
#include "hepc/explain_print.h"

static double percent_less(double now_s, double then_s)
{
    return now_s > 0 ? 100 * (1 - then_s / now_s) : 0;
}

static void print_time(Text *out, double time_s)
{
    char value[FORMAT_MAX];
    text_format(out, "<td class=\"n\">%s</td>", format_time(value, time_s));
}

static void print_domain(const Explanation *e, const Config *config, Text *out)
{
    char domain[256];
    html_escape(out, config_format(&e->work->spec->cluster, config, domain, sizeof(domain)));
}

// ---- what would be slower, and by how much ---------------------------------------------------

static void print_rival(const Explanation *e, const char *what, const Rival *rival, Text *out)
{
    double chosen_s = e->solution->cost.iteration_s;
    text_append(out, "<tr><td></td><td>");
    html_escape(out, what);
    text_append(out, "</td><td>");
    print_domain(e, &rival->config, out);
    text_append(out, "</td>");
    print_time(out, rival->iteration_s);
    text_format(out, "<td class=\"n\">%+.2f %%</td></tr>\n", 100 * (rival->iteration_s / chosen_s - 1));
}

static void print_runs(const Explanation *e, Text *out)
{
    const Cluster *cluster = &e->work->spec->cluster;
    char layers[64], what[160];
    text_append(out, "<h3>The best other choices</h3>\n<div class=\"scroll\"><table class=\"stack\">\n<thead><tr>"
                     "<th>layers</th><th>choice</th><th>domain, workers</th>"
                     "<th class=\"n\">iteration</th><th class=\"n\">difference</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < e->run_count; i++) {
        const ExplainRun *run = &e->runs[i];
        text_format(out, "<tr class=\"chosen\"><th scope=\"row\">%s</th><td>chosen</td><td>",
                    explain_format_layers(&run->run, layers, sizeof(layers)));
        print_domain(e, &run->run.config, out);
        text_append(out, "</td>");
        print_time(out, e->solution->cost.iteration_s);
        text_append(out, "<td></td></tr>\n");
        if (run->runner_up.found)
            print_rival(e, "runner-up", &run->runner_up, out);
        for (uint32_t l = 0; l < cluster->level_count; l++) {
            snprintf(what, sizeof(what), "with another size than %s=%u", cluster->levels[l].name,
                     run->run.config.domain[l]);
            if (run->at_level[l].found)
                print_rival(e, what, &run->at_level[l], out);
        }
    }
    text_append(out, "</tbody></table></div>\n<p class=\"note\">Of the layers named, while all other layers keep their "
                     "choice. Predicted by the cost model.");
    char value[FORMAT_MAX];
    if (e->counted_s > 0)
        text_format(out, " Exchanges are padded: with counted messages the iteration would take %s.",
                    format_time(value, e->counted_s));
    if (e->free_s > 0)
        text_format(out, " The input asks for this choice: the planner's own takes %s.", format_time(value, e->free_s));
    text_append(out, "</p>\n");
}

// ---- what binds ------------------------------------------------------------------------------

static void print_limits(const Explanation *e, Text *out)
{
    double now_s = e->solution->cost.iteration_s;
    char name[128];
    text_append(out, "<div class=\"columns\">\n<table>\n<thead><tr><th>limit lifted</th><th class=\"n\">iteration</th>"
                     "<th class=\"n\">saves</th><th></th></tr></thead>\n<tbody>\n");
    for (uint32_t i = 0; i < e->limit_count; i++) {
        double less = percent_less(now_s, e->limits[i].iteration_s);
        text_format(out, "<tr%s><th scope=\"row\">", i == e->binding ? " class=\"binding\"" : "");
        html_escape(out, limit_name(&e->work->spec->cluster, &e->limits[i], name, sizeof(name)));
        text_append(out, "</th>");
        print_time(out, e->limits[i].iteration_s);
        text_format(out, "<td class=\"n\">%.1f %%</td><td class=\"bar\"><i style=\"width:%.1f%%\"></i></td></tr>\n",
                    less, fmax(0, less));
    }
    text_append(out, "</tbody></table>\n");
}

static void print_breakdown(const Explanation *e, Text *out)
{
    ExplainPart parts[EXPLAIN_PARTS_MAX];
    uint32_t count = explain_parts(e, parts);
    text_append(out, "<table>\n<thead><tr><th>the predicted iteration</th><th class=\"n\">time</th>"
                     "<th class=\"n\">share</th></tr></thead>\n<tbody>\n");
    for (uint32_t i = 0; i < count; i++) {
        text_format(out, "<tr><th scope=\"row\">%s</th>", parts[i].name);
        print_time(out, parts[i].time_s);
        text_format(out, "<td class=\"n\">%.1f %%</td></tr>\n", 100 * parts[i].time_s / e->solution->cost.iteration_s);
    }
    text_append(out, "</tbody></table>\n");
}

static void print_more(const Explanation *e, Text *out)
{
    double now_s = e->solution->cost.iteration_s;
    text_append(out, "<table>\n<thead><tr><th>one more Gbit/s</th><th class=\"n\">saves</th><th class=\"n\">share</th>"
                     "<th class=\"n\">planned<br>again</th></tr></thead>\n<tbody>\n");
    for (uint32_t i = 0; i < e->more_count; i++) {
        const MoreBandwidth *more = &e->more[i];
        text_append(out, "<tr><th scope=\"row\">");
        html_escape(out, e->work->spec->cluster.levels[more->level].name);
        text_append(out, "</th>");
        print_time(out, fmax(0, now_s - more->iteration_s));
        text_format(out, "<td class=\"n\">%.2f %%</td>", fmax(0, percent_less(now_s, more->iteration_s)));
        print_time(out, fmax(0, now_s - more->replanned_s));
        text_append(out, "</tr>\n");
    }
    text_append(out, "</tbody></table>\n</div>\n");
}

// ---- where the choice flips ------------------------------------------------------------------

static void print_flip(const Explanation *e, const Sensitivity *s, const Flip *flip, Text *out)
{
    char value[FORMAT_MAX];
    text_append(out, "<td>");
    if (flip->searched == s->now) {
        text_append(out, "–</td>");
        return;
    }
    if (flip->outcome == FLIP_NONE) {
        text_format(out, "not up to %s</td>", explain_format_quantity(e, s->quantity, flip->searched, value));
        return;
    }
    text_format(out, "%s %s: ", explain_flip_at(s, flip), explain_format_quantity(e, s->quantity, flip->value, value));
    Text choice = {0};
    if (flip->outcome == FLIP_NOTHING_FITS)
        text_append(&choice, "nothing fits the memory");
    else
        explain_append_choice(e, flip, &choice);
    html_escape(out, choice.data);
    text_free(&choice);
    if (flip->outcome == FLIP_CHOICE && flip->kept_fits)
        text_format(out, " <small>(%.1f %% faster there)</small>", percent_less(flip->kept_s, flip->other_s));
    else if (flip->outcome == FLIP_CHOICE)
        text_append(out, " <small>(the old choice does not fit there)</small>");
    text_append(out, "</td>");
}

static void print_sensitivities(const Explanation *e, Text *out)
{
    char now[FORMAT_MAX];
    if (e->is_too_deep)
        text_format(out,
                    "<p>What other choices would take, and where one is faster, is not looked for in models of more "
                    "than %d layers.</p>\n",
                    EXPLAIN_LAYERS_MAX);
    if (e->sensitivity_count == 0)
        return;
    text_append(out, "<h3>Where another choice would be faster, all else equal</h3>\n<div class=\"scroll\">"
                     "<table class=\"wrap stack\">\n<thead><tr><th>quantity</th><th class=\"n\">now</th>"
                     "<th>with less</th>"
                     "<th>with more</th></tr></thead>\n<tbody>\n");
    for (uint32_t i = 0; i < e->sensitivity_count; i++) {
        const Sensitivity *s = &e->sensitivities[i];
        text_append(out, "<tr><th scope=\"row\">");
        if (s->quantity == QUANTITY_BANDWIDTH) {
            html_escape(out, e->work->spec->cluster.levels[s->level].name);
            text_append(out, " ");
        }
        text_format(out, "%s</th><td class=\"n\">%s</td>", quantity_name(s->quantity),
                    explain_format_quantity(e, s->quantity, s->now, now));
        print_flip(e, s, &s->below, out);
        print_flip(e, s, &s->above, out);
        text_append(out, "</tr>\n");
    }
    text_format(
        out, "</tbody></table></div>\n<p class=\"note\">Faster by more than %g %%.%s</p>\n", 100 * EXPLAIN_MARGIN,
        e->work->spec->outer ? " Bandwidth of the outermost level: of the slowest port, the others in proportion."
                             : "");
}

static void print_even(const Explanation *e, Text *out)
{
    char now[FORMAT_MAX];
    if (e->even_count == 0)
        return;
    text_append(out, "<h3>Where plain EP would do</h3>\n<div class=\"scroll\"><table class=\"wrap stack\">\n<thead><tr>"
                     "<th>bandwidth</th><th class=\"n\">now</th><th>plain EP, deduplicated, is as good</th></tr>"
                     "</thead>\n<tbody>\n");
    for (uint32_t i = 0; i < e->even_count; i++) {
        const EvenPoint *even = &e->even[i];
        text_append(out, "<tr><th scope=\"row\">");
        bool all = even->level == LEVELS_MAX;
        html_escape(out, all ? "all, in proportion" : e->work->spec->cluster.levels[even->level].name);
        text_format(out, "</th><td class=\"n\">%s</td><td>", explain_format_links(even, even->now, now));
        explain_append_even(even, out);
        text_append(out, "</td></tr>\n");
    }
    text_format(out, "</tbody></table></div>\n<p class=\"note\">As good as the best plan there, within %g %%.%s</p>\n",
                100 * EXPLAIN_EVEN,
                e->solution->baselines[BASELINE_EP_DEDUP].fits ? "" : " It does not fit the memory, though.");
}

static void print_micro_batches(const Explanation *e, Text *out)
{
    char each[FORMAT_MAX], all[FORMAT_MAX];
    if (e->micro_count == 0)
        return;
    text_append(out, "<h3>What micro-batches would make of an iteration</h3>\n<div class=\"scroll\">"
                     "<table class=\"wrap stack\">\n<thead><tr><th>micro-batches</th><th class=\"n\">of each</th>"
                     "<th class=\"n\">iteration</th><th>best choice</th></tr></thead>\n<tbody>\n");
    for (uint32_t i = 0; i < e->micro_count; i++) {
        const MicroBatchRow *row = &e->micro[i];
        text_format(out, "<tr%s><th scope=\"row\">%u</th><td class=\"n\">%s</td><td class=\"n\">%s</td><td>",
                    row->micro_batches == e->work->spec->plan.micro_batches ? " class=\"chosen\"" : "",
                    row->micro_batches, row->fits ? format_time(each, row->iteration_s / row->micro_batches) : "–",
                    row->fits ? format_time(all, row->iteration_s) : "–");
        Text choice = {0};
        explain_append_micro_batches(e, row, &choice);
        html_escape(out, choice.data);
        text_free(&choice);
        text_append(out, "</td></tr>\n");
    }
    text_append(out, "</tbody></table></div>\n");
}

void explain_print_html(const Explanation *e, Text *out)
{
    char name[128];
    text_append(out, "<section>\n<h2>Reasons</h2>\n<p>Bound by <b>");
    html_escape(out, e->binding < e->limit_count
                         ? limit_name(&e->work->spec->cluster, &e->limits[e->binding], name, sizeof(name))
                         : "several limits at once");
    text_append(out, "</b>.</p>\n");
    print_limits(e, out);
    print_breakdown(e, out);
    print_more(e, out);
    print_runs(e, out);
    print_sensitivities(e, out);
    print_even(e, out);
    print_micro_batches(e, out);
    text_append(out, "</section>\n");
}
