// Models from Hugging Face configs: reads the JSON, finds what it says by the names its fields have in
// any family, and writes that down as keys of the language, which then pass the same check as if a
// person had typed them. Keys given in the block win: what they say is not looked for in the file, and parameters are
// counted with it. Knows fields, not model names.
#ifndef HEP_IMPORT_H
#define HEP_IMPORT_H

#include "compiler/frontend/evaluate.h"
#include "compiler/spec/spec.h"
#include "grammar/ast.h"

// Adds to `entries` of the block `model NAME from "FILE"` the keys the file gives and the block does not,
// and the parameter counts to `model`. False after reporting.
bool import_model(AstEntry *block, SpecModel *model, Environment *environment, Arena *arena, Diag *diag) MUST_CHECK;

#endif
