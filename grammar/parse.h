// From text to syntax tree: the one entry point of scanner and parser.
#ifndef HEP_PARSE_H
#define HEP_PARSE_H

#include "grammar/ast.h"

enum { SOURCE_BYTES_MAX = 16 << 20 };

// Parses `text`, which is source `source` of the sink and at most SOURCE_BYTES_MAX long. Reports
// syntax errors, recovering at the ends of entries and blocks; then returns NULL.
Ast *grammar_parse(Arena *arena, Diag *diag, uint32_t source, const char *text, size_t length);

#endif
