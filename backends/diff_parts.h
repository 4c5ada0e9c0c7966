// What a comparison of two plans found, as lists of rows: filled by diff.c, printed by diff_print.c.
#ifndef HEP_DIFF_PARTS_H
#define HEP_DIFF_PARTS_H

#include "backends/diff.h"
#include "backends/diff_steps.h"

// A field of the plans' settings that differs. NULL: the plan has no such record.
typedef struct {
    const char *record, *key; // "level dc", "bandwidth"
    const char *values[2];    // as plan files have them, in `unit`; "" for plain numbers and names
    const char *shown[2];     // for people: "10 Gbit/s"; in full where that leaves no difference
    const char *unit;
} SettingDiff;

// Neighbouring MoE layers whose choices differ in the same way. NULL: the plan has no such layer.
typedef struct {
    uint32_t first, last;
    const char *choices[2];
} ChoiceDiff;

typedef enum { FIGURE_TIME, FIGURE_BYTES, FIGURE_COUNT } FigureKind;

// A figure of both plans, whether it differs or not.
typedef struct {
    const char *name, *key, *level; // level: NULL or its name
    FigureKind kind;
    double values[2];
} Figure;

// Steps of one op and level: of them how many only one plan has, and how many of those that both have
// changed or moved. Sums over all of them.
typedef struct {
    const char *op, *level;
    uint32_t only[2], changed, moved;
    double cost_s[2], bytes[2];
} StepRow;

struct Diff {
    const Plan *plans[2];
    const char *names[2];
    bool empty;
    SettingDiff *settings;
    ChoiceDiff *choices;
    Figure *figures;
    StepRow *steps;
    uint32_t setting_count, choice_count, figure_count, step_row_count;
    StepMatch *matches[2];
};

#endif
