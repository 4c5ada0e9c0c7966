// The `routing` block: which experts are popular, as a law or as a measured histogram. Requires the number of
// experts checked.
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "compiler/frontend/check_keys.h"

enum { HISTOGRAM_BYTES_MAX = 1 << 24 };

// zipf(s): the i-th expert is 1 / i^s as popular as the first.
static void check_skew(Checker *checker, const AstExpr *expr)
{
    SpecModel *model = &checker->spec->model;
    if (expr->kind == EXPR_NAME && strcmp(expr->text, "uniform") == 0)
        return;
    const AstExpr *argument = expr->kind == EXPR_CALL && strcmp(expr->text, "zipf") == 0 ? expr->items.first : NULL;
    if (!argument || argument->next) {
        diag_error(checker->diag, expr->span, "'skew' must be uniform or zipf(EXPONENT), such as 'zipf(1.1)'");
        return;
    }
    Value value = evaluate(checker->environment, argument);
    if (value.kind == VALUE_ERROR)
        return;
    bool plain = value.kind == VALUE_QUANTITY && dimension_equal(value.dimension, kind_dimension(KIND_NUMBER));
    if (!plain || value.number < 0 || value.number > 10) {
        diag_error(checker->diag, argument->span, "the exponent of zipf must be a plain number from 0 to 10, got %s",
                   value_text(checker->arena, &value));
        return;
    }
    if (value.number == 0)
        return;
    model->popularity = arena_alloc_array(checker->arena, model->experts, sizeof(*model->popularity));
    for (uint32_t e = 0; e < model->experts; e++)
        model->popularity[e] = pow(e + 1.0, -value.number);
}

static const char *load(Checker *checker, const AstExpr *expr, size_t *length, uint32_t *source)
{
    const char *path = read_join_path(checker->arena, diag_source_name(checker->diag, expr->span.source), expr->text);
    Fault fault = {0};
    struct stat status;
    char *content = NULL;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        fault_set(&fault, FAULT_IO, "not a regular file");
    else
        content = file_read(path, HISTOGRAM_BYTES_MAX, length, &fault);
    if (!content) {
        diag_error(checker->diag, expr->span, "cannot read '%s': %s", path, fault.message);
        return NULL;
    }
    const char *text = arena_copy_string(checker->arena, content, *length);
    free(content);
    *source = diag_add_source(checker->diag, path, text, *length, &expr->span);
    return text;
}

static bool is_gap(char c)
{
    return isspace((unsigned char)c) || c == ',' || c == ';';
}

// One number per expert, apart by blanks, commas or line ends; `#` begins a comment.
static void check_histogram(Checker *checker, const AstExpr *expr)
{
    SpecModel *model = &checker->spec->model;
    size_t length = 0;
    uint32_t source = 0;
    if (expr->kind != EXPR_STRING) {
        diag_error(checker->diag, expr->span, "'histogram' needs a file, such as '\"experts.txt\"'");
        return;
    }
    const char *text = load(checker, expr, &length, &source);
    if (!text)
        return;
    double *popularity = arena_alloc_array(checker->arena, model->experts, sizeof(*popularity)), total = 0;
    uint32_t count = 0, chosen = 0;
    for (size_t at = 0; at < length;) {
        if (text[at] == '#')
            at += strcspn(text + at, "\n");
        if (at < length && is_gap(text[at])) {
            at++;
            continue;
        }
        if (at >= length)
            break;
        char *end;
        double value = strtod(text + at, &end);
        size_t stop = (size_t)(end - text);
        if (stop == at || (stop < length && !is_gap(*end) && *end != '#') || !(value >= 0) || isinf(value)) {
            stop = at + 1;
            while (stop < length && !is_gap(text[stop]))
                stop++;
            diag_error(checker->diag, (Span){source, (uint32_t)at, (uint32_t)stop},
                       "expected how often an expert is chosen: a number of at least 0");
            return;
        }
        if (count < model->experts)
            popularity[count] = value;
        total += value;
        chosen += value > 0;
        count++;
        at = stop;
    }
    if (count != model->experts)
        diag_error(checker->diag, expr->span, "'%s' has %u numbers, the model has %u experts", expr->text, count,
                   model->experts);
    else if (!(total > 0) || isinf(total))
        diag_error(checker->diag, expr->span, "the numbers of '%s' add up to %g", expr->text, total);
    else if (chosen < model->top_k)
        diag_error(checker->diag, expr->span, "'%s' has %u experts that were ever chosen, and a token visits %u",
                   expr->text, chosen, model->top_k);
    else
        model->popularity = popularity;
}

void check_routing(Checker *checker)
{
    const AstEntry *block = checker->blocks[BLOCK_ROUTING];
    SpecModel *model = &checker->spec->model;
    if (!block)
        return;
    check_block(checker, BLOCK_ROUTING, block, model);
    const AstEntry *skew = checker->keys[KEY_ROUTING_skew], *histogram = checker->keys[KEY_ROUTING_histogram];
    if (skew && histogram) {
        diag_error(checker->diag, histogram->name_span, "'histogram' and 'skew' exclude one another");
        diag_note(checker->diag, skew->name_span, "'skew' is given here");
        return;
    }
    if (!model->experts) {
        diag_error(checker->diag, block_head_span(block), "routing needs the number of experts: 'experts' in 'moe'");
        return;
    }
    if (model->zero_experts) {
        diag_error(checker->diag, block_head_span(block), "'routing' says nothing of 'zero_experts': give one of them");
        return;
    }
    if (skew)
        check_skew(checker, skew->value);
    if (histogram)
        check_histogram(checker, histogram->value);
}
