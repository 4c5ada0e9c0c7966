// Which form of a program's options is printed, by its name.
#include <string.h>

#include "ir/base/command.h"

bool command_generate(const Command *command, const char *kind, Text *out)
{
    static const struct {
        const char *kind;
        void (*print)(const Command *command, Text *out);
    } kinds[] = {{"man", command_print_man},
                 {"bash", command_print_bash},
                 {"zsh", command_print_zsh},
                 {"fish", command_print_fish}};
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        if (strcmp(kinds[k].kind, kind) == 0) {
            kinds[k].print(command, out);
            return true;
        }
    return false;
}
