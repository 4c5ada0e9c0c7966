// The language reference that derives from the tables: blocks, keys, units, as Markdown.
#include <string.h>

#include "compiler/frontend/check_keys.h"

static void append_takes(Text *text, const KeyInfo *key)
{
    const char *words[KEY_WORDS_MAX];
    size_t count = key->takes == TAKES_ONE_OF ? key_value_words(key, words) : 0;
    for (size_t i = 0; i < count; i++)
        text_format(text, "%s`%s`", i ? " " : "", words[i]);
    const TakesInfo *takes = takes_info(key->takes);
    if (!count)
        text_append(text, takes->text ? takes->text : strchr(kind_text(takes->kind), ' ') + 1); // without the article
}

// In units that suit memory as well as links: "2 TB/s", not "16 Tbit/s".
static void append_quantity(Text *text, Takes takes, double value)
{
    char out[FORMAT_MAX];
    switch (takes_info(takes)->kind) {
    case KIND_BYTES:
        text_append(text, format_bytes(out, value));
        break;
    case KIND_TIME:
        text_append(text, format_time(out, value));
        break;
    case KIND_BANDWIDTH:
        if (value < 1)
            text_append(text, format_bandwidth(out, value));
        else
            text_format(text, "%s/s", format_bytes(out, value));
        break;
    case KIND_RATE:
        text_append(text, format_rate(out, value));
        break;
    case KIND_NUMBER:
    case KIND_COUNT:
        text_append(text, format_double(out, value));
        break;
    }
}

static void append_default(Text *text, const KeyInfo *key)
{
    if (key->need == NEED_REQUIRED)
        text_append(text, "required");
    else if (key->need == NEED_REQUIRED_DIMENSIONS)
        text_append(text, "required; optional where volumes are given");
    else if (key->computed)
        text_append(text, key->computed);
    else if (key->names)
        text_format(text, "`%s`", name_text(key->names, (int)key->fallback));
    else
        append_quantity(text, key->takes, key->fallback);
}

static void append_limits(Text *text, const KeyInfo *key)
{
    if (!takes_info(key->takes)->is_number)
        return;
    append_quantity(text, key->takes, key->min);
    text_append(text, " to ");
    append_quantity(text, key->takes, key->max);
}

static void append_key(Text *text, const KeyInfo *key)
{
    static const char *const forms[] = {"", "(of a model given by dimensions)", "(of a model given by volumes)"};
    text_format(text, "| `%s` | ", key->name);
    append_takes(text, key);
    text_append(text, " | ");
    append_default(text, key);
    text_append(text, " | ");
    append_limits(text, key);
    text_format(text, " | %s%s%s |\n", key->doc, key->doc[0] && forms[key->form][0] ? " " : "", forms[key->form]);
}

static void append_block(Text *text, BlockId id)
{
    static const char *const occurs[] = {"one", "at most one", "one or more", "any number"}, *const labels[] = {
                                                                                                 "", " NAME",
                                                                                                 " WORKER, ..."};
    const BlockInfo *block = block_info(id);
    text_format(text, "### `%s%s { ... }`\n\n%s; %s", block->name, labels[block->label], block->doc,
                occurs[block->occurs]);
    if (block->parent != BLOCK_FILE)
        text_format(text, " in `%s`", block_info(block->parent)->name);
    text_append(text, ".\n\n");
    bool any = false;
    for (size_t k = 0; k < KEY_COUNT; k++) {
        if (key_info((KeyId)k)->block != id)
            continue;
        if (!any)
            text_append(text, "| key | value | default | limits | meaning |\n|---|---|---|---|---|\n");
        any = true;
        append_key(text, key_info((KeyId)k));
    }
    if (any)
        text_append(text, "\n");
}

void check_print_reference(FILE *out)
{
    Text text = {0};
    text_append(&text, "## Blocks and keys\n\n");
    for (int id = BLOCK_FILE + 1; id < BLOCK_COUNT; id++)
        append_block(&text, (BlockId)id);
    text_append(&text, "## Units\n\n");
    fwrite(text.data, 1, text.length, out);
    text_free(&text);
    unit_print_table(out);
}
