// What a sweep found, as a table for people, as CSV and as JSON (SI units).
#include <cjson/cJSON.h>
#include <stdio.h>

#include "hepc/sweep_print.h"

void sweep_print_table(const Sweep *sweep, Text *out)
{
    char value[FORMAT_MAX], other[FORMAT_MAX], heading[48];
    for (size_t a = 0; a < sweep->axis_count; a++)
        text_format(out, "%-16s ", sweep->axes[a].name);
    snprintf(heading, sizeof(heading), "%.16s link", sweep->outer_level);
    text_format(out, "%-24s %11s %11s %9s %9s %9s %12s %11s\n", "choice", "predicted", "simulated", "over best", "over",
                "over EP", heading, "memory");
    for (size_t a = 0; a < sweep->axis_count; a++)
        text_format(out, "%-16s ", sweep->axes[a].unit);
    text_format(out, "%-24s %11s %11s %9s %9s %9s %12s %11s\n", "workers per domain", "iteration", "iteration",
                "baseline", "dedup EP", "naive", "sent/GPU", "per GPU");
    for (size_t r = 0; r < sweep->row_count; r++) {
        const SweepRow *row = &sweep->rows[r];
        for (size_t a = 0; a < sweep->axis_count; a++)
            text_format(out, "%-16.6g ", row->values[a]);
        if (row->refused) {
            text_format(out, "%s\n", row->refused);
            continue;
        }
        text_format(out, "%-24s %11s %11s", row->choice, format_time(value, row->iteration_s),
                    format_time(other, row->simulated_s));
        if (row->over_best > 0)
            text_format(out, " %8.2fx", row->over_best);
        else
            text_format(out, " %9s", "-");
        text_format(out, " %8.2fx %8.2fx", row->over_dedup, row->over_ep);
        text_format(out, " %12s %11s\n", format_bytes(value, row->outer_bytes), format_bytes(other, row->memory_bytes));
    }
    if (sweep->row_count < sweep->point_count)
        text_format(out, "# interrupted after %zu of %zu points\n", sweep->row_count, sweep->point_count);
}

void sweep_print_csv(const Sweep *sweep, Text *out)
{
    for (size_t a = 0; a < sweep->axis_count; a++)
        text_format(out, "%s%s%s%s,", sweep->axes[a].name, *sweep->axes[a].unit ? " [" : "", sweep->axes[a].unit,
                    *sweep->axes[a].unit ? "]" : "");
    text_format(out,
                "choice,iteration_s,simulated_s,gap,best_baseline,over_best,over_ep,over_ep_dedup,%s_bytes,"
                "memory_bytes\n",
                sweep->outer_level);
    for (size_t r = 0; r < sweep->row_count; r++) {
        const SweepRow *row = &sweep->rows[r];
        for (size_t a = 0; a < sweep->axis_count; a++)
            text_format(out, "%.9g,", row->values[a]);
        if (!row->refused)
            text_format(out, "%s,%.9g,%.9g,%.6g,%s,%.6g,%.6g,%.6g,%.9g,%.9g\n", row->choice, row->iteration_s,
                        row->simulated_s, row->gap, row->best_baseline, row->over_best, row->over_ep, row->over_dedup,
                        row->outer_bytes, row->memory_bytes);
        else
            text_format(out, "%s,,,,,,,,,\n", row->refused);
    }
}

void sweep_print_json(const Sweep *sweep, Text *out)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "format", "hep-sweep");
    cJSON_AddNumberToObject(root, "version", 1);
    cJSON_AddNumberToObject(root, "points", (double)sweep->point_count);
    cJSON *axes = cJSON_AddArrayToObject(root, "axes");
    for (size_t a = 0; a < sweep->axis_count; a++) {
        cJSON *axis = cJSON_CreateObject();
        cJSON_AddStringToObject(axis, "name", sweep->axes[a].name);
        cJSON_AddStringToObject(axis, "unit", sweep->axes[a].unit);
        cJSON_AddItemToArray(axes, axis);
    }
    cJSON *rows = cJSON_AddArrayToObject(root, "rows");
    for (size_t r = 0; r < sweep->row_count; r++) {
        const SweepRow *row = &sweep->rows[r];
        cJSON *object = cJSON_CreateObject(), *values = cJSON_AddArrayToObject(object, "values");
        for (size_t a = 0; a < sweep->axis_count; a++)
            cJSON_AddItemToArray(values, cJSON_CreateNumber(row->values[a]));
        if (row->refused) {
            cJSON_AddStringToObject(object, "refused", row->refused);
        } else {
            cJSON_AddStringToObject(object, "choice", row->choice);
            cJSON_AddStringToObject(object, "best_baseline", row->best_baseline);
            const struct {
                const char *key;
                double value;
            } numbers[] = {{"iteration_s", row->iteration_s},
                           {"simulated_s", row->simulated_s},
                           {"gap", row->gap},
                           {"over_best", row->over_best},
                           {"over_ep", row->over_ep},
                           {"over_ep_dedup", row->over_dedup},
                           {"outer_bytes", row->outer_bytes},
                           {"memory_bytes", row->memory_bytes}};
            for (size_t i = 0; i < COUNT_OF(numbers); i++)
                cJSON_AddNumberToObject(object, numbers[i].key, numbers[i].value);
        }
        cJSON_AddItemToArray(rows, object);
    }
    char *text = cJSON_Print(root);
    text_append(out, text);
    text_append(out, "\n");
    cJSON_free(text);
    cJSON_Delete(root);
}
