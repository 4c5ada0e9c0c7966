// What a sweep found, as a chart: the speed-up over plain EP along the last axis, a line for every combination of the
// others.
#include <math.h>

#include "backends/plot.h"
#include "hepc/sweep_print.h"

static const char *axis_label(const Sweep *sweep, size_t axis, Arena *arena)
{
    const char *unit = sweep->axes[axis].unit;
    return *unit ? arena_format(arena, "%s, %s", sweep->axes[axis].name, unit) : sweep->axes[axis].name;
}

// "fixed_size=1, dc.bandwidth=10 Gbit/s"
static const char *series_name(const Sweep *sweep, const SweepRow *row, Arena *arena)
{
    const char *name = sweep->axis_count > 1 ? "" : "this plan";
    for (size_t a = 0; a + 1 < sweep->axis_count; a++)
        name = arena_format(arena, "%s%s%s=%.6g%s%s", name, a ? ", " : "", sweep->axes[a].name, row->values[a],
                            *sweep->axes[a].unit ? " " : "", sweep->axes[a].unit);
    return name;
}

static bool is_next_of(const Sweep *sweep, const SweepRow *row, const SweepRow *first)
{
    for (size_t a = 0; a + 1 < sweep->axis_count; a++)
        if (row->values[a] != first->values[a])
            return false;
    return true;
}

void sweep_print_plot(const Sweep *sweep, Text *out)
{
    Arena *arena = arena_create();
    size_t rows = sweep->row_count ? sweep->row_count : 1, last = sweep->axis_count - 1;
    double *x = arena_alloc_array(arena, rows, sizeof *x), *y = arena_alloc_array(arena, rows, sizeof *y);
    PlotSeries *series = arena_alloc_array(arena, rows, sizeof *series);
    Plot plot = {.title = "Iteration of plain EP over this plan's", .x_label = axis_label(sweep, last, arena),
                 .y_label = "speed-up over plain EP", .reference = 1, .series = series};
    size_t points = 0;
    const SweepRow *first = NULL;
    for (size_t r = 0; r < sweep->row_count; r++) {
        const SweepRow *row = &sweep->rows[r];
        if (row->refused || row->over_ep <= 0)
            continue;
        if (!first || !is_next_of(sweep, row, first)) {
            series[plot.series_count++] =
                (PlotSeries){.name = series_name(sweep, row, arena), .x = x + points, .y = y + points};
            first = row;
        }
        x[points] = row->values[last];
        y[points++] = row->over_ep;
        series[plot.series_count - 1].count++;
    }
    plot.x_log = plot_wants_log(x, points);
    plot.y_log = plot_wants_log(y, points);
    plot_print(&plot, out);
    arena_destroy(arena);
}
