// One block against the tables of grammar/keys.def.
#include "compiler/frontend/check_keys.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define HEP_BLOCK(name, text, parent, label, occurs, doc)                                                              \
    [BLOCK_##name] = {text, BLOCK_##parent, LABEL_##label, OCCURS_##occurs, doc},
static const BlockInfo blocks[BLOCK_COUNT] = {
    [BLOCK_FILE] = {"file", BLOCK_FILE, LABEL_PLAIN, OCCURS_ONE, ""},
#include "grammar/keys.def"
};

#define VALUE(number)              .has_fallback = true, .fallback = (number)
#define COMPUTED(text)             .computed = (text)
#define NO_DEFAULT                 .has_fallback = false
#define TAKES_ONE_OF(name)         TAKES_ONE_OF, .names = &name##_names
#define TAKES_ONE_OF_OR_AUTO(name) TAKES_ONE_OF(name), .or_auto = true
#define HEP_KEY(in, key, what, type, field, needed, of, default_, from, to, text)                                      \
    [KEY_##in##_##key] = {.name = #key,                                                                                \
                          .block = BLOCK_##in,                                                                         \
                          .takes = TAKES_##what,                                                                       \
                          .offset = offsetof(type, field),                                                             \
                          .need = NEED_##needed,                                                                       \
                          .form = FORM_##of,                                                                           \
                          default_,                                                                                    \
                          .min = (from),                                                                               \
                          .max = (to),                                                                                 \
                          .doc = text},
static const KeyInfo keys[KEY_COUNT] = {
#include "grammar/keys.def"
};

const BlockInfo *block_info(BlockId block)
{
    return &blocks[block];
}

const KeyInfo *key_info(KeyId key)
{
    return &keys[key];
}

const TakesInfo *takes_info(Takes takes)
{
#define X(name, is_number, kind, text, ...) {is_number, KIND_##kind, text, {__VA_ARGS__}},
    static const TakesInfo infos[] = {HEP_TAKES(X)};
#undef X
    return &infos[takes];
}

static int key_last_code(const KeyInfo *key)
{
    return key->max > 0 ? (int)key->max : key->names->count - 1;
}

size_t key_value_words(const KeyInfo *key, const char *out[KEY_WORDS_MAX])
{
    size_t count = 0;
    if (key->names)
        count = name_list(key->names, (int)key->min, key_last_code(key), out, KEY_WORDS_MAX - 1);
    if (key->or_auto)
        out[count++] = "auto";
    for (const char *const *word = takes_info(key->takes)->words; *word; word++)
        out[count++] = *word;
    return count;
}

Span block_head_span(const AstEntry *block)
{
    Span span = block->name_span;
    if (block->label)
        span.end = block->label_span.end;
    return span;
}

Span value_span(const Checker *checker, const AstEntry *entry)
{
    return environment_origin(checker->environment, entry->value);
}

Span key_span(const Checker *checker, KeyId key, BlockId block)
{
    if (checker->keys[key])
        return value_span(checker, checker->keys[key]);
    return block_head_span(checker->blocks[block]);
}

// ---- values ----------------------------------------------------------------------------------

static const char *format_quantity(char out[FORMAT_MAX], Kind kind, double value)
{
    switch (kind) {
    case KIND_BYTES:
        return format_bytes(out, value);
    case KIND_TIME:
        return format_time(out, value);
    case KIND_BANDWIDTH:
        return format_bandwidth(out, value);
    case KIND_RATE:
        return format_rate(out, value);
    case KIND_NUMBER:
    case KIND_COUNT:
        return format_double(out, value);
    }
    return format_double(out, value);
}

typedef struct {
    Kind kind;
    double min, max;
} QuantityRange;

static QuantityRange key_range(const KeyInfo *key)
{
    return (QuantityRange){takes_info(key->takes)->kind, key->min, key->max};
}

// "10 GB" for a bandwidth, "\"10 Gbit/s\"".
static void suggest_quantity(Checker *checker, const AstExpr *expr, Kind kind, const Value *value)
{
    if (value->kind == VALUE_STRING && value->text[0] >= '0' && value->text[0] <= '9')
        diag_help(checker->diag, "write it without quotes");
    if (value->kind != VALUE_QUANTITY || expr->kind != EXPR_NUMBER || !expr->unit)
        return;
    const char *rate = arena_format(checker->arena, "%s/s", expr->unit->text);
    const Unit *meant = unit_find(rate, strlen(rate));
    if (meant && meant->kind == kind)
        diag_help(checker->diag, "did you mean '%s'?", rate);
}

static bool evaluate_quantity(Checker *checker, const AstExpr *expr, const char *name, QuantityRange range, double *out)
{
    Kind kind = range.kind;
    Value value = evaluate(checker->environment, expr);
    if (value.kind == VALUE_ERROR)
        return false;
    if (value.kind == VALUE_SYMBOL) {
        report_unknown_name(checker->environment, environment_origin(checker->environment, expr), value.text);
        return false;
    }
    if (value.kind != VALUE_QUANTITY || !dimension_equal(value.dimension, kind_dimension(kind))) {
        environment_error(checker->environment, expr, "'%s' needs %s such as '%s', got %s", name, kind_text(kind),
                          kind_example(kind), value_text(checker->arena, &value));
        suggest_quantity(checker, expr, kind, &value);
        return false;
    }
    char limit[FORMAT_MAX], got[FORMAT_MAX];
    if (value.number < range.min || value.number > range.max) {
        bool low = value.number < range.min;
        environment_error(checker->environment, expr, "'%s' must be at %s %s, got %s", name, low ? "least" : "most",
                          format_quantity(limit, kind, low ? range.min : range.max),
                          format_quantity(got, kind, value.number));
        return false;
    }
    *out = value.number;
    return true;
}

bool evaluate_count(Checker *checker, const AstExpr *expr, const char *name, double min, double max, uint32_t *out)
{
    double number;
    if (!evaluate_quantity(checker, expr, name, (QuantityRange){KIND_NUMBER, min, max}, &number))
        return false;
    if (number != floor(number)) {
        char got[FORMAT_MAX];
        environment_error(checker->environment, expr, "'%s' must be a whole number, got %s", name,
                          format_double(got, number));
        return false;
    }
    *out = (uint32_t)number;
    return true;
}

// The code of a word that the key may be; -1 if it may not. The automatic choice comes after the table's.
static int find_choice(const KeyInfo *key, const char *word)
{
    int code = name_code(key->names, word);
    if (key->or_auto && strcmp(word, "auto") == 0)
        return key->names->count;
    return code >= (int)key->min && code <= key_last_code(key) ? code : -1;
}

#define HEP_CHOICE_SLIP(table, written, meant, more) {&table##_names, written, meant, more},
static const struct {
    const NameTable *names;
    const char *written, *meant, *more;
} choice_slips[] = {
#include "grammar/slips.def"
};

#define HEP_KEY_HINT(written, hint) {written, hint},
static const struct {
    const char *written, *hint;
} key_hints[] = {
#include "grammar/slips.def"
};

#define HEP_KEY_SLIP(written, block, key) {written, BLOCK_##block, key},
static const struct {
    const char *written;
    BlockId block;
    const char *key;
} key_slips[] = {
#include "grammar/slips.def"
};

static void suggest_choice(Checker *checker, const KeyInfo *key, const char *written)
{
    for (size_t i = 0; i < COUNT_OF(choice_slips); i++) {
        const char *meant = choice_slips[i].meant, *more = choice_slips[i].more;
        if (choice_slips[i].names != key->names || strcasecmp(choice_slips[i].written, written) != 0)
            continue;
        if (!*meant)
            diag_help(checker->diag, "%s", more);
        else
            diag_help(checker->diag, "did you mean '%s'%s%s%s?", meant, *more ? " (" : "", more, *more ? ")" : "");
        return;
    }
    const char *words[KEY_WORDS_MAX];
    const char *near = nearest_word(written, words, key_value_words(key, words));
    if (near)
        diag_help(checker->diag, "did you mean '%s'?", near);
}

static void report_bad_choice(Checker *checker, const AstExpr *expr, const KeyInfo *key, const Value *value)
{
    Text list = {0};
    const char *words[KEY_WORDS_MAX];
    size_t count = key_value_words(key, words);
    for (size_t i = 0; i < count; i++)
        text_format(&list, "%s%s", i == 0 ? "" : i + 1 == count ? " or " : ", ", words[i]);
    environment_error(checker->environment, expr, "'%s' must be %s, got %s", key->name, list.data,
                      value_text(checker->arena, value));
    text_free(&list);
    if (value->kind == VALUE_SYMBOL || value->kind == VALUE_STRING)
        suggest_choice(checker, key, value->text);
}

// The code of a choice, or -1 after reporting. A choice written out wins over a let of that name.
static int evaluate_choice(Checker *checker, const AstExpr *expr, const KeyInfo *key)
{
    int code = expr->kind == EXPR_NAME ? find_choice(key, expr->text) : -1;
    if (code >= 0)
        return code;
    Value value = evaluate(checker->environment, expr);
    if (value.kind == VALUE_ERROR)
        return -1;
    code = value.kind == VALUE_SYMBOL ? find_choice(key, value.text) : -1;
    if (code < 0)
        report_bad_choice(checker, expr, key, &value);
    return code;
}

static void store_capacity(Checker *checker, const KeyInfo *key, const AstExpr *expr, double *out)
{
    Value value = evaluate(checker->environment, expr);
    if (value.kind == VALUE_SYMBOL && strcmp(value.text, "off") == 0)
        *out = 0;
    else if (value.kind == VALUE_SYMBOL)
        environment_error(checker->environment, expr, "'%s' must be off or a plain number such as '1.25', got '%s'",
                          key->name, value.text);
    else
        evaluate_quantity(checker, expr, key->name, (QuantityRange){KIND_NUMBER, key->min, key->max}, out);
}

// Bits that a weight takes, with the scales that formats have: one in f32 for 128 x 128 weights, one byte for 32.
static void store_bits(Checker *checker, const KeyInfo *key, const AstExpr *expr, double *out)
{
    static const double bits[] = {0, 8 + 32.0 / (128 * 128), 4 + 8.0 / 32};
    Value value = evaluate(checker->environment, expr);
    const char *const *words = takes_info(key->takes)->words;
    for (size_t i = 0; value.kind == VALUE_SYMBOL && i < COUNT_OF(bits); i++) {
        if (strcmp(value.text, words[i]) == 0) {
            *out = bits[i];
            return;
        }
    }
    if (value.kind == VALUE_SYMBOL)
        environment_error(checker->environment, expr,
                          "'%s' must be full, fp8, fp4 or a plain number of bits such as '4.5', got '%s'", key->name,
                          value.text);
    else
        evaluate_quantity(checker, expr, key->name, (QuantityRange){KIND_NUMBER, key->min, key->max}, out);
}

static void store_bucket(Checker *checker, const KeyInfo *key, const AstExpr *expr, uint32_t *out)
{
    Value value = evaluate(checker->environment, expr);
    if (value.kind == VALUE_SYMBOL && strcmp(value.text, "none") == 0)
        *out = 0;
    else if (value.kind == VALUE_SYMBOL && strcmp(value.text, "auto") != 0)
        environment_error(checker->environment, expr,
                          "'%s' must be auto, none or a plain number of layers such as '4', got '%s'", key->name,
                          value.text);
    else if (value.kind != VALUE_SYMBOL)
        evaluate_count(checker, expr, key->name, key->min, key->max, out);
}

// The keys that may be lists, one value per layer.
static int find_volume(const KeyInfo *key)
{
    static const size_t offsets[VOLUME_COUNT] = {
        [VOLUME_DATA] = offsetof(SpecModel, data_bytes),
        [VOLUME_EXPERT] = offsetof(SpecModel, expert_bytes),
        [VOLUME_PRE_EXPERT] = offsetof(SpecModel, pre_expert_s),
        [VOLUME_EXPERT_COMPUTE] = offsetof(SpecModel, expert_compute_s),
    };
    for (int v = 0; v < VOLUME_COUNT; v++)
        if (key->block == BLOCK_MOE && key->form == FORM_VOLUMES && key->offset == offsets[v])
            return v;
    return -1;
}

// A list of volumes; check.c compares their number with the layers'. The field itself gets the first.
static bool store_volumes(Checker *checker, const KeyInfo *key, const AstExpr *expr, SpecModel *model)
{
    int volume = find_volume(key);
    if (volume < 0)
        return false;
    Value value = evaluate(checker->environment, expr);
    if (value.kind == VALUE_ERROR)
        return true;
    if (value.kind != VALUE_LIST)
        return false;
    uint32_t count = 0;
    for (const AstExpr *item = value.expr->items.first; item; item = item->next)
        count++;
    double *each = arena_alloc_array(checker->arena, count + 1, sizeof(*each));
    const AstExpr *item = value.expr->items.first;
    for (uint32_t i = 0; i < count; i++, item = item->next)
        evaluate_quantity(checker, item, key->name, key_range(key), &each[i]);
    model->each[volume] = each;
    model->each_count[volume] = count;
    memcpy((char *)model + key->offset, each, sizeof(*each));
    return true;
}

static void store_key(Checker *checker, const KeyInfo *key, const AstExpr *expr, void *target)
{
    void *field = (char *)target + key->offset;
    if (store_volumes(checker, key, expr, target))
        return;
    if (key == &keys[KEY_MODEL_inner] && evaluate(checker->environment, expr).kind == VALUE_LIST)
        return; // check_layers.c reads it
    if (key->takes == TAKES_ONE_OF) {
        int code = evaluate_choice(checker, expr, key);
        if (code >= 0)
            memcpy(field, &code, sizeof(code));
    } else if (key->takes == TAKES_COUNT) {
        evaluate_count(checker, expr, key->name, key->min, key->max, field);
    } else if (key->takes == TAKES_CAPACITY) {
        store_capacity(checker, key, expr, field);
    } else if (key->takes == TAKES_BITS) {
        store_bits(checker, key, expr, field);
    } else if (key->takes == TAKES_BUCKET) {
        store_bucket(checker, key, expr, field);
    } else if (takes_info(key->takes)->is_number) { // check_domain.c, check_links.c look at the others
        evaluate_quantity(checker, expr, key->name, key_range(key), field);
    }
}
_Static_assert(sizeof(Dtype) == sizeof(int), "choices are stored as int");

static void store_fallbacks(BlockId id, void *target)
{
    for (size_t k = 0; k < KEY_COUNT; k++) {
        if (keys[k].block != id || !keys[k].has_fallback)
            continue;
        void *field = (char *)target + keys[k].offset;
        if (keys[k].takes == TAKES_COUNT || keys[k].takes == TAKES_ONE_OF) {
            uint32_t whole = (uint32_t)keys[k].fallback;
            memcpy(field, &whole, sizeof(whole));
        } else {
            memcpy(field, &keys[k].fallback, sizeof(keys[k].fallback));
        }
    }
}

// ---- entries ---------------------------------------------------------------------------------

static int find_key(BlockId block, const char *name)
{
    for (int k = 0; k < KEY_COUNT; k++)
        if (keys[k].block == block && strcmp(keys[k].name, name) == 0)
            return k;
    return -1;
}

static int find_block(BlockId parent, const char *name)
{
    for (int b = BLOCK_FILE + 1; b < BLOCK_COUNT; b++)
        if (blocks[b].parent == parent && strcmp(blocks[b].name, name) == 0)
            return b;
    return -1;
}

static int find_home_of_key(const char *name)
{
    for (int k = 0; k < KEY_COUNT; k++)
        if (strcmp(keys[k].name, name) == 0)
            return (int)keys[k].block;
    return -1;
}

static int find_home_of_block(const char *name)
{
    for (int b = BLOCK_FILE + 1; b < BLOCK_COUNT; b++)
        if (strcmp(blocks[b].name, name) == 0)
            return (int)blocks[b].parent;
    return -1;
}

// The block in which a name that is not known here would be, as what it is written as or else as the other; -1 if it is
// known nowhere.
static int find_home(const char *name, bool is_block)
{
    int key = find_home_of_key(name), block = find_home_of_block(name);
    return is_block ? (block >= 0 ? block : key) : (key >= 0 ? key : block);
}

// A block that knows the name comes first: 'inner' is one thing in 'model' and another in 'moe'.
static int find_key_slip(BlockId block, const char *name)
{
    int found = -1;
    for (int i = 0; i < (int)COUNT_OF(key_slips); i++)
        if (strcasecmp(key_slips[i].written, name) == 0 && (found < 0 || key_slips[i].block == block))
            found = i;
    return found;
}

static const char *find_hint(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(key_hints); i++)
        if (strcasecmp(key_hints[i].written, name) == 0)
            return key_hints[i].hint;
    return NULL;
}

