// Every diagnostic of the language: tests/golden/diagnostics/NAME.hep must print exactly NAME.err.
// Lines `#: -D name=value` and `#: --domain value` at the top of a file are its options.
// HEP_REFRESH=1 in the environment rewrites the .err files.
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compiler/frontend/check.h"

enum { OPTIONS_MAX = 8, TEXT_MAX = 1 << 20 };

static void read_options(Arena *arena, const char *text, CheckOptions *options)
{
    while (strncmp(text, "#: ", 3) == 0) {
        const char *line = text + 3, *end = strchr(line, '\n');
        if (strncmp(line, "-D ", 3) == 0)
            options->defines[options->define_count++] = arena_copy_string(arena, line + 3, (size_t)(end - line) - 3);
        else if (strncmp(line, "--domain ", 9) == 0)
            options->domain = arena_copy_string(arena, line + 9, (size_t)(end - line) - 9);
        text = end + 1;
    }
}

static char *diagnostics_of(const char *path)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    const char *defines[OPTIONS_MAX];
    CheckOptions options = {.defines = defines};
    size_t length;
    Fault fault = {0};
    char *text = file_read(path, TEXT_MAX, &length, &fault);
    cr_assert_not_null(text, "%s: %s", path, fault.message);
    read_options(arena, text, &options);
    free(text);
    Ast *ast = read_file(path, arena, diag);
    cr_expect(!ast || !check_ast(ast, &options, arena, diag), "%s is accepted", path);
    char *printed = NULL;
    FILE *out = open_memstream(&printed, &length);
    diag_print(diag, out, false);
    fclose(out);
    arena_destroy(arena);
    return printed;
}

static void compare(const char *path)
{
    char golden[300];
    snprintf(golden, sizeof(golden), "%.*s.err", (int)strlen(path) - 4, path);
    char *printed = diagnostics_of(path);
    if (getenv("HEP_REFRESH")) {
        cr_expect(file_write(golden, printed, strlen(printed), &(Fault){0}));
    } else {
        size_t length;
        Fault fault = {0};
        char *expected = file_read(golden, TEXT_MAX, &length, &fault);
        cr_expect_not_null(expected, "%s: %s", golden, fault.message);
        if (expected)
            cr_expect_str_eq(printed, expected, "%s prints:\n%s", path, printed);
        free(expected);
    }
    free(printed);
}

Test(golden, diagnostics)
{
    cr_assert_eq(chdir(HEP_SOURCE_DIR "/tests/golden/diagnostics"), 0);
    struct dirent **names;
    int count = scandir(".", &names, NULL, alphasort), compared = 0;
    for (int i = 0; i < count; i++) {
        const char *ending = strrchr(names[i]->d_name, '.');
        if (ending && strcmp(ending, ".hep") == 0) {
            compare(names[i]->d_name);
            compared++;
        }
        free(names[i]);
    }
    free(names);
    cr_assert_geq(compared, 170);
}
