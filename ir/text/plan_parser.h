// The reader of the text form, in parts: plan_scan.c makes tokens, plan_values.c values of fields, plan_parse.c
// records and the plan.
#ifndef HEP_PLAN_PARSER_H
#define HEP_PLAN_PARSER_H

#include "ir/text/plan_text.h"

typedef enum { TOKEN_WORD, TOKEN_STRING, TOKEN_EQUALS, TOKEN_END } TokenKind;

typedef struct {
    TokenKind kind;
    bool line_start;
    const char *text; // NUL-terminated; a string without its quotes
    Span span;
} Token;

// A growing array in the plan's arena.
typedef struct {
    void *items;
    uint32_t count, capacity;
} List;

typedef struct {
    const char *text;
    size_t length, at;
    uint32_t source;
    Diag *diag;
    Plan *plan;
    Token token; // the next one
    bool at_line_start;
    List lists[RECORD_COUNT], spans[RECORD_COUNT], operands, after;
    uint32_t next_id[RECORD_COUNT];
    uint32_t *buffer_slots; // hash table of buffer indices, plus one
    uint32_t slot_count;    // a power of two
} Parser;

// Makes `parser->token` the next token; reports what is none.
void scan_next(Parser *parser);
// Is the next token a word that begins a record?
bool scan_at_record(const Parser *parser);
// On to the next record, or the end.
void scan_skip_record(Parser *parser);

// A whole number from 0 to `limit`, digits alone.
bool parse_whole(const char *text, uint64_t limit, uint64_t *out) MUST_CHECK;
// The number after a prefix: 12 of "s12".
bool parse_id(const char *text, char prefix, uint32_t *out) MUST_CHECK;
// The value of a field, at the cursor, into its place in the record; false after reporting that there is none.
bool parse_value(Parser *parser, const Field *field, void *record) MUST_CHECK;

#endif