int key_meant(const char *name)
{
    int slip = find_key_slip(BLOCK_FILE, name);
    return slip < 0 ? -1 : find_key(key_slips[slip].block, key_slips[slip].key);
}

static const char *suggest_here(BlockId block, const char *name)
{
    const char *names[KEY_COUNT + BLOCK_COUNT];
    size_t count = 0;
    for (int k = 0; k < KEY_COUNT; k++)
        if (keys[k].block == block)
            names[count++] = keys[k].name;
    for (int b = BLOCK_FILE + 1; b < BLOCK_COUNT; b++)
        if (blocks[b].parent == block)
            names[count++] = blocks[b].name;
    return nearest_word(name, names, count);
}

static void suggest(Checker *checker, BlockId id, const char *name)
{
    diag_help(checker->diag, "did you mean '%s'?", name);
    int key = find_key(id, name), block = find_block(id, name);
    if (key >= 0)
        checker->misspelt_keys[key] = true;
    if (block >= 0)
        checker->misspelt_blocks[block] = true;
}

// What stands between the kind of a block and its brace.
static const char *label_example(Label label)
{
    static const char *const examples[] = {"", " NAME", " WORKER, ..."};
    return examples[label];
}

static void report_unknown(Checker *checker, BlockId id, const AstEntry *entry)
{
    bool is_block = entry->kind == ENTRY_BLOCK;
    int block = find_block(id, entry->name);
    if (!is_block && block >= 0) {
        diag_error(checker->diag, entry->name_span, "'%s' is a block, expected '%s%s { ... }'", entry->name,
                   entry->name, label_example(blocks[block].label));
        return;
    }
    if (is_block && find_key(id, entry->name) >= 0) {
        diag_error(checker->diag, entry->name_span, "'%s' is a key, expected '%s = ...'", entry->name, entry->name);
        return;
    }
    if (id == BLOCK_FILE)
        diag_error(checker->diag, entry->name_span, is_block ? "unknown block '%s'" : "'%s' is outside of any block",
                   entry->name);
    else
        diag_error(checker->diag, entry->name_span, "unknown %s '%s' in '%s'", is_block ? "block" : "key", entry->name,
                   blocks[id].name);
    int home = find_home(entry->name, is_block), slip = find_key_slip(id, entry->name);
    const char *suggestion = suggest_here(id, entry->name);
    const char *hint = find_hint(entry->name);
    if (hint)
        diag_help(checker->diag, "%s", hint);
    else if (slip >= 0 && key_slips[slip].block == id)
        suggest(checker, id, key_slips[slip].key);
    else if (slip >= 0 && home < 0)
        diag_help(checker->diag, "did you mean '%s' in '%s'?", key_slips[slip].key, blocks[key_slips[slip].block].name);
    else if (home == BLOCK_FILE)
        diag_help(checker->diag, "'%s' belongs outside of any block", entry->name);
    else if (home >= 0)
        diag_help(checker->diag, "'%s' belongs in '%s'", entry->name, blocks[home].name);
    else if (suggestion)
        suggest(checker, id, suggestion);
    else if (id == BLOCK_FILE && !is_block)
        diag_help(checker->diag, "a value that several blocks use is written 'let %s = ...'", entry->name);
}

