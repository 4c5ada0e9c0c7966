// Plans compiled from text, for tests of what runs them.
#ifndef HEP_TEST_COMPILED_H
#define HEP_TEST_COMPILED_H

#include <criterion/criterion.h>
#include <string.h>

#include "compiler/compile.h"

typedef struct {
    Arena *arena;
    Compilation compilation;
    Plan *plan;
} Compiled;

// prefetch: layers that are gathered ahead.
static inline Compiled compiled_with(const char *text, const char *domain, uint32_t prefetch)
{
    Compiled out = {.arena = arena_create()};
    Diag *diag = diag_create(out.arena);
    CompileOptions options = {
        .name = "test.hep", .text = text, .length = strlen(text), .dispatch = NONE, .stop_after = STAGE_PLAN};
    options.check.domain = domain;
    options.planner.prefetch = prefetch;
    Fault fault = {0};
    bool compiled = compile_file(&options, out.arena, diag, &out.compilation, &fault);
    if (!compiled)
        diag_print(diag, stderr, false);
    cr_assert(compiled, "kind of the fault: %d", (int)fault.kind);
    out.plan = out.compilation.plan;
    return out;
}

static inline Compiled compiled_from(const char *text, const char *domain)
{
    return compiled_with(text, domain, PREFETCH_UNLIMITED);
}

static inline void compiled_free(Compiled *compiled)
{
    compile_release(&compiled->compilation);
    arena_destroy(compiled->arena);
}

#endif
