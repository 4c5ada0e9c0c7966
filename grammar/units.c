// Look-ups in the tables of units.def.
#include "grammar/units.h"

#include <string.h>
#include <strings.h>

#include "ir/base/text.h"

#define HEP_UNIT(text, kind, factor, divisor) {text, KIND_##kind, factor, divisor},
static const Unit units[] = {
#include "grammar/units.def"
};

#define HEP_KIND(name, text, example, bytes, flops, seconds) {text, example, {bytes, flops, seconds}},
static const struct {
    const char *text, *example;
    Dimension dimension;
} kinds[] = {
#include "grammar/units.def"
};

#define HEP_UNIT_SLIP(ending, right) {ending, right},
static const struct {
    const char *ending, *right;
} slips[] = {
#include "grammar/units.def"
};

Dimension kind_dimension(Kind kind)
{
    return kinds[kind].dimension;
}

const char *kind_text(Kind kind)
{
    return kinds[kind].text;
}

const char *kind_example(Kind kind)
{
    return kinds[kind].example;
}

bool dimension_equal(Dimension a, Dimension b)
{
    return a.bytes == b.bytes && a.flops == b.flops && a.seconds == b.seconds;
}

static void append_power(Text *text, const char *unit, int exponent)
{
    if (exponent <= 0)
        return;
    text_format(text, text->length && text->data[text->length - 1] != '/' ? " %s" : "%s", unit);
    if (exponent > 1)
        text_format(text, "^%d", exponent);
}

const char *dimension_text(Arena *arena, Dimension dimension)
{
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (dimension_equal(kinds[i].dimension, dimension))
            return kinds[i].text;
    Text text = {0};
    append_power(&text, "B", dimension.bytes);
    append_power(&text, "FLOP", dimension.flops);
    append_power(&text, "s", dimension.seconds);
    if (!text.length)
        text_append(&text, "1");
    if (dimension.bytes < 0 || dimension.flops < 0 || dimension.seconds < 0)
        text_append(&text, "/");
    append_power(&text, "B", -dimension.bytes);
    append_power(&text, "FLOP", -dimension.flops);
    append_power(&text, "s", -dimension.seconds);
    const char *result = arena_format(arena, "a quantity in %s", text.data);
    text_free(&text);
    return result;
}

const char *dimension_example(Dimension dimension)
{
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (dimension_equal(kinds[i].dimension, dimension))
            return kinds[i].example;
    return NULL;
}

const Unit *unit_at(size_t index)
{
    return index < COUNT_OF(units) ? &units[index] : NULL;
}

const Unit *unit_find(const char *text, size_t length)
{
    for (size_t i = 0; i < COUNT_OF(units); i++)
        if (strlen(units[i].text) == length && memcmp(units[i].text, text, length) == 0)
            return &units[i];
    return NULL;
}

enum { UNIT_TEXT_MAX = 32 };

static const char *find_ignoring_case(const char *text)
{
    for (size_t i = 0; i < COUNT_OF(units); i++)
        if (strcasecmp(units[i].text, text) == 0)
            return units[i].text;
    return NULL;
}

// Replaces a known wrong ending; what stays before it must be a prefix.
static const char *find_by_slip(const char *text, size_t length)
{
    for (size_t i = 0; i < COUNT_OF(slips); i++) {
        size_t ending = strlen(slips[i].ending);
        if (ending > length || memcmp(text + length - ending, slips[i].ending, ending) != 0)
            continue;
        char candidate[2 * UNIT_TEXT_MAX];
        snprintf(candidate, sizeof(candidate), "%.*s%s", (int)(length - ending), text, slips[i].right);
        const char *found = find_ignoring_case(candidate);
        if (found)
            return found;
    }
    return NULL;
}

const char *unit_suggest(const char *text, size_t length)
{
    if (!length || length >= UNIT_TEXT_MAX)
        return NULL;
    char word[UNIT_TEXT_MAX];
    memcpy(word, text, length);
    word[length] = '\0';
    const char *candidates[COUNT_OF(units)];
    for (size_t i = 0; i < COUNT_OF(units); i++)
        candidates[i] = units[i].text;
    const char *found = find_by_slip(word, length);
    if (!found)
        found = find_ignoring_case(word);
    return found ? found : nearest_word(word, candidates, COUNT_OF(units));
}

void unit_print_table(FILE *out)
{
    for (size_t kind = 0; kind < COUNT_OF(kinds); kind++) {
        bool first = true;
        for (size_t i = 0; i < COUNT_OF(units); i++) {
            if (units[i].kind != kind)
                continue;
            if (first)
                fprintf(out, "%s, such as `%s`: ", kinds[kind].text, kinds[kind].example);
            fprintf(out, first ? "`%s`" : " `%s`", units[i].text);
            first = false;
        }
        if (!first)
            fputs("\n\n", out);
    }
}
