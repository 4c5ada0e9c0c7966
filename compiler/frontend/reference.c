// The language reference that derives from the tables: blocks, keys, units, as Markdown.
#include <string.h>

#include "compiler/frontend/check_keys.h"

static void append_choices(Text *text, const char *const *names, const char *separator)
{
    for (size_t i = 0; names[i]; i++)
        text_format(text, "%s`%s`", i ? separator : "", names[i]);
}

static void append_takes(Text *text, const KeyInfo *key)
{
    const char *const *choices = choice_names(key->takes);
    if (choices) {
        append_choices(text, choices, " ");
        return;
    }
    switch (key->takes) {
    case TAKES_COUNT:
        text_append(text, "whole number");
        break;
    case TAKES_CAPACITY:
        text_append(text, "number or `off`");
        break;
    case TAKES_DOMAIN:
        text_append(text, "name, record or list");
        break;
    case TAKES_NAMES:
        text_append(text, "list of names");
        break;
    case TAKES_FILE:
        text_append(text, "file name");
        break;
    case TAKES_SKEW:
        text_append(text, "law");
        break;
    case TAKES_NUMBER:
    case TAKES_BYTES:
    case TAKES_TIME:
    case TAKES_BANDWIDTH:
    case TAKES_RATE:
    case TAKES_DTYPE:
    case TAKES_ACTIVATION:
    case TAKES_PASS:
    case TAKES_DISPATCH:
    case TAKES_EXCHANGE:
    case TAKES_CODEC:
    case TAKES_PLACEMENT:
    case TAKES_GRADIENT:
        text_append(text, strchr(kind_text(takes_kind(key->takes)), ' ') + 1); // without the article
        break;
    }
}

// In units that suit memory as well as links: "2 TB/s", not "16 Tbit/s".
static void append_quantity(Text *text, Takes takes, double value)
{
    char out[FORMAT_MAX];
    switch (takes_kind(takes)) {
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
    const char *const *choices = choice_names(key->takes);
    if (key->need == NEED_REQUIRED)
        text_append(text, "required");
    else if (key->need == NEED_REQUIRED_DIMENSIONS)
        text_append(text, "required; optional where volumes are given");
    else if (key->computed)
        text_append(text, key->computed);
    else if (choices)
        text_format(text, "`%s`", choices[(size_t)key->fallback]);
    else
        append_quantity(text, key->takes, key->fallback);
}

static void append_limits(Text *text, const KeyInfo *key)
{
    if (choice_names(key->takes) || key->takes == TAKES_DOMAIN || key->takes == TAKES_NAMES ||
        key->takes == TAKES_FILE || key->takes == TAKES_SKEW)
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
    static const char *const occurs[] = {"one", "at most one", "one or more", "any number"},
                             *const labels[] = {"", " NAME", " WORKER, ..."};
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
