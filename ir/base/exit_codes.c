// The exit code table as a function and as help text, derived from exit_codes.def.
#include "ir/base/exit_codes.h"

#include <argp.h>

#define TEXT_OF(value) #value

int exit_code_of(FaultKind kind)
{
    static const int codes[FAULT_KIND_COUNT] = {
#define HEP_EXIT(kind, code, meaning) [FAULT_##kind] = (code),
#include "ir/base/exit_codes.def"
#undef HEP_EXIT
    };
    return codes[(unsigned)kind < FAULT_KIND_COUNT ? kind : FAULT_INTERNAL];
}

const char *exit_codes_help(void)
{
#define HEP_EXIT(kind, code, meaning) "  " TEXT_OF(code) "\t" meaning "\n"
    return "Exit codes:\n"
#include "ir/base/exit_codes.def"
        ;
#undef HEP_EXIT
}

char *exit_codes_append(int key, const char *text, void *input)
{
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC || !text)
        return (char *)text;
    char *whole = NULL;
    return asprintf(&whole, "%s%s", text, exit_codes_help()) < 0 ? (char *)text : whole;
}
