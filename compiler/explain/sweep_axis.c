// See sweep_axis.h. A name that is not known is answered with the nearest that is, written as --sweep takes it.
#include "compiler/explain/sweep_axis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VALUES_MAX = 10000 };

// ---- the tree --------------------------------------------------------------------------------

static bool is_worker_block(BlockId block)
{
    return block == BLOCK_LEVEL || block == BLOCK_PORT || block == BLOCK_LINK;
}

// Block `index` of a kind, of those with a label if `label` is not NULL; NULL if there are not so many.
static AstEntry *find_block(AstEntries entries, const char *kind, const char *label, size_t *index)
{
    for (AstEntry *entry = entries.first; entry; entry = entry->next) {
        AstEntry *found = NULL;
        if (entry->kind == ENTRY_INCLUDE && entry->included)
            found = find_block(entry->included->entries, kind, label, index);
        else if (entry->kind == ENTRY_BLOCK && strcmp(entry->name, kind) == 0 &&
                 (!label || (entry->label && strcmp(entry->label, label) == 0)))
            found = (*index)-- == 0 ? entry : NULL;
        else if (entry->kind == ENTRY_BLOCK)
            found = find_block(entry->entries, kind, label, index);
        if (found)
            return found;
    }
    return NULL;
}

static AstEntry *block_at(const Ast *ast, BlockId block, const char *label, size_t index)
{
    return find_block(ast->entries, block_info(block)->name, label, &index);
}

static const AstEntry *find_let(AstEntries entries, const char *name)
{
    for (const AstEntry *entry = entries.first; entry; entry = entry->next) {
        const AstEntry *found = NULL;
        if (entry->kind == ENTRY_INCLUDE && entry->included)
            found = find_let(entry->included->entries, name);
        else if (entry->kind == ENTRY_LET && strcmp(entry->name, name) == 0)
            found = entry;
        if (found)
            return found;
    }
    return NULL;
}

// ---- which names there are -------------------------------------------------------------------

// A way to write a key or let, and how it is written in full.
typedef struct {
    const char *written[KEY_COUNT * (LEVELS_MAX + 2) + LETS_MAX], *full[KEY_COUNT * (LEVELS_MAX + 2) + LETS_MAX];
    size_t count;
} Names;

static void add_name(Names *names, const char *written, const char *full)
{
    if (names->count == COUNT_OF(names->written))
        return;
    names->written[names->count] = written;
    names->full[names->count++] = full;
}

static void add_lets(Names *names, AstEntries entries)
{
    for (const AstEntry *entry = entries.first; entry; entry = entry->next) {
        if (entry->kind == ENTRY_LET)
            add_name(names, entry->name, entry->name);
        else if (entry->kind == ENTRY_INCLUDE && entry->included)
            add_lets(names, entry->included->entries);
    }
}

static bool is_unique(const KeyInfo *info)
{
    for (int k = 0; k < KEY_COUNT; k++)
        if (key_info((KeyId)k) != info && strcmp(key_info((KeyId)k)->name, info->name) == 0)
            return false;
    return info->block != BLOCK_LEVEL;
}

static void add_keys(Names *names, const Ast *ast, Arena *arena)
{
    for (int k = 0; k < KEY_COUNT; k++) {
        const KeyInfo *info = key_info((KeyId)k);
        if (!takes_info(info->takes)->is_number || info->block == BLOCK_PORT || info->block == BLOCK_LINK ||
            info->block == BLOCK_TRAINING)
            continue;
        const char *first = NULL;
        const AstEntry *level;
        for (size_t i = 0; info->block == BLOCK_LEVEL && (level = block_at(ast, BLOCK_LEVEL, NULL, i)); i++) {
            const char *full = arena_format(arena, "%s.%s", level->label ? level->label : "level", info->name);
            first = first ? first : full;
            add_name(names, full, full);
        }
        if (info->block != BLOCK_LEVEL) {
            first = arena_format(arena, "%s.%s", block_info(info->block)->name, info->name);
            add_name(names, first, first);
        }
        if (first)
            add_name(names, info->name, is_unique(info) ? info->name : first);
    }
}

