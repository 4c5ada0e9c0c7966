// Lets are evaluated when first used and once, so their order does not matter; a let that needs
// itself is an error. Requires expressions of bounded depth, as the parser provides.
#include "compiler/frontend/evaluate.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/parse.h"

typedef enum { LET_NEW, LET_ACTIVE, LET_DONE } LetState;

static const Value error_value = {.kind = VALUE_ERROR};

typedef struct {
    const AstEntry *entry;
    const AstExpr *expr;    // the entry's, or the override's
    bool overridden, noted; // on the command line; in the notes of the error that is being reported
    LetState state;
    Value value;
} Let;

struct Environment {
    Arena *arena;
    Diag *diag;
    Let lets[LETS_MAX];
    size_t let_count;
    int depth;
};

Environment *environment_create(Arena *arena, Diag *diag)
{
    Environment *environment = arena_alloc(arena, sizeof(*environment));
    environment->arena = arena;
    environment->diag = diag;
    return environment;
}

static Let *find_let(Environment *environment, const char *name)
{
    for (size_t i = 0; i < environment->let_count; i++)
        if (strcmp(environment->lets[i].entry->name, name) == 0)
            return &environment->lets[i];
    return NULL;
}

static const char *suggest_let(const Environment *environment, const char *name)
{
    const char *names[LETS_MAX];
    for (size_t i = 0; i < environment->let_count; i++)
        names[i] = environment->lets[i].entry->name;
    return nearest_word(name, names, environment->let_count);
}

void environment_add_let(Environment *environment, const AstEntry *entry)
{
    const Let *first = find_let(environment, entry->name);
    if (first) {
        diag_error(environment->diag, entry->name_span, "'%s' is defined twice", entry->name);
        diag_note(environment->diag, first->entry->name_span, "first defined here");
    } else if (environment->let_count == LETS_MAX) {
        diag_error(environment->diag, entry->name_span, "too many lets: at most %d", LETS_MAX);
    } else {
        environment->lets[environment->let_count++] = (Let){.entry = entry, .expr = entry->value};
    }
}

// Which there are, where these are few.
static void list_lets(const Environment *environment)
{
    enum { LISTED_MAX = 8 };
    Text names = {0};
    for (size_t i = 0; i < environment->let_count; i++)
        text_format(&names, "%s'%s'", i ? ", " : "", environment->lets[i].entry->name);
    if (environment->let_count == 0)
        diag_help(environment->diag, "the file has none: 'let link = 10 Gbit/s' makes one");
    else if (environment->let_count <= LISTED_MAX)
        diag_help(environment->diag, "the lets of the file are %s", names.data);
    text_free(&names);
}

static void adopt_unit(AstExpr *number, const AstExpr *original)
{
    bool negative = number->kind == EXPR_NEGATE && number->left->kind == EXPR_NUMBER;
    if (negative)
        number = number->left;
    if (number->kind == EXPR_NUMBER && !number->unit && original->kind == EXPR_NUMBER)
        number->unit = original->unit;
}

// What stands before '=' is one name; of keys there is no telling which block is meant.
static bool names_a_let(const char *define, Span span, Diag *diag)
{
    const char *begin = define + strspn(define, " \t"), *end = strchr(define, '=');
    while (end && end > begin && isspace((unsigned char)end[-1]))
        end--;
    if (!end || end == begin) {
        diag_error(diag, span, "expected name=value");
        return false;
    }
    for (const char *at = begin; at < end; at++)
        if (!isalnum((unsigned char)*at) && *at != '_') {
            span = (Span){span.source, (uint32_t)(begin - define), (uint32_t)(end - define)};
            diag_error(diag, span, "'%.*s' is not the name of a let", (int)(end - begin), begin);
            diag_help(diag, "-D replaces lets: write 'let x = ...' in the file, and 'x' as the value of the key");
            return false;
        }
    return true;
}

void environment_override(Environment *environment, const char *define)
{
    Diag *diag = environment->diag;
    size_t length = strlen(define);
    uint32_t source = diag_add_source(diag, "-D", define, length, NULL);
    if (!names_a_let(define, (Span){source, 0, (uint32_t)length}, diag))
        return;
    Ast *ast = grammar_parse(environment->arena, diag, source, define, length);
    if (!ast)
        return;
    const AstEntry *entry = ast->entries.first;
    if (!entry || entry->next || entry->kind != ENTRY_VALUE) {
        diag_error(diag, (Span){source, 0, (uint32_t)length}, "expected name=value");
        return;
    }
    Let *let = find_let(environment, entry->name);
    if (let) {
        adopt_unit(entry->value, let->entry->value);
        let->expr = entry->value;
        let->overridden = true;
        return;
    }
    diag_error(diag, entry->name_span, "there is no let '%s' to override", entry->name);
    const char *suggestion = suggest_let(environment, entry->name);
    if (suggestion)
        diag_help(diag, "did you mean '%s'?", suggestion);
    else
        list_lets(environment);
}

