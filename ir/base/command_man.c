// The man page of a program, as man(7) has it. The text after the options is made of sections, "Heading:" and lines
// that are indented: examples, which keep their lines, or entries, "  word: meaning". Other lines are paragraphs.
#include <ctype.h>
#include <string.h>

#include "ir/base/command.h"
#include "ir/base/exit_codes.h"

// Text in which nothing is a request or an escape of roff: a line never begins with its control characters.
static void append_escaped(Text *out, const char *text, size_t length)
{
    if (length > 0 && (text[0] == '.' || text[0] == '\''))
        text_append(out, "\\&");
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\\')
            text_append(out, "\\e");
        else if (text[i] == '-')
            text_append(out, "\\-");
        else if (text[i] == '\'')
            text_append(out, "\\(aq");
        else
            text_append_bytes(out, &text[i], 1);
    }
}

static void append_line(Text *out, const char *text, size_t length)
{
    append_escaped(out, text, length);
    text_append(out, "\n");
}

static size_t line_length(const char *text)
{
    return strcspn(text, "\n");
}

static const char *next_line(const char *text)
{
    text += line_length(text);
    return *text ? text + 1 : text;
}

// ---- options ---------------------------------------------------------------------------------

static void append_argument(const struct argp_option *option, Text *out)
{
    bool optional = option->flags & OPTION_ARG_OPTIONAL;
    if (option->arg)
        text_format(out, "%s=\\fI%s\\fR%s", optional ? "[" : "", option->arg, optional ? "]" : "");
}

static void append_option(const struct argp_option *option, Text *out)
{
    text_append(out, ".TP\n");
    if (command_has_letter(option))
        text_format(out, "\\fB\\-%c\\fR, ", option->key);
    text_append(out, "\\fB\\-\\-");
    append_escaped(out, option->name, strlen(option->name));
    text_append(out, "\\fR");
    append_argument(option, out);
    text_append(out, "\n");
    append_line(out, option->doc, strlen(option->doc));
}

// ---- text ------------------------------------------------------------------------------------

static bool is_heading(const char *line)
{
    size_t length = line_length(line);
    const char *next = next_line(line);
    return length > 1 && line[0] != ' ' && line[length - 1] == ':' && strncmp(next, "  ", 2) == 0;
}

// The end of what a line of a section explains: "  summary: what was planned" or "  3\tmeaning". 0: it is no entry.
static size_t entry_length(const char *line)
{
    size_t end = strcspn(line, ":\t\n");
    bool separated = line[end] == '\t' || (line[end] == ':' && line[end + 1] == ' ');
    return separated && strcspn(line + 2, " ") + 2 > end ? end : 0;
}

static bool has_entries(const char *lines)
{
    for (; strncmp(lines, "  ", 2) == 0; lines = next_line(lines))
        if (entry_length(lines) == 0)
            return false;
    return true;
}

static void append_entries(const char **lines, Text *out)
{
    for (; strncmp(*lines, "  ", 2) == 0; *lines = next_line(*lines)) {
        size_t length = entry_length(*lines), rest = length + 1 + strspn(*lines + length + 1, " ");
        text_append(out, ".TP\n\\fB");
        append_escaped(out, *lines + 2, length - 2);
        text_append(out, "\\fR\n");
        append_line(out, *lines + rest, line_length(*lines) - rest);
    }
}

static void append_examples(const char **lines, Text *out)
{
    text_append(out, ".nf\n");
    for (; strncmp(*lines, "  ", 2) == 0; *lines = next_line(*lines))
        append_line(out, *lines + 2, line_length(*lines) - 2);
    text_append(out, ".fi\n");
}

static void append_section(const char **lines, Text *out)
{
    text_append(out, ".SH ");
    for (const char *c = *lines; *c != ':'; c++)
        text_format(out, "%c", *c == ' ' ? ' ' : toupper((unsigned char)*c));
    text_append(out, "\n");
    *lines = next_line(*lines);
    if (has_entries(*lines))
        append_entries(lines, out);
    else
        append_examples(lines, out);
}

static void append_text(const char *lines, Text *out)
{
    for (; *lines; lines += *lines == '\n') {
        if (is_heading(lines)) {
            append_section(&lines, out);
        } else if (*lines != '\n') {
            text_append(out, ".PP\n");
            append_line(out, lines, line_length(lines));
            lines = next_line(lines);
        }
    }
}

// What comes before '\v': a line "Example: ..." and paragraphs.
static void append_description(const Command *command, Text *out)
{
    const char *text = command->documentation, *end = strchr(text, '\v');
    text_append(out, ".SH DESCRIPTION\n");
    for (const char *line = text; line < end; line = next_line(line)) {
        size_t length = strcspn(line, "\n\v");
        if (length == 0 || strncmp(line, "Example: ", 9) == 0)
            continue;
        text_append(out, ".PP\n");
        append_line(out, line, length);
        if (line[length] == '\v')
            break;
    }
    if (strncmp(text, "Example: ", 9) == 0 && !strstr(text, "\nExamples:\n") && !strstr(text, "\vExamples:\n")) {
        text_append(out, ".SH EXAMPLES\n.nf\n");
        append_line(out, text + 9, line_length(text) - 9);
        text_append(out, ".fi\n");
    }
}

void command_print_man(const Command *command, Text *out)
{
    text_append(out, ".TH ");
    for (const char *c = command->name; *c; c++)
        text_format(out, *c == '-' ? "\\-" : "%c", toupper((unsigned char)*c));
    text_format(out, " 1 \"\" \"hep %s\" \"User Commands\"\n.nh\n.ad l\n.SH NAME\n", command->version);
    append_escaped(out, command->name, strlen(command->name));
    text_append(out, " \\- ");
    append_line(out, command->purpose, strlen(command->purpose));
    text_append(out, ".SH SYNOPSIS\n\\fB");
    append_escaped(out, command->name, strlen(command->name));
    text_format(out, "\\fR [\\fIOPTION\\fR...] \\fI%s\\fR\n", command->argument);
    append_description(command, out);
    text_append(out, ".SH OPTIONS\n");
    const struct argp_option *option;
    for (size_t i = 0; (option = command_option(command, i)) != NULL; i++)
        append_option(option, out);
    append_text(strchr(command->documentation, '\v') + 1, out);
    append_text(exit_codes_help(), out);
    text_append(out, ".SH SEE ALSO\n\\fB");
    append_escaped(out, command->see_also, strlen(command->see_also));
    text_append(out, "\\fR(1)\n.PP\nThe manual in Markdown is installed in share/doc/hep.\n");
}
