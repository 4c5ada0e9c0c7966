// See command.h: the options of a program, as its option table and argp have them.
#include "ir/base/command.h"

#include <string.h>

static const struct argp_option of_argp[] = {
    {"help", '?', NULL, 0, "print all options and exit", 0},
    {"usage", 'u' << 8, NULL, 0, "print a short summary of the options and exit", 0},
    {"version", 'V', NULL, 0, "print the version and exit", 0},
};

const struct argp_option *command_option(const Command *command, size_t index)
{
    const struct argp_option *option = command->options;
    for (; option->name || option->key; option++)
        if (!(option->flags & OPTION_HIDDEN) && index-- == 0)
            return option;
    return index < COUNT_OF(of_argp) ? &of_argp[index] : NULL;
}

bool command_has_letter(const struct argp_option *option)
{
    return option->key > ' ' && option->key < 127;
}

const CommandWords *command_words(const Command *command, int key)
{
    for (size_t w = 0; w < command->word_count; w++)
        if (command->words[w].key == key)
            return &command->words[w];
    return NULL;
}

static bool takes(const struct argp_option *option, const char *const *names)
{
    for (; option->arg && *names; names++)
        if (strcmp(option->arg, *names) == 0)
            return true;
    return false;
}

bool command_takes_file(const struct argp_option *option)
{
    return takes(option, (const char *const[]){"FILE", "OTHER", NULL});
}

bool command_takes_folder(const struct argp_option *option)
{
    return takes(option, (const char *const[]){"DIR", NULL});
}
