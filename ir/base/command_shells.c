// Completion of a program's command line for bash, zsh and fish: options, the words that an option takes, files.
#include <stdio.h>
#include <string.h>

#include "ir/base/command.h"

static bool needs_value(const struct argp_option *option)
{
    return option->arg && !(option->flags & OPTION_ARG_OPTIONAL);
}

static void append_words(const CommandWords *words, const char *separator, Text *out)
{
    for (size_t w = 0; words->word(w); w++)
        text_format(out, "%s%s", w ? separator : "", words->word(w));
}

// ---- bash ------------------------------------------------------------------------------------

// The pattern of a case: "--output | -o".
static void append_pattern(const struct argp_option *option, Text *out)
{
    text_format(out, "  --%s", option->name);
    if (command_has_letter(option))
        text_format(out, " | -%c", option->key);
    text_append(out, ")");
}

static void append_bash_values(const Command *command, Text *out)
{
    const struct argp_option *option;
    for (size_t i = 0; (option = command_option(command, i)) != NULL; i++) {
        const CommandWords *words = command_words(command, option->key);
        if (!option->arg)
            continue;
        append_pattern(option, out);
        if (words) {
            text_append(out, " mapfile -t COMPREPLY < <(compgen -W '");
            append_words(words, " ", out);
            text_append(out, "' -- \"$current\") ;;\n");
        } else if (command_takes_file(option)) {
            text_append(out, " compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$current\") ;;\n");
        } else if (command_takes_folder(option)) {
            text_append(out, " compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$current\") ;;\n");
        } else {
            text_append(out, " ;;\n");
        }
    }
}

static void append_bash_files(const Command *command, Text *out)
{
    const CommandWords *endings = command_words(command, COMMAND_ARGUMENT);
    text_append(out, "    compopt -o filenames\n    mapfile -t COMPREPLY < <(compgen -d -- \"$current\"");
    for (size_t e = 0; endings->word(e); e++)
        text_format(out, "; compgen -f -X '!*.%s' -- \"$current\"", endings->word(e));
    text_append(out, ")\n");
}

// A word may be cut at '=': "--dump", "=", "i".
void command_print_bash(const Command *command, Text *out)
{
    const struct argp_option *option;
    char function[64];
    snprintf(function, sizeof(function), "_%s", command->name);
    for (char *c = function; *c; c++)
        *c = *c == '-' ? '_' : *c;
    text_format(out,
                "# Completion of %s for bash; made from its option table.\n"
                "%s() {\n"
                "  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} option=\n"
                "  COMPREPLY=()\n"
                "  if [[ $current == = ]]; then\n"
                "    option=$before current=\n"
                "  elif [[ $before == = ]]; then\n"
                "    option=${COMP_WORDS[COMP_CWORD - 2]}\n"
                "  else\n"
                "    case $before in\n    ",
                command->name, function);
    const char *separator = "";
    for (size_t i = 0; (option = command_option(command, i)) != NULL; i++)
        if (needs_value(option)) {
            text_format(out, "%s--%s", separator, option->name);
            separator = " | ";
            if (command_has_letter(option))
                text_format(out, " | -%c", option->key);
        }
    text_append(out, ") option=$before ;;\n    esac\n  fi\n  case $option in\n");
    append_bash_values(command, out);
    text_append(out, "  *)\n    if [[ $current == -* ]]; then\n      mapfile -t COMPREPLY < <(compgen -W '");
    for (size_t i = 0; (option = command_option(command, i)) != NULL; i++)
        text_format(out, "%s--%s", i ? " " : "", option->name);
    text_append(out, "' -- \"$current\")\n      return\n    fi\n");
    append_bash_files(command, out);
    text_format(out, "    ;;\n  esac\n}\ncomplete -F %s %s\n", function, command->name);
}

// ---- zsh -------------------------------------------------------------------------------------

// Inside of single quotes and of brackets, where a colon separates, too.
static void append_zsh_text(const char *text, Text *out)
{
    for (; *text; text++) {
        if (*text == '\'')
            text_append(out, "'\\''");
        else if (strchr("[]:\\", *text))
            text_format(out, "\\%c", *text);
        else
            text_append_bytes(out, text, 1);
    }
}

static void append_zsh_value(const Command *command, const struct argp_option *option, Text *out)
{
    const CommandWords *words = command_words(command, option->key);
    text_format(out, "%s%s:", option->flags & OPTION_ARG_OPTIONAL ? "::" : ":", option->arg);
    if (words) {
        text_append(out, "(");
        append_words(words, " ", out);
        text_append(out, ")");
    } else if (command_takes_file(option)) {
        text_append(out, "_files");
    } else if (command_takes_folder(option)) {
        text_append(out, "_directories");
    } else {
        text_append(out, " ");
    }
}

static void append_zsh_option(const Command *command, const struct argp_option *option, Text *out)
{
    const char *letter_value = needs_value(option) ? "+" : "";
    const char *name_value = needs_value(option) ? "=" : option->arg ? "=-" : "";
    bool letter = command_has_letter(option), repeated = option->key == 'D';
    text_append(out, "  ");
    if (letter && repeated)
        text_format(out, "\\*{'-%c%s','--%s%s'}'[", option->key, letter_value, option->name, name_value);
    else if (letter)
        text_format(out, "'(-%c --%s)'{'-%c%s','--%s%s'}'[", option->key, option->name, option->key, letter_value,
                    option->name, name_value);
    else
        text_format(out, "'--%s%s[", option->name, name_value);
    append_zsh_text(option->doc, out);
    text_append(out, "]");
    if (option->arg)
        append_zsh_value(command, option, out);
    text_append(out, "' \\\n");
}

void command_print_zsh(const Command *command, Text *out)
{
    const struct argp_option *option;
    const CommandWords *endings = command_words(command, COMMAND_ARGUMENT);
    text_format(out, "#compdef %s\n# Completion of %s for zsh; made from its option table.\n_arguments -s -S \\\n",
                command->name, command->name);
    for (size_t i = 0; (option = command_option(command, i)) != NULL; i++)
        append_zsh_option(command, option, out);
    text_format(out, "  '1:%s:_files -g \"*.(", command->argument);
    append_words(endings, "|", out);
    text_append(out, ")\"'\n");
}

// ---- fish ------------------------------------------------------------------------------------

static void append_fish_text(const char *text, Text *out)
{
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            text_append(out, "\\");
        text_append_bytes(out, text, 1);
    }
}

void command_print_fish(const Command *command, Text *out)
{
    const struct argp_option *option;
    text_format(out, "# Completion of %s for fish; made from its option table.\n", command->name);
    for (size_t i = 0; (option = command_option(command, i)) != NULL; i++) {
        const CommandWords *words = command_words(command, option->key);
        text_format(out, "complete -c %s -l %s", command->name, option->name);
        if (command_has_letter(option))
            text_format(out, " -s '%c'", option->key);
        text_append(out, " -d '");
        append_fish_text(option->doc, out);
        text_append(out, "'");
        if (words) {
            text_format(out, "%s -f -a '", needs_value(option) ? " -r" : "");
            append_words(words, " ", out);
            text_append(out, "'");
        } else if (command_takes_folder(option)) {
            text_append(out, " -r -f -a '(__fish_complete_directories)'");
        } else if (command_takes_file(option)) {
            text_append(out, needs_value(option) ? " -r -F" : "");
        } else if (option->arg) {
            text_append(out, " -x");
        }
        text_append(out, "\n");
    }
}
