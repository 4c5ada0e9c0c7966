// What follows from a program's option table besides --help: its man page, and completion for shells. Printed by the
// hidden option --generate=KIND, when the program is built.
#ifndef HEP_COMMAND_H
#define HEP_COMMAND_H

#include <argp.h>

#include "ir/base/fault.h"
#include "ir/base/text.h"

// The words that an option takes, one after the other, then NULL.
typedef struct {
    int key; // of the option; COMMAND_ARGUMENT: of the program's argument, whose words are endings of file names
    const char *(*word)(size_t index);
} CommandWords;

enum { COMMAND_ARGUMENT = -1 };

typedef struct {
    const char *name, *purpose, *version;
    const char *argument;      // "FILE"
    const char *documentation; // as for argp: the text before the options, '\v', the text after them
    const char *see_also;      // another program
    const struct argp_option *options;
    const CommandWords *words;
    size_t word_count;
} Command;

// KIND is man, bash, zsh or fish; false for any other.
bool command_generate(const Command *command, const char *kind, Text *out) MUST_CHECK;

// Is every long option of the command line one of the table's, or the beginning of one? Else names the nearest, which
// argp would not.
bool command_knows_options(const struct argp_option *options, int argc, char **argv, Fault *fault) MUST_CHECK;

// For those who write a form of it: every option that --help lists, argp's own among them; NULL beyond the last.
const struct argp_option *command_option(const Command *command, size_t index);
bool command_has_letter(const struct argp_option *option);
// What the option takes: words, or NULL.
const CommandWords *command_words(const Command *command, int key);
// Whether it takes a file, or a folder.
bool command_takes_file(const struct argp_option *option);
bool command_takes_folder(const struct argp_option *option);

void command_print_man(const Command *command, Text *out);
void command_print_bash(const Command *command, Text *out);
void command_print_zsh(const Command *command, Text *out);
void command_print_fish(const Command *command, Text *out);

#endif
