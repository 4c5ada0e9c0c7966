// See diff.h. Finds the differences; nothing is printed here.
#include "backends/diff.h"

#include <stdlib.h>
#include <string.h>

#include "backends/diff_parts.h"
#include "ir/binary.h"
#include "ir/plan_facts.h"
#include "ir/simulate/simulate.h"
#include "ir/text/plan_text.h"
#include "ir/unroll.h"

static const char *value_text(const Plan *plan, const Field *field, const void *record, Arena *arena)
{
    Text text = {0};
    plan_print_value(plan, field, (const char *)record + field->offset, &text);
    const char *copy = arena_copy_string(arena, text.data ? text.data : "", text.length);
    text_free(&text);
    return copy;
}

static const char *shown_text(const Plan *plan, const Field *field, const void *record, Arena *arena)
{
    char out[FORMAT_MAX];
    double value = 0;
    if (field->unit != UNIT_NONE)
        memcpy(&value, (const char *)record + field->offset, sizeof(value));
    switch (field->unit) {
    case UNIT_NONE:
    case UNIT_COUNT: // how many units there are
        return value_text(plan, field, record, arena);
    case UNIT_BYTES:
        return arena_format(arena, "%s", format_bytes(out, value));
    case UNIT_SECONDS:
        return arena_format(arena, "%s", format_time(out, value));
    case UNIT_LINK_RATE:
        return arena_format(arena, "%s", format_bandwidth(out, value));
    case UNIT_MEMORY_RATE:
        return arena_format(arena, "%s/s", format_bytes(out, value));
    case UNIT_FLOP_RATE:
        return arena_format(arena, "%s", format_rate(out, value));
    case UNIT_PARAMETERS:
        return arena_format(arena, "%s", format_count(out, value));
    case UNIT_SHARE:
        return arena_format(arena, "%.3g %%", 100 * value);
    }
    return "";
}

// ---- settings --------------------------------------------------------------------------------

// Those are among the figures.
static bool is_figure(RecordKind kind, const Field *field)
{
    return kind == RECORD_PLAN && (strcmp(field->key, "iteration_s") == 0 || strcmp(field->key, "arena_bytes") == 0);
}

static const char *record_label(const Diff *diff, RecordKind kind, uint32_t index, Arena *arena)
{
    const Plan *plan = diff->plans[index < record_count(diff->plans[0], kind) ? 0 : 1];
    switch (kind) {
    case RECORD_LEVEL:
        return arena_format(arena, "level %s", plan->cluster.levels[index].name);
    case RECORD_PORT:
        return arena_format(arena, "port %s", plan->cluster.ports[index].name);
    case RECORD_LINK:
        return arena_format(arena, "link %s, %s", plan->cluster.ports[plan->cluster.links[index].a].name,
                            plan->cluster.ports[plan->cluster.links[index].b].name);
    default:
        return record_info(kind)->keyword;
    }
}

static void compare_record(Diff *diff, RecordKind kind, uint32_t index, Arena *arena)
{
    const void *records[2];
    for (int p = 0; p < 2; p++)
        records[p] = index < record_count(diff->plans[p], kind) ? record_at(diff->plans[p], kind, index) : NULL;
    for (const Field *field = record_info(kind)->fields; field->key; field++) {
        SettingDiff setting = {.key = field->key, .unit = field_unit_name(field->unit)};
        for (int p = 0; p < 2 && !is_figure(kind, field); p++) {
            setting.values[p] = records[p] ? value_text(diff->plans[p], field, records[p], arena) : NULL;
            setting.shown[p] = records[p] ? shown_text(diff->plans[p], field, records[p], arena) : NULL;
        }
        if (is_figure(kind, field) ||
            (setting.values[0] && setting.values[1] && strcmp(setting.values[0], setting.values[1]) == 0))
            continue;
        setting.record = record_label(diff, kind, index, arena);
        bool alike = setting.shown[0] && setting.shown[1] && strcmp(setting.shown[0], setting.shown[1]) == 0;
        for (int p = 0; p < 2 && alike; p++)
            setting.shown[p] = arena_format(arena, "%s%s%s", setting.values[p], *setting.unit ? " " : "", setting.unit);
        diff->settings[diff->setting_count++] = setting;
    }
}

