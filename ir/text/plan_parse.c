// Reads the text form of a plan: see plan_text.h. A record is a keyword, positional fields and
// `key value` pairs, as the tables of schema.h say; after an error the parser continues at the next
// line that begins with a record's keyword.
#include <inttypes.h>
#include <string.h>

#include "ir/text/plan_parser.h"

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
    case RECORD_LAYER:
        *(LayerDims *)list_add(parser, list, sizeof(LayerDims)) = (LayerDims){.mixer = ""};
        plan->layers = list->items;
        return &plan->layers[plan->layer_count++];
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
        scan_next(parser);
    } else if (info->id) {
        if (parser->token.kind != TOKEN_WORD || !parse_id(parser->token.text, info->id, &given)) {
            diag_error(parser->diag, parser->token.span, "expected '%c%" PRIu32 "'", info->id, expected_id);
            return false;
        }
        uint32_t place = parser->lists[kind].count - 1;
        if (given != expected_id && given != place)
            diag_error(parser->diag, parser->token.span, "expected '%c%" PRIu32 "'", info->id, expected_id);
        parser->next_id[kind] = given + 1; // one slip, one error: later records count from here, or from their place
        scan_next(parser);
    }
    return true;
}

static bool parse_after(Parser *parser, Step *step)
{
    uint32_t index;
    while (parser->token.kind == TOKEN_WORD && parse_id(parser->token.text, 's', &index)) {
        *(uint32_t *)list_add(parser, &parser->after, sizeof(uint32_t)) = index;
        step->after_count++;
        scan_next(parser);
    }
    if (step->after_count == 0) {
        diag_error(parser->diag, parser->token.span, "expected steps, such as 's3', after 'after'");
        return false;
    }
    return true;
}

// `name=buffer`; the name is the token `name`, the cursor is after `=`.
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
        scan_next(parser);
        return true;
    }
    uint32_t slot = parser->slot_count ? *find_slot(parser, buffer->text) : 0;
    if ((buffer->kind != TOKEN_WORD && buffer->kind != TOKEN_STRING) || slot == 0) {
        diag_error(parser->diag, buffer->span, "no buffer is named '%s'", buffer->text);
        return false;
    }
    operands[k] = (int32_t)slot - 1;
    scan_next(parser);
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
    scan_next(parser);
    if (kind == RECORD_STEP && parser->token.kind == TOKEN_EQUALS) {
        scan_next(parser);
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

// Does the record continue? Field names win over keywords, which some of them are too.
static bool in_record(const Parser *parser, const RecordInfo *info, const bool given[FIELDS_MAX])
{
    if (parser->token.kind == TOKEN_END)
        return false;
    for (int f = 0; scan_at_record(parser) && info->fields[f].key; f++)
        if (!info->fields[f].positional && !given[f] && strcmp(info->fields[f].key, parser->token.text) == 0)
            return true;
    return !scan_at_record(parser);
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
        if (!given[f] && !info->fields[f].optional && !info->fields[f].added) {
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
        scan_next(parser);
        scan_skip_record(parser);
        return;
    }
    if (kind != RECORD_TRAFFIC && parser->plan->strategy_count)
        check_traffic_complete(parser);
    if (!check_place(parser, (RecordKind)kind)) {
        scan_next(parser);
        scan_skip_record(parser);
        return;
    }
    scan_next(parser);
    void *record = new_record(parser, (RecordKind)kind);
    *(Span *)list_add(parser, &parser->spans[kind], sizeof(Span)) = keyword.span;
    if (!parse_record_id(parser, (RecordKind)kind) || !parse_fields(parser, (RecordKind)kind, record, keyword.span))
        scan_skip_record(parser);
    if (kind == RECORD_BUFFER && ((const Buffer *)record)->name[0])
        index_buffer(parser, parser->plan->buffer_count - 1);
}

// ---- file --------------------------------------------------------------------------------------

static bool parse_version(Parser *parser)
{
    scan_next(parser);
    if (parser->token.kind != TOKEN_WORD || strcmp(parser->token.text, "hep_plan") != 0) {
        diag_error(parser->diag, parser->token.span, "not a plan: expected 'hep_plan %d'", PLAN_TEXT_VERSION);
        return false;
    }
    scan_next(parser);
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
    if (version < PLAN_TEXT_VERSION) {
        diag_error(parser->diag, parser->token.span,
                   "written by an older version: format %" PRIu64 ", and this program reads %d: compile again", version,
                   PLAN_TEXT_VERSION);
        return false;
    }
    scan_next(parser);
    return true;
}

static void finish(Parser *parser)
{
    Plan *plan = parser->plan;
    for (RecordKind kind = 0; kind < RECORD_COUNT; kind++)
        if (record_is_single(kind) && parser->lists[kind].count < record_count(plan, kind))
            diag_error(parser->diag, parser->token.span, "the plan misses its '%s' record", record_info(kind)->keyword);
    if (plan->strategy_count)
        check_traffic_complete(parser);
    plan->operands = parser->operands.items;
    plan->operand_count = parser->operands.count;
    plan->after = parser->after.items;
    plan->after_count = parser->after.count;
}

static void check_limits(Parser *parser)
{
    RecordPlace place;
    Fault fault = {0};
    if (plan_within_limits(parser->plan, &place, &fault))
        return;
    const List *spans = &parser->spans[place.kind];
    diag_error(parser->diag, ((const Span *)spans->items)[place.index], "%s", fault.message);
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