// "did you mean 'dc.bandwidth'?" for 'dc.bandwith', 'bandwith' and 'bw'. Of names that two blocks have the last.
static void suggest_name(const Ast *ast, const char *name, Arena *arena, Diag *diag)
{
    Names *names = arena_alloc(arena, sizeof(*names));
    add_keys(names, ast, arena);
    size_t keys = names->count;
    add_lets(names, ast->entries);
    const char *dot = strchr(name, '.'), *key = dot ? dot + 1 : name;
    int slip = key_meant(key);
    const char *near = nearest_word(name, names->written, names->count);
    if (!near && slip >= 0)
        near = key_info((KeyId)slip)->name;
    if (!near)
        near = nearest_word(key, names->written, keys);
    for (size_t i = names->count; i-- > 0 && near;) {
        if (strcmp(names->written[i], near) != 0)
            continue;
        diag_help(diag, "did you mean '%s'?", names->full[i]);
        return;
    }
    diag_help(diag, "a sweep takes a 'let', LEVEL.KEY such as '%s.bandwidth', or a key such as 'batch'",
              block_at(ast, BLOCK_LEVEL, NULL, 0)->label);
}

static bool report_unknown(const Ast *ast, const char *name, Arena *arena, Diag *diag)
{
    diag_error_plain(diag, "--sweep: there is no let or key '%s'", name);
    suggest_name(ast, name, arena, diag);
    return false;
}

// ---- lets ------------------------------------------------------------------------------------

static bool mentions(const AstExpr *expr, const char *name);

static bool entries_mention(AstEntries entries, const char *name)
{
    for (const AstEntry *entry = entries.first; entry; entry = entry->next) {
        bool found = entry->kind == ENTRY_BLOCK     ? entries_mention(entry->entries, name)
                     : entry->kind == ENTRY_INCLUDE ? entry->included && entries_mention(entry->included->entries, name)
                                                    : mentions(entry->value, name);
        if (found)
            return true;
    }
    return false;
}

static bool mentions(const AstExpr *expr, const char *name)
{
    if (!expr)
        return false;
    if (expr->kind == EXPR_NAME && strcmp(expr->text, name) == 0)
        return true;
    for (const AstExpr *item = expr->items.first; item; item = item->next)
        if (mentions(item, name))
            return true;
    return mentions(expr->left, name) || mentions(expr->right, name) || entries_mention(expr->entries, name);
}

static bool resolve_let(const Ast *ast, const CheckOptions *options, const AstEntry *let, Arena *arena, Diag *diag,
                        SweepAxis *axis)
{
    Value value = check_let_value(ast, options, let->name, arena);
    axis->kind = KIND_COUNT;
    for (int kind = 0; kind < KIND_COUNT && value.kind == VALUE_QUANTITY; kind++)
        if (dimension_equal(value.dimension, kind_dimension((Kind)kind)))
            axis->kind = (Kind)kind;
    if (axis->kind == KIND_COUNT) {
        diag_error_plain(diag, "--sweep: '%s' is %s: a sweep takes numbers and plain quantities", let->name,
                         value_text(arena, &value));
        return false;
    }
    if (!entries_mention(ast->entries, let->name)) {
        diag_error_plain(diag, "--sweep: nothing in the file uses 'let %s'", let->name);
        return false;
    }
    if (let->value->kind == EXPR_NUMBER)
        axis->unit = let->value->unit;
    return true;
}

// ---- keys ------------------------------------------------------------------------------------

static const Unit *customary_unit(Kind kind)
{
    switch (kind) {
    case KIND_BANDWIDTH:
        return unit_find("Gbit/s", 6);
    case KIND_TIME:
        return unit_find("ms", 2);
    case KIND_BYTES:
        return unit_find("GB", 2);
    case KIND_RATE:
        return unit_find("TFLOP/s", 7);
    case KIND_NUMBER:
    case KIND_COUNT: // how many kinds there are
        return NULL;
    }
    return NULL;
}

static bool take_key(const KeyInfo *info, const char *label, Diag *diag, SweepAxis *axis)
{
    if (!takes_info(info->takes)->is_number) {
        diag_error_plain(diag, "--sweep: '%s' takes no numbers", axis->name);
        return false;
    }
    if (info->block == BLOCK_TRAINING) {
        diag_error_plain(diag, "--sweep: '%s' is for the run: no figure of a plan depends on it", axis->name);
        return false;
    }
    *axis = (SweepAxis){.name = axis->name,
                        .key = info->name,
                        .block = info->block,
                        .label = label,
                        .kind = takes_info(info->takes)->kind,
                        .whole = info->takes == TAKES_COUNT};
    axis->unit = customary_unit(axis->kind);
    return true;
}

