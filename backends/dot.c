// See dot.h. A cluster per stream, its steps in program order (dashed), `after` edges across (solid).
#include "backends/dot.h"

static const char *const shape_colours[] = {
    [SHAPE_LOCAL] = "#dbe7f6",   [SHAPE_EXCHANGE] = "#f9d9a8", [SHAPE_GATHER] = "#bfe6d2",
    [SHAPE_SCATTER] = "#e3cdf2", [SHAPE_REDUCE] = "#f6cbdc",
};

static void append_escaped(Text *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            text_append(out, "\\");
        text_append_bytes(out, text, 1);
    }
}

static void print_step(const Plan *plan, uint32_t index, Text *out)
{
    const Step *step = &plan->steps[index];
    const OpInfo *info = op_info((int)step->op);
    char value[FORMAT_MAX];
    text_format(out, "    s%u [fillcolor=\"%s\" label=\"s%u %s", index, shape_colours[info->shape], index, info->name);
    if (step->layer != NONE)
        text_format(out, "\\nlayer %d", step->layer);
    if (step->level != NONE) {
        text_append(out, step->layer != NONE ? ", " : "\\n");
        append_escaped(out, plan->cluster.levels[step->level].name);
    }
    if (step->when != WHEN_EVERY)
        text_format(out, "\\n%s micro-batch", step_when_name(step->when));
    text_format(out, "\\n%s", format_time(value, step->cost_s));
    if (step->group != NONE)
        text_format(out, ", %s", format_bytes(value, step->bytes));
    text_append(out, "\"]\n");
}

static void print_stream(const Plan *plan, Stream stream, Text *out)
{
    int64_t before = -1;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        if (step_stream(plan, &plan->steps[i]) != stream)
            continue;
        if (before < 0)
            text_format(out, "  subgraph cluster_%s {\n    label=\"%s\"\n", stream_name(stream), stream_name(stream));
        print_step(plan, i, out);
        if (before >= 0)
            text_format(out, "    s%lld -> s%u [style=dashed color=\"#888888\"]\n", (long long)before, i);
        before = i;
    }
    if (before >= 0)
        text_append(out, "  }\n");
}

void dot_print(const Plan *plan, Text *out)
{
    text_append(out, "digraph \"");
    append_escaped(out, plan->model.name);
    text_append(out, " on ");
    append_escaped(out, plan->cluster.name);
    text_append(out, "\" {\n"
                     "  node [shape=box style=filled fontname=\"sans-serif\" fontsize=10]\n"
                     "  graph [fontname=\"sans-serif\" fontsize=12 color=\"#aaaaaa\" newrank=true labelloc=t]\n"
                     "  label=\"");
    append_escaped(out, plan->model.name);
    text_append(out, " on ");
    append_escaped(out, plan->cluster.name);
    text_append(out, ". A box is a step: its predicted time, and the bytes that a GPU sends.\\n"
                     "Dashed: the next step of a stream. Solid: a wait for a step of another stream.");
    if (plan->micro_batches > 1)
        text_format(out, "\\nOf %u micro-batches: a step of a later box is waited for in the one before.",
                    plan->micro_batches);
    text_append(out, "\"\n");
    for (int s = 0; s < STREAM_COUNT; s++)
        print_stream(plan, (Stream)s, out);
    for (uint32_t i = 0; i < plan->step_count; i++)
        for (uint32_t e = 0; e < plan->steps[i].after_count; e++)
            text_format(out, "  s%u -> s%u\n", plan->after[plan->steps[i].after_first + e], i);
    text_append(out, "}\n");
}
