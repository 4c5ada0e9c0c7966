// What is written to look at: trace events, graph, report, and the curves of memory and port load.
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/dot.h"
#include "backends/html.h"
#include "backends/trace.h"
#include "ir/plan_facts.h"
#include "ir/simulate/occupancy.h"
#include "plans.h"

static uint32_t count_of(const char *text, const char *what)
{
    uint32_t count = 0;
    for (const char *at = strstr(text, what); at; at = strstr(at + 1, what))
        count++;
    return count;
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    cr_assert(cJSON_IsNumber(item), "no number '%s'", key);
    return item->valuedouble;
}

static const char *string(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    cr_assert(cJSON_IsString(item), "no string '%s'", key);
    return item->valuestring;
}

static cJSON *trace_of(const Plan *plan)
{
    Text text = {0};
    cr_assert(trace_print(plan, NULL, &text, &(Fault){0}));
    cJSON *root = cJSON_Parse(text.data);
    cr_assert(root, "not JSON: %s", text.data);
    text_free(&text);
    return root;
}

Test(trace, holds_every_step_once_and_none_overlaps_in_its_track)
{
    Plan *plan = plan_of_four_ranks();
    cJSON *root = trace_of(plan);
    uint32_t seen[PLAN_STEPS] = {0};
    double end_us[STREAM_COUNT + 1] = {0};
    const cJSON *event;
    cJSON_ArrayForEach(event, cJSON_GetObjectItemCaseSensitive(root, "traceEvents"))
    {
        if (strcmp(string(event, "ph"), "X") != 0)
            continue;
        const cJSON *args = cJSON_GetObjectItemCaseSensitive(event, "args");
        uint32_t step = (uint32_t)number(args, "step"), track = (uint32_t)number(event, "tid");
        cr_assert_lt(step, PLAN_STEPS);
        cr_assert_leq(track, (uint32_t)STREAM_COUNT);
        seen[step]++;
        char name[64]; // "gather gpu"
        bool levelled = plan->steps[step].level != NONE;
        snprintf(name, sizeof(name), "%s%s%s", op_info((int)plan->steps[step].op)->name, levelled ? " " : "",
                 levelled ? plan->cluster.levels[plan->steps[step].level].name : "");
        cr_assert_str_eq(string(event, "name"), name);
        cr_assert_geq(number(event, "ts"), end_us[track] - 1e-4, "step %u overlaps the one before it", step);
        end_us[track] = number(event, "ts") + number(event, "dur");
    }
    for (uint32_t i = 0; i < PLAN_STEPS; i++)
        cr_assert_eq(seen[i], 1, "step %u is there %u times", i, seen[i]);
    cJSON_Delete(root);
    plan_destroy(plan);
}

Test(trace, says_what_a_transfer_sends_and_names_its_buffers)
{
    Plan *plan = plan_of_four_ranks();
    plan->cluster.levels[1].name = "g\"p\\u";
    cJSON *root = trace_of(plan);
    const cJSON *event, *gather = NULL;
    cJSON_ArrayForEach(event, cJSON_GetObjectItemCaseSensitive(root, "traceEvents"))
    {
        if (strcmp(string(event, "name"), "gather g\"p\\u") == 0)
            gather = cJSON_GetObjectItemCaseSensitive(event, "args");
    }
    cr_assert(gather);
    cr_assert_eq(number(gather, "bytes"), 128);
    cr_assert_eq(number(gather, "members"), 2);
    cr_assert_str_eq(string(gather, "level"), "g\"p\\u");
    cr_assert_str_eq(string(cJSON_GetObjectItemCaseSensitive(gather, "buffers"), "gathered"), "gathered");
    cJSON_Delete(root);
    plan_destroy(plan);
}

Test(dot, has_every_step_and_every_edge)
{
    Plan *plan = plan_of_four_ranks();
    plan->model.name = "a \"quoted\" name";
    Text text = {0};
    dot_print(plan, &text);
    cr_assert(strstr(text.data, "digraph \"a \\\"quoted\\\" name on two by two\""));
    cr_assert_eq(count_of(text.data, " [fillcolor="), PLAN_STEPS);
    cr_assert_eq(count_of(text.data, "subgraph cluster_"), 3); // nothing runs on the sync stream
    cr_assert_eq(count_of(text.data, "style=dashed"), PLAN_STEPS - 3);
    cr_assert_eq(count_of(text.data, " -> ") - count_of(text.data, "style=dashed"), plan->after_count);
    cr_assert(strstr(text.data, "  s4 -> s5\n"));
    text_free(&text);
    plan_destroy(plan);
}

Test(html, shows_every_step_and_escapes_names)
{
    Plan *plan = plan_of_four_ranks();
    plan->model.name = "<script>alert('m')</script>";
    plan->cluster.name = "a & \"b\"";
    plan->cluster.levels[0].name = "</title><b>";
    plan->strategies[0].name = "<i>";
    plan->solver = "<u>";
    Text text = {0};
    html_print(plan, NULL, &text);
    cr_assert(strstr(text.data, "does not hold the reasons"));
    cr_assert_eq(count_of(text.data, "\nstep s"), PLAN_STEPS);
    cr_assert_eq(count_of(text.data, "<script>"), 1);
    cr_assert_eq(count_of(text.data, "</title><b>"), 0);
    cr_assert_eq(count_of(text.data, "<u>"), 0);
    cr_assert(strstr(text.data, "&lt;script&gt;alert(&#39;m&#39;)&lt;/script&gt; on a &amp; &quot;b&quot;"));
    cr_assert_eq(count_of(text.data, "class=\"gpu"), 4);
    // Domains of one data centre and both its GPUs.
    cr_assert_eq(count_of(text.data, "; domain 0\""), 2);
    cr_assert_eq(count_of(text.data, "; domain 1\""), 2);
    static const char *const outside[] = {"src=", "href=", "@import", "url("};
    for (size_t i = 0; i < COUNT_OF(outside); i++)
        cr_assert(!strstr(text.data, outside[i]), "'%s' asks for another file", outside[i]);
    text_free(&text);
    plan_destroy(plan);
}

