// See plot.h. Colours are an eight-colour palette that the colour-blind can tell apart; from the ninth series on lines
// are dashed.
#include "backends/plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 960, HEIGHT = 540, LEFT = 76, TOP = 56, BOTTOM = 64, LEGEND = 300, COLOURS = 8, TICKS_MAX = 40 };

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
        snprintf(label, sizeof label, "%g", x->ticks[i]);
        print_text(at, y->from + 20, "tick middle", "", label, out);
    }
    for (size_t i = 0; i < y->tick_count; i++) {
        double at = place(y, y->ticks[i]);
        text_format(out, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", x->from, at, x->to);
        snprintf(label, sizeof label, "%g", y->ticks[i]);
        print_text(x->from - 8, at + 4, "tick end", "", label, out);
    }
    if (isfinite(plot->reference))
        text_format(out, "<path class=\"reference\" d=\"M%d %.1fH%d\"/>\n", x->from, place(y, plot->reference), x->to);
    double middle = (y->from + y->to) / 2.0;
    snprintf(label, sizeof label, " transform=\"rotate(-90 20 %.0f)\"", middle);
    print_text(20, middle, "label middle", label, plot->y_label, out);
    print_text((x->from + x->to) / 2.0, HEIGHT - 16, "label middle", "", plot->x_label, out);
    print_text(x->from, 30, "title", "", plot->title, out);
}

static void print_series(const PlotSeries *series, size_t index, const Scale *x, const Scale *y, Text *out)
{
    text_format(out, "<g class=\"c%zu%s\">\n<path class=\"line\" d=\"", index % COLOURS,
                index >= COLOURS ? " dashed" : "");
    for (size_t i = 0; i < series->count; i++)
        text_format(out, "%c%.1f %.1f", i ? 'L' : 'M', place(x, series->x[i]), place(y, series->y[i]));
    text_append(out, "\"/>\n");
    for (size_t i = 0; i < series->count; i++) {
        text_format(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>", place(x, series->x[i]),
                    place(y, series->y[i]));
        print_escaped(series->name, out);
        text_format(out, "\n%g: %.4g</title></circle>\n", series->x[i], series->y[i]);
    }
    double row = TOP + 10 + 20 * (double)index;
    text_format(out, "<path class=\"line\" d=\"M%d %.1fh24\"/>\n", WIDTH - LEGEND + 16, row);
    print_text(WIDTH - LEGEND + 48, row + 4, "tick", "", series->name, out);
    text_append(out, "</g>\n");
}

static const char *const style =
    "text{font:13px system-ui,sans-serif;fill:#222;stroke:none}.title{font-size:16px;font-weight:600}\n"
    ".label{fill:#444}.middle{text-anchor:middle}.end{text-anchor:end}.grid{stroke:#ddd}\n"
    ".reference{stroke:#888;stroke-dasharray:5 4}.line{fill:none;stroke-width:2}.dashed .line{stroke-dasharray:7 4}\n"
    "circle{stroke:#fff}.back{fill:#fff}\n"
    ".c0{stroke:#0072b2;fill:#0072b2}.c1{stroke:#d55e00;fill:#d55e00}.c2{stroke:#009e73;fill:#009e73}\n"
    ".c3{stroke:#cc79a7;fill:#cc79a7}.c4{stroke:#b58900;fill:#b58900}.c5{stroke:#56b4e9;fill:#56b4e9}\n"
    ".c6{stroke:#6a3d9a;fill:#6a3d9a}.c7{stroke:#777;fill:#777}\n"
    "@media (prefers-color-scheme:dark){text{fill:#ddd}.label{fill:#bbb}.grid{stroke:#3a3a3a}.back{fill:#181818}\n"
    "circle{stroke:#181818}}\n"
    "@media print{text{fill:#000}.grid{stroke:#ddd}.back{fill:#fff}}\n";

void plot_print(const Plot *plot, Text *out)
{
    int height = TOP + 30 + 20 * (int)plot->series_count;
    height = height > HEIGHT ? height : HEIGHT;
    Scale x = make_scale(plot, false, LEFT, WIDTH - LEGEND), y = make_scale(plot, true, HEIGHT - BOTTOM, TOP);
    text_format(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n"
                     "<style>%s</style>\n<rect class=\"back\" width=\"100%%\" height=\"100%%\"/>\n",
                WIDTH, height, WIDTH, height, style);
    print_axes(plot, &x, &y, out);
    for (size_t s = 0; s < plot->series_count; s++)
        print_series(&plot->series[s], s, &x, &y, out);
    text_append(out, "</svg>\n");
}
