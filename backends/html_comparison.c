// The report's comparison of strategies, and the choice of every layer with what it costs.
#include <math.h>

#include "backends/html_parts.h"
#include "ir/plan_facts.h"

enum { ROWS_MAX = 64 };

// What the longest bar stands for. Slower strategies are cut there: the baseline to beat, not the slowest, gives the
// scale.
static double longest_bar_s(const Plan *plan, const Strategy *best)
{
    double slowest = 0;
    for (uint32_t i = 0; i < plan->strategy_count; i++)
        slowest = fmax(slowest, plan->strategies[i].iteration_s);
    if (best && best->iteration_s > 0)
        slowest = fmin(slowest, 1.5 * best->iteration_s);
    return slowest > 0 ? slowest : 1;
}

static void print_bar(const Strategy *strategy, double longest_s, Text *out)
{
    double exposed_s = fmin(strategy->exposed_s, strategy->iteration_s), hidden_s = strategy->iteration_s - exposed_s;
    double hidden_part = fmin(hidden_s / longest_s, 1), part = fmin(strategy->iteration_s / longest_s, 1);
    text_format(out,
                "<td class=\"bar\"><i class=\"l\" style=\"width:%.1f%%\"></i><i class=\"%s\" "
                "style=\"width:%.1f%%\"></i></td>",
                100 * hidden_part, strategy->iteration_s > longest_s ? "cut" : "x", 100 * (part - hidden_part));
}

static void print_strategy(const Plan *plan, uint32_t index, const Strategy *best, double longest_s, Text *out)
{
    const Strategy *strategy = &plan->strategies[index];
    char domain[DOMAIN_TEXT_MAX], value[FORMAT_MAX], exposed[FORMAT_MAX];
    text_format(out, "<tr%s><th scope=\"row\">", index == 0 ? " class=\"chosen\"" : "");
    html_escape(out, plan_strategy_title(strategy, index == 0));
    text_format(out, "%s</th><td>", strategy == best ? " <small>best baseline</small>" : "");
    html_escape(out, plan_strategy_domain(plan, strategy, index == 0, domain, sizeof(domain)));
    text_append(out, "</td>");
    print_bar(strategy, longest_s, out);
    text_format(out, "<td class=\"n\">%s</td><td class=\"n\">%s</td>", format_time(value, strategy->iteration_s),
                format_time(exposed, strategy->exposed_s));
    if (best && best->iteration_s > 0 && strategy->iteration_s > 0)
        text_format(out, "<td class=\"n\">%.2f×</td>", best->iteration_s / strategy->iteration_s);
    else
        text_append(out, "<td class=\"n\">–</td>");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, "<td class=\"n\">%s</td>", format_bytes(value, traffic_total(&strategy->traffic[l])));
    text_format(out, "<td class=\"n\">%s%s</td></tr>\n",
                plan->model.abstract ? "–" : format_bytes(value, strategy->memory_bytes),
                strategy->fits ? "" : " <em>does not fit</em>");
}

static void print_verdict(const Report *report)
{
    const Plan *plan = report->plan;
    char value[FORMAT_MAX];
    text_format(report->out, "<p class=\"note\">Predicted by the cost model. The choice is %s (",
                status_name(plan->status));
    html_escape(report->out, plan->solver);
    text_append(report->out, ")");
    if (plan->status == STATUS_FEASIBLE)
        text_format(report->out, ": the proven bound is %.3g %% lower", 100 * plan->gap);
    text_format(report->out, ". The simulator, which plays the schedule step by step, gives this plan %s",
                format_time(value, report->simulation->iteration_s));
    if (plan->iteration_s > 0)
        text_format(report->out, " (%s)",
                    format_change(value, report->simulation->iteration_s / plan->iteration_s - 1));
    text_append(report->out, ".</p>\n");
}

static void print_strategies(const Report *report)
{
    const Plan *plan = report->plan;
    Text *out = report->out;
    const Strategy *best = plan_best_baseline(plan);
    double longest_s = longest_bar_s(plan, best);
    bool cut = false;
    for (uint32_t i = 0; i < plan->strategy_count; i++)
        cut = cut || plan->strategies[i].iteration_s > longest_s;
    text_format(
        out,
        "<section>\n<h2>Comparison</h2>\n<p class=\"legend bars\"><span><i class=\"key l\"></i>computation, and "
        "what it hides</span> <span><i class=\"key x\"></i>transfers, exposed</span>%s</p>\n"
        "<div class=\"scroll\"><table class=\"stack\">\n<thead><tr><th>strategy</th>"
        "<th>domain,<br>workers</th><th colspan=\"2\">iteration,<br>predicted</th>"
        "<th class=\"n\">exposed<br>transfers</th><th class=\"n\">speed-up over<br>best baseline</th>",
        cut ? " <span><i class=\"key cut\"></i>longer than drawn</span>" : "");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        text_append(out, "<th class=\"n\">");
        html_escape(out, plan->cluster.levels[l].name);
        text_append(out, " link<br>sent/GPU</th>");
    }
    text_append(out, "<th class=\"n\">memory<br>per GPU</th></tr></thead>\n<tbody>\n");
    for (uint32_t i = 1; i < plan->strategy_count; i++)
        print_strategy(plan, i, best, longest_s, out);
    if (plan->strategy_count > 0)
        print_strategy(plan, 0, best, longest_s, out);
    text_append(out, "</tbody></table></div>\n");
    print_verdict(report);
    text_append(out, "</section>\n");
}

