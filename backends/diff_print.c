// See diff.h: the differences as text and as JSON, from the same rows.
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>

#include "backends/diff_parts.h"

enum { SETTINGS_SHOWN = 40 }; // in the text; a cluster may have thousands of links

static const char *figure_text(char out[FORMAT_MAX], FigureKind kind, double value)
{
    switch (kind) {
    case FIGURE_TIME:
        return format_time(out, value);
    case FIGURE_BYTES:
        return format_bytes(out, value);
    case FIGURE_COUNT:
        snprintf(out, FORMAT_MAX, "%.0f", value);
        break;
    }
    return out;
}

static const char *change_text(char out[FORMAT_MAX], const double values[2])
{
    if (values[0] == values[1])
        snprintf(out, FORMAT_MAX, "=");
    else if (values[0] == 0)
        snprintf(out, FORMAT_MAX, "new");
    else
        format_change(out, values[1] / values[0] - 1);
    return out;
}

static void print_settings(const Diff *diff, Text *out)
{
    if (diff->setting_count == 0)
        return;
    text_format(out, "\n%-24s %-18s %20s %20s\n", "settings", "field", "A", "B");
    for (uint32_t i = 0; i < diff->setting_count && i < SETTINGS_SHOWN; i++) {
        const SettingDiff *setting = &diff->settings[i];
        text_format(out, "%-24s %-18s %20s %20s\n", setting->record, setting->key,
                    setting->shown[0] ? setting->shown[0] : "-", setting->shown[1] ? setting->shown[1] : "-");
    }
    if (diff->setting_count > SETTINGS_SHOWN)
        text_format(out, "... and %" PRIu32 " more\n", diff->setting_count - SETTINGS_SHOWN);
}

static void print_choices(const Diff *diff, Text *out)
{
    if (diff->choice_count == 0)
        return;
    text_format(out, "\n%-16s %-34s %s\n", "choices, layers", "A", "B");
    for (uint32_t i = 0; i < diff->choice_count; i++) {
        const ChoiceDiff *choice = &diff->choices[i];
        char layers[32];
        snprintf(layers, sizeof(layers), choice->first == choice->last ? "%" PRIu32 : "%" PRIu32 "..%" PRIu32,
                 choice->first, choice->last);
        text_format(out, "%-16s %-34s %s\n", layers, choice->choices[0] ? choice->choices[0] : "no MoE layer",
                    choice->choices[1] ? choice->choices[1] : "no MoE layer");
    }
}

static void print_figures(const Diff *diff, Text *out)
{
    char a[FORMAT_MAX], b[FORMAT_MAX], change[FORMAT_MAX], name[96];
    text_format(out, "\n%-32s %12s %12s %10s\n", "figures", "A", "B", "change");
    for (uint32_t i = 0; i < diff->figure_count; i++) {
        const Figure *figure = &diff->figures[i];
        if (figure->level && figure->values[0] == 0 && figure->values[1] == 0)
            continue;
        snprintf(name, sizeof(name), "%s%s%s%s", figure->level ? "sent/GPU over " : "",
                 figure->level ? figure->level : "", figure->level ? ", " : "", figure->name);
        text_format(out, "%-32s %12s %12s %10s\n", name, figure_text(a, figure->kind, figure->values[0]),
                    figure_text(b, figure->kind, figure->values[1]), change_text(change, figure->values));
    }
}

static bool row_differs(const StepRow *row)
{
    return row->only[0] || row->only[1] || row->changed || row->moved;
}

static void print_steps(const Diff *diff, Text *out)
{
    char a[FORMAT_MAX], b[FORMAT_MAX], c[FORMAT_MAX], d[FORMAT_MAX];
    bool any = false;
    for (uint32_t r = 0; r < diff->step_row_count; r++) {
        const StepRow *row = &diff->steps[r];
        if (!row_differs(row))
            continue;
        if (!any)
            text_format(out, "\n%-22s %-10s %7s %7s %8s %7s %11s %11s %11s %11s\n%78s %11s %11s %11s\n", "steps",
                        "level", "only A", "only B", "changed", "moved", "cost A", "cost B", "sent A", "sent B",
                        "all steps", "all steps", "per GPU", "per GPU");
        any = true;
        text_format(out, "%-22s %-10s %7" PRIu32 " %7" PRIu32 " %8" PRIu32 " %7" PRIu32 " %11s %11s %11s %11s\n",
                    row->op, row->level[0] ? row->level : "-", row->only[0], row->only[1], row->changed, row->moved,
                    format_time(a, row->cost_s[0]), format_time(b, row->cost_s[1]), format_bytes(c, row->bytes[0]),
                    format_bytes(d, row->bytes[1]));
    }
}