static const KeyInfo *key_in(BlockId block, const char *name)
{
    for (int k = 0; k < KEY_COUNT; k++)
        if (key_info((KeyId)k)->block == block && strcmp(key_info((KeyId)k)->name, name) == 0)
            return key_info((KeyId)k);
    return NULL;
}

// "dc.bandwidth" or "rome.latency": a level or a port by its name.
static const KeyInfo *key_of_label(const Ast *ast, const char *label, const char *key)
{
    static const BlockId labelled[] = {BLOCK_LEVEL, BLOCK_PORT};
    for (size_t i = 0; i < COUNT_OF(labelled); i++)
        if (block_at(ast, labelled[i], label, 0) && key_in(labelled[i], key))
            return key_in(labelled[i], key);
    return NULL;
}

// "moe.inner", or "level.bandwidth" where there is one level.
static const KeyInfo *key_of_kind(const Ast *ast, const char *kind, const char *key, Diag *diag, bool *several)
{
    for (int b = BLOCK_FILE + 1; b < BLOCK_COUNT; b++) {
        const KeyInfo *info = strcmp(block_info((BlockId)b)->name, kind) != 0 ? NULL : key_in((BlockId)b, key);
        if (!info || (is_worker_block((BlockId)b) && !block_at(ast, (BlockId)b, NULL, 0)))
            continue;
        const AstEntry *second = is_worker_block((BlockId)b) ? block_at(ast, (BlockId)b, NULL, 1) : NULL;
        *several = second != NULL;
        if (second)
            diag_error_plain(diag, "--sweep: the file has several '%s': name one, or have them share a 'let'", kind);
        return info;
    }
    return NULL;
}

// A key by its name alone: where one block has it.
static const KeyInfo *key_alone(const Ast *ast, const char *name, Diag *diag, bool *several)
{
    const KeyInfo *first = NULL, *second = NULL;
    for (int k = 0; k < KEY_COUNT; k++) {
        const KeyInfo *info = key_info((KeyId)k);
        if (is_worker_block(info->block) || strcmp(info->name, name) != 0)
            continue;
        second = first ? info : NULL;
        first = first ? first : info;
    }
    *several = second != NULL;
    if (second)
        diag_error_plain(diag, "--sweep: '%s' is a key of '%s' and of '%s': write %s.%s or %s.%s", name,
                         block_info(first->block)->name, block_info(second->block)->name,
                         block_info(first->block)->name, name, block_info(second->block)->name, name);
    if (first || !key_in(BLOCK_LEVEL, name))
        return first;
    const AstEntry *outer = block_at(ast, BLOCK_LEVEL, NULL, 0), *inner = block_at(ast, BLOCK_LEVEL, NULL, 1);
    *several = true;
    if (inner)
        diag_error_plain(diag, "--sweep: every level has a '%s': write %s.%s or %s.%s", name, outer->label, name,
                         inner->label, name);
    else
        diag_error_plain(diag, "--sweep: '%s' is a key of a level: write %s.%s", name, outer->label, name);
    return NULL;
}

static bool resolve_name(const Ast *ast, const CheckOptions *options, Arena *arena, Diag *diag, SweepAxis *axis)
{
    const char *name = axis->name, *dot = strchr(name, '.');
    const AstEntry *let = find_let(ast->entries, name);
    if (let)
        return resolve_let(ast, options, let, arena, diag, axis);
    bool several = false;
    const char *head = dot ? arena_copy_string(arena, name, (size_t)(dot - name)) : NULL;
    const KeyInfo *info = dot ? key_of_label(ast, head, dot + 1) : key_alone(ast, name, diag, &several);
    const char *label = info && dot ? head : NULL;
    if (!info && dot)
        info = key_of_kind(ast, head, dot + 1, diag, &several);
    if (several)
        return false;
    return info ? take_key(info, label, diag, axis) : report_unknown(ast, name, arena, diag);
}

// ---- values ----------------------------------------------------------------------------------

// What stands between commas or colons.
typedef struct {
    double number;
    const Unit *unit;
} Item;

