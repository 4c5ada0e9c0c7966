// Reads the text form of a plan: see plan_text.h. A record is a keyword, positional fields and
// `key value` pairs, as the tables of schema.h say; after an error the parser goes on at the next
// line that begins with a record's keyword.
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/plan_text.h"
#include "ir/schema.h"

enum { CODES_LISTED_MAX = 8 }; // in a help line

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

// ---- tokens ------------------------------------------------------------------------------------

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

static void advance(Parser *parser)
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

// Is the next token a word that begins a record?
static bool at_record(const Parser *parser)
{
    return parser->token.kind == TOKEN_WORD && parser->token.line_start && record_find(parser->token.text) >= 0;
}

static void skip_record(Parser *parser)
{
    while (parser->token.kind != TOKEN_END && !at_record(parser))
        advance(parser);
}

// ---- storage -----------------------------------------------------------------------------------

static void *list_add(Parser *parser, List *list, size_t element_bytes)
{
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? 2 * list->capacity : 16;
        void *larger = arena_alloc_array(parser->plan->arena, capacity, element_bytes);
        if (list->count)
            memcpy(larger, list->items, list->count * element_bytes);
        list->items = larger;
        list->capacity = capacity;
    }
    return (char *)list->items + list->count++ * element_bytes;
}

static uint32_t hash_name(const char *name)
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash;
}

// The slot of the buffer of this name, or the empty slot where it belongs.
static uint32_t *find_slot(Parser *parser, const char *name)
{
    uint32_t at = hash_name(name);
    for (;; at++) {
        uint32_t *slot = &parser->buffer_slots[at & (parser->slot_count - 1)];
        if (*slot == 0 || strcmp(parser->plan->buffers[*slot - 1].name, name) == 0)
            return slot;
    }
}

static void index_buffer(Parser *parser, uint32_t index)
{
    Plan *plan = parser->plan;
    if (2 * (index + 1) > parser->slot_count) {
        parser->slot_count = parser->slot_count ? 2 * parser->slot_count : 64;
        parser->buffer_slots = arena_alloc_array(plan->arena, parser->slot_count, sizeof(*parser->buffer_slots));
        for (uint32_t i = 0; i < index; i++)
            *find_slot(parser, plan->buffers[i].name) = i + 1;
    }
    uint32_t *slot = find_slot(parser, plan->buffers[index].name);
    if (*slot) {
        const Span *spans = parser->spans[RECORD_BUFFER].items;
        diag_error(parser->diag, spans[index], "a second buffer is named '%s'", plan->buffers[index].name);
        diag_note(parser->diag, spans[*slot - 1], "the first is here");
        return;
    }
    *slot = index + 1;
}

// ---- values ------------------------------------------------------------------------------------

static bool wrong_value(Parser *parser, const Field *field)
{
    diag_error(parser->diag, parser->token.span, "expected %s for '%s'", field_type_name(field->type), field->key);
    return false;
}

static bool is_decimal(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && text[digits] == 0;
}

static bool parse_whole(const char *text, uint64_t limit, uint64_t *out)
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

static bool parse_id(const char *text, char prefix, uint32_t *out)
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
        advance(parser);
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
    *out = parser->token.kind == TOKEN_WORD ? field_code_parse(field->type, parser->token.text) : -1;
    if (*out >= 0)
        return true;
    *out = 0;
    wrong_value(parser, field);
    const char *names[64];
    size_t count = 0, op_count;
    const OpInfo *ops = op_table(&op_count);
    if (field->type == FIELD_OP) {
        for (; count < op_count && count < COUNT_OF(names); count++)
            names[count] = ops[count].name;
    } else {
        for (; count < COUNT_OF(names) && field_code_name(field->type, (int)count); count++)
            names[count] = field_code_name(field->type, (int)count);
    }
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
    case FIELD_DTYPE:
    case FIELD_PASS:
    case FIELD_DISPATCH:
    case FIELD_EXCHANGE_KIND:
    case FIELD_CODEC:
    case FIELD_ACTIVATION:
    case FIELD_GROUP_KIND:
    case FIELD_BUFFER_KIND:
    case FIELD_STATUS:
    case FIELD_OP:
        return parse_code(parser, field, value);
    case FIELD_DOMAIN:
    case FIELD_TYPE_COUNT:
        break;
    }
    return false;
}