static void compare_settings(Diff *diff, Arena *arena)
{
    size_t capacity = 0;
    for (RecordKind kind = RECORD_CLUSTER; kind <= RECORD_TRAINING; kind++)
        capacity += ((size_t)record_count(diff->plans[0], kind) + record_count(diff->plans[1], kind)) * FIELDS_MAX;
    diff->settings = arena_alloc_array(arena, capacity, sizeof(*diff->settings));
    for (RecordKind kind = RECORD_CLUSTER; kind <= RECORD_TRAINING; kind++) {
        uint32_t a = record_count(diff->plans[0], kind), b = record_count(diff->plans[1], kind);
        for (uint32_t i = 0; i < (a > b ? a : b); i++)
            compare_record(diff, kind, i, arena);
    }
}

// ---- choices ---------------------------------------------------------------------------------

static const char *choice_text(const Plan *plan, const Choice *choice, Arena *arena)
{
    char domain[DOMAIN_TEXT_MAX], gathered[DOMAIN_TEXT_MAX], returned[DOMAIN_TEXT_MAX];
    plan_format_gathered(plan, choice->regather, choice->once, gathered, sizeof(gathered));
    plan_format_returned(plan, choice->returns_apart, choice->once_gradient, returned, sizeof(returned));
    return arena_format(arena, "%s%s%s%s", plan_format_domain(plan, choice->domain, domain, sizeof(domain)),
                        choice->regather ? ", " : "", choice->regather ? gathered : "", returned);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static void add_choice(Diff *diff, uint32_t layer, const char *const choices[2])
{
    ChoiceDiff *last = diff->choice_count > 0 ? &diff->choices[diff->choice_count - 1] : NULL;
    if (same_text(choices[0], choices[1]))
        return;
    if (last && last->last + 1 == layer && same_text(last->choices[0], choices[0]) &&
        same_text(last->choices[1], choices[1]))
        last->last = layer;
    else
        diff->choices[diff->choice_count++] = (ChoiceDiff){layer, layer, {choices[0], choices[1]}};
}

static void compare_choices(Diff *diff, Arena *arena)
{
    uint32_t next[2] = {0};
    uint32_t counts[2] = {diff->plans[0]->choice_count, diff->plans[1]->choice_count};
    diff->choices = arena_alloc_array(arena, (size_t)counts[0] + counts[1] + 1, sizeof(*diff->choices));
    while (next[0] < counts[0] || next[1] < counts[1]) {
        uint32_t layer = UINT32_MAX;
        const char *choices[2] = {NULL, NULL};
        for (int p = 0; p < 2; p++)
            if (next[p] < counts[p] && diff->plans[p]->choices[next[p]].layer < layer)
                layer = diff->plans[p]->choices[next[p]].layer;
        for (int p = 0; p < 2; p++)
            if (next[p] < counts[p] && diff->plans[p]->choices[next[p]].layer == layer)
                choices[p] = choice_text(diff->plans[p], &diff->plans[p]->choices[next[p]++], arena);
        add_choice(diff, layer, choices);
    }
}

// ---- figures ---------------------------------------------------------------------------------

static void add_figure(Diff *diff, const char *name, const char *key, FigureKind kind, double a, double b)
{
    diff->figures[diff->figure_count++] = (Figure){.name = name, .key = key, .kind = kind, .values = {a, b}};
}

static const Traffic *traffic_of(const Plan *plan, const char *level)
{
    static const Traffic none;
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->strategy_count > 0; l++)
        if (strcmp(plan->cluster.levels[l].name, level) == 0)
            return &plan->strategies[0].traffic[l];
    return &none;
}

static void add_traffic(Diff *diff, const char *level)
{
    const Traffic *a = traffic_of(diff->plans[0], level), *b = traffic_of(diff->plans[1], level);
    size_t counts[] = {traffic_kind_count(diff->plans[0]), traffic_kind_count(diff->plans[1])};
    for (size_t kind = 0; kind < (counts[0] > counts[1] ? counts[0] : counts[1]); kind++) {
        add_figure(diff, traffic_kinds[kind].title, traffic_kinds[kind].key, FIGURE_BYTES, traffic_of_kind(a, kind),
                   traffic_of_kind(b, kind));
        diff->figures[diff->figure_count - 1].level = level;
    }
}

static bool has_level(const Plan *plan, const char *name)
{
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        if (strcmp(plan->cluster.levels[l].name, name) == 0)
            return true;
    return false;
}

