// Values of expressions: lets, their overrides, and dimension-checked arithmetic. Reports what goes
// wrong; what a key needs is the check's business.
#ifndef HEP_EVALUATE_H
#define HEP_EVALUATE_H

#include "grammar/ast.h"

typedef enum {
    VALUE_ERROR, // reported already
    VALUE_QUANTITY,
    VALUE_SYMBOL, // a name that is no let: a choice such as `f16`
    VALUE_STRING,
    VALUE_LIST,
    VALUE_RECORD,
    VALUE_CALL,
} ValueKind;

typedef struct {
    ValueKind kind;
    double number; // finite, in base units
    Dimension dimension;
    const char *text;    // SYMBOL, STRING, CALL
    const AstExpr *expr; // LIST, RECORD, CALL
} Value;

typedef struct Environment Environment;

enum { LETS_MAX = 1000, EVALUATION_DEPTH_MAX = 2000 };

Environment *environment_create(Arena *arena, Diag *diag);
void environment_add_let(Environment *environment, const AstEntry *let); // a second one of a name is an error
// `define` is "name=expression" from the command line; the name must be a let's.
void environment_override(Environment *environment, const char *define);
// A plain number that overrides a quantity has its unit: 25 is 25 Gbit/s where the file says 'let link = 10 Gbit/s'.
// What has another dimension than the file's value is an error.
void environment_evaluate_all(Environment *environment); // so that errors in unused lets are seen

Value evaluate(Environment *environment, const AstExpr *expr);
// Where the value of `expr` was written: on the command line if it is a name that was overridden there, or leads to
// one.
Span environment_origin(Environment *environment, const AstExpr *expr);
// An error about the value of `expr`, there; notes say where it is used, or which of its names were overridden.
void environment_error(Environment *environment, const AstExpr *expr, const char *format, ...) PRINTF_LIKE(3, 4);
const char *value_text(Arena *arena, const Value *value); // "a size", "a list", "'name'"
// Reports that `symbol` names nothing, with a suggestion among the lets.
void report_unknown_name(Environment *environment, Span span, const char *symbol);

#endif