static bool parse_value(Parser *parser, const Field *field, void *record)
{
    void *value = (char *)record + field->offset;
    if (field->type == FIELD_DOMAIN)
        return parse_domain(parser, field, value);
    if (parser->token.kind != TOKEN_WORD && parser->token.kind != TOKEN_STRING)
        return wrong_value(parser, field);
    if (!parse_scalar(parser, field, value))
        return false;
    advance(parser);
    return true;
}

// ---- records -----------------------------------------------------------------------------------

// Storage for a new record, added to its table, with every optional index absent.
static void *new_record(Parser *parser, RecordKind kind)
{
    Plan *plan = parser->plan;
    List *list = &parser->lists[kind];
    switch (kind) {
    case RECORD_CLUSTER:
    case RECORD_DEVICE:
    case RECORD_MODEL:
    case RECORD_PLAN:
        list->count++;
        return record_at(plan, kind, 0);
    case RECORD_TRAINING:
        list->count++;
        return &plan->training;
    case RECORD_LEVEL:
        list->count++;
        plan->cluster.level_count++;
        return &plan->cluster.levels[plan->cluster.level_count - 1];
    case RECORD_PORT:
        *(WorkerPort *)list_add(parser, list, sizeof(WorkerPort)) = (WorkerPort){.name = ""};
        plan->cluster.ports = list->items;
        return &plan->cluster.ports[plan->cluster.port_count++];
    case RECORD_LINK:
        *(WorkerLink *)list_add(parser, list, sizeof(WorkerLink)) = (WorkerLink){0};
        plan->cluster.links = list->items;
        return &plan->cluster.links[plan->cluster.link_count++];
    case RECORD_CHOICE:
        list_add(parser, list, sizeof(Choice));
        plan->choices = list->items;
        return &plan->choices[plan->choice_count++];
    case RECORD_STRATEGY:
        list_add(parser, list, sizeof(Strategy));
        plan->strategies = list->items;
        return &plan->strategies[plan->strategy_count++];
    case RECORD_TRAFFIC:
        list->count++;
        return &plan->strategies[(list->count - 1) / plan->cluster.level_count]
                    .traffic[(list->count - 1) % plan->cluster.level_count];
    case RECORD_GROUP:
        *(Group *)list_add(parser, list, sizeof(Group)) = (Group){.level = NONE};
        plan->groups = list->items;
        return &plan->groups[plan->group_count++];
    case RECORD_BUFFER:
        *(Buffer *)list_add(parser, list, sizeof(Buffer)) = (Buffer){.name = "", .layer = NONE};
        plan->buffers = list->items;
        return &plan->buffers[plan->buffer_count++];
    case RECORD_STEP:
        *(Step *)list_add(parser, list, sizeof(Step)) =
            (Step){.op = OP_EMBED, .layer = NONE, .level = NONE, .group = NONE};
        plan->steps = list->items;
        return &plan->steps[plan->step_count++];
    case RECORD_COUNT:
        break;
    }
    return NULL;
}

