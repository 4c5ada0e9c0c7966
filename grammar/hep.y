/* The grammar of .hep texts: syntax only, a tree out. What names, keys and blocks mean is decided by
   the semantic check. Errors are reported in words and recovered from at the ends of entries. */
%require "3.7"
%expect 0
%define api.pure full
%define api.prefix {hep_}
%define api.location.type {Span}
%define parse.error custom
%define parse.lac full
%locations
%param {yyscan_t scanner} {ParseState *state}

%code top {
#include <stdlib.h>

#include "ir/base/arena.h"

// So that a stack that is full means a text nested too deeply, and not that memory has run out.
static void *parser_allocate(size_t bytes)
{
    void *memory = malloc(bytes);
    if (!memory)
        memory_exhausted();
    return memory;
}
#define YYMALLOC parser_allocate
#define YYFREE free
}

%code requires {
#include "grammar/state.h"
#ifndef YY_TYPEDEF_YY_SCANNER_T
#define YY_TYPEDEF_YY_SCANNER_T
typedef void *yyscan_t;
#endif
}

%code provides {
int hep_scan_token(HEP_STYPE *value, Span *span, yyscan_t scanner);
int hep_lex_init_extra(ParseState *state, yyscan_t *scanner);
int hep_lex_destroy(yyscan_t scanner);
struct yy_buffer_state *hep__scan_bytes(const char *bytes, int length, yyscan_t scanner);
}

%code {
#include <string.h>

static int hep_lex(HEP_STYPE *value, Span *span, yyscan_t scanner, ParseState *state);
static void hep_error(const Span *span, yyscan_t scanner, ParseState *state, const char *message);

#define YYLLOC_DEFAULT(joined, rhs, n)                                                                                 \
    ((joined) = (n) ? span_join(YYRHSLOC(rhs, 1), YYRHSLOC(rhs, n))                                                    \
                    : (Span){YYRHSLOC(rhs, 0).source, YYRHSLOC(rhs, 0).end, YYRHSLOC(rhs, 0).end})
}

%initial-action {
    @$ = (Span){state->source, 0, 0};
    (void)yynerrs; /* counted by the generated parser, read by nobody, which clang reports */
}

%union {
    ScannedNumber number;
    const char *text;
    AstExpr *expr;
    AstExprs exprs;
    AstEntry *entry;
    AstEntries entries;
}

%token END 0 "the end of the text"
%token LET "'let'" INCLUDE "'include'" FROM "'from'"
%token <text> NAME "a name" STRING "a string"
%token <number> NUMBER "a number"
%left '+' '-'
%left '*' '/'
%precedence NEGATE

%type <entries> entries
%type <entry> entry head
%type <exprs> references values value_list
%type <expr> reference worker value expr

%%

file: entries                           { state->ast->entries = $entries; }
    | file '}' entries                  {
          if (!state_has_errors(state))
              diag_error(state->diag, @2, "'}' closes no block");
      }
    ;

entries: %empty                         { $$ = (AstEntries){0}; }
    | entries entry                     { $$ = $entry ? entries_append($1, $entry) : $1; }
    | entries ','                       { $$ = $1; scan_foreign(state, FOREIGN_COMMA, @2); }
    | entries error                     { $$ = $1; }
    ;

entry: NAME '=' value                   {
          $$ = entry_create(state, ENTRY_VALUE, $NAME, @NAME, @$);
          $$->value = $value;
      }
    | NAME ':' value                    {
          $$ = NULL;
          scan_foreign(state, FOREIGN_COLON, @2);
      }
    | NAME ':' '=' value                {
          $$ = NULL;
          scan_foreign(state, FOREIGN_COLON, @2);
      }
    | LET NAME '=' value                {
          $$ = entry_create(state, ENTRY_LET, $NAME, @NAME, @$);
          $$->value = $value;
      }
    | INCLUDE STRING                    {
          $$ = entry_create(state, ENTRY_INCLUDE, NULL, @INCLUDE, @$);
          $$->value = expr_with_text(state, EXPR_STRING, $STRING, @STRING);
      }
    | NAME head '{' entries '}'         {
          $$ = $head;
          $$->name = $NAME;
          $$->name_span = @NAME;
          $$->span = @$;
          $$->entries = $entries;
      }
    | '{' entries '}'                   {
          $$ = NULL;
          if (!state_has_errors(state))
              diag_error(state->diag, @1, "expected the kind of the block before '{'");
          else
              break;
          diag_help(state->diag, "a block is written 'kind name { ... }', without '='");
      }
    ;

