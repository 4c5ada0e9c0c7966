// Units and the kinds of quantities they make, from units.def. Owns static tables only; what a kind
// is needed where is the semantic check's.
#ifndef HEP_UNITS_H
#define HEP_UNITS_H

#include <stdio.h>

#include "ir/base/arena.h"

// Exponents of byte, floating-point operation and second.
typedef struct {
    int bytes, flops, seconds;
} Dimension;

#define HEP_KIND(name, ...) KIND_##name,
typedef enum {
#include "grammar/units.def"
    KIND_COUNT
} Kind;

typedef struct {
    const char *text;
    Kind kind;
    double factor, divisor; // value in base units = number * factor / divisor
} Unit;

Dimension kind_dimension(Kind kind);
const char *kind_text(Kind kind);    // "a bandwidth"
const char *kind_example(Kind kind); // "10 Gbit/s"

bool dimension_equal(Dimension a, Dimension b);
// "a bandwidth", or "a quantity in B^2/s" for what has no name.
const char *dimension_text(Arena *arena, Dimension dimension);
const char *dimension_example(Dimension dimension); // "10 Gbit/s"; NULL for what has no name

const Unit *unit_find(const char *text, size_t length); // NULL if there is none
const Unit *unit_at(size_t index);                      // NULL beyond the last
// What was probably meant by an unknown unit, or NULL.
const char *unit_suggest(const char *text, size_t length);
// All units, one line per kind, for --help and the documentation.
void unit_print_table(FILE *out);

#endif