// The value of an expression, and nothing said about what is wrong with it: lets are as they were afterwards.
static Value quiet_value(const Environment *environment, const AstExpr *expr)
{
    Arena *scratch = arena_create();
    Environment *copy = arena_alloc(scratch, sizeof(*copy));
    *copy = *environment;
    copy->arena = scratch;
    copy->diag = diag_create(scratch);
    Value value = evaluate(copy, expr);
    arena_destroy(scratch);
    return value;
}

static void check_override(Environment *environment, Let *let)
{
    const AstExpr name = {.kind = EXPR_NAME, .text = let->entry->name, .span = let->entry->name_span};
    Value original = quiet_value(environment, let->entry->value);
    evaluate(environment, &name);
    if (let->value.kind != VALUE_QUANTITY || original.kind != VALUE_QUANTITY ||
        dimension_equal(let->value.dimension, original.dimension))
        return;
    const char *example = dimension_example(original.dimension);
    diag_error(environment->diag, let->expr->span, "'%s' is %s%s%s%s, got %s", let->entry->name,
               dimension_text(environment->arena, original.dimension), example ? " such as '" : "",
               example ? example : "", example ? "'" : "", value_text(environment->arena, &let->value));
    diag_note(environment->diag, let->entry->name_span, "'%s' is defined here", let->entry->name);
    let->value = error_value; // where it is used there is nothing more to say
}

void environment_evaluate_all(Environment *environment)
{
    for (size_t i = 0; i < environment->let_count; i++)
        if (environment->lets[i].overridden)
            check_override(environment, &environment->lets[i]);
    for (size_t i = 0; i < environment->let_count; i++)
        evaluate(environment, &(AstExpr){.kind = EXPR_NAME,
                                         .text = environment->lets[i].entry->name,
                                         .span = environment->lets[i].entry->name_span});
}

// ---- where values come from ------------------------------------------------------------------

Span environment_origin(Environment *environment, const AstExpr *expr)
{
    Span span = expr->span;
    for (size_t hops = 0; hops <= LETS_MAX; hops++) { // a let that is defined by itself has no end
        while (expr->kind == EXPR_GROUP)
            expr = expr->left;
        const Let *let = expr->kind == EXPR_NAME ? find_let(environment, expr->text) : NULL;
        if (!let)
            break;
        expr = let->expr;
        if (let->overridden)
            span = expr->span;
    }
    return span;
}

// Notes for the overridden lets that `expr` names, itself or by way of other lets; each let is looked into once.
static void note_overrides(Environment *environment, const AstExpr *expr, int depth)
{
    if (!expr || depth == EVALUATION_DEPTH_MAX)
        return;
    Let *let = expr->kind == EXPR_NAME ? find_let(environment, expr->text) : NULL;
    if (let && let->overridden && !let->noted)
        diag_note(environment->diag, let->expr->span, "'%s' is overridden here", let->entry->name);
    bool look = let && !let->overridden && !let->noted;
    if (let)
        let->noted = true;
    if (look)
        note_overrides(environment, let->expr, depth + 1);
    note_overrides(environment, expr->left, depth + 1);
    note_overrides(environment, expr->right, depth + 1);
}

void environment_error(Environment *environment, const AstExpr *expr, const char *format, ...)
{
    va_list arguments;
    char *message = NULL;
    va_start(arguments, format);
    if (vasprintf(&message, format, arguments) < 0)
        memory_exhausted();
    va_end(arguments);
    Span origin = environment_origin(environment, expr);
    diag_error(environment->diag, origin, "%s", message);
    free(message);
    if (origin.source != expr->span.source || origin.begin != expr->span.begin)
        diag_note(environment->diag, expr->span, "its value is used here");
    else
        note_overrides(environment, expr, 0);
    for (size_t i = 0; i < environment->let_count; i++)
        environment->lets[i].noted = false;
}

const char *value_text(Arena *arena, const Value *value)
{
    switch (value->kind) {
    case VALUE_ERROR:
        return "an error";
    case VALUE_QUANTITY:
        return dimension_text(arena, value->dimension);
    case VALUE_SYMBOL:
        return arena_format(arena, "'%s'", value->text);
    case VALUE_STRING:
        return "a string";
    case VALUE_LIST:
        return "a list";
    case VALUE_RECORD:
        return "a record";
    case VALUE_CALL:
        return arena_format(arena, "'%s(...)'", value->text);
    }
    return "";
}

void report_unknown_name(Environment *environment, Span span, const char *symbol)
{
    diag_error(environment->diag, span, "unknown name '%s'", symbol);
    const char *suggestion = suggest_let(environment, symbol);
    if (suggestion)
        diag_help(environment->diag, "did you mean '%s'?", suggestion);
}

static Value make_quantity(Environment *environment, Span span, double number, Dimension dimension)
{
    enum { EXPONENT_MAX = 8 };
    if (!isfinite(number)) {
        diag_error(environment->diag, span, "the result is too large");
        return error_value;
    }
    if (abs(dimension.bytes) > EXPONENT_MAX || abs(dimension.flops) > EXPONENT_MAX ||
        abs(dimension.seconds) > EXPONENT_MAX) {
        diag_error(environment->diag, span, "the result is no quantity of any use: too many units are multiplied");
        return error_value;
    }
    return (Value){.kind = VALUE_QUANTITY, .number = number, .dimension = dimension};
}