head: %empty                            { $$ = entry_create(state, ENTRY_BLOCK, NULL, @$, @$); }
    | NAME                              {
          $$ = entry_create(state, ENTRY_BLOCK, NULL, @$, @$);
          $$->label = $NAME;
          $$->label_span = @NAME;
      }
    | NAME ':'                          {
          $$ = entry_create(state, ENTRY_BLOCK, NULL, @$, @$);
          scan_foreign(state, FOREIGN_COLON, @2);
      }
    | NAME FROM STRING                  {
          $$ = entry_create(state, ENTRY_BLOCK, NULL, @$, @$);
          $$->label = $NAME;
          $$->label_span = @NAME;
          $$->from = expr_with_text(state, EXPR_STRING, $STRING, @STRING);
      }
    | references                        {
          $$ = entry_create(state, ENTRY_BLOCK, NULL, @$, @$);
          $$->references = $references;
      }
    ;

references: reference                   { $$ = exprs_append((AstExprs){0}, $reference); }
    | NAME ',' worker                   {
          AstExpr *first = expr_with_text(state, EXPR_NAME, $NAME, @NAME);
          $$ = exprs_append(exprs_append((AstExprs){0}, first), $worker);
      }
    | references ',' worker             { $$ = exprs_append($1, $worker); }
    ;

worker: reference
    | NAME                              { $$ = expr_with_text(state, EXPR_NAME, $NAME, @$); }
    ;

reference: NAME '[' expr ']'            {
          $$ = expr_with_operands(state, EXPR_INDEX, $expr, NULL, @$);
          $$->text = $NAME;
      }
    ;

value: expr
    | '{' entries '}'                   {
          $$ = expr_create(state, EXPR_RECORD, @$);
          $$->entries = $entries;
      }
    ;

values: %empty                          { $$ = (AstExprs){0}; }
    | value_list
    ;

value_list: value                       { $$ = exprs_append((AstExprs){0}, $value); }
    | value_list ',' value              { $$ = exprs_append($1, $value); }
    ;

expr: NUMBER                            {
          $$ = expr_create(state, EXPR_NUMBER, @$);
          $$->number = $NUMBER.value;
          $$->unit = $NUMBER.unit;
      }
    | STRING                            { $$ = expr_with_text(state, EXPR_STRING, $STRING, @$); }
    | NAME                              { $$ = expr_with_text(state, EXPR_NAME, $NAME, @$); }
    | NAME '(' values ')'               { $$ = expr_with_items(state, EXPR_CALL, $NAME, $values, @$); }
    | '[' values ']'                    { $$ = expr_with_items(state, EXPR_LIST, NULL, $values, @$); }
    | '(' expr ')'                      { $$ = expr_with_operands(state, EXPR_GROUP, $2, NULL, @$); }
    | '-' expr %prec NEGATE             { $$ = expr_with_operands(state, EXPR_NEGATE, $2, NULL, @$); }
    | expr '+' expr                     { $$ = expr_with_operands(state, EXPR_ADD, $1, $3, @$); }
    | expr '-' expr                     { $$ = expr_with_operands(state, EXPR_SUBTRACT, $1, $3, @$); }
    | expr '*' expr                     { $$ = expr_with_operands(state, EXPR_MULTIPLY, $1, $3, @$); }
    | expr '/' expr                     { $$ = expr_with_operands(state, EXPR_DIVIDE, $1, $3, @$); }
    ;

%%

static int hep_lex(HEP_STYPE *value, Span *span, yyscan_t scanner, ParseState *state)
{
    (void)state; // the scanner holds it too
    return hep_scan_token(value, span, scanner);
}

static void hep_error(const Span *span, yyscan_t scanner, ParseState *state, const char *message)
{
    (void)scanner;
    (void)message; // the parser's stack is full: nothing else arrives here
    if (!state->stopped)
        diag_error(state->diag, *span, "nested too deeply");
    state->stopped = true;
}

typedef struct {
    bool value, entry, end, block; // may a value begin here, an entry, the end come, a block open?
    bool string;                   // or nothing but a string?
    const char *others[YYNTOKENS];
    size_t other_count;
} Expected;

// Any of these as a single-character token?
static bool is_one_of(const char *token, const char *characters)
{
    return token[0] == '\'' && token[1] && token[2] == '\'' && strchr(characters, token[1]);
}

