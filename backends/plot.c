// See plot.h. Colours are an eight-colour palette that the colour-blind can tell apart; from the ninth on points are
// squares.
#include "backends/plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 960,
    HEIGHT = 540,
    LEFT = 76,
    TOP = 56,
    BOTTOM = 64,
    LEGEND = 300,
    COLOURS = 8,
    TICKS_MAX = 40,
    LEGEND_ROW = 20,
    TICK_SPACE = 46
};

static const double WANTS_LOG = 20; // a range wider than this factor

typedef struct {
    bool log;
    double low, high; // of the axis, in its scale
    int from, to;     // pixels
    double ticks[TICKS_MAX];
    size_t tick_count;
} Scale;

bool plot_wants_log(const double values[], size_t count)
{
    double low = INFINITY, high = 0;
    for (size_t i = 0; i < count; i++) {
        low = fmin(low, values[i]);
        high = fmax(high, values[i]);
    }
    return count > 2 && low > 0 && high / low >= WANTS_LOG;
}

static double scaled(const Scale *scale, double value)
{
    return scale->log ? log10(value) : value;
}

static double place(const Scale *scale, double value)
{
    double width = scale->high - scale->low;
    double share = width > 0 ? (scaled(scale, value) - scale->low) / width : 0.5;
    return scale->from + share * (scale->to - scale->from);
}

static void add_tick(Scale *scale, double value)
{
    double at = scaled(scale, value), slack = 1e-9 * (scale->high - scale->low);
    if (scale->tick_count < TICKS_MAX && at >= scale->low - slack && at <= scale->high + slack)
        scale->ticks[scale->tick_count++] = value;
}

// 1, 2 and 5 times powers of ten: in the logarithm all of them, or only powers where there are many decades.
static void find_ticks(Scale *scale)
{
    static const double steps[] = {1, 2, 5};
    if (scale->log) {
        size_t of_decade = scale->high - scale->low > 4 ? 1 : COUNT_OF(steps);
        for (double decade = floor(scale->low); decade <= scale->high; decade++)
            for (size_t s = 0; s < of_decade; s++)
                add_tick(scale, steps[s] * pow(10, decade));
        return;
    }
    double width = scale->high - scale->low, step = pow(10, floor(log10(width / 5)));
    for (size_t s = 0; s < COUNT_OF(steps) && width / step > 8; s++)
        step = steps[s] * pow(10, floor(log10(width / 5)));
    if (width / step > 8)
        step *= 2;
    for (double tick = ceil(scale->low / step - 1e-9) * step; tick <= scale->high + step / 2; tick += step)
        add_tick(scale, fabs(tick) < step / 1e6 ? 0 : tick);
}

// The values themselves, if their labels do not run into each other.
static bool mark_values(Scale *scale, const double values[], size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            if (fabs(place(scale, values[i]) - place(scale, values[j])) < TICK_SPACE)
                return false;
    for (size_t i = 0; i < count; i++)
        add_tick(scale, values[i]);
    return count > 0;
}

static Scale make_scale(const Plot *plot, bool of_y, int from, int to)
{
    Scale scale = {.log = of_y ? plot->y_log : plot->x_log, .low = INFINITY, .high = -INFINITY, .from = from, .to = to};
    for (size_t s = 0; s < plot->series_count; s++)
        for (size_t i = 0; i < plot->series[s].count; i++) {
            double at = scaled(&scale, of_y ? plot->series[s].y[i] : plot->series[s].x[i]);
            scale.low = fmin(scale.low, at);
            scale.high = fmax(scale.high, at);
        }
    if (of_y && isfinite(plot->reference)) {
        scale.low = fmin(scale.low, scaled(&scale, plot->reference));
        scale.high = fmax(scale.high, scaled(&scale, plot->reference));
    }
    if (!isfinite(scale.low))
        scale.low = scale.high = 0;
    double margin = scale.high > scale.low ? (of_y ? 0.06 : 0.02) * (scale.high - scale.low) : 0.5;
    scale.low -= margin;
    scale.high += margin;
    if (of_y || plot->x_count > TICKS_MAX || !mark_values(&scale, plot->x_values, plot->x_count))
        find_ticks(&scale);
    return scale;
}

