// The exit codes of both programs: which one a fault ends in, and their table for --help. For the programs' mains.
#ifndef HEP_EXIT_CODES_H
#define HEP_EXIT_CODES_H

#include "ir/base/fault.h"

int exit_code_of(FaultKind kind);

// "Exit codes: 0 done; 1 ...", one line per code, for --help. Static storage.
const char *exit_codes_help(void);

// A help filter for argp: the table, one line per code, after the text that ends --help.
char *exit_codes_append(int key, const char *text, void *input);

#endif
