// Columns of measures.def for both writers: one by one in a table, key by key in JSON.
#ifndef HEP_COLUMNS_H
#define HEP_COLUMNS_H

#include <cjson/cJSON.h>

#include "ir/base/text.h"

typedef struct {
    const char *key, *title, *unit; // title "": not in the table; the unit is the table's
    double scale;                   // of the table over JSON
    int decimals;                   // of the table
    size_t offset;                  // of a double, in the row
} Column;

extern const Column traffic_columns[]; // of a JobTraffic, up to one without a key
extern const Column rank_columns[];    // of a RankTimes

void columns_print_titles(const Column *columns, Text *out);
void columns_print_units(const Column *columns, Text *out);
void columns_print_row(const Column *columns, const void *row, Text *out); // "-" for what is not a number
void columns_add_json(const Column *columns, const void *row, cJSON *object);

#endif
