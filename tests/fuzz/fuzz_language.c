// Any bytes as a .hep text: read, check and print diagnostics; what is accepted must print as a
// text that is accepted again.
#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void print_again(const Ast *ast, Arena *arena)
{
    Text text = {0};
    ast_print(ast, &text);
    Diag *diag = diag_create(arena);
    if (!grammar_parse(arena, diag, diag_add_source(diag, "again", text.data, text.length, NULL), text.data,
                       text.length))
        abort();
    text_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    const char *text = arena_copy_string(arena, (const char *)data, size);
    uint32_t source = diag_add_source(diag, "fuzz", text, size, NULL);
    // No include is resolved: the input must not name files of this machine.
    Ast *ast = grammar_parse(arena, diag, source, text, size);
    const Spec *spec = ast ? check_ast(ast, NULL, arena, diag) : NULL;
    if (!spec && !diag_error_count(diag))
        abort();
    if (ast)
        print_again(ast, arena);
    print_diagnostics(diag);
    arena_destroy(arena);
    return 0;
}
