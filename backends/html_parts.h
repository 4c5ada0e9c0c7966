// The parts of the report, one file each, and what they share. Private to the HTML backend.
#ifndef HEP_HTML_PARTS_H
#define HEP_HTML_PARTS_H

#include "backends/html.h"
#include "ir/simulate/simulate.h"

// backends/report.css and report.js, embedded by CMake.
extern const char report_css[], report_js[];

typedef struct {
    const Plan *written; // as its file has it
    const Plan *plan;    // unrolled: every execution of a step, every value of a buffer
    const Simulation *simulation;
    Arena *arena;
    Text *out;
} Report;

void html_comparison_print(const Report *report); // strategies, and the choice of every layer
void html_time_print(const Report *report);       // where the time goes: overlap, streams, ports, critical path
void html_timeline_print(const Report *report);
void html_cluster_print(const Report *report); // domains, links and traffic
void html_memory_print(const Report *report);

// " of micro-batch 2", for what an unrolled plan of several has; "" for the rest.
const char *html_micro_batch(const Report *report, bool repeated, uint32_t micro_batch);

// Units of the timeline's x axis: an iteration has so many.
enum { TIMELINE_UNITS = 100000 };

// The lanes of memory in the timeline: live bytes over time, and where in the arena each buffer is.
enum { MEMORY_HEIGHT = 96, ARENA_HEIGHT = 150 };
void html_memory_lane_print(const Report *report, int top);
void html_arena_lane_print(const Report *report, int top);

// A drawing of the outermost level's workers and what one pair of them exchanges in layers of this choice.
// Nothing where they are too many, or one alone.
bool html_links_drawn(const Plan *plan);
void html_links_print(const Report *report, const Choice *choice);
// What the colours of the lines mean, if they are drawn.
void html_links_legend_print(const Report *report);
// Ports and links by name, where they differ.
void html_ports_print(const Report *report);

// html_parts.c.
// The layers of the run of equal choices that begins at `first`: "layer 3", "layers 3 to 60".
void html_layers_print(const Plan *plan, uint32_t first, Text *out);
// The position in the outermost level: "paris", or "dc 3" where workers have no names.
void html_worker_print(const Plan *plan, uint32_t position, Text *out);
// Of the port of the worker whose rank is shown; where kinds of workers were merged, the slowest stands for all.
double html_port_bandwidth(const Report *report, uint32_t level);
// The simulated iteration; 1 where nothing takes time, so that shares can be formed.
double html_whole_s(const Report *report);

#endif