static bool is_covered(const Expected *expected, yysymbol_kind_t token, const char *name, int count)
{
    if (expected->value)
        return token == YYSYMBOL_NUMBER || token == YYSYMBOL_STRING || token == YYSYMBOL_NAME ||
               is_one_of(name, "([{-:");
    if (expected->entry)
        return token == YYSYMBOL_LET || token == YYSYMBOL_INCLUDE || token == YYSYMBOL_NAME ||
               is_one_of(name, "{+-*/(,:") || (expected->end && (token == YYSYMBOL_YYEOF || is_one_of(name, "}")));
    return (token == YYSYMBOL_NAME || token == YYSYMBOL_FROM || is_one_of(name, "[(+-*/:")) && count > 1;
}

// Tokens as people think of them: anything that begins a value is "a value", anything that begins
// an entry "an entry"; what could merely continue, such as an operator, is omitted.
static Expected expected_gather(const yypcontext_t *context)
{
    yysymbol_kind_t tokens[YYNTOKENS];
    int count = yypcontext_expected_tokens(context, tokens, YYNTOKENS);
    Expected expected = {0};
    for (int i = 0; i < count; i++) {
        expected.value |= tokens[i] == YYSYMBOL_NUMBER;
        expected.entry |= tokens[i] == YYSYMBOL_LET;
        expected.end |= tokens[i] == YYSYMBOL_YYEOF;
        expected.block |= is_one_of(yysymbol_name(tokens[i]), "{");
        expected.string |= count == 1 && tokens[i] == YYSYMBOL_STRING;
    }
    for (int i = 0; i < count; i++) {
        const char *name = yysymbol_name(tokens[i]);
        if (!is_covered(&expected, tokens[i], name, count))
            expected.others[expected.other_count++] = name;
    }
    return expected;
}

static void append_alternatives(Text *text, const Expected *expected)
{
    const char *items[YYNTOKENS + 2];
    size_t count = 0;
    if (expected->value)
        items[count++] = "a value";
    if (expected->entry)
        items[count++] = "an entry";
    for (size_t i = 0; i < expected->other_count; i++)
        items[count++] = expected->others[i];
    for (size_t i = 0; i < count; i++)
        text_format(text, "%s%s", i == 0 ? "" : i + 1 == count ? " or " : ", ", items[i]);
}

static void append_token(Text *text, const ParseState *state, Span span)
{
    enum { SHOWN_MAX = 40 };
    uint32_t length = span.end - span.begin;
    text_format(text, "'%.*s%s'", (int)(length > SHOWN_MAX ? SHOWN_MAX : length), state->text + span.begin,
                length > SHOWN_MAX ? "..." : "");
}

static int yyreport_syntax_error(const yypcontext_t *context, yyscan_t scanner, ParseState *state)
{
    (void)scanner;
    if (state->stopped)
        return 0;
    Span span = *yypcontext_location(context);
    Expected expected = expected_gather(context);
    yysymbol_kind_t got = yypcontext_token(context);
    if (got != YYSYMBOL_YYEOF && state->text[span.begin] == ':') {
        scan_foreign(state, FOREIGN_COLON, span);
        return 0;
    }
    if (got == YYSYMBOL_STRING && expected.entry) {
        scan_foreign(state, FOREIGN_KEY, span);
        return 0;
    }
    if (scan_error_before(state, span))
        return 0;
    state->syntax_error = span.end;
    Text text = {0};
    text_append(&text, "expected ");
    append_alternatives(&text, &expected);
    if (state->previous.end > state->previous.begin) {
        text_append(&text, " after ");
        append_token(&text, state, state->previous);
    }
    text_append(&text, ", got ");
    if (got == YYSYMBOL_YYEOF) {
        text_append(&text, "the end of the text");
        span.begin = span.end = state->previous.end;
    } else {
        append_token(&text, state, span);
    }
    diag_error(state->diag, span, "%s", text.data);
    text_free(&text);
    bool dash = got != YYSYMBOL_YYEOF && state->text[span.begin] == '-' && state->previous.end == span.begin;
    if (expected.block && (dash || got == YYSYMBOL_STRING))
        diag_help(state->diag, "names are letters, digits and '_', without quotes");
    if (expected.string && got == YYSYMBOL_NAME)
        diag_help(state->diag, "file names stand in double quotes");
    if (got == YYSYMBOL_YYEOF && state->open_count) {
        uint32_t open = state->open[state->open_count - 1];
        diag_note(state->diag, (Span){state->source, open, open + 1}, "this '%c' is not closed", state->text[open]);
    }
    return 0;
}
