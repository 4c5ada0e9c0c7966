// Runs scanner and parser over one text; the helpers their actions call to look at words and to
// build the tree.
#include "grammar/parse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/state.h"
#include "parser.h"

Span span_join(Span first, Span last)
{
    return (Span){first.source, first.begin, last.end > first.begin ? last.end : first.end};
}

// ---- scanning --------------------------------------------------------------------------------

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static char byte_at(const ParseState *state, size_t at)
{
    return at < state->length ? state->text[at] : '\0';
}

static size_t skip_blanks(const ParseState *state, size_t at, bool lines_too)
{
    while (is_blank(byte_at(state, at)) || (lines_too && (byte_at(state, at) == '\n' || byte_at(state, at) == '\r')))
        at++;
    return at;
}

static size_t skip_word(const ParseState *state, size_t at)
{
    while (is_letter(byte_at(state, at)) || is_digit(byte_at(state, at)))
        at++;
    return at;
}

static bool word_is(const ParseState *state, size_t begin, size_t end, const char *word)
{
    return strlen(word) == end - begin && memcmp(state->text + begin, word, end - begin) == 0;
}

// Does an entry begin with the word at [begin, end)? `name =`, `block {`, `block label {`,
// `block label[`, `block label,`, `model label from`, `let`, `include`.
static bool entry_begins(const ParseState *state, size_t begin, size_t end)
{
    if (word_is(state, begin, end, "let") || word_is(state, begin, end, "include"))
        return true;
    size_t next = skip_blanks(state, end, true);
    if (byte_at(state, next) == '=' || byte_at(state, next) == '{' || byte_at(state, next) == ':')
        return true;
    size_t label = skip_blanks(state, end, false), label_end = skip_word(state, label);
    if (label_end == label)
        return false;
    size_t after = skip_blanks(state, label_end, true);
    return byte_at(state, after) == '{' || byte_at(state, after) == '[' || byte_at(state, after) == ',' ||
           word_is(state, after, skip_word(state, after), "from");
}

void scan_error_at(ParseState *state, Span span)
{
    state->lexical_error = span.end;
}

bool scan_error_before(const ParseState *state, Span span)
{
    uint32_t from = state->lexical_error;
    return from > 0 && from <= span.begin && !memchr(state->text + from, '\n', span.begin - from);
}

// "4K" means a number in other places, "80G" a size.
static void suggest_unit(ParseState *state, const char *unit, size_t length)
{
    const char *suggestion = unit_suggest(unit, length);
    bool letter = length == 1 && strchr("kKMGTB", unit[0]);
    if (suggestion && letter)
        diag_help(state->diag, "did you mean '%s'? Plain numbers are written out, 4096 or 4 * 1024", suggestion);
    else if (suggestion)
        diag_help(state->diag, "did you mean '%s'?", suggestion);
    else if (length == 1 && unit[0] == 'x')
        diag_help(state->diag, "plain numbers have no unit");
}

static void report_unknown_unit(ParseState *state, size_t begin, size_t length)
{
    Span span = {state->source, (uint32_t)begin, (uint32_t)(begin + length)};
    diag_error(state->diag, span, "unknown unit '%.*s'", (int)(length > NAME_LENGTH_MAX ? NAME_LENGTH_MAX : length),
               state->text + begin);
    suggest_unit(state, state->text + begin, length);
}

