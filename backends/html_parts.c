// What the sections of the report share: see html_parts.h.
#include "backends/html_parts.h"

#include <string.h>

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

const char *html_micro_batch(const Report *report, bool repeated, uint32_t micro_batch)
{
    if (!repeated || report->written->micro_batches < 2)
        return "";
    return arena_format(report->arena, " of micro-batch %u", micro_batch);
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
