// Sweeps: the same file compiled at every point of a grid of values, for the questions planners ask
// first. An axis is NAME=VALUES; a name is a `let`, LEVEL.key, BLOCK.key, or a key that only one block
// has. Values are a list `1,2,4`, steps `1:9:2` (first:last:step) or `1:100:log5` (five values, evenly
// in the logarithm). Plain numbers of a let have the unit that the file writes; of keys, a bandwidth is in
// Gbit/s, a time in ms, a size in GB, a rate in TFLOP/s. docs/planner.md says it for users.
#ifndef HEP_SWEEP_H
#define HEP_SWEEP_H

#include <stdatomic.h>

#include "compiler/compile.h"

enum { SWEEP_AXES_MAX = 4, SWEEP_POINTS_MAX = 100000 };

typedef struct {
    double values[SWEEP_AXES_MAX];
    const char *refused; // NULL, or why there is no plan here: nothing below is set then
    char choice[96];     // "dc=2 gpu=1"; "mixed: N kinds" where layers differ
    double iteration_s, simulated_s, gap;
    double over_best, over_ep, over_dedup; // speed-ups; over the best baseline that fits: 0 if none does
    char best_baseline[16];                // its name in plans; "" if none fits
    char best_phrase[128];                 // and in a sentence
    double outer_bytes;                    // a GPU sends over the outermost level
    double memory_bytes;
} SweepRow;

typedef struct {
    size_t axis_count, row_count, point_count; // rows done, of so many points
    struct {
        const char *name, *unit; // "" for plain numbers
        size_t count;
        const double *values; // as given
        bool logarithmic;     // evenly spaced in the logarithm
    } axes[SWEEP_AXES_MAX];
    const char *outer_level;
    SweepRow *rows;
} Sweep;

typedef struct {
    const char *const *axes; // [axis_count]
    size_t axis_count;
    const atomic_int *stop; // ends the sweep early, with the rows done so far, when it becomes true
    void (*progress)(size_t done, size_t count);            // after every point; may be NULL
    void (*refused)(const char *point, const Diag *causes); // the first point that is not valid, such as "dc=0, gpu=2"
} SweepRequest;

// Runs all points, the last axis fastest. Values the input does not go with make a row that says so. False when the
// file or an axis is wrong, or no value goes: why is in `diag`; the fault has its kind and no message.
bool sweep_run(const CompileOptions *options, const SweepRequest *request, Arena *arena, Diag *diag, Sweep *out,
               Fault *fault) MUST_CHECK;

#endif
