// A timeline as Chrome trace events, for Perfetto (ui.perfetto.dev) and chrome://tracing: one row of
// tracks per process, one track per stream, one event per step. What the simulated and the real
// run of a plan have in common, so that they read alike and fit into one file. Times are seconds
// from the start of the iteration; events carry microseconds, whole nanoseconds.
#ifndef HEP_TIMELINE_H
#define HEP_TIMELINE_H

#include "ir/base/text.h"
#include "ir/plan.h"

// Process numbers: the predicted run, of the first class of workers, the next class one further; and the real one of
// rank 0, rank r is r further.
enum { TIMELINE_PREDICTED = 1, TIMELINE_RANK_0 = 1000 };

typedef struct {
    Text *out;
    bool any; // an event was written
} Timeline;

// Opens the file and says which plan it speaks of: its number of steps and its cluster's name.
Timeline timeline_begin(const Plan *plan, Text *out);
void timeline_end(Timeline *timeline);

// Names the process and the tracks of its streams.
void timeline_write_process(Timeline *timeline, const Plan *plan, int process, const char *name);
void timeline_write_step(Timeline *timeline, const Plan *plan, int process, uint32_t step, double begin_s,
                         double end_s);

// A step, and the one of another stream that it waited for.
typedef struct {
    uint32_t step, cause;
    double begin_s, cause_begin_s; // of each; the arrow is bound by a time within the cause
} TimelineWait;

// An arrow from the cause to the step. Nothing where both are of one stream.
void timeline_write_wait(Timeline *timeline, const Plan *plan, int process, const TimelineWait *wait);

typedef struct {
    uint32_t count;
    const char *const *names;
    const double *values;
} TimelineSample;

// A sample of several named values drawn as one stacked track.
void timeline_write_counter(Timeline *timeline, int process, const char *name, double time_s,
                            const TimelineSample *sample);

// Appends the events of `text`, a file that hep-run wrote of a run of this plan; nothing where it is anything else.
bool timeline_merge(Timeline *timeline, const Plan *plan, const char *text, size_t length, Fault *fault) MUST_CHECK;

#endif
