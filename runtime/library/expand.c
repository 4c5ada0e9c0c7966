// Routes whose rows are expanded: one for each expert that a row meets here, ordered by expert. Local copies and sums;
// what travels is as without.
#include <stdlib.h>

#include "runtime/library/route.h"

static int32_t slot_of(const hep_route *route, const Record *record)
{
    return record->expert >= 0 ? route->of->map->slot_of_expert[record->expert] : -1;
}

// A counting sort: records in their order, by slot.
bool route_order_pairs(hep_route *route, Fault *fault)
{
    const Stage *end = &route->stages[route->hop_count];
    uint64_t records = end->record_rows * route->per_row, held = route->of->shares.block_experts;
    uint32_t *places = calloc(held + 1, sizeof(*places));
    const Record *all = end->records.data;
    if (!places)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a route");
    for (uint64_t i = 0; i < records; i++)
        if (slot_of(route, &all[i]) >= 0)
            places[slot_of(route, &all[i]) + 1]++;
    for (uint64_t e = 0; e < held; e++)
        places[e + 1] += places[e];
    route->pair_count = places[held];
    route->pairs = store_take(route->store, route->pair_count * sizeof(*route->pairs), fault);
    for (uint64_t i = 0; i < records && route->pairs; i++)
        if (slot_of(route, &all[i]) >= 0)
            route->pairs[places[slot_of(route, &all[i])]++] = (uint32_t)i;
    free(places);
    return route->pairs;
}

void route_give_expanded(const hep_route *route, Tensor rows)
{
    route_spread_rows(route, route->received, rows);
}

void route_spread_rows(const hep_route *route, Tensor rows, Tensor expanded)
{
    uint64_t bytes = rows.cols * dtype_bytes(rows.dtype);
    for (uint64_t i = 0; i < route->pair_count; i++)
        memcpy((char *)expanded.data + i * bytes, (const char *)rows.data + route->pairs[i] / route->per_row * bytes,
               bytes);
}

enum { COLUMNS = 256 };

// Columns column .. column + count of all rows, in f32.
static void fold_block(const hep_route *route, Tensor expanded, float *sums, uint64_t column, uint64_t count)
{
    float part[COLUMNS];
    uint64_t size = dtype_bytes(expanded.dtype);
    for (uint64_t i = 0; i < route->pair_count; i++) {
        float *restrict to = sums + route->pairs[i] / route->per_row * count;
        host_to_f32((const char *)expanded.data + (i * expanded.cols + column) * size, expanded.dtype, part, count);
        for (uint64_t c = 0; c < count; c++)
            to[c] += part[c];
    }
}

bool route_fold_rows(const hep_route *route, Tensor expanded, Tensor rows, Fault *fault)
{
    float *sums = store_take(route->store, rows.rows * COLUMNS * sizeof(*sums), fault);
    uint64_t size = dtype_bytes(rows.dtype);
    if (!sums)
        return false;
    for (uint64_t column = 0; column < rows.cols; column += COLUMNS) {
        uint64_t count = rows.cols - column < COLUMNS ? rows.cols - column : COLUMNS;
        memset(sums, 0, rows.rows * count * sizeof(*sums));
        fold_block(route, expanded, sums, column, count);
        for (uint64_t r = 0; r < rows.rows; r++)
            host_from_f32(sums + r * count, (char *)rows.data + (r * rows.cols + column) * size, rows.dtype, count);
    }
    store_give(route->store, sums);
    return true;
}

void route_fold_records(const hep_route *route, const float *expanded, float *records)
{
    memset(records, 0, route->stages[route->hop_count].record_rows * route->per_row * sizeof(*records));
    for (uint64_t i = 0; i < route->pair_count; i++)
        records[route->pairs[i]] = expanded[i];
}