static void report_twice(Checker *checker, const AstEntry *entry, const AstEntry *first)
{
    diag_error(checker->diag, entry->name_span, "'%s' is given twice", entry->name);
    diag_note(checker->diag, first->name_span, "first given here");
}

static void check_head(Checker *checker, BlockId id, const AstEntry *entry)
{
    Label label = blocks[id].label;
    if (label == LABEL_WORKERS && !entry->from && !entry->label && !entry->references.first)
        diag_error(checker->diag, entry->name_span, "'%s' needs a worker, such as '%s dc[0]%s { ... }'", entry->name,
                   entry->name, id == BLOCK_LINK ? ", dc[1]" : "");
    else if (label == LABEL_WORKERS && !entry->from)
        return;
    else if (entry->references.first)
        diag_error(checker->diag, entry->references.first->span, "'%s' does not take a worker", entry->name);
    else if (entry->from && id != BLOCK_MODEL)
        diag_error(checker->diag, entry->from->span, "'%s' cannot be read from a file", entry->name);
    else if (label == LABEL_LABELLED && !entry->label)
        diag_error(checker->diag, entry->name_span, "'%s' needs a name, expected '%s NAME { ... }'", entry->name,
                   entry->name);
    else if (label == LABEL_PLAIN && entry->label)
        diag_error(checker->diag, entry->label_span, "'%s' takes no name, expected '%s { ... }'", entry->name,
                   entry->name);
}

