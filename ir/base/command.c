// See command.h: the options of a program, as its option table and argp have them.
#include "ir/base/command.h"

#include <stdio.h>
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

// ---- unknown options -------------------------------------------------------------------------

enum { OPTIONS_MAX = 128 };

// The option of a word such as "--domain=ep", or one that it is the beginning of; NULL if there is none.
static const struct argp_option *find_option(const struct argp_option *const *options, size_t count, const char *word)
{
    size_t length = strcspn(word, "=");
    for (size_t i = 0; i < count; i++)
        if (strncmp(options[i]->name, word, length) == 0)
            return options[i];
    return NULL;
}

static bool takes_next_word(const struct argp_option *option, const char *word)
{
    return option->arg && !(option->flags & OPTION_ARG_OPTIONAL) && !strchr(word, '=');
}

bool command_knows_options(const struct argp_option *options, int argc, char **argv, Fault *fault)
{
    const struct argp_option *all[OPTIONS_MAX];
    const char *names[OPTIONS_MAX];
    size_t count = 0;
    for (; (options->name || options->key) && count + COUNT_OF(of_argp) < OPTIONS_MAX; options++)
        if (options->name)
            all[count++] = options;
    for (size_t i = 0; i < COUNT_OF(of_argp); i++)
        all[count++] = &of_argp[i];
    for (size_t i = 0; i < count; i++)
        names[i] = all[i]->name;
    for (int a = 1; a < argc && strcmp(argv[a], "--") != 0; a++) {
        const char *word = argv[a] + 2;
        if (strncmp(argv[a], "--", 2) != 0)
            continue;
        const struct argp_option *option = find_option(all, count, word);
        if (option) {
            a += takes_next_word(option, word);
            continue;
        }
        char given[64];
        snprintf(given, sizeof(given), "%.*s", (int)strcspn(word, "="), word);
        const char *near = nearest_word(given, names, count);
        return fault_set(fault, FAULT_USAGE, "there is no option '--%s'%s%s%s; --help lists all", given,
                         near ? " (did you mean '--" : "", near ? near : "", near ? "'?)" : "");
    }
    return true;
}