// ---- choices ---------------------------------------------------------------------------------

// One MoE layer's communication, of one iteration.
typedef struct {
    double bytes[2], time_s[2]; // exchanges; gathers and returned gradients
} LayerCost;

static const LayerCost *layer_costs(const Report *report)
{
    const Plan *plan = report->plan;
    LayerCost *costs = arena_alloc_array(report->arena, (uint64_t)plan->model.layers + 1, sizeof(*costs));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        OpShape shape = op_info((int)step->op)->shape;
        if (step->layer == NONE || shape == SHAPE_LOCAL || shape == SHAPE_REDUCE)
            continue;
        LayerCost *cost = &costs[step->layer];
        cost->bytes[shape != SHAPE_EXCHANGE] += step->bytes;
        cost->time_s[shape != SHAPE_EXCHANGE] += step->cost_s;
    }
    return costs;
}

static bool is_alike(const LayerCost *a, const LayerCost *b)
{
    for (int k = 0; k < 2; k++)
        if (fabs(a->bytes[k] - b->bytes[k]) > 1e-6 * a->bytes[k] ||
            fabs(a->time_s[k] - b->time_s[k]) > 1e-6 * a->time_s[k])
            return false;
    return true;
}

static void print_choice(const Plan *plan, uint32_t first, uint32_t last, const LayerCost *cost, Text *out)
{
    char kept[FORMAT_MAX + 128], returned[FORMAT_MAX + 128];
    const Choice *choice = &plan->choices[first];
    char bytes[FORMAT_MAX], time[FORMAT_MAX];
    text_format(out, "<tr><th scope=\"row\">%u", choice->layer);
    if (last > first)
        text_format(out, " to %u", plan->choices[last].layer);
    text_append(out, "</th>");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        uint32_t count = plan->cluster.levels[l].count, size = choice->domain[l];
        double share = plan_token_share(plan, choice, l);
        if (l < plan->replica_levels) {
            text_append(out, "<td class=\"n\">copies</td><td></td>");
            continue;
        }
        text_format(
            out,
            "<td class=\"n\">%u of %u</td><td class=\"bar\" title=\"%.0f %% of the other workers of this level are "
            "reached by tokens, the rest by gathered experts\"><i class=\"e\" style=\"width:%.0f%%\"></i>"
            "<i class=\"g\" style=\"width:%.0f%%\"></i></td>",
            size, count, 100 * share, 100 * share, count > 1 ? 100 - 100 * share : 0);
    }
    for (int k = 0; k < 2; k++)
        text_format(out, "<td class=\"n\">%s</td><td class=\"n\">%s</td>", format_bytes(bytes, cost->bytes[k]),
                    format_time(time, cost->time_s[k]));
    if (plan->pass == PASS_TRAINING && !plan_gathers(plan, choice))
        text_append(out, "<td>none</td>");
    else if (plan->pass == PASS_TRAINING)
        text_format(
            out, "<td>%s%s</td>", plan_format_gathered(plan, choice->regather, choice->once, kept, sizeof(kept)),
            plan_format_returned(plan, choice->returns_apart, choice->once_gradient, returned, sizeof(returned)));
    text_append(out, "</tr>\n");
}

static void print_choices(const Report *report)
{
    const Plan *plan = report->plan;
    Text *out = report->out;
    if (plan->choice_count == 0)
        return;
    const LayerCost *costs = layer_costs(report);
    text_append(
        out, "<section>\n<h2>Choice per layer</h2>\n<p class=\"legend bars\"><span><i class=\"key e\"></i>share sent "
             "as tokens</span> <span><i class=\"key g\"></i>share replaced by gathered experts</span></p>\n"
             "<div class=\"scroll\"><table class=\"choices stack\">\n<thead><tr><th>MoE<br>layers</th>");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        text_append(out, "<th class=\"n\">");
        html_escape(out, plan->cluster.levels[l].name);
        text_append(out, "<br>domain</th><th></th>");
    }
    text_format(out,
                "<th class=\"n\">tokens<br>sent/GPU</th><th class=\"n\">exchanges<br>if alone</th><th class=\"n\">"
                "experts<br>sent/GPU</th><th class=\"n\">gathers<br>if alone</th>%s</tr></thead>\n<tbody>\n",
                plan->pass == PASS_TRAINING ? "<th>gathered experts</th>" : "");
    uint32_t rows = 0;
    for (uint32_t first = 0; first < plan->choice_count && rows < ROWS_MAX; rows++) {
        uint32_t end = first + 1;
        const LayerCost *cost = &costs[plan->choices[first].layer];
        while (end < plan->choice_count && choices_equal(&plan->choices[end], &plan->choices[first]) &&
               is_alike(cost, &costs[plan->choices[end].layer]))
            end++;
        print_choice(plan, first, end - 1, cost, out);
        first = end;
        if (rows + 1 == ROWS_MAX && end < plan->choice_count)
            text_format(out, "<tr><td colspan=\"99\">and %u more layers</td></tr>\n", plan->choice_count - end);
    }
    text_append(out, "</tbody></table></div>\n<p class=\"note\">Per layer and iteration. Inside a domain experts are "
                     "gathered, between domains tokens are exchanged. Consecutive layers with the same domains and "
                     "volumes share a row.</p>\n</section>\n");
}

void html_comparison_print(const Report *report)
{
    print_strategies(report);
    print_choices(report);
}
