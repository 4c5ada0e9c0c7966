// What a sweep found, as a chart: speed-ups over the best baseline, solid, and over plain EP, dashed, along the axis
// with the most values; a colour for every combination of the others.

#include "backends/plot.h"
#include "hepc/sweep_print.h"
#include "ir/plan_facts.h"

typedef struct {
    const Sweep *sweep;
    size_t x_axis;
    Arena *arena;
    const SweepRow **rows; // of one colour, ascending along the axis
    size_t row_count;
} Charting;

static size_t widest_axis(const Sweep *sweep)
{
    size_t widest = 0;
    for (size_t a = 1; a < sweep->axis_count; a++)
        widest = sweep->axes[a].count >= sweep->axes[widest].count ? a : widest;
    return widest;
}

static const char *axis_label(const Sweep *sweep, size_t axis, Arena *arena)
{
    const char *unit = sweep->axes[axis].unit;
    return *unit ? arena_format(arena, "%s (%s)", sweep->axes[axis].name, unit) : sweep->axes[axis].name;
}

// "fixed_size 1, dc.bandwidth 10 Gbit/s"
static const char *series_name(const Charting *c, const SweepRow *row)
{
    const char *name = "", *unit;
    for (size_t a = 0; a < c->sweep->axis_count; a++) {
        unit = c->sweep->axes[a].unit;
        if (a != c->x_axis)
            name = arena_format(c->arena, "%s%s%s %.6g%s%s", name, *name ? ", " : "", c->sweep->axes[a].name,
                                row->values[a], *unit ? " " : "", unit);
    }
    return *name ? name : "this plan";
}

// The rows with a plan from `first` on, the first of its combination, that differ from it along the axis alone.
static void collect_rows(Charting *c, size_t first, size_t stride)
{
    c->row_count = 0;
    for (size_t i = 0; i < c->sweep->axes[c->x_axis].count && first + i * stride < c->sweep->row_count; i++) {
        const SweepRow *row = &c->sweep->rows[first + i * stride];
        if (row->refused)
            continue;
        size_t at = c->row_count++;
        for (; at > 0 && c->rows[at - 1]->values[c->x_axis] > row->values[c->x_axis]; at--)
            c->rows[at] = c->rows[at - 1];
        c->rows[at] = row;
    }
}

static const char *point_note(const Charting *c, const SweepRow *row, double speed_up, const char *baseline)
{
    const char *unit = c->sweep->axes[c->x_axis].unit;
    return arena_format(c->arena, "%s %.6g%s%s: %.3gx as fast as %s", c->sweep->axes[c->x_axis].name,
                        row->values[c->x_axis], *unit ? " " : "", unit, speed_up, baseline);
}

static PlotSeries make_series(const Charting *c, size_t colour, bool over_ep)
{
    PlotSeries series = {.colour = colour, .dashed = over_ep};
    series.x = arena_alloc_array(c->arena, c->row_count + 1, sizeof(*series.x));
    series.y = arena_alloc_array(c->arena, c->row_count + 1, sizeof(*series.y));
    series.notes = arena_alloc_array(c->arena, c->row_count + 1, sizeof(*series.notes));
    for (size_t i = 0; i < c->row_count; i++) {
        const SweepRow *row = c->rows[i];
        double speed_up = over_ep ? row->over_ep : row->over_best;
        if (speed_up <= 0)
            continue;
        series.x[series.count] = row->values[c->x_axis];
        series.y[series.count] = speed_up;
        series.notes[series.count++] = point_note(c, row, speed_up, over_ep ? "plain EP" : row->best_phrase);
    }
    if (c->row_count)
        series.name = series_name(c, c->rows[0]);
    return series;
}

static bool wants_log(const Plot *plot, bool of_y, Arena *arena)
{
    size_t points = 0, n = 0;
    for (size_t s = 0; s < plot->series_count; s++)
        points += plot->series[s].count;
    double *values = arena_alloc_array(arena, points + 1, sizeof(*values));
    for (size_t s = 0; s < plot->series_count; s++)
        for (size_t i = 0; i < plot->series[s].count; i++)
            values[n++] = of_y ? plot->series[s].y[i] : plot->series[s].x[i];
    return plot_wants_log(values, n);
}

void sweep_print_plot(const Sweep *sweep, Text *out)
{
    Arena *arena = arena_create();
    Charting c = {.sweep = sweep, .x_axis = widest_axis(sweep), .arena = arena};
    c.rows = arena_alloc_array(arena, sweep->row_count + 1, sizeof(*c.rows));
    PlotSeries *series = arena_alloc_array(arena, 2 * sweep->row_count + 1, sizeof(*series));
    Plot plot = {.title = "Speed-up over the best baseline, and over plain EP",
                 .x_label = axis_label(sweep, c.x_axis, arena),
                 .y_label = "times as fast as the baseline",
                 .x_count = sweep->axes[c.x_axis].count,
                 .x_values = sweep->axes[c.x_axis].values,
                 .reference = 1,
                 .reference_label = "1: as fast as the baseline",
                 .solid = "over the best baseline",
                 .dashed = "over plain EP (naive dispatch)",
                 .series = series};
    size_t stride = 1; // in rows, of the axis
    for (size_t a = c.x_axis + 1; a < sweep->axis_count; a++)
        stride *= sweep->axes[a].count;
    for (size_t r = 0, colour = 0; r < sweep->row_count; r++) {
        if (r / stride % sweep->axes[c.x_axis].count != 0)
            continue;
        collect_rows(&c, r, stride);
        for (int over_ep = 1; over_ep >= 0; over_ep--) { // solid lines above dashed ones
            PlotSeries one = make_series(&c, colour, over_ep);
            if (one.count)
                series[plot.series_count++] = one;
        }
        colour += c.row_count > 0;
    }
    plot.x_log = sweep->axes[c.x_axis].logarithmic || wants_log(&plot, false, arena);
    plot.y_log = wants_log(&plot, true, arena);
    plot_print(&plot, out);
    arena_destroy(arena);
}