Test(html, shows_memory_links_and_reasons)
{
    Plan *plan = plan_of_placed_ranks();
    plan->cluster.ports[0].name = "<oslo>";
    plan->buffers[0].name = "a<b";
    Text text = {0};
    html_print(plan, "<p>because</p>", &text);
    cr_assert_eq(count_of(text.data, " data-b=\""), plan->buffer_count);
    cr_assert_eq(count_of(text.data, "<oslo>") + count_of(text.data, "a<b"), 0);
    cr_assert(strstr(text.data, "<title>a&lt;b\n"));
    cr_assert(strstr(text.data, "to &lt;oslo&gt;</th>"));
    // The link between the two is slower than their ports: 200 Mbit/s, 40 ms. Dispatch and combine go over it, from
    // two GPUs, 52 and 32 bytes each.
    cr_assert(strstr(text.data, "200 Mbit/s, 40 ms\ntokens each way: 168 B"));
    cr_assert(strstr(text.data, "<p>because</p>"));
    cr_assert(!strstr(text.data, "does not hold the reasons"));
    text_free(&text);
    plan_destroy(plan);
}

Test(html, draws_large_clusters_in_part)
{
    Plan *plan = plan_of_four_ranks();
    plan->cluster.levels[0].count = 1000;
    plan->cluster.levels[1].count = 8;
    Text text = {0};
    html_print(plan, NULL, &text);
    cr_assert_leq(count_of(text.data, "class=\"gpu"), 64);
    cr_assert_geq(count_of(text.data, "class=\"gpu"), 16);
    cr_assert(strstr(text.data, "more</span>"));
    text_free(&text);
    plan_destroy(plan);
}

Test(backends, write_plans_without_steps)
{
    Plan *plan = plan_of_four_ranks();
    plan->step_count = plan->buffer_count = plan->choice_count = plan->strategy_count = 0;
    plan->arena_bytes = 0;
    cJSON_Delete(trace_of(plan));
    Text text = {0};
    dot_print(plan, &text);
    html_print(plan, NULL, &text);
    cr_assert(strstr(text.data, "</html>"));
    cr_assert(!strstr(text.data, "nan") && !strstr(text.data, "inf,"));
    text_free(&text);
    plan_destroy(plan);
}

Test(occupancy, memory_follows_first_and_last_use)
{
    Plan *plan = plan_of_four_ranks();
    Arena *arena = arena_create();
    const Simulation *simulation = simulate(plan, arena);
    MemorySample *samples;
    uint32_t count = occupancy_memory(plan, simulation, arena, &samples);
    double kept = 0, resident[BUFFER_KIND_COUNT] = {0};
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        if (buffer->kind != BUFFER_TEMPORARY)
            resident[buffer->kind] += (double)buffer_bytes(buffer);
        else if (strcmp(buffer->name, "out") == 0 || strcmp(buffer->name, "loss") == 0)
            kept += (double)buffer_bytes(buffer);
    }
    cr_assert_eq(samples[0].time_s, 0);
    for (uint32_t i = 0; i < count; i++) {
        cr_assert(i == 0 || samples[i].time_s > samples[i - 1].time_s);
        cr_assert_leq(samples[i].bytes[BUFFER_TEMPORARY] + resident[BUFFER_WEIGHT] + resident[BUFFER_INPUT],
                      (double)plan->arena_bytes);
        for (int k = 0; k < BUFFER_KIND_COUNT; k++)
            cr_assert(k == BUFFER_TEMPORARY || samples[i].bytes[k] == resident[k]);
    }
    cr_assert_eq(samples[count - 1].bytes[BUFFER_TEMPORARY], kept, "results stay to the end, and nothing else does");
    // At first the embedding writes x and the gather its experts.
    double first = 0;
    static const char *const written[] = {"x", "gathered"};
    for (size_t i = 0; i < COUNT_OF(written); i++)
        first += (double)buffer_bytes(&plan->buffers[plan_buffer_index(plan, written[i])]);
    cr_assert_eq(samples[0].bytes[BUFFER_TEMPORARY], first);
    arena_destroy(arena);
    plan_destroy(plan);
}

Test(occupancy, a_port_carries_the_bytes_of_its_level_and_those_outside)
{
    Plan *plan = plan_of_four_ranks();
    Arena *arena = arena_create();
    const Simulation *simulation = simulate(plan, arena);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        PortSample *samples;
        uint32_t count = occupancy_port(plan, simulation, l, arena, &samples);
        double bytes = 0;
        for (uint32_t i = 0; i + 1 < count; i++)
            for (int s = 0; s < STREAM_COUNT; s++)
                bytes += samples[i].bytes_per_s[s] * (samples[i + 1].time_s - samples[i].time_s);
        cr_assert_float_eq(bytes, plan_port_bytes(plan, l), 1e-6 * bytes, "level %u: %g, not %g", l, bytes,
                           plan_port_bytes(plan, l));
        for (int s = 0; s < STREAM_COUNT; s++)
            cr_assert_eq(samples[count - 1].bytes_per_s[s], 0);
    }
    arena_destroy(arena);
    plan_destroy(plan);
}
