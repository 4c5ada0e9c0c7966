// Values of fields in the text form of a plan, by the field's type.
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/text/plan_parser.h"

enum { CODES_MAX = 64, CODES_LISTED_MAX = 8 }; // of a table; in a help line

static bool wrong_value(Parser *parser, const Field *field)
{
    diag_error(parser->diag, parser->token.span, "expected %s for '%s'", field_takes(field), field->key);
    return false;
}

static bool is_decimal(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && text[digits] == 0;
}

bool parse_whole(const char *text, uint64_t limit, uint64_t *out)
{
    if (!is_decimal(text))
        return false;
    errno = 0;
    unsigned long long value = strtoull(text, NULL, 10);
    *out = value;
    return errno == 0 && value <= limit;
}

static bool parse_number(const char *text, double *out)
{
    if (!isdigit((unsigned char)text[0]) || strspn(text, "0123456789.eE+-") != strlen(text))
        return false;
    char *end;
    *out = strtod(text, &end);
    return *end == 0 && isfinite(*out);
}

bool parse_id(const char *text, char prefix, uint32_t *out)
{
    uint64_t value;
    if (text[0] != prefix || !parse_whole(text + 1, INT32_MAX, &value))
        return false;
    *out = (uint32_t)value;
    return true;
}

static bool parse_level(Parser *parser, int32_t *out)
{
    const Cluster *cluster = &parser->plan->cluster;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        if (strcmp(cluster->levels[l].name, parser->token.text) == 0) {
            *out = (int32_t)l;
            return true;
        }
    }
    diag_error(parser->diag, parser->token.span, "no level is named '%s'", parser->token.text);
    return false;
}

static bool parse_domain(Parser *parser, const Field *field, uint32_t *out)
{
    uint32_t levels = parser->plan->cluster.level_count;
    for (uint32_t l = 0; l < levels; l++) {
        uint64_t value;
        if (parser->token.kind != TOKEN_WORD || !parse_whole(parser->token.text, UINT32_MAX, &value))
            return wrong_value(parser, field);
        out[l] = (uint32_t)value;
        scan_next(parser);
    }
    return true;
}

static void help_with_names(Parser *parser, const char *const *names, size_t count)
{
    Text list = {0};
    for (size_t i = 0; i < count; i++)
        text_format(&list, "%s%s", i == 0 ? "" : i + 1 < count ? ", " : " or ", names[i]);
    diag_help(parser->diag, "it is %s", list.data);
    text_free(&list);
}

static bool parse_code(Parser *parser, const Field *field, int *out)
{
    *out = parser->token.kind == TOKEN_WORD ? name_code(field->names, parser->token.text) : -1;
    if (*out >= 0)
        return true;
    *out = 0;
    wrong_value(parser, field);
    const char *names[CODES_MAX];
    size_t count = name_list(field->names, 0, field->names->count - 1, names, COUNT_OF(names));
    const char *near = nearest_word(parser->token.text, names, count);
    if (near)
        diag_help(parser->diag, "did you mean '%s'?", near);
    else if (count <= CODES_LISTED_MAX)
        help_with_names(parser, names, count);
    return false;
}

// Fields of one token; FIELD_DOMAIN is handled before.
static bool parse_scalar(Parser *parser, const Field *field, void *value)
{
    const char *text = parser->token.text;
    bool word = parser->token.kind == TOKEN_WORD;
    uint64_t whole = 0;
    uint32_t index = 0;
    switch (field->type) {
    case FIELD_NAME:
        *(const char **)value = text;
        return true;
    case FIELD_BOOL:
        *(bool *)value = word && strcmp(text, "yes") == 0;
        return (word && (strcmp(text, "yes") == 0 || strcmp(text, "no") == 0)) || wrong_value(parser, field);
    case FIELD_U32:
        if (!word || !parse_whole(text, UINT32_MAX, &whole))
            return wrong_value(parser, field);
        *(uint32_t *)value = (uint32_t)whole;
        return true;
    case FIELD_U64:
        return (word && parse_whole(text, UINT64_MAX, value)) || wrong_value(parser, field);
    case FIELD_NUMBER:
        return (word && parse_number(text, value)) || wrong_value(parser, field);
    case FIELD_LAYER:
        if (!word || !parse_whole(text, INT32_MAX, &whole))
            return wrong_value(parser, field);
        *(int32_t *)value = (int32_t)whole;
        return true;
    case FIELD_LEVEL:
        return parse_level(parser, value);
    case FIELD_GROUP:
        if (!word || !parse_id(text, 'g', &index))
            return wrong_value(parser, field);
        *(int32_t *)value = (int32_t)index;
        return true;
    case FIELD_ONE_OF:
        return parse_code(parser, field, value);
    case FIELD_DOMAIN:
    case FIELD_TYPE_COUNT:
        break;
    }
    return false;
}

bool parse_value(Parser *parser, const Field *field, void *record)
{
    void *value = (char *)record + field->offset;
    if (field->type == FIELD_DOMAIN)
        return parse_domain(parser, field, value);
    if (parser->token.kind != TOKEN_WORD && parser->token.kind != TOKEN_STRING)
        return wrong_value(parser, field);
    if (!parse_scalar(parser, field, value))
        return false;
    scan_next(parser);
    return true;
}
