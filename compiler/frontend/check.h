// The semantic check: from the syntax tree to the Spec, with every name resolved, every quantity in
// SI units and every default filled in. The keys, their kinds and limits are those of
// grammar/keys.def. Requires: a tree without syntax errors. Provides: a Spec the later stages need
// not doubt, or at least one error.
#ifndef HEP_CHECK_H
#define HEP_CHECK_H

#include "compiler/frontend/read.h"
#include "compiler/spec/spec.h"

typedef struct {
    const char **defines; // -D: "name=expression"
    size_t define_count;
    const char *domain; // --domain: "dc=2,gpu=8", "auto", "ep" or "gather"; NULL: as the plan block says
} CheckOptions;

// `options` may be NULL. The strings in it must outlive the sink. Returns NULL after reporting.
const Spec *check_ast(Ast *ast, const CheckOptions *options, Arena *arena, Diag *diag) MUST_CHECK;

// Every block and key with kind, default, limits and meaning, and the units; for people, as Markdown.
void check_print_reference(FILE *out);

#endif
