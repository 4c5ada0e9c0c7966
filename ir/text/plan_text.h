// The text form of a plan (docs/ir.md): complete, made for reading, and read back without loss.
#ifndef HEP_PLAN_TEXT_H
#define HEP_PLAN_TEXT_H

#include "ir/base/diag.h"
#include "ir/base/text.h"
#include "ir/schema.h"

enum { PLAN_TEXT_VERSION = 4 };

// Requires a plan within the limits of schema.h.
void plan_print(const Plan *plan, Text *out);
// A field's value as plan_print writes it.
void plan_print_value(const Plan *plan, const Field *field, const void *value, Text *out);

// Reads what plan_print writes; comments, spacing and the order of a record's keyed fields are
// free. `source` is the text's id in `diag`. NULL when errors were reported. A plan that is returned
// is within the limits of schema.h; whether it makes sense plan_verify says.
Plan *plan_parse(const char *text, size_t length, uint32_t source, Diag *diag) MUST_CHECK;

#endif
