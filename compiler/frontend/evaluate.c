// Lets are evaluated when first used and once, so their order does not matter; a let that needs
// itself is an error. Requires expressions of bounded depth, as the parser provides.
#include "compiler/frontend/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/parse.h"

typedef enum { LET_NEW, LET_ACTIVE, LET_DONE } LetState;

typedef struct {
    const AstEntry *entry;
    const AstExpr *expr; // the entry's, or the override's
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
        if (!strcmp(environment->lets[i].entry->name, name))
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

void environment_override(Environment *environment, const char *define)
{
    Diag *diag = environment->diag;
    size_t length = strlen(define);
    uint32_t source = diag_add_source(diag, "-D", define, length, NULL);
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
        let->expr = entry->value;
        return;
    }
    diag_error(diag, entry->name_span, "there is no let '%s' to override", entry->name);
    const char *suggestion = suggest_let(environment, entry->name);
    if (suggestion)
        diag_help(diag, "did you mean '%s'?", suggestion);
}

void environment_evaluate_all(Environment *environment)
{
    for (size_t i = 0; i < environment->let_count; i++)
        evaluate(environment, &(AstExpr){.kind = EXPR_NAME,
                                         .text = environment->lets[i].entry->name,
                                         .span = environment->lets[i].entry->name_span});
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

static const Value error_value = {.kind = VALUE_ERROR};

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
        report_unknown_name(environment, expr->span, value.text);
    else
        diag_error(environment->diag, expr->span, "expected a number or a quantity, got %s",
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
            diag_error(environment->diag, expr->span, "cannot add %s to %s", of_right, of_left);
        else
            diag_error(environment->diag, expr->span, "cannot subtract %s from %s", of_right, of_left);
        return error_value;
    }
    return make_quantity(environment, expr->span, add ? left->number + right->number : left->number - right->number,
                         left->dimension);
}

static Value evaluate_product(Environment *environment, const AstExpr *expr, const Value *left, const Value *right)
{
    bool divide = expr->kind == EXPR_DIVIDE;
    if (divide && right->number == 0) {
        diag_error(environment->diag, expr->right->span, "division by zero");
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
