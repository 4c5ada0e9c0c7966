// Syntax files for editors, made from the tables of blocks, keys and units.
#ifndef HEP_SYNTAX_H
#define HEP_SYNTAX_H

#include "ir/base/text.h"

// KIND is vim, or textmate (JSON); false for any other.
bool syntax_print(const char *kind, Text *out) MUST_CHECK;

#endif
