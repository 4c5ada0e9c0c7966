// See columns.h. Owns the tables alone.
#include "runtime/report/columns.h"

#include <math.h>
#include <string.h>

#include "runtime/job/job.h"

enum { WIDTH_MIN = 12 };

#define MEAN                                      "B/GPU"
#define PLANNED                                   "B/GPU"
#define MAX                                       "B"
#define HEP_TRAFFIC(key, title, REDUCTION, value) {#key, title, REDUCTION, 1, 0, offsetof(JobTraffic, key)},
const Column traffic_columns[] = {
#include "runtime/comm/measures.def"
    {0}};

#define HEP_RANK_TIME(key, title, REDUCTION, value) {#key, title, "ms", 1e3, 3, offsetof(RankTimes, key)},
const Column rank_columns[] = {
#include "runtime/comm/measures.def"
    {0}};

static void append(const Column *column, const char *cell, Text *out)
{
    size_t width = strlen(column->title);
    if (column->title[0])
        text_format(out, " %*s", width > WIDTH_MIN ? (int)width : WIDTH_MIN, cell);
}

void columns_print_titles(const Column *columns, Text *out)
{
    for (; columns->key; columns++)
        append(columns, columns->title, out);
}

void columns_print_units(const Column *columns, Text *out)
{
    for (; columns->key; columns++)
        append(columns, columns->unit, out);
}

static double value_of(const Column *column, const void *row)
{
    double value;
    memcpy(&value, (const char *)row + column->offset, sizeof(value));
    return value;
}

void columns_print_row(const Column *columns, const void *row, Text *out)
{
    for (; columns->key; columns++) {
        double value = value_of(columns, row);
        Text cell = {0};
        if (isnan(value))
            text_append(&cell, "-");
        else
            text_format(&cell, "%.*f", columns->decimals, columns->scale * value);
        append(columns, cell.data, out);
        text_free(&cell);
    }
}

void columns_add_json(const Column *columns, const void *row, cJSON *object)
{
    for (; columns->key; columns++)
        cJSON_AddNumberToObject(object, columns->key, value_of(columns, row));
}