// Records come in the order of RecordKind; traffic records follow their strategy, one per level.
static bool check_place(Parser *parser, RecordKind kind)
{
    const char *keyword = record_info(kind)->keyword;
    uint32_t levels = parser->plan->cluster.level_count;
    if (record_is_single(kind) && parser->lists[kind].count) {
        diag_error(parser->diag, parser->token.span, "a second '%s' record", keyword);
        return false;
    }
    if (kind == RECORD_TRAINING && parser->plan->pass != PASS_TRAINING) {
        diag_error(parser->diag, parser->token.span, "a plan whose pass is '%s' has no '%s' record",
                   pass_name(parser->plan->pass), keyword);
        return false;
    }
    for (int later = (int)kind + 1; later < RECORD_COUNT; later++) {
        if (parser->lists[later].count && !(kind == RECORD_STRATEGY && later == RECORD_TRAFFIC)) {
            diag_error(parser->diag, parser->token.span, "'%s' records come before '%s' records", keyword,
                       record_info((RecordKind)later)->keyword);
            return false;
        }
    }
    if (kind == RECORD_LEVEL && levels == LEVELS_MAX) {
        diag_error(parser->diag, parser->token.span, "more than %d levels", LEVELS_MAX);
        return false;
    }
    if (kind == RECORD_TRAFFIC && parser->lists[kind].count >= parser->plan->strategy_count * levels) {
        diag_error(parser->diag, parser->token.span, "'traffic' follows a strategy, one per level");
        return false;
    }
    return true;
}

// A strategy is complete when each level has its traffic.
static void check_traffic_complete(Parser *parser)
{
    uint32_t expected = parser->plan->strategy_count * parser->plan->cluster.level_count;
    if (parser->lists[RECORD_TRAFFIC].count != expected) {
        diag_error(parser->diag, parser->token.span, "strategy '%s' misses 'traffic' records: expected one per level",
                   parser->plan->strategies[parser->plan->strategy_count - 1].name);
        parser->lists[RECORD_TRAFFIC].count = expected;
    }
}

static bool parse_record_id(Parser *parser, RecordKind kind)
{
    const RecordInfo *info = record_info(kind);
    uint32_t expected_id = parser->next_id[kind]++, given;
    if (kind == RECORD_TRAFFIC) {
        uint32_t level = (parser->lists[kind].count - 1) % parser->plan->cluster.level_count;
        const char *expected = parser->plan->cluster.levels[level].name;
        if (parser->token.kind == TOKEN_END || strcmp(parser->token.text, expected) != 0) {
            diag_error(parser->diag, parser->token.span, "expected the traffic of level '%s'", expected);
            return false;
        }
        advance(parser);
    } else if (info->id) {
        if (parser->token.kind != TOKEN_WORD || !parse_id(parser->token.text, info->id, &given)) {
            diag_error(parser->diag, parser->token.span, "expected '%c%" PRIu32 "'", info->id, expected_id);
            return false;
        }
        uint32_t place = parser->lists[kind].count - 1;
        if (given != expected_id && given != place)
            diag_error(parser->diag, parser->token.span, "expected '%c%" PRIu32 "'", info->id, expected_id);
        parser->next_id[kind] = given + 1; // one slip, one error: later records count from here, or from their place
        advance(parser);
    }
    return true;
}

static bool parse_after(Parser *parser, Step *step)
{
    uint32_t index;
    while (parser->token.kind == TOKEN_WORD && parse_id(parser->token.text, 's', &index)) {
        *(uint32_t *)list_add(parser, &parser->after, sizeof(uint32_t)) = index;
        step->after_count++;
        advance(parser);
    }
    if (step->after_count == 0) {
        diag_error(parser->diag, parser->token.span, "expected steps, such as 's3', behind 'after'");
        return false;
    }
    return true;
}

// `name=buffer`; the name is the token `name`, the cursor is behind `=`.
static bool parse_operand(Parser *parser, const Step *step, const Token *name)
{
    const OpInfo *info = op_info((int)step->op);
    int32_t *operands = (int32_t *)parser->operands.items + step->operand_first;
    const Token *buffer = &parser->token;
    uint32_t k = 0;
    while (k < info->operand_count && strcmp(info->operands[k].name, name->text) != 0)
        k++;
    if (k == info->operand_count) {
        diag_error(parser->diag, name->span, "op '%s' has no operand '%s'", info->name, name->text);
        return false;
    }
    if (operands[k] != NONE) {
        diag_error(parser->diag, name->span, "operand '%s' is given twice", name->text);
        return false;
    }
    if (buffer->kind == TOKEN_WORD && strcmp(buffer->text, "-") == 0) {
        advance(parser);
        return true;
    }
    uint32_t slot = parser->slot_count ? *find_slot(parser, buffer->text) : 0;
    if ((buffer->kind != TOKEN_WORD && buffer->kind != TOKEN_STRING) || slot == 0) {
        diag_error(parser->diag, buffer->span, "no buffer is named '%s'", buffer->text);
        return false;
    }
    operands[k] = (int32_t)slot - 1;
    advance(parser);
    return true;
}