static void check_nested(Checker *checker, BlockId id, const AstEntry *entry)
{
    int block = find_block(id, entry->name);
    if (block < 0) {
        report_unknown(checker, id, entry);
        return;
    }
    check_head(checker, (BlockId)block, entry);
    if (!checker->blocks[block])
        checker->blocks[block] = entry;
    else if (blocks[block].occurs != OCCURS_MANY && blocks[block].occurs != OCCURS_ANY)
        report_twice(checker, entry, checker->blocks[block]);
}

static void check_value(Checker *checker, BlockId id, const AstEntry *entry, void *target)
{
    int key = find_key(id, entry->name);
    if (key < 0) {
        report_unknown(checker, id, entry);
    } else if (checker->keys[key]) {
        report_twice(checker, entry, checker->keys[key]);
    } else {
        checker->keys[key] = entry;
        store_key(checker, &keys[key], entry->value, target);
    }
}

static void check_entry(Checker *checker, BlockId id, const AstEntry *entry, void *target)
{
    switch (entry->kind) {
    case ENTRY_VALUE:
        check_value(checker, id, entry, target);
        break;
    case ENTRY_BLOCK:
        check_nested(checker, id, entry);
        break;
    case ENTRY_LET:
        if (id != BLOCK_FILE)
            diag_error(checker->diag, entry->name_span, "'let' belongs outside of any block");
        break;
    case ENTRY_INCLUDE:
        diag_error(checker->diag, entry->name_span, "'include' belongs outside of any block");
        break;
    }
}

