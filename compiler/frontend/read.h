// Files into one syntax tree: reads a .hep file and what it includes, from beside it or from the presets
// that come with hepc. Owns the limits on files and includes; texts are registered with the sink and live
// in the arena.
#ifndef HEP_READ_H
#define HEP_READ_H

#include "grammar/ast.h"

enum { INCLUDE_DEPTH_MAX = 16, INCLUDE_FILES_MAX = 256 };

// "-" is standard input; its includes are relative to the working directory. Reports errors, then
// returns NULL. Outside of blocks each file is read once, however often it is included; in a block its
// entries stand in the place of the include. A cycle is an error.
Ast *read_file(const char *path, Arena *arena, Diag *diag) MUST_CHECK;
// The same for a text that is no file. `name` stands for its path.
Ast *read_text(const char *name, const char *text, size_t length, Arena *arena, Diag *diag) MUST_CHECK;

// `path` as the file `including` means it: relative to that file's folder.
const char *read_join_path(Arena *arena, const char *including, const char *path);

#endif