static bool axis_error(Diag *diag, const char *axis, const char *what)
{
    diag_error_plain(diag, "--sweep %s: %s", axis, what);
    diag_help(diag, "write NAME=1,2,4 or NAME=FIRST:LAST:STEP or NAME=FIRST:LAST:logCOUNT");
    return false;
}

static bool wrong_unit(Diag *diag, const char *axis_text, const SweepAxis *axis, const char *unit, size_t length)
{
    if (axis->kind == KIND_NUMBER) {
        diag_error_plain(diag, "--sweep %s: '%s' takes plain numbers, got the unit '%.*s'", axis_text, axis->name,
                         (int)length, unit);
        return false;
    }
    diag_error_plain(diag, "--sweep %s: '%s' needs %s such as '%s', got the unit '%.*s'", axis_text, axis->name,
                     kind_text(axis->kind), kind_example(axis->kind), (int)length, unit);
    const char *near = unit_suggest(unit, length);
    const Unit *meant = near ? unit_find(near, strlen(near)) : NULL;
    if (meant && meant->kind == axis->kind)
        diag_help(diag, "did you mean '%s'?", near);
    return false;
}

// Numbers with optional units, apart by `separator`. Returns how many, 0 after reporting.
static size_t parse_items(const char *axis_text, const SweepAxis *axis, const char *text, char separator, Item *items,
                          Diag *diag)
{
    size_t count = 0;
    for (;;) {
        char *end;
        double number = strtod(text, &end);
        if (end == text || !isfinite(number) || count == VALUES_MAX) {
            axis_error(diag, axis_text, "these values are not understood, or too many");
            return 0;
        }
        end += strspn(end, " ");
        size_t length = strcspn(end, ",: ");
        const Unit *unit = unit_find(end, length);
        if (length && (!unit || unit->kind != axis->kind)) {
            wrong_unit(diag, axis_text, axis, end, length);
            return 0;
        }
        items[count++] = (Item){.number = number, .unit = unit};
        text = end + length + strspn(end + length, " ");
        if (!*text)
            return count;
        if (*text++ != separator) {
            axis_error(diag, axis_text, "these values are not understood, or too many");
            return 0;
        }
    }
}

// A number without a unit has that of the next with one, or else of the last: 10,25 Gbit/s. Without any the axis says.
static bool settle_units(const char *axis_text, SweepAxis *axis, Item *items, size_t count, Diag *diag)
{
    const Unit *next = NULL, *last = NULL;
    for (size_t i = 0; i < count; i++)
        last = items[i].unit ? items[i].unit : last;
    if (last)
        axis->unit = last;
    if (axis->kind != KIND_NUMBER && !axis->unit) {
        diag_error_plain(diag, "--sweep %s: '%s' is %s: give a unit, such as '%s=%s'", axis_text, axis->name,
                         kind_text(axis->kind), axis->name, kind_example(axis->kind));
        return false;
    }
    for (size_t i = count; i-- > 0;) {
        next = items[i].unit ? items[i].unit : next ? next : axis->unit;
        if (next)
            items[i].number *= next->factor / next->divisor / (axis->unit->factor / axis->unit->divisor);
    }
    return true;
}

static bool add_value(SweepAxis *axis, double value)
{
    if (axis->whole)
        value = round(value);
    if (axis->count > 0 && axis->values[axis->count - 1] == value)
        return true;
    if (axis->count == VALUES_MAX)
        return false;
    axis->values[axis->count++] = value;
    return true;
}

static bool fill_log(SweepAxis *axis, double first, double last, const char *points_text)
{
    char *end;
    long points = strtol(points_text, &end, 10);
    if (points < 2 || points > VALUES_MAX || *end || !(first > 0))
        return false;
    for (long i = 0; i < points; i++)
        if (!add_value(axis, first * pow(last / first, (double)i / (double)(points - 1))))
            return false;
    return true;
}

static bool fill_steps(SweepAxis *axis, double first, double last, double step)
{
    if (!(step > 0) || (last - first) / step > VALUES_MAX)
        return false;
    for (size_t i = 0; first + (double)i * step <= last * (1 + 1e-12); i++)
        if (!add_value(axis, first + (double)i * step))
            return false;
    return true;
}