static void add_operands(Parser *parser, Step *step)
{
    step->operand_first = parser->operands.count;
    step->after_first = parser->after.count;
    for (uint32_t k = 0; k < op_info((int)step->op)->operand_count; k++)
        *(int32_t *)list_add(parser, &parser->operands, sizeof(int32_t)) = NONE;
}

static bool unknown_field(Parser *parser, const RecordInfo *info, const Token *key)
{
    const char *names[FIELDS_MAX];
    size_t count = 0;
    for (const Field *field = info->fields; field->key; field++)
        if (!field->positional)
            names[count++] = field->key;
    diag_error(parser->diag, key->span, "'%s' has no field '%s'", info->keyword, key->text);
    const char *near = nearest_word(key->text, names, count);
    if (near)
        diag_help(parser->diag, "did you mean '%s'?", near);
    return false;
}

// One `key value`, `after ...` or `operand=buffer`. `given` marks the fields that were there.
static bool parse_pair(Parser *parser, RecordKind kind, void *record, bool given[FIELDS_MAX])
{
    const RecordInfo *info = record_info(kind);
    Token key = parser->token;
    advance(parser);
    if (kind == RECORD_STEP && parser->token.kind == TOKEN_EQUALS) {
        advance(parser);
        return parse_operand(parser, record, &key);
    }
    if (kind == RECORD_STEP && strcmp(key.text, "after") == 0)
        return parse_after(parser, record);
    for (int f = 0; info->fields[f].key; f++) {
        if (info->fields[f].positional || strcmp(info->fields[f].key, key.text) != 0)
            continue;
        if (given[f]) {
            diag_error(parser->diag, key.span, "'%s' is given twice", key.text);
            return false;
        }
        given[f] = true;
        return parse_value(parser, &info->fields[f], record);
    }
    return unknown_field(parser, info, &key);
}

// Does the record go on? Field names win over keywords, which some of them are too.
static bool in_record(const Parser *parser, const RecordInfo *info, const bool given[FIELDS_MAX])
{
    if (parser->token.kind == TOKEN_END)
        return false;
    for (int f = 0; at_record(parser) && info->fields[f].key; f++)
        if (!info->fields[f].positional && !given[f] && strcmp(info->fields[f].key, parser->token.text) == 0)
            return true;
    return !at_record(parser);
}

static bool parse_fields(Parser *parser, RecordKind kind, void *record, Span keyword)
{
    const RecordInfo *info = record_info(kind);
    bool given[FIELDS_MAX] = {false};
    for (int f = 0; info->fields[f].key; f++) {
        given[f] = info->fields[f].positional;
        if (info->fields[f].positional && !parse_value(parser, &info->fields[f], record))
            return false;
    }
    if (kind == RECORD_STEP)
        add_operands(parser, record);
    while (in_record(parser, info, given)) {
        if (parser->token.kind != TOKEN_WORD) {
            diag_error(parser->diag, parser->token.span, "expected a field of '%s'", info->keyword);
            return false;
        }
        if (!parse_pair(parser, kind, record, given))
            return false;
    }
    bool complete = true;
    for (int f = 0; info->fields[f].key; f++) {
        if (!given[f] && !info->fields[f].optional) {
            diag_error(parser->diag, keyword, "this '%s' misses '%s'", info->keyword, info->fields[f].key);
            complete = false;
        }
    }
    return complete;
}

