// What fuzz targets of the compiler share.
#ifndef HEP_FUZZ_INPUT_H
#define HEP_FUZZ_INPUT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compiler/frontend/check.h"
#include "grammar/parse.h"

// For what is read from files by name: the input becomes a file in memory, whose name this is.
static inline const char *file_input(const uint8_t *data, size_t size)
{
    static char path[32];
    static int file = -1;
    if (file < 0) {
        file = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    }
    if (file < 0 || ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != (ssize_t)size)
        abort();
    return path;
}

// A description: what is wrong with it is reported and printed.
static inline const Spec *check_description(const char *text, Arena *arena, Diag *diag)
{
    size_t length = strlen(text);
    uint32_t source = diag_add_source(diag, "fuzz", text, length, NULL);
    Ast *ast = grammar_parse(arena, diag, source, text, length);
    const Spec *spec = ast ? check_ast(ast, NULL, arena, diag) : NULL;
    if (!spec && !diag_error_count(diag))
        abort();
    return spec;
}

static inline void print_diagnostics(const Diag *diag)
{
    char *printed = NULL;
    size_t length;
    FILE *out = open_memstream(&printed, &length);
    diag_print(diag, out, true);
    fclose(out);
    free(printed);
}

#endif
