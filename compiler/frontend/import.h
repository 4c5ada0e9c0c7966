// Models from Hugging Face configs: reads the JSON, finds what it says by the names its fields have in
// any family, and writes that down as keys of the language, which then pass the same check as if a
// person had typed them. Keys given in the block win: they are not asked for, and parameters are counted with them.
// Every field is used, known to be no structure, or named in a warning. Knows fields, and what a few families leave
// unsaid.
#ifndef HEP_IMPORT_H
#define HEP_IMPORT_H

#include "compiler/frontend/evaluate.h"
#include "compiler/spec/spec.h"
#include "grammar/ast.h"

// Holds a model.safetensors.index.json beside the configuration, if there is one, against the checked model: warns of
// differences in layers, experts and bytes.
void import_check_index(const SpecModel *model, Span place, const char *path, Arena *arena, Diag *diag);

// Adds to `entries` of the block `model NAME from "FILE"` the keys the file gives and the block does not,
// and says to `model` how its parameters are counted. False after reporting.
bool import_model(AstEntry *block, SpecModel *model, Environment *environment, Arena *arena, Diag *diag) MUST_CHECK;

#endif