size_t scan_number(ParseState *state, size_t begin, size_t match_length, ScannedNumber *out)
{
    const char *text = state->text + begin;
    size_t length = 0;
    while (length < match_length && (is_digit(text[length]) || text[length] == '.'))
        length++;
    if (length < match_length && (text[length] == 'e' || text[length] == 'E')) {
        size_t exponent = length + 1;
        if (exponent < match_length && (text[exponent] == '+' || text[exponent] == '-'))
            exponent++;
        if (exponent < match_length && is_digit(text[exponent]))
            for (length = exponent; length < match_length && is_digit(text[length]);)
                length++;
    }
    char *digits = arena_copy_string(state->arena, text, length);
    *out = (ScannedNumber){.value = strtod(digits, NULL)};
    if (!isfinite(out->value)) {
        Span span = {state->source, (uint32_t)begin, (uint32_t)(begin + length)};
        diag_error(state->diag, span, "the number is too large");
        out->value = 0;
    }
    size_t unit = length;
    while (unit < match_length && is_blank(text[unit]))
        unit++;
    if (unit == match_length)
        return length;
    size_t unit_length = match_length - unit;
    bool adjacent = unit == length, sign = text[unit] == '%'; // no entry begins with one
    if (!adjacent && !sign && entry_begins(state, begin + unit, begin + match_length))
        return length;
    out->unit = unit_find(text + unit, unit_length);
    if (out->unit)
        return match_length;
    const char *slash = memchr(text + unit, '/', unit_length); // a division by a name, as in 8 MB/layers
    if (slash && (out->unit = unit_find(text + unit, (size_t)(slash - text) - unit)))
        return (size_t)(slash - text);
    report_unknown_unit(state, begin + unit, unit_length);
    return match_length;
}

const char *scan_name(ParseState *state, Span span)
{
    if (span.end - span.begin > NAME_LENGTH_MAX) {
        diag_error(state->diag, span, "the name is too long: at most %d characters", NAME_LENGTH_MAX);
        span.end = span.begin + NAME_LENGTH_MAX;
    }
    return arena_copy_string(state->arena, state->text + span.begin, span.end - span.begin);
}

const char *scan_string(ParseState *state, Span span)
{
    return arena_copy_string(state->arena, state->text + span.begin + 1, span.end - span.begin - 2);
}

void scan_bracket(ParseState *state, char bracket, Span span)
{
    if (bracket == '}' || bracket == ')' || bracket == ']') {
        state->open_count -= state->open_count > 0;
        return;
    }
    if (state->open_count == NESTING_MAX) {
        if (!state->stopped)
            diag_error(state->diag, span, "nested too deeply: at most %d open brackets", NESTING_MAX);
        state->stopped = true;
        return;
    }
    state->open[state->open_count++] = span.begin;
}

static bool is_json(const ParseState *state)
{
    size_t begin = skip_blanks(state, 0, true);
    return byte_at(state, begin) == '{' && byte_at(state, skip_blanks(state, begin + 1, true)) == '"';
}

void scan_foreign(ParseState *state, Foreign what, Span span)
{
    static const struct {
        const char *error, *help;
    } texts[FOREIGN_COUNT] = {
        [FOREIGN_COMMENT] = {"a comment begins with '#'", "write '# ...'; it ends with the line"},
        [FOREIGN_COMMA] = {"entries are not separated by commas",
                           "leave the commas out: a blank or a new line is enough"},
        [FOREIGN_SEMICOLON] = {"entries do not end with ';'",
                               "leave the semicolons out: a blank or a new line is enough"},
        [FOREIGN_COLON] = {"a key is set by '='", "write 'key = value', and blocks as 'kind name { ... }'"},
        [FOREIGN_KEY] = {"keys are names without quotes", "write 'key = value'"},
        [FOREIGN_QUOTE] = {"strings stand in double quotes", "write '\"...\"'"},
    };
    if (state->foreign[what] || state->stopped)
        return;
    if (what == FOREIGN_KEY && is_json(state)) {
        diag_error(state->diag, (Span){state->source, 0, 0}, "the text is JSON");
        diag_help(state->diag,
                  "a model's configuration is read by 'model NAME from \"config.json\" { sequence = 4096 }'");
        state->stopped = true;
        return;
    }
    state->foreign[what] = true;
    if (what == FOREIGN_QUOTE || what == FOREIGN_COMMA)
        scan_error_at(state, span);
    diag_error(state->diag, span, "%s", texts[what].error);
    diag_help(state->diag, "%s", texts[what].help);
}