static void print_escaped(const char *text, Text *out)
{
    for (; *text; text++) {
        if (*text == '&' || *text == '<' || *text == '>')
            text_append(out, *text == '&' ? "&amp;" : *text == '<' ? "&lt;" : "&gt;");
        else
            text_format(out, "%c", *text);
    }
}

static void print_text(double x, double y, const char *class, const char *extra, const char *content, Text *out)
{
    text_format(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\"%s>", x, y, class, extra);
    print_escaped(content, out);
    text_append(out, "</text>\n");
}

static void print_axes(const Plot *plot, const Scale *x, const Scale *y, Text *out)
{
    char label[32];
    for (size_t i = 0; i < x->tick_count; i++) {
        double at = place(x, x->ticks[i]);
        text_format(out, "<path class=\"grid\" d=\"M%.1f %dV%d\"/>\n", at, y->to, y->from);
        bool whole = fabs(x->ticks[i]) >= 100 && fabs(x->ticks[i]) < 1e6; // three digits and no exponent
        snprintf(label, sizeof(label), whole ? "%.0f" : "%.3g", x->ticks[i]);
        print_text(at, y->from + 20, "tick middle", "", label, out);
    }
    for (size_t i = 0; i < y->tick_count; i++) {
        double at = place(y, y->ticks[i]);
        text_format(out, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", x->from, at, x->to);
        snprintf(label, sizeof(label), "%g", y->ticks[i]);
        print_text(x->from - 8, at + 4, "tick end", "", label, out);
    }
    if (isfinite(plot->reference)) {
        double at = place(y, plot->reference);
        text_format(out, "<path class=\"reference\" d=\"M%d %.1fH%d\"/>\n", x->from, at, x->to);
        print_text(x->to - 4, at + 15, "tick end halo", "", plot->reference_label, out);
    }
    double middle = (y->from + y->to) / 2.0;
    snprintf(label, sizeof(label), " transform=\"rotate(-90 20 %.0f)\"", middle);
    print_text(20, middle, "label middle", label, plot->y_label, out);
    print_text((x->from + x->to) / 2.0, HEIGHT - 16, "label middle", "", plot->x_label, out);
    print_text(x->from, 30, "title", "", plot->title, out);
}

static void print_points(const PlotSeries *series, const Scale *x, const Scale *y, Text *out)
{
    const double radius = series->dashed ? 2 : 3.5;
    for (size_t i = 0; i < series->count; i++) {
        double left = place(x, series->x[i]), top = place(y, series->y[i]);
        bool square = series->colour >= COLOURS;
        if (square)
            text_format(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>", left - radius,
                        top - radius, 2 * radius, 2 * radius);
        else
            text_format(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"><title>", left, top, radius);
        print_escaped(series->name, out);
        text_append(out, "\n");
        print_escaped(series->notes[i], out);
        text_append(out, square ? "</title></rect>\n" : "</title></circle>\n");
    }
}

static void print_series(const PlotSeries *series, const Scale *x, const Scale *y, Text *out)
{
    text_format(out, "<g class=\"c%zu%s\">\n<path class=\"line\" d=\"", series->colour % COLOURS,
                series->dashed ? " dashed" : "");
    for (size_t i = 0; i < series->count; i++)
        text_format(out, "%c%.1f %.1f", i ? 'L' : 'M', place(x, series->x[i]), place(y, series->y[i]));
    text_append(out, "\"/>\n");
    print_points(series, x, y, out);
    text_append(out, "</g>\n");
}

// ---- the legend ------------------------------------------------------------------------------

// The first series whose line is the same, and hides it: itself mostly.
static const PlotSeries *same_line(const Plot *plot, const PlotSeries *series)
{
    const PlotSeries *one = plot->series;
    for (; one < series; one++)
        if (one->dashed == series->dashed && one->count == series->count &&
            memcmp(one->x, series->x, series->count * sizeof(*series->x)) == 0 &&
            memcmp(one->y, series->y, series->count * sizeof(*series->y)) == 0)
            break;
    return one;
}

static void print_legend_row(size_t row, const char *class, const char *name, const char *as, Text *out)
{
    double at = TOP + 10 + LEGEND_ROW * (double)row;
    text_format(out,
                "<g class=\"%s\"><path class=\"line\" d=\"M%d %.1fh24\"/>\n"
                "<text x=\"%d\" y=\"%.1f\" class=\"tick\">",
                class, WIDTH - LEGEND + 16, at, WIDTH - LEGEND + 48, at + 4);
    print_escaped(name, out);
    if (as) {
        text_append(out, ": as ");
        print_escaped(as, out);
    }
    text_append(out, "</text></g>\n");
}

// Returns the number of rows; prints nothing without `out`.
static size_t print_legend(const Plot *plot, Text *out)
{
    size_t row = 0;
    char class[8];
    for (size_t s = 0; s < plot->series_count; s++) {
        const PlotSeries *series = &plot->series[s], *same = same_line(plot, series);
        if (series->dashed)
            continue;
        snprintf(class, sizeof(class), "c%zu", series->colour % COLOURS);
        if (out)
            print_legend_row(row, class, series->name, same == series ? NULL : same->name, out);
        row++;
    }
    if (out) {
        print_legend_row(row + 1, "any", plot->solid, NULL, out);
        print_legend_row(row + 2, "any dashed", plot->dashed, NULL, out);
    }
    return row + 3;
}

static const char *const style =
    "svg{max-width:100%;height:auto}text{font:13px system-ui,sans-serif;fill:#222;stroke:none}\n"
    ".title{font-size:16px;font-weight:600}.halo{paint-order:stroke;stroke:#fff;stroke-width:4px}\n"
    ".label{fill:#444}.middle{text-anchor:middle}.end{text-anchor:end}.grid{stroke:#ddd}\n"
    ".reference{stroke:#888;stroke-dasharray:5 4}.line{fill:none;stroke-width:2}\n"
    ".dashed .line{stroke-width:1.2;stroke-dasharray:7 4}.any{stroke:#666}circle,rect{stroke:#fff}\n"
    ".back{fill:#fff;stroke:none}\n"
    ".c0{stroke:#0072b2;fill:#0072b2}.c1{stroke:#d55e00;fill:#d55e00}.c2{stroke:#009e73;fill:#009e73}\n"
    ".c3{stroke:#cc79a7;fill:#cc79a7}.c4{stroke:#b58900;fill:#b58900}.c5{stroke:#56b4e9;fill:#56b4e9}\n"
    ".c6{stroke:#6a3d9a;fill:#6a3d9a}.c7{stroke:#777;fill:#777}\n"
    "@media (prefers-color-scheme:dark){text{fill:#ddd}.label{fill:#bbb}.grid{stroke:#3a3a3a}.back{fill:#181818}\n"
    ".any{stroke:#aaa}.halo,circle,rect{stroke:#181818}.back{stroke:none}}\n"
    "@media print{text{fill:#000}.grid{stroke:#ddd}.back{fill:#fff}.halo,circle,rect{stroke:#fff}}\n";

void plot_print(const Plot *plot, Text *out)
{
    int height = TOP + 30 + LEGEND_ROW * (int)print_legend(plot, NULL);
    height = height > HEIGHT ? height : HEIGHT;
    Scale x = make_scale(plot, false, LEFT, WIDTH - LEGEND), y = make_scale(plot, true, HEIGHT - BOTTOM, TOP);
    text_format(out,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n"
                "<style>%s</style>\n<rect class=\"back\" width=\"100%%\" height=\"100%%\"/>\n",
                WIDTH, height, WIDTH, height, style);
    print_axes(plot, &x, &y, out);
    for (size_t s = 0; s < plot->series_count; s++)
        print_series(&plot->series[s], &x, &y, out);
    print_legend(plot, out);
    text_append(out, "</svg>\n");
}