static void parse_record(Parser *parser)
{
    Token keyword = parser->token;
    int kind = keyword.kind == TOKEN_WORD ? record_find(keyword.text) : -1;
    if (kind < 0) {
        diag_error(parser->diag, keyword.span, "expected a record, such as 'buffer' or 'step'");
        advance(parser);
        skip_record(parser);
        return;
    }
    if (kind != RECORD_TRAFFIC && parser->plan->strategy_count)
        check_traffic_complete(parser);
    if (!check_place(parser, (RecordKind)kind)) {
        advance(parser);
        skip_record(parser);
        return;
    }
    advance(parser);
    void *record = new_record(parser, (RecordKind)kind);
    *(Span *)list_add(parser, &parser->spans[kind], sizeof(Span)) = keyword.span;
    if (!parse_record_id(parser, (RecordKind)kind) || !parse_fields(parser, (RecordKind)kind, record, keyword.span))
        skip_record(parser);
    if (kind == RECORD_BUFFER && ((const Buffer *)record)->name[0])
        index_buffer(parser, parser->plan->buffer_count - 1);
}

// ---- file --------------------------------------------------------------------------------------

static bool parse_version(Parser *parser)
{
    advance(parser);
    if (parser->token.kind != TOKEN_WORD || strcmp(parser->token.text, "hep_plan") != 0) {
        diag_error(parser->diag, parser->token.span, "not a plan: expected 'hep_plan %d'", PLAN_TEXT_VERSION);
        return false;
    }
    advance(parser);
    uint64_t version;
    if (parser->token.kind != TOKEN_WORD || !parse_whole(parser->token.text, UINT32_MAX, &version) || version == 0) {
        diag_error(parser->diag, parser->token.span, "expected the format's version, %d", PLAN_TEXT_VERSION);
        return false;
    }
    if (version > PLAN_TEXT_VERSION) {
        diag_error(parser->diag, parser->token.span,
                   "written by a newer version: format %" PRIu64 ", and this program reads up to %d", version,
                   PLAN_TEXT_VERSION);
        return false;
    }
    advance(parser);
    return true;
}

static void finish(Parser *parser)
{
    Plan *plan = parser->plan;
    for (RecordKind kind = 0; kind < RECORD_COUNT; kind++)
        if (record_is_single(kind) && parser->lists[kind].count < record_count(plan, kind))
            diag_error(parser->diag, parser->token.span, "the plan misses its '%s' record",
                       record_info(kind)->keyword);
    if (plan->strategy_count)
        check_traffic_complete(parser);
    plan->operands = parser->operands.items;
    plan->operand_count = parser->operands.count;
    plan->after = parser->after.items;
    plan->after_count = parser->after.count;
}

static void check_limits(Parser *parser)
{
    PlanProblem problem;
    if (plan_within_limits(parser->plan, &problem))
        return;
    const List *spans = &parser->spans[problem.record];
    char record[NAME_BYTES_MAX + 64];
    plan_describe_record(parser->plan, problem.record, problem.index, record, sizeof(record));
    diag_error(parser->diag, ((const Span *)spans->items)[problem.index], "%s: %s", record, problem.message);
}

Plan *plan_parse(const char *text, size_t length, uint32_t source, Diag *diag)
{
    if (length > INT32_MAX) {
        diag_error_plain(diag, "'%s' is too large for a plan", diag_source_name(diag, source));
        return NULL;
    }
    size_t errors_before = diag_error_count(diag);
    Parser parser = {.text = text, .length = length, .source = source, .diag = diag, .at_line_start = true};
    parser.plan = plan_create();
    if (parse_version(&parser)) {
        while (parser.token.kind != TOKEN_END)
            parse_record(&parser);
        finish(&parser);
    }
    if (diag_error_count(diag) == errors_before)
        check_limits(&parser);
    if (diag_error_count(diag) == errors_before)
        return parser.plan;
    plan_destroy(parser.plan);
    return NULL;
}
