// What scanner, parser and their actions share during one parse. Private to this folder.
#ifndef HEP_GRAMMAR_STATE_H
#define HEP_GRAMMAR_STATE_H

#include "grammar/ast.h"

typedef struct {
    double value;
    const Unit *unit;
} ScannedNumber;

// What other languages have in this place. Reported once per text, however often it stands there.
typedef enum {
    FOREIGN_COMMENT,
    FOREIGN_COMMA,
    FOREIGN_SEMICOLON,
    FOREIGN_COLON,
    FOREIGN_QUOTE,
    FOREIGN_KEY,
    FOREIGN_COUNT
} Foreign;

typedef struct {
    Arena *arena;
    Diag *diag;
    uint32_t source;
    const char *text;
    size_t length;
    size_t errors_before;
    Ast *ast;
    uint32_t offset;            // of the next byte to scan
    Span previous, token;       // the last two tokens
    uint32_t open[NESTING_MAX]; // offsets of open brackets
    uint32_t open_count;
    bool foreign[FOREIGN_COUNT]; // reported already
    uint32_t lexical_error;      // where the last one that the scanner reported ends; 0: none
    uint32_t syntax_error;       // where the token of the last one that the parser reported ends
    bool stopped;                // too deep: the scanner reports no more tokens, the parser no more errors
} ParseState;

static inline bool state_has_errors(const ParseState *state)
{
    return diag_error_count(state->diag) > state->errors_before;
}

Span span_join(Span first, Span last);

// An error of a character, of which the parser is the next victim: it says nothing more about that line.
void scan_error_at(ParseState *state, Span span);
bool scan_error_before(const ParseState *state, Span span); // is there such an error on the same line?

// Scanner helpers. A word may follow a number as its unit or begin the next entry; returns the
// length of the number with its unit, or of the number alone.
size_t scan_number(ParseState *state, size_t begin, size_t match_length, ScannedNumber *out);
const char *scan_name(ParseState *state, Span span);
const char *scan_string(ParseState *state, Span span);
void scan_bracket(ParseState *state, char bracket, Span span);
void scan_foreign(ParseState *state, Foreign what, Span span);
void scan_unexpected(ParseState *state, Span span);

// Tree builders.
AstExpr *expr_create(ParseState *state, ExprKind kind, Span span);
AstExpr *expr_with_text(ParseState *state, ExprKind kind, const char *text, Span span);
AstExpr *expr_with_operands(ParseState *state, ExprKind kind, AstExpr *left, AstExpr *right, Span span);
AstExpr *expr_with_items(ParseState *state, ExprKind kind, const char *text, AstExprs items, Span span);
AstExprs exprs_append(AstExprs items, AstExpr *item);
AstEntry *entry_create(ParseState *state, EntryKind kind, const char *name, Span name_span, Span span);
AstEntries entries_append(AstEntries entries, AstEntry *entry);

#endif
