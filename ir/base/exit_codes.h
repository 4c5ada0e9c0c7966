// The exit codes of both programs as an enum, and their table for --help.
#ifndef HEP_EXIT_CODES_H
#define HEP_EXIT_CODES_H

typedef enum {
#define HEP_EXIT(name, code, meaning) EXIT_##name = (code),
#include "ir/base/exit_codes.def"
#undef HEP_EXIT
} ExitCode;

// "Exit codes: 0 done; 1 ...", one line per code, for --help. Static storage.
const char *exit_codes_help(void);

// A help filter for argp: the table, one line per code, behind the text that ends --help.
char *exit_codes_append(int key, const char *text, void *input);

#endif