void scan_unexpected(ParseState *state, Span span)
{
    unsigned char first = (unsigned char)state->text[span.begin];
    if (state->syntax_error && span.begin == state->syntax_error) { // the rest of what was reported: h200.hep, ->
        state->syntax_error = span.end;
        return;
    }
    scan_error_at(state, span);
    if (first > 0x20 && first < 0x7f)
        diag_error(state->diag, span, "unexpected '%c'", first);
    else
        diag_error(state->diag, span, "unexpected byte 0x%02x", first);
}

// ---- building --------------------------------------------------------------------------------

AstExpr *expr_create(ParseState *state, ExprKind kind, Span span)
{
    AstExpr *expr = arena_alloc(state->arena, sizeof(*expr));
    *expr = (AstExpr){.kind = kind, .depth = 1, .span = span};
    return expr;
}

AstExpr *expr_with_text(ParseState *state, ExprKind kind, const char *text, Span span)
{
    AstExpr *expr = expr_create(state, kind, span);
    expr->text = text;
    return expr;
}

AstExpr *expr_with_operands(ParseState *state, ExprKind kind, AstExpr *left, AstExpr *right, Span span)
{
    AstExpr *expr = expr_create(state, kind, span);
    expr->left = left;
    expr->right = right;
    expr->depth = 1 + (right && right->depth > left->depth ? right->depth : left->depth);
    if (expr->depth > EXPR_DEPTH_MAX && !state->stopped) {
        diag_error(state->diag, span, "the expression is too long: at most %d operators", EXPR_DEPTH_MAX);
        state->stopped = true;
    }
    return expr;
}

AstExpr *expr_with_items(ParseState *state, ExprKind kind, const char *text, AstExprs items, Span span)
{
    AstExpr *expr = expr_with_text(state, kind, text, span);
    expr->items = items;
    for (const AstExpr *item = items.first; item; item = item->next)
        if (item->depth >= expr->depth)
            expr->depth = item->depth + 1;
    return expr;
}

AstExprs exprs_append(AstExprs items, AstExpr *item)
{
    if (items.last)
        items.last->next = item;
    else
        items.first = item;
    items.last = item;
    return items;
}

AstEntry *entry_create(ParseState *state, EntryKind kind, const char *name, Span name_span, Span span)
{
    AstEntry *entry = arena_alloc(state->arena, sizeof(*entry));
    *entry = (AstEntry){.kind = kind, .name = name, .name_span = name_span, .span = span};
    return entry;
}

AstEntries entries_append(AstEntries entries, AstEntry *entry)
{
    if (entries.last)
        entries.last->next = entry;
    else
        entries.first = entry;
    entries.last = entry;
    return entries;
}

// ---- the entry point -------------------------------------------------------------------------

Ast *grammar_parse(Arena *arena, Diag *diag, uint32_t source, const char *text, size_t length)
{
    if (length > SOURCE_BYTES_MAX) {
        diag_error(diag, (Span){source, 0, 0}, "the text is too large: at most %d MiB", SOURCE_BYTES_MAX >> 20);
        return NULL;
    }
    if (length >= 2 && (memcmp(text, "\xff\xfe", 2) == 0 || memcmp(text, "\xfe\xff", 2) == 0)) {
        diag_error(diag, (Span){source, 0, 0}, "the text is in UTF-16: save it as UTF-8");
        return NULL;
    }
    Ast *ast = arena_alloc(arena, sizeof(*ast));
    ast->source = source;
    size_t mark = length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; // byte order mark
    ParseState state = {.arena = arena,
                        .diag = diag,
                        .source = source,
                        .text = text,
                        .length = length,
                        .errors_before = diag_error_count(diag),
                        .ast = ast,
                        .offset = (uint32_t)mark};
    yyscan_t scanner;
    if (hep_lex_init_extra(&state, &scanner) != 0)
        memory_exhausted();
    hep__scan_bytes(text + mark, (int)(length - mark), scanner);
    int failed = hep_parse(scanner, &state);
    hep_lex_destroy(scanner);
    return failed || state_has_errors(&state) ? NULL : ast;
}