static void compare_figures(Diff *diff, Arena *arena)
{
    const Plan *a = diff->plans[0], *b = diff->plans[1];
    diff->figures = arena_alloc_array(arena, 8 + 6 * 2 * LEVELS_MAX, sizeof(*diff->figures));
    add_figure(diff, "iteration, predicted", "iteration_s", FIGURE_TIME, a->iteration_s, b->iteration_s);
    add_figure(diff, "iteration, simulated", "simulated_s", FIGURE_TIME, simulated_iteration_s(a),
               simulated_iteration_s(b));
    if (a->micro_batches > 1 || b->micro_batches > 1)
        add_figure(diff, "per micro-batch, predicted", "micro_batch_s", FIGURE_TIME, a->iteration_s / a->micro_batches,
                   b->iteration_s / b->micro_batches);
    add_figure(diff, "memory per GPU", "memory_bytes", FIGURE_BYTES,
               a->strategy_count ? a->strategies[0].memory_bytes : 0,
               b->strategy_count ? b->strategies[0].memory_bytes : 0);
    add_figure(diff, "its arena", "arena_bytes", FIGURE_BYTES, (double)a->arena_bytes, (double)b->arena_bytes);
    add_figure(diff, "steps", "steps", FIGURE_COUNT, a->step_count, b->step_count);
    add_figure(diff, "waits", "waits", FIGURE_COUNT, a->after_count, b->after_count);
    add_figure(diff, "buffers", "buffers", FIGURE_COUNT, a->buffer_count, b->buffer_count);
    for (uint32_t l = 0; l < a->cluster.level_count; l++)
        add_traffic(diff, a->cluster.levels[l].name);
    for (uint32_t l = 0; l < b->cluster.level_count; l++)
        if (!has_level(a, b->cluster.levels[l].name))
            add_traffic(diff, b->cluster.levels[l].name);
}

// ---- steps -----------------------------------------------------------------------------------

static StepRow *find_row(Diff *diff, const char *op, const char *level)
{
    for (uint32_t r = 0; r < diff->step_row_count; r++)
        if (strcmp(diff->steps[r].op, op) == 0 && strcmp(diff->steps[r].level, level) == 0)
            return &diff->steps[r];
    diff->steps[diff->step_row_count] = (StepRow){.op = op, .level = level};
    return &diff->steps[diff->step_row_count++];
}

static void compare_steps(Diff *diff, Arena *arena)
{
    size_t op_count;
    op_table(&op_count);
    diff_match_steps(diff->plans, diff->matches, arena);
    diff->steps = arena_alloc_array(arena, op_count * 2 * (LEVELS_MAX + 1), sizeof(*diff->steps));
    for (int p = 0; p < 2; p++) {
        const Plan *plan = diff->plans[p];
        for (uint32_t i = 0; i < plan->step_count; i++) {
            const Step *step = &plan->steps[i];
            const StepMatch *match = &diff->matches[p][i];
            const char *level = step->level == NONE ? "" : plan->cluster.levels[step->level].name;
            StepRow *row = find_row(diff, op_info((int)step->op)->name, level);
            row->only[p] += match->other == NONE;
            row->changed += p == 0 && match->changed;
            row->moved += p == 0 && match->moved;
            row->cost_s[p] += plan_step_runs(plan, step) * step->cost_s;
            row->bytes[p] += plan_step_runs(plan, step) * step->bytes;
        }
    }
}

// ---- all -------------------------------------------------------------------------------------

static bool same_encoding(const Plan *const plans[2])
{
    uint8_t *bytes[2] = {NULL, NULL};
    size_t lengths[2] = {0};
    Fault ignored = {0}; // what cannot be written is not the same
    bool same = plan_encode(plans[0], &bytes[0], &lengths[0], &ignored) &&
                plan_encode(plans[1], &bytes[1], &lengths[1], &ignored) && lengths[0] == lengths[1] &&
                memcmp(bytes[0], bytes[1], lengths[0]) == 0;
    free(bytes[0]);
    free(bytes[1]);
    return same;
}

const Diff *diff_plans(const Plan *const plans[2], const char *const names[2], Arena *arena)
{
    Diff *diff = arena_alloc(arena, sizeof(*diff));
    for (int p = 0; p < 2; p++) {
        diff->plans[p] = plans[p];
        diff->names[p] = names[p];
    }
    diff->empty = same_encoding(plans);
    compare_settings(diff, arena);
    compare_choices(diff, arena);
    compare_figures(diff, arena);
    compare_steps(diff, arena);
    return diff;
}

bool diff_is_empty(const Diff *diff)
{
    return diff->empty;
}
