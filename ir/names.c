// The tables of names.def: code to text, text to code, and the sizes that they carry beside the text.
#include "ir/names.h"

#include <string.h>

#define HEP_NAMES(Type, name, what) static const Name list_of_##name[] = {
#define HEP_NAME(code, text, size)  {text, size},
#define HEP_NAMES_END(Type, count)                                                                                     \
    }                                                                                                                  \
    ;
#include "ir/names.def"

#define HEP_NAMES(Type, name, what)                                                                                    \
    const NameTable name##_names = {what, list_of_##name, (int)COUNT_OF(list_of_##name)};
#include "ir/names.def"

static bool is_known(const NameTable *table, int code)
{
    return code >= 0 && code < table->count && table->names[code].text;
}

const char *name_text(const NameTable *table, int code)
{
    return is_known(table, code) ? table->names[code].text : NULL;
}

uint32_t name_size(const NameTable *table, int code)
{
    return is_known(table, code) ? table->names[code].size : 0;
}

int name_code(const NameTable *table, const char *text)
{
    for (int code = 0; code < table->count; code++)
        if (table->names[code].text && strcmp(table->names[code].text, text) == 0)
            return code;
    return -1;
}

size_t name_list(const NameTable *table, int first, int last, const char **out, size_t max)
{
    size_t count = 0;
    for (int code = first; code <= last && count < max; code++)
        if (is_known(table, code))
            out[count++] = table->names[code].text;
    return count;
}