static bool parse_range(const char *axis_text, SweepAxis *axis, const char *text, Item *items, Arena *arena, Diag *diag)
{
    const char *third = strrchr(text, ':');
    bool log = strncmp(third + 1, "log", 3) == 0;
    const char *numbers = log ? arena_copy_string(arena, text, (size_t)(third - text)) : text;
    size_t count = parse_items(axis_text, axis, numbers, ':', items, diag);
    if (count == 0 || !settle_units(axis_text, axis, items, count, diag))
        return false;
    bool good = count == (log ? 2 : 3) && items[0].number <= items[1].number;
    axis->logarithmic = log;
    if (good && log)
        good = fill_log(axis, items[0].number, items[1].number, third + 4);
    else if (good)
        good = fill_steps(axis, items[0].number, items[1].number, items[2].number);
    return good || axis_error(diag, axis_text, "this range is not understood, or has too many values");
}

static bool parse_list(const char *axis_text, SweepAxis *axis, const char *text, Item *items, Diag *diag)
{
    size_t count = parse_items(axis_text, axis, text, ',', items, diag);
    if (count == 0 || !settle_units(axis_text, axis, items, count, diag))
        return false;
    for (size_t i = 0; i < count; i++) {
        if (axis->whole && items[i].number != floor(items[i].number)) {
            diag_error_plain(diag, "--sweep %s: '%s' takes whole numbers, got %g", axis_text, axis->name,
                             items[i].number);
            return false;
        }
        add_value(axis, items[i].number);
    }
    return true;
}

bool sweep_axis_parse(const Ast *ast, const CheckOptions *options, const char *text, Arena *arena, Diag *diag,
                      SweepAxis *axis)
{
    const char *equals = strchr(text, '=');
    *axis = (SweepAxis){0};
    if (!equals || equals == text)
        return axis_error(diag, text, "expected a name, '=' and values");
    axis->name = arena_copy_string(arena, text, (size_t)(equals - text));
    if (!resolve_name(ast, options, arena, diag, axis))
        return false;
    axis->values = arena_alloc_array(arena, VALUES_MAX, sizeof(*axis->values));
    Item *items = arena_alloc_array(arena, VALUES_MAX, sizeof(*items));
    return strchr(equals, ':') ? parse_range(text, axis, equals + 1, items, arena, diag)
                               : parse_list(text, axis, equals + 1, items, diag);
}

// ---- into the tree ---------------------------------------------------------------------------

static void append(AstEntries *entries, AstEntry *entry)
{
    if (entries->last)
        entries->last->next = entry;
    else
        entries->first = entry;
    entries->last = entry;
}

// The block, added where the file has none.
static AstEntry *obtain_block(Ast *ast, BlockId id, const char *label, Arena *arena)
{
    AstEntry *block = block_at(ast, id, label, 0);
    if (block)
        return block;
    BlockId parent = block_info(id)->parent;
    AstEntry *outer = parent == BLOCK_FILE ? NULL : obtain_block(ast, parent, NULL, arena);
    Span span = outer ? outer->name_span : (Span){.source = ast->source};
    block = arena_alloc(arena, sizeof(*block));
    *block = (AstEntry){.kind = ENTRY_BLOCK, .span = span, .name_span = span, .name = block_info(id)->name};
    append(outer ? &outer->entries : &ast->entries, block);
    return block;
}

void sweep_axis_edit(Ast *ast, const SweepAxis *axis, double value, Arena *arena)
{
    AstEntry *block = obtain_block(ast, axis->block, axis->label, arena);
    AstExpr *number = arena_alloc(arena, sizeof(*number));
    AstEntry *entry = block->entries.first;
    while (entry && (entry->kind != ENTRY_VALUE || strcmp(entry->name, axis->key) != 0))
        entry = entry->next;
    *number = (AstExpr){.kind = EXPR_NUMBER,
                        .depth = 1,
                        .span = entry ? entry->value->span : block->name_span,
                        .number = value,
                        .unit = axis->unit};
    if (!entry) {
        entry = arena_alloc(arena, sizeof(*entry));
        *entry =
            (AstEntry){.kind = ENTRY_VALUE, .span = block->name_span, .name_span = block->name_span, .name = axis->key};
        append(&block->entries, entry);
    }
    entry->value = number;
}

const char *sweep_axis_define(const SweepAxis *axis, double value, Arena *arena)
{
    return arena_format(arena, "%s=%.17g%s%s", axis->name, value, axis->unit ? " " : "",
                        axis->unit ? axis->unit->text : "");
}
