// One axis of a sweep, NAME=VALUES of the command line: which let or key NAME is, the values in one unit, and how a
// value gets into the tree of the file. Owns what names and values mean; the points are sweep.c's.
#ifndef HEP_SWEEP_AXIS_H
#define HEP_SWEEP_AXIS_H

#include "compiler/frontend/check_keys.h"

typedef struct {
    const char *name; // as given
    const char *key;  // NULL: a `let`
    BlockId block;    // that the key stands in, and its label where there are several
    const char *label;
    Kind kind;        // of its values
    bool whole;       // a count
    const Unit *unit; // that values are counted in; NULL for plain numbers
    double *values;
    size_t count;
    bool logarithmic; // given as FIRST:LAST:logCOUNT
} SweepAxis;

// `ast` is the tree of the file, checked; `options` those it was checked with. False after reporting.
bool sweep_axis_parse(const Ast *ast, const CheckOptions *options, const char *text, Arena *arena, Diag *diag,
                      SweepAxis *axis) MUST_CHECK;
// Sets a key of the tree, in a block that is added where the file has none. Not for lets.
void sweep_axis_edit(Ast *ast, const SweepAxis *axis, double value, Arena *arena);
// "link=25 Gbit/s", as -D takes it for lets.
const char *sweep_axis_define(const SweepAxis *axis, double value, Arena *arena);

#endif
