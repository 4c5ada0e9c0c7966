// The exit code table as help text, derived from exit_codes.def.
#include "ir/base/exit_codes.h"

#define TEXT_OF(value) #value

const char *exit_codes_help(void)
{
#define HEP_EXIT(name, code, meaning) "  " TEXT_OF(code) "\t" meaning "\n"
    return "Exit codes:\n"
#include "ir/base/exit_codes.def"
        ;
#undef HEP_EXIT
}