void diff_print(const Diff *diff, Text *out)
{
    text_format(out, "A: %s\nB: %s\n", diff->names[0], diff->names[1]);
    if (diff->empty) {
        text_append(out, "the same plan\n");
        return;
    }
    print_settings(diff, out);
    print_choices(diff, out);
    print_figures(diff, out);
    print_steps(diff, out);
}

// ---- JSON ------------------------------------------------------------------------------------

static void add_text(cJSON *object, const char *key, const char *text)
{
    if (text)
        cJSON_AddStringToObject(object, key, text);
    else
        cJSON_AddNullToObject(object, key);
}

static cJSON *add_row(cJSON *array)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(array, row);
    return row;
}

static void add_step_index(cJSON *row, const char *key, int32_t index)
{
    if (index == NONE)
        cJSON_AddNullToObject(row, key);
    else
        cJSON_AddNumberToObject(row, key, index);
}

// Every step that is not the same in both: A's in its order, then what only B has.
static void add_steps(const Diff *diff, cJSON *array)
{
    for (int p = 0; p < 2; p++) {
        const Plan *plan = diff->plans[p];
        for (uint32_t i = 0; i < plan->step_count; i++) {
            const Step *step = &plan->steps[i];
            const StepMatch *match = &diff->matches[p][i];
            if (match->other != NONE && (p == 1 || (!match->changed && !match->moved)))
                continue;
            cJSON *row = add_row(array);
            cJSON_AddStringToObject(row, "op", op_info((int)step->op)->name);
            add_step_index(row, "layer", step->layer);
            add_text(row, "level", step->level == NONE ? NULL : plan->cluster.levels[step->level].name);
            add_step_index(row, "a", p == 0 ? (int32_t)i : NONE);
            add_step_index(row, "b", p == 0 ? match->other : (int32_t)i);
            cJSON_AddBoolToObject(row, "changed", match->changed);
            cJSON_AddBoolToObject(row, "moved", match->moved);
        }
    }
}

void diff_print_json(const Diff *diff, Text *out)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "format", "hep_diff");
    cJSON_AddNumberToObject(root, "version", 1);
    cJSON_AddStringToObject(root, "a", diff->names[0]);
    cJSON_AddStringToObject(root, "b", diff->names[1]);
    cJSON_AddBoolToObject(root, "same", diff->empty);
    cJSON *settings = cJSON_AddArrayToObject(root, "settings");
    for (uint32_t i = 0; i < diff->setting_count; i++) {
        cJSON *row = add_row(settings);
        cJSON_AddStringToObject(row, "record", diff->settings[i].record);
        cJSON_AddStringToObject(row, "field", diff->settings[i].key);
        add_text(row, "a", diff->settings[i].values[0]);
        add_text(row, "b", diff->settings[i].values[1]);
        add_text(row, "unit", *diff->settings[i].unit ? diff->settings[i].unit : NULL);
    }
    cJSON *choices = cJSON_AddArrayToObject(root, "choices");
    for (uint32_t i = 0; i < diff->choice_count; i++) {
        cJSON *row = add_row(choices);
        cJSON_AddNumberToObject(row, "first_layer", diff->choices[i].first);
        cJSON_AddNumberToObject(row, "last_layer", diff->choices[i].last);
        add_text(row, "a", diff->choices[i].choices[0]);
        add_text(row, "b", diff->choices[i].choices[1]);
    }
    cJSON *figures = cJSON_AddArrayToObject(root, "figures");
    for (uint32_t i = 0; i < diff->figure_count; i++) {
        cJSON *row = add_row(figures);
        cJSON_AddStringToObject(row, "figure", diff->figures[i].key);
        add_text(row, "level", diff->figures[i].level);
        cJSON_AddNumberToObject(row, "a", diff->figures[i].values[0]);
        cJSON_AddNumberToObject(row, "b", diff->figures[i].values[1]);
    }
    add_steps(diff, cJSON_AddArrayToObject(root, "steps"));
    char *text = cJSON_Print(root);
    text_format(out, "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(root);
}