static Value evaluate_name(Environment *environment, const AstExpr *expr)
{
    Let *let = find_let(environment, expr->text);
    if (!let)
        return (Value){.kind = VALUE_SYMBOL, .text = expr->text};
    if (let->state == LET_ACTIVE) {
        diag_error(environment->diag, expr->span, "'%s' is defined by itself", expr->text);
        diag_note(environment->diag, let->entry->name_span, "defined here");
        return error_value;
    }
    if (let->state == LET_NEW) {
        let->state = LET_ACTIVE;
        let->value = evaluate(environment, let->expr);
        let->state = LET_DONE;
    }
    return let->value;
}

// An operand of arithmetic: anything but a quantity is an error.
static Value evaluate_operand(Environment *environment, const AstExpr *expr)
{
    Value value = evaluate(environment, expr);
    if (value.kind == VALUE_QUANTITY || value.kind == VALUE_ERROR)
        return value;
    if (value.kind == VALUE_SYMBOL)
        report_unknown_name(environment, environment_origin(environment, expr), value.text);
    else
        environment_error(environment, expr, "expected a number or a quantity, got %s",
                          value_text(environment->arena, &value));
    return error_value;
}

static Value evaluate_sum(Environment *environment, const AstExpr *expr, const Value *left, const Value *right)
{
    bool add = expr->kind == EXPR_ADD;
    if (!dimension_equal(left->dimension, right->dimension)) {
        const char *of_left = dimension_text(environment->arena, left->dimension),
                   *of_right = dimension_text(environment->arena, right->dimension);
        if (add)
            environment_error(environment, expr, "cannot add %s to %s", of_right, of_left);
        else
            environment_error(environment, expr, "cannot subtract %s from %s", of_right, of_left);
        return error_value;
    }
    return make_quantity(environment, expr->span, add ? left->number + right->number : left->number - right->number,
                         left->dimension);
}

static Value evaluate_product(Environment *environment, const AstExpr *expr, const Value *left, const Value *right)
{
    bool divide = expr->kind == EXPR_DIVIDE;
    if (divide && right->number == 0) {
        environment_error(environment, expr->right, "division by zero");
        return error_value;
    }
    int sign = divide ? -1 : 1;
    Dimension dimension = {left->dimension.bytes + sign * right->dimension.bytes,
                           left->dimension.flops + sign * right->dimension.flops,
                           left->dimension.seconds + sign * right->dimension.seconds};
    return make_quantity(environment, expr->span, divide ? left->number / right->number : left->number * right->number,
                         dimension);
}

static Value evaluate_number(Environment *environment, const AstExpr *expr)
{
    if (!expr->unit)
        return make_quantity(environment, expr->span, expr->number, kind_dimension(KIND_NUMBER));
    return make_quantity(environment, expr->span, expr->number * expr->unit->factor / expr->unit->divisor,
                         kind_dimension(expr->unit->kind));
}

static Value evaluate_kind(Environment *environment, const AstExpr *expr)
{
    switch (expr->kind) {
    case EXPR_NUMBER:
        return evaluate_number(environment, expr);
    case EXPR_STRING:
        return (Value){.kind = VALUE_STRING, .text = expr->text};
    case EXPR_NAME:
        return evaluate_name(environment, expr);
    case EXPR_LIST:
        return (Value){.kind = VALUE_LIST, .expr = expr};
    case EXPR_RECORD:
        return (Value){.kind = VALUE_RECORD, .expr = expr};
    case EXPR_INDEX:
    case EXPR_CALL:
        return (Value){.kind = VALUE_CALL, .text = expr->text, .expr = expr};
    case EXPR_GROUP:
        return evaluate(environment, expr->left);
    case EXPR_NEGATE: {
        Value value = evaluate_operand(environment, expr->left);
        value.number = -value.number;
        return value;
    }
    case EXPR_ADD:
    case EXPR_SUBTRACT:
    case EXPR_MULTIPLY:
    case EXPR_DIVIDE: {
        Value left = evaluate_operand(environment, expr->left), right = evaluate_operand(environment, expr->right);
        if (left.kind == VALUE_ERROR || right.kind == VALUE_ERROR)
            return error_value;
        bool is_sum = expr->kind == EXPR_ADD || expr->kind == EXPR_SUBTRACT;
        return is_sum ? evaluate_sum(environment, expr, &left, &right)
                      : evaluate_product(environment, expr, &left, &right);
    }
    }
    return error_value;
}

Value evaluate(Environment *environment, const AstExpr *expr)
{
    if (environment->depth == EVALUATION_DEPTH_MAX) {
        diag_error(environment->diag, expr->span, "lets depend on one another too deeply");
        return error_value;
    }
    environment->depth++;
    Value value = evaluate_kind(environment, expr);
    environment->depth--;
    return value;
}