void check_block(Checker *checker, BlockId id, const AstEntry *entry, void *target)
{
    for (size_t k = 0; k < KEY_COUNT; k++) {
        if (keys[k].block == id) {
            checker->keys[k] = NULL;
            checker->misspelt_keys[k] = false;
        }
    }
    if (target)
        store_fallbacks(id, target);
    for (const AstEntry *nested = entry->entries.first; nested; nested = nested->next)
        check_entry(checker, id, nested, target);
}

void check_file_entries(Checker *checker, AstEntries entries)
{
    for (const AstEntry *entry = entries.first; entry; entry = entry->next) {
        if (entry->kind == ENTRY_INCLUDE && entry->included)
            check_file_entries(checker, entry->included->entries);
        else
            check_entry(checker, BLOCK_FILE, entry, NULL);
    }
}

static bool is_missing(const Checker *checker, KeyId key, BlockId id, Form form)
{
    const KeyInfo *info = &keys[key];
    bool required = info->need == NEED_REQUIRED || (info->need == NEED_REQUIRED_DIMENSIONS && form != FORM_VOLUMES);
    bool applies = info->form == FORM_ANY || info->form == form;
    return info->block == id && required && applies && !checker->keys[key] && !checker->misspelt_keys[key];
}

void check_required_keys(Checker *checker, BlockId id, Form form)
{
    Text list = {0};
    size_t missing = 0, listed = 0;
    for (size_t k = 0; k < KEY_COUNT; k++)
        missing += is_missing(checker, (KeyId)k, id, form);
    for (size_t k = 0; k < KEY_COUNT; k++) {
        if (is_missing(checker, (KeyId)k, id, form)) {
            text_format(&list, "%s'%s'", listed == 0 ? "" : listed + 1 == missing ? " and " : ", ", keys[k].name);
            listed++;
        }
    }
    const AstEntry *block = checker->blocks[id];
    if (missing)
        diag_error(checker->diag, block_head_span(block), "'%s%s%s' lacks %s", block->name, block->label ? " " : "",
                   block->label ? block->label : "", list.data);
    text_free(&list);
}
