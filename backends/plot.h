// Line charts as SVG: one self-contained file, readable on light and dark backgrounds and in print. Every point has a
// tooltip.
#ifndef HEP_PLOT_H
#define HEP_PLOT_H

#include "ir/base/text.h"

typedef struct {
    const char *name;
    size_t count;
    double *x, *y;      // finite; positive where the axis is logarithmic
    const char **notes; // of every point: the last line of its tooltip
    size_t colour;      // series of one colour belong together
    bool dashed;        // and thin: beside a solid one of its colour, not in the legend
} PlotSeries;

typedef struct {
    const char *title, *x_label, *y_label;
    bool x_log, y_log;
    size_t x_count; // values that are marked on the x axis, where there is space for them; 0: round ones
    const double *x_values;
    double reference; // a horizontal line, such as "no gain", with its label; NAN for none
    const char *reference_label;
    const char *solid, *dashed; // what the two kinds of lines mean
    size_t series_count;
    PlotSeries *series;
} Plot;

// Values that span a factor of 20 or more read better on a logarithmic axis.
bool plot_wants_log(const double values[], size_t count);

void plot_print(const Plot *plot, Text *out);

#endif
