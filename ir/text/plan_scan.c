// Tokens of the text form of a plan: words, quoted strings and `=`; comments begin with `#`. A word that begins a line
// and is a record's keyword begins a record.
#include <ctype.h>

#include "ir/text/plan_parser.h"

static bool is_word_byte(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '.' || c == '+' || c == '-';
}

static void skip_space(Parser *parser)
{
    while (parser->at < parser->length) {
        char c = parser->text[parser->at];
        if (c == '#') {
            while (parser->at < parser->length && parser->text[parser->at] != '\n')
                parser->at++;
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            parser->at_line_start |= c == '\n';
            parser->at++;
        } else {
            return;
        }
    }
}

// A quoted string; the opening quote is at the cursor.
static const char *scan_string(Parser *parser)
{
    size_t begin = parser->at++;
    Text value = {0};
    text_append(&value, "");
    bool closed = false;
    while (parser->at < parser->length && parser->text[parser->at] != '\n' && !closed) {
        char c = parser->text[parser->at++];
        if (c == '"') {
            closed = true;
            continue;
        }
        if (c == '\\' && parser->at < parser->length && parser->text[parser->at] != '\n')
            c = parser->text[parser->at++];
        text_append_bytes(&value, &c, 1);
    }
    if (!closed)
        diag_error(parser->diag, (Span){parser->source, (uint32_t)begin, (uint32_t)parser->at},
                   "this string has no closing quote");
    const char *copy = arena_copy_string(parser->plan->arena, value.data, value.length);
    text_free(&value);
    return copy;
}

void scan_next(Parser *parser)
{
    for (;;) {
        skip_space(parser);
        size_t begin = parser->at;
        Token *token = &parser->token;
        *token = (Token){.kind = TOKEN_END, .line_start = parser->at_line_start, .text = "end of file"};
        parser->at_line_start = false;
        if (begin >= parser->length) {
            token->span = (Span){parser->source, (uint32_t)parser->length, (uint32_t)parser->length};
            return;
        }
        char c = parser->text[begin];
        if (is_word_byte(c)) {
            while (parser->at < parser->length && is_word_byte(parser->text[parser->at]))
                parser->at++;
            token->kind = TOKEN_WORD;
            token->text = arena_copy_string(parser->plan->arena, parser->text + begin, parser->at - begin);
        } else if (c == '"') {
            token->kind = TOKEN_STRING;
            token->text = scan_string(parser);
        } else {
            parser->at++;
            token->kind = TOKEN_EQUALS;
            token->text = "=";
        }
        token->span = (Span){parser->source, (uint32_t)begin, (uint32_t)parser->at};
        if (c == '=' || token->kind != TOKEN_EQUALS)
            return;
        diag_error(parser->diag, token->span, "unexpected character");
        parser->at_line_start = token->line_start;
    }
}

bool scan_at_record(const Parser *parser)
{
    return parser->token.kind == TOKEN_WORD && parser->token.line_start && record_find(parser->token.text) >= 0;
}

void scan_skip_record(Parser *parser)
{
    while (parser->token.kind != TOKEN_END && !scan_at_record(parser))
        scan_next(parser);
}
